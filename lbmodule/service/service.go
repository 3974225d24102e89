// Package service runs one load balancer, except for its requests: it keeps the list of backends (from the config, a dynamic source and
// edits), builds the sets that requests choose from, probes the backends, and redials dead ones.
package service

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
	"github.com/ballastlb/ballast/lbmodule/subset"
)

// Options configure a [Service]. All fields except Shadow, Check, Subset and Warnings are required.
type Options struct {
	Owner    manage.Owner    // the config that the service belongs to
	Manager  *manage.Manager // the manager of its pool
	Logger   *zap.Logger
	Roster   *Roster
	Policy   reverseproxy.Selector
	Shadow   policies.Balancer // the shadow policy; nil for none
	Settings *config.Settings
	Check    *config.HealthCheck // with its defaults; nil for none
	Subset   *subset.Rule        // nil to use all backends
	Passive  pool.Passive
	Limit    int      // cap of backends that have no cap of their own; 0 for none
	Warnings []string // about settings that are valid but harmful
}

// Service runs one load balancer: its backends, from the config and from a dynamic source, with the edits applied, and all work on them
// apart from requests. Several services may share a pool.
type Service struct {
	owner    manage.Owner
	manager  *manage.Manager
	pool     *pool.Pool
	logger   *zap.Logger
	roster   *Roster // upstreams and backends of the config
	policy   reverseproxy.Selector
	shadow   policies.Balancer // nil for none
	settings *config.Settings
	check    *config.HealthCheck // with its defaults; nil for none
	subset   *subsetting         // nil if all backends are used
	canary   *canarying          // nil if there is none
	passive  pool.Passive
	limit    int
	warnings []string

	dynamic      *dynamicSource      // nil if there is none
	stock        *stock.Handler      // reverse_proxy's part of the load balancer
	transport    http.RoundTripper   // requests to backends are sent over it
	probeTimeout time.Duration       // after this time the slot of a lost half-open probe is released
	budget       pool.BudgetSettings // of retries
	probing      *probing            // makes the checks of check; nil for none

	// The set made from roster and the edits; nil if the config has no backends because a dynamic source names them.
	static atomic.Pointer[Set]

	watchingStatic, watchingDynamic watching
}

// New returns a load balancer. It has no backends until [Service.Open].
func New(o Options) *Service {
	s := &Service{
		owner: o.Owner, manager: o.Manager, pool: o.Manager.Pool(), logger: o.Logger, roster: o.Roster, policy: o.Policy,
		shadow: o.Shadow, settings: o.Settings, check: o.Check, passive: o.Passive, limit: o.Limit, warnings: o.Warnings,
	}
	s.subset = newSubsetting(s, o.Subset)
	s.watchingStatic.service, s.watchingDynamic.service = s, s
	return s
}

// Open adds the load balancer's backends to its pool. from is reverse_proxy's part of the load balancer and raw its transport's config;
// probeTimeout is the time after which the slot of a lost half-open probe is released; budget limits retries. [Service.Close] undoes Open.
func (s *Service) Open(ctx caddy.Context, from *stock.Handler, raw []byte, probeTimeout time.Duration, budget pool.BudgetSettings) error {
	s.stock, s.transport, s.probeTimeout, s.budget = from, from.Transport.Configured(), probeTimeout, budget
	if err := s.loadProbing(ctx, raw); err != nil {
		return err
	}
	others := s.manager.Groups()
	if s.dynamic != nil {
		s.dynamic.inherit(others)
	}
	if n := len(others); n > 0 {
		if latest, ok := others[n-1].(*Service); ok {
			s.subset.inherit(latest.subset)
		}
	}
	if err := s.openCanary(ctx); err != nil {
		return err
	}
	s.manager.Attach(s)
	return nil
}

// Close removes the backends from the pool. It may be called after a failed Open, or without one.
func (s *Service) Close() {
	s.Stop()
	s.manager.Detach(s)
	if set := s.static.Load(); set != nil {
		set.close()
	}
	if s.dynamic != nil {
		s.dynamic.sets.close()
	}
	s.canary.close()
}

// Start starts the background work: probing, and redialing dead backends.
func (s *Service) Start() {
	s.watchingStatic.start()
	s.watchingDynamic.start()
	if s.dynamic != nil && !s.dynamic.isPolled() {
		s.dynamic.sets.watch()
	}
	s.subset.start()
	s.canary.start()
}

// Stop stops the work that Start started.
func (s *Service) Stop() {
	s.subset.stop()
	s.canary.stop()
	s.static.Load().stop()
	if s.dynamic != nil {
		s.dynamic.sets.stop()
	}
	s.watchingStatic.stop()
	s.watchingDynamic.stop()
}

