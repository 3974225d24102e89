package config

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// WithDefaults returns the breaker with the defaults of all settings that are left out. All ranges begin above 0, so 0 means left out.
func (b *Breaker) WithDefaults() Breaker {
	if b == nil {
		return defaultBreaker
	}
	filled := *b
	filled.ConsecutiveFailures = cmp.Or(b.ConsecutiveFailures, defaultBreaker.ConsecutiveFailures)
	filled.FailureRatio = cmp.Or(b.FailureRatio, defaultBreaker.FailureRatio)
	filled.Window = cmp.Or(b.Window, defaultBreaker.Window)
	filled.MinRequests = cmp.Or(b.MinRequests, defaultBreaker.MinRequests)
	filled.Open = cmp.Or(b.Open, defaultBreaker.Open)
	filled.Probes = cmp.Or(b.Probes, defaultBreaker.Probes)
	if b.FailureStatus == nil {
		filled.FailureStatus = defaultBreaker.FailureStatus
	}
	filled.MaxEjected = cmp.Or(b.MaxEjected, defaultBreaker.MaxEjected)
	return filled
}

// WithDefaults returns the retries with the defaults of all settings that are left out. If retries are off, there is one attempt.
func (r *Retry) WithDefaults() Retry {
	if r == nil {
		return defaultRetry
	}
	filled := *r
	filled.Attempts = cmp.Or(r.Attempts, defaultRetry.Attempts)
	if r.Disabled {
		filled.Attempts = 1
	}
	if r.On == nil {
		filled.On = defaultRetry.On
	}
	filled.Backoff = cmp.Or(r.Backoff, defaultRetry.Backoff)
	filled.Budget = r.Budget.withDefaults()
	filled.BodyLimit = cmp.Or(r.BodyLimit, defaultRetry.BodyLimit)
	return filled
}

// withDefaults returns the budget with the defaults of all settings that are left out. An explicit 0 earns nothing.
func (b *RetryBudget) withDefaults() *RetryBudget {
	if b == nil {
		return defaultRetry.Budget
	}
	return &RetryBudget{Ratio: cmp.Or(b.Ratio, defaultRetry.Budget.Ratio), PerSecond: cmp.Or(b.PerSecond, defaultRetry.Budget.PerSecond)}
}

const (
	// defaultSlowStart is the default duration of a slow start.
	defaultSlowStart = caddy.Duration(10 * time.Second)
	// shortestSlowStart is the default duration for a backend that was away for less than that.
	shortestSlowStart = caddy.Duration(5 * time.Second)
)

// Length returns the duration of the slow start, 0 if it is off.
func (s *SlowStart) Length() time.Duration {
	switch {
	case s == nil:
		return time.Duration(defaultSlowStart)
	case s.Disabled:
		return 0
	default:
		return time.Duration(s.Window)
	}
}

// Shortest returns the duration of the slow start of a backend that was away for less than that, 0 if the duration is the same for all: a
// configured duration is never shortened.
func (s *SlowStart) Shortest() time.Duration {
	if s == nil {
		return time.Duration(shortestSlowStart)
	}
	return 0
}

// defaultHold is the default of `hold`.
const defaultHold = caddy.Duration(2 * time.Second)

// MaxAge returns the age of an outage up to which requests wait, 0 if they do not wait.
func (h *Hold) MaxAge() time.Duration {
	switch {
	case h == nil:
		return time.Duration(defaultHold)
	case h.Disabled:
		return 0
	default:
		return time.Duration(h.Age)
	}
}

// View returns the settings of a pool's views, except those of the policy, of checks and of the transport. probe is when the slot of a lost
// half-open probe is released.
func (s *Settings) View(probe time.Duration) pool.Settings {
	v := pool.Settings{
		SlowStart: s.SlowStart.Length(), ShortestRamp: s.SlowStart.Shortest(), PanicThreshold: s.PanicThreshold, PreferZone: s.PreferZone,
	}
	s.Breaker.Apply(&v, probe)
	return v
}

// minRatioRequests is the number of requests below which max_fail_ratio does not apply.
const minRatioRequests = 20

// Passive returns the settings of passive checks that count failures for that span, with reverse_proxy's max_fails. Failures are counted in
// buckets of time; reverse_proxy starts a goroutine for each failure.
func (s *Settings) Passive(span time.Duration, maxFails int) pool.Passive {
	if maxFails == 0 && s.MaxFailRatio == 0 {
		maxFails = 1
	}
	return pool.Passive{Span: span, MaxFails: maxFails, MaxRatio: s.MaxFailRatio, MinRequests: minRatioRequests}
}

// Apply copies the breaker to the settings of a view.
func (b *Breaker) Apply(s *pool.Settings, probe time.Duration) {
	filled := b.WithDefaults()
	s.DeadAfter = filled.ConsecutiveFailures
	if filled.Disabled {
		s.ConnectionsOnly = true
		return
	}
	s.MaxEjected, s.DryRun = filled.MaxEjected, filled.DryRun
	s.Breaker = breaker.Settings{
		ConsecutiveFailures: filled.ConsecutiveFailures,
		FailureRatio:        filled.FailureRatio,
		Window:              time.Duration(filled.Window),
		MinRequests:         filled.MinRequests,
		Open:                time.Duration(filled.Open.First),
		MaxOpen:             time.Duration(filled.Open.Max),
		Probes:              filled.Probes,
		ProbeTimeout:        probe,
	}
	if filled.SlowRatio != nil {
		s.Breaker.SlowRatio = filled.SlowRatio.Ratio
	}
}

