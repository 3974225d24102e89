package course

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Rules say what a course goes by. They come from the configuration and do not change.
type Rules struct {
	Keyed    bool // the policy chooses by a key of the request
	Sessions bool // the policy keeps sessions at their backend
	Strict   bool // and serves them nowhere else
	Told     bool // clients are told which backend their sessions are bound to
	Foreign  bool // the policy is not ours: [Request.Foreign] chooses

	Hold  time.Duration // how old an outage of all may be for requests to wait; 0 if they never do
	Queue QueueRules
	Retry RetryRules
	Hedge HedgeRules

	Slow     time.Duration // from which on an answer is slow for the breaker; 0 if none is
	Failures Statuses      // answers that are failures
	Passive  PassiveRules
	Breaker  Breaker // of reverse_proxy; nil if there is none

	BreakerOff    bool // only connections count, there is no breaker
	UntilLastByte bool // the time that an answer takes is the time to its end
}

// QueueRules say how requests wait for a slot.
type QueueRules struct {
	On      bool
	Size    int
	Timeout time.Duration
}

// HedgeRules say when a copy of a request is sent to another backend.
type HedgeRules struct {
	On         bool
	Percentile float64 // of the pool's latencies, after which a request may have a copy
	MaxExtra   float64 // how many copies there may be for each request
}

// RetryRules say which attempts are made again, when, and how often.
type RetryRules struct {
	Attempts      int // in all; 0 for any number
	On            [pool.RetryReasons]bool
	Statuses      Statuses
	NonIdempotent bool
	Base, Max     time.Duration // of the backoff
	Budget        pool.BudgetSettings

	Stock *StockRetries // the words of reverse_proxy, which rule instead; nil if none is given
}

// StockRetries are retries as the words of reverse_proxy describe them.
type StockRetries struct {
	Duration time.Duration // for how long attempts are made, and a backend is waited for; 0 for no bound
	Interval time.Duration // between attempts
	Answers  bool          // some answers are wanted again
}

// waits tells whether requests wait for a backend as the words of reverse_proxy say.
func (s *StockRetries) waits() bool { return s != nil && s.Duration > 0 }

// Waits tells whether requests wait for a backend because the words of reverse_proxy say so.
func (r *RetryRules) Waits() bool { return r.Stock.waits() }

// Breaker is a circuit breaker of reverse_proxy: one for all backends.
type Breaker interface {
	OK() bool
	RecordMetric(status int, latency time.Duration)
}

// PassiveRules say which attempts count as failed for passive checks.
type PassiveRules struct {
	On      bool
	Latency time.Duration // from which on an answer is too slow; 0 if none is
	Status  []int         // answers that are failures: statuses, or their class from 1 to 5
}

// failed tells whether an attempt counts as failed that took so long.
func (p *PassiveRules) failed(f *Facts, took time.Duration) bool {
	if f.Kind != Answered {
		return true
	}
	return p.Latency > 0 && took >= p.Latency ||
		slices.ContainsFunc(p.Status, func(s int) bool { return s == f.Status || s < 100 && f.Status >= s*100 && f.Status < (s+1)*100 })
}