// Polls reports whether there is a polled dynamic source, for which [Service.Poll] must run.
func (s *Service) Polls() bool { return s.dynamic != nil && s.dynamic.isPolled() }

// Poll keeps the backends of the dynamic source up to date until ctx ends.
func (s *Service) Poll(ctx context.Context) { s.dynamic.poll(ctx) }

// Pool returns the pool that the load balancer uses.
func (s *Service) Pool() *pool.Pool { return s.pool }

// Manager returns the manager of the pool.
func (s *Service) Manager() *manage.Manager { return s.manager }

// Policy returns the selection policy.
func (s *Service) Policy() reverseproxy.Selector { return s.policy }

// Shadow returns the shadow policy; nil for none.
func (s *Service) Shadow() policies.Balancer { return s.shadow }

// Checked reports whether there are active checks.
func (s *Service) Checked() bool { return s.check != nil }

// RetryBudget returns the number of retries that the pool could make now.
func (s *Service) RetryBudget(now time.Time) float64 { return s.pool.RetryBudget(s.budget, now) }

// Warnings returns the warnings about settings that are valid but harmful.
func (s *Service) Warnings() []string { return s.warnings }

// Mirror returns the settings of the mirror; nil for none.
func (s *Service) Mirror() *config.Mirror { return s.settings.Mirror }

// PolicyName returns the name of the selection policy.
func (s *Service) PolicyName() string { return policies.Name(s.policy) }

// Members returns the set to balance r over. retry says that an attempt has failed.
func (s *Service) Members(r *http.Request, retry bool) (*Set, error) {
	if s.dynamic != nil {
		set, err := s.dynamic.members(r, retry)
		if err == nil {
			return set, nil
		}
		if s.static.Load() == nil {
			return nil, err
		}
		// The config's upstreams replace a dynamic source that cannot answer.
	}
	set := s.static.Load()
	if set == nil {
		return nil, pool.ErrNone
	}
	return set, nil
}

// Quiet reports whether the backends may change without closing a channel of [Set.Superseded], because a source is queried for each
// request.
func (s *Service) Quiet() bool { return s.dynamic != nil && !s.dynamic.isPolled() }

// Shown returns the set of backends to display, nil if there is none, and whether it comes from a dynamic source.
func (s *Service) Shown() (set *Set, dynamic bool) {
	set = s.static.Load()
	if s.dynamic == nil {
		return set, false
	}
	if current := s.dynamic.latest(); current != nil || set == nil {
		return current, true
	}
	return set, false
}

// Ready reports whether there is a usable backend. A source that is queried for each request is assumed to name one.
func (s *Service) Ready() bool {
	set := s.static.Load()
	if s.dynamic != nil {
		if !s.dynamic.isPolled() {
			return true
		}
		if current := s.dynamic.current.Load(); current != nil {
			set = current
		}
	}
	if set == nil {
		return false
	}
	usable, _ := set.view.Snapshot().Usable()
	return usable > 0
}

// Hopeless reports whether every request must be refused now: no backend is usable, and if all are dead, the outage is older than hold.
// It is false with a dynamic source, which may name other backends.
func (s *Service) Hopeless(hold time.Duration) bool {
	if s.dynamic != nil {
		return false
	}
	set := s.static.Load()
	if set == nil {
		return true
	}
	snapshot := set.view.Snapshot()
	gone := snapshot.Gone()
	return snapshot.Hopeless() && (gone.IsZero() || time.Since(gone) >= hold)
}

// Refuses returns the error for a request that must be refused at once because of [Service.Hopeless]; nil if it need not be.
func (s *Service) Refuses(hold time.Duration) error {
	if s.Hopeless(hold) {
		return pool.ErrNone
	}
	return nil
}

// NextProbe returns the time until a backend of the config may be usable again, 0 if it is unknown.
func (s *Service) NextProbe(now time.Time) time.Duration {
	if set := s.static.Load(); set != nil {
		return set.view.NextProbe(now)
	}
	return 0
}

// RetryAfter returns the value of Retry-After, in seconds, for a request that found no backend: the time until the next probe, with jitter, so
// that the clients do not all come back at once.
func (s *Service) RetryAfter(now time.Time) string {
	const most, spread = 30, 5
	after := min(max(int(math.Ceil(s.NextProbe(now).Seconds())), 1), most-spread)
	return strconv.Itoa(after + rand.IntN(spread))
}

// Running returns the backends with the edits that are in force.
func (s *Service) Running(now time.Time) []overlay.Running { return s.manager.Running(s, now) }

