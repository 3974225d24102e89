package course

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Rules are the settings of a course. They come from the configuration and never change.
type Rules struct {
	Keyed        bool // the policy hashes a key of the request
	ShadowKeyed  bool // the shadow policy hashes a key of the request
	Sessions     bool // the policy keeps sessions at their backend
	Strict       bool // a session is served by its own backend only
	BindSessions bool // answers tell the client which backend its session is bound to
	Foreign      bool // the policy is of another module: [Request.Foreign] chooses

	Hold  time.Duration // how long after the last backend died requests wait for one to recover; 0 if they never wait
	Queue QueueRules
	Retry RetryRules
	Hedge HedgeRules

	Slow     time.Duration // an answer that takes this long counts as slow for the breaker; 0 disables this
	Failures Statuses      // answers that are failures
	Passive  PassiveRules
	Breaker  Breaker // of reverse_proxy; nil if there is none

	BreakerOff    bool // there is no breaker; only failed connections eject a backend
	UntilLastByte bool // the latency of an answer counts to its last byte, not to its header
}

// QueueRules say how requests wait for a slot.
type QueueRules struct {
	On      bool
	OnAuto  bool // requests wait only if there is a backend with an adaptive max_requests
	Size    int
	Timeout time.Duration
}

// HedgeRules say when a copy of a request is sent to another backend.
type HedgeRules struct {
	On         bool
	Percentile float64 // of the pool's latencies; an attempt that takes longer may get a copy
	MaxExtra   float64 // the largest share of requests that may get a copy
}

// RetryRules say which failed attempts are followed by another one, when, and how often.
type RetryRules struct {
	Attempts      int // including the first; 0 for any number
	On            [pool.RetryReasons]bool
	Statuses      Statuses
	NonIdempotent bool
	Base, Max     time.Duration // of the backoff
	Budget        pool.BudgetSettings

	Stock *StockRetries // the retry settings of reverse_proxy, which decide instead of On; nil if none is given
}

// StockRetries are the retry settings of reverse_proxy.
type StockRetries struct {
	Duration time.Duration // lb_try_duration: the time for attempts and for waiting for a backend; 0 for no bound
	Interval time.Duration // lb_try_interval: between attempts
	Answers  bool          // lb_retry_match has matchers that look at answers
}

// waits reports whether lb_try_duration makes requests wait for a backend.
func (s *StockRetries) waits() bool { return s != nil && s.Duration > 0 }

// Waits reports whether lb_try_duration makes requests wait for a backend.
func (r *RetryRules) Waits() bool { return r.Stock.waits() }

// Breaker is a circuit breaker of reverse_proxy: a single one for all backends.
type Breaker interface {
	OK() bool
	RecordMetric(status int, latency time.Duration)
}

// PassiveRules say which attempts count as failed for passive checks.
type PassiveRules struct {
	On      bool
	Latency time.Duration // an answer that takes this long is a failure; 0 disables this
	Status  []int         // answers that are failures: statuses, or classes of statuses from 1 to 5
}

// failed reports whether an attempt counts as failed. took is how long it took.
func (p *PassiveRules) failed(f *Facts, took time.Duration) bool {
	if f.Kind != Answered {
		return true
	}
	return p.Latency > 0 && took >= p.Latency ||
		slices.ContainsFunc(p.Status, func(s int) bool { return s == f.Status || s < 100 && f.Status >= s*100 && f.Status < (s+1)*100 })
}