// Enabled reports whether requests may wait.
func (q *Queue) Enabled() bool { return q != nil && !q.Disabled }

// Enabled reports whether sessions stay with a draining backend, which is the default.
func (s *DrainSticky) Enabled() bool { return s == nil || !s.Disabled }

// Enabled reports whether requests are copied.
func (h *Hedge) Enabled() bool { return h != nil && !h.Disabled }

// Prefixes returns the ranges of clients, which have been checked.
func (d *DebugHeader) Prefixes() (all []netip.Prefix) {
	if d == nil || d.Disabled {
		return nil
	}
	for _, text := range d.Ranges {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			all = append(all, prefix.Masked())
		} else if address, err := netip.ParseAddr(text); err == nil {
			all = append(all, netip.PrefixFrom(address, address.BitLen()))
		}
	}
	return all
}

// RetryWords holds reverse_proxy's retry settings.
type RetryWords struct {
	Given    bool // at least one of them is set; then they replace ours
	Retries  int
	Duration time.Duration // how long attempts are made and a backend is waited for; 0 if not set
	Interval time.Duration // between attempts; 0 for the default of reverse_proxy
	Answers  bool          // some answers are retried
}

// defaultTryInterval is reverse_proxy's default of lb_try_interval, where lb_try_duration is set.
const defaultTryInterval = 250 * time.Millisecond

// PolicyTraits are the requirements of a selection policy on a request's course.
type PolicyTraits struct {
	Keyed, Foreign, UntilLastByte  bool
	ShadowKeyed                    bool
	Sessions, Strict, BindSessions bool
}

// Rules holds the settings that apply to a request's course, except those of passive checks.
func (s *Settings) Rules(words RetryWords, policy PolicyTraits) course.Rules {
	b := s.Breaker.WithDefaults()
	rules := course.Rules{
		Hold:       s.Hold.MaxAge(),
		Retry:      s.Retry.rules(words),
		Failures:   course.NewStatuses(b.FailureStatus),
		BreakerOff: b.Disabled,

		Keyed: policy.Keyed, ShadowKeyed: policy.ShadowKeyed, Foreign: policy.Foreign, UntilLastByte: policy.UntilLastByte,
		Sessions: policy.Sessions, Strict: policy.Strict, BindSessions: policy.BindSessions,
	}
	if rules.Retry.Waits() {
		rules.Hold = 0 // the user has configured how long requests wait
	}
	switch q := s.Queue; {
	case q == nil:
		rules.Queue = course.QueueRules{OnAuto: true, Size: DefaultQueue.Size, Timeout: time.Duration(DefaultQueue.Timeout)}
	case q.Enabled():
		rules.Queue = course.QueueRules{On: true, Size: q.Size, Timeout: time.Duration(q.Timeout)}
	}
	if s.Hedge.Enabled() {
		rules.Hedge = course.HedgeRules{On: true, Percentile: s.Hedge.Percentile, MaxExtra: s.Hedge.MaxExtra}
	}
	if b.SlowRatio != nil && !b.Disabled {
		rules.Slow = time.Duration(b.SlowRatio.Latency)
	}
	return rules
}

func (r *Retry) rules(words RetryWords) course.RetryRules {
	filled := r.WithDefaults()
	rules := course.RetryRules{
		Attempts: filled.Attempts, NonIdempotent: filled.NonIdempotent,
		Base: time.Duration(filled.Backoff.Base), Max: time.Duration(filled.Backoff.Max),
		Budget: pool.BudgetSettings{Ratio: *filled.Budget.Ratio, PerSecond: *filled.Budget.PerSecond},
	}
	for _, on := range filled.On {
		switch on {
		case "connect":
			rules.On[pool.RetryConnect] = true
		case "reset":
			rules.On[pool.RetryReset] = true
		case "timeout":
			rules.On[pool.RetryTimeout] = true
		default:
			rules.Statuses.Add(on)
		}
	}
	rules.On[pool.RetryStatus] = !rules.Statuses.Empty()
	if !words.Given {
		return rules
	}
	if words.Duration > 0 && words.Interval == 0 {
		words.Interval = defaultTryInterval
	}
	rules.Stock = &course.StockRetries{Duration: words.Duration, Interval: max(words.Interval, 0), Answers: words.Answers}
	rules.Statuses, rules.Attempts = course.Statuses{}, 1
	switch {
	case words.Retries > 0:
		rules.Attempts = words.Retries + 1
	case words.Duration > 0:
		rules.Attempts = 0
	}
	return rules
}

// ProbeTimeout returns when the slot of a lost half-open probe is released. Normally the end of the attempt releases it.
func (r *Retry) ProbeTimeout() time.Duration {
	const least, grace = time.Minute, 10 * time.Second
	return max(time.Duration(r.WithDefaults().TryTimeout), least) + grace
}