// Config implements [manage.Group].
func (s *Service) Config() []overlay.Backend {
	all := s.roster.config()
	if s.dynamic == nil {
		return all
	}
	return append(all, slices.DeleteFunc(s.dynamic.config(), func(b overlay.Backend) bool {
		_, twice := s.roster.byAddress[b.Address]
		return twice
	})...)
}

// Apply implements [manage.Group].
func (s *Service) Apply() (events []pool.Event) {
	if len(s.roster.backends) > 0 {
		before := s.static.Load()
		var set *Set
		set, events = s.newSet(s.roster, s.viewSettings(true))
		s.static.Store(set)
		s.watchingStatic.follow(set)
		if before != nil {
			before.supersede()
		}
	}
	if s.dynamic != nil {
		events = append(events, s.dynamic.apply()...)
	}
	return events
}

// Dynamic implements [manage.Group].
func (s *Service) Dynamic() bool { return s.dynamic != nil }

// DrainTimeout implements [manage.Group].
func (s *Service) DrainTimeout() time.Duration { return time.Duration(s.settings.DrainTimeout) }

// Owner implements [manage.Group].
func (s *Service) Owner() manage.Owner { return s.owner }

// newSet builds a set from a roster and the edits in force. It returns the events to report once no lock is held.
func (s *Service) newSet(r *Roster, settings pool.Settings) (set *Set, events []pool.Event) {
	now := time.Now()
	set = &Set{service: s, superseded: make(chan struct{})}
	running, narrowed := s.subset.narrow(s.manager.Edits().Running(r.config(), now))
	set.narrowed = narrowed
	backends := make([]pool.Backend, 0, len(running))
	set.upstreams, set.targets = make(reverseproxy.UpstreamPool, 0, len(running)), make([]*stock.Target, 0, len(running))
	for _, b := range running {
		at, inRoster := r.byAddress[b.Address]
		made := pool.Backend{Address: b.Address}
		var target *stock.Target
		var upstream *reverseproxy.Upstream
		if inRoster {
			made, upstream = r.backends[at], r.upstreams[at]
			if r.targets != nil {
				target = r.targets[at]
			}
		}
		limit := cmp.Or(b.MaxRequests, s.limit)
		switch {
		case !inRoster:
			upstream = &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: b.Address, MaxRequests: exact(limit)}
		case upstream.MaxRequests != exact(limit):
			// Requests read the old upstream, so it is copied, not changed. Both share one Host and its counters.
			upstream, target = &reverseproxy.Upstream{Host: upstream.Host, Dial: b.Address, MaxRequests: exact(limit)}, nil
		}
		made.Weight, made.MaxRequests, made.Backup, made.Zone = b.Weight, limit, b.Backup, b.Zone
		made.State = s.poolState(&b, now)
		backends = append(backends, made)
		set.upstreams = append(set.upstreams, upstream)
		if target == nil {
			target = s.stock.NewTarget(upstream)
		}
		set.targets = append(set.targets, target)
	}
	// If nothing was edited, share the roster's lists, which may be large.
	if slices.Equal(backends, r.backends) {
		backends = r.backends
	}
	if slices.Equal(set.upstreams, r.upstreams) {
		set.upstreams = r.upstreams
	}
	set.view, events = s.pool.OpenQuietly(backends, settings)
	if s.canary != nil {
		events = append(events, set.divide(running, settings)...)
	}
	return set, events
}

// poolState converts a backend's state to that of the pool.
func (s *Service) poolState(b *overlay.Running, now time.Time) pool.State {
	switch b.State {
	case overlay.Drain:
		if b.Removed == nil && s.settings.DrainSticky.Enabled() && now.Before(manage.DrainEnds(b, s.DrainTimeout())) {
			return pool.Draining
		}
		return pool.Drained
	case overlay.Maintenance:
		return pool.Maintenance
	default:
		return pool.Ready
	}
}

// viewSettings returns the settings of the pool's views. With checked, the active check watches the members.
func (s *Service) viewSettings(checked bool) pool.Settings {
	v := s.settings.View(s.probeTimeout)
	v.Passive, v.Dials = s.passive, stock.Dials(s.transport)
	if b, ok := s.policy.(policies.Balancer); ok {
		v.Policy = b.BalancePolicy()
	}
	v.Shadow = policies.ShadowOf(s.shadow)
	if checked && s.check != nil {
		v.Checked = true
		v.Initial = map[string]pool.Initial{"check": pool.HoldUntilChecked, "up": pool.StartUp, "down": pool.StartDown}[s.check.Initial]
	}
	return v
}

var _ manage.Group = (*Service)(nil)
