package pool

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// budgetMemory is how long unspent retries are kept.
const budgetMemory = 10 * time.Second

// BudgetSettings says how many retries are earned per request and per second.
type BudgetSettings struct {
	Ratio     float64 // retries per request
	PerSecond float64 // retries per second
}

// RetryReason is why an attempt is retried.
type RetryReason uint8

const (
	// RetryConnect means that no connection could be made.
	RetryConnect RetryReason = iota
	// RetryReset means that the connection broke, or that the answer was invalid.
	RetryReset
	// RetryTimeout means that there was no answer in time.
	RetryTimeout
	// RetryStatus means that the answer's status is retried.
	RetryStatus
	// RetryHedge means that a copy was sent because the answer took longer than usual.
	RetryHedge
	// RetryReasons is the number of reasons.
	RetryReasons
)

// String returns the reason as metrics show it.
func (r RetryReason) String() string {
	return [RetryReasons]string{"connect", "reset", "timeout", "status", "hedge"}[r]
}

// budget limits a pool's retries, so that they do not multiply an outage. It is a leaky bucket: its content decays with a time constant
// of budgetMemory, so that a steady income fills it to the income of that time. A new pool starts with what ten seconds without requests
// earn.
//
// Requests only increment a counter. The level is computed when a retry is spent, which is rare.
type budget struct {
	requests atomic.Uint64
	spent    [RetryReasons]atomic.Uint64

	mu    sync.Mutex // guards the fields below
	level float64
	at    time.Time // when level was computed; zero before the first time
	seen  uint64    // number of requests included in level
}

// CountRequest adds one request's share of a retry to the budget.
func (p *Pool) CountRequest() { p.budget.requests.Add(1) }

// SpendRetry takes one retry from the budget, and reports whether there was one.
func (p *Pool) SpendRetry(s BudgetSettings, reason RetryReason, now time.Time) bool {
	b := &p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settle(s, now); b.level < 1 {
		return false
	}
	b.level--
	b.spent[reason].Add(1)
	return true
}

// SpendHedge takes one copy from both the budget of copies and the budget of retries, and reports whether both had one. maxExtra is the
// number of copies per request.
func (p *Pool) SpendHedge(maxExtra float64, s BudgetSettings, now time.Time) bool {
	hedges, retries := &p.hedges, &p.budget
	hedges.mu.Lock()
	defer hedges.mu.Unlock()
	hedges.requests.Store(retries.requests.Load())
	if hedges.settle(BudgetSettings{Ratio: maxExtra}, now); hedges.level < 1 {
		return false
	}
	retries.mu.Lock()
	defer retries.mu.Unlock()
	if retries.settle(s, now); retries.level < 1 {
		return false
	}
	hedges.level--
	retries.level--
	retries.spent[RetryHedge].Add(1)
	return true
}

// Retries returns the number of retries for this reason.
func (p *Pool) Retries(reason RetryReason) uint64 { return p.budget.spent[reason].Load() }

// RetryBudget returns the number of retries that the pool could make now.
func (p *Pool) RetryBudget(s BudgetSettings, now time.Time) float64 {
	b := &p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(s, now)
	return b.level
}

// settle computes the level as of now. The caller holds b.mu.
func (b *budget) settle(s BudgetSettings, now time.Time) {
	if b.at.IsZero() {
		b.level, b.at = s.PerSecond*budgetMemory.Seconds(), now
	}
	requests := b.requests.Load()
	passed := max(now.Sub(b.at), 0)
	income := s.PerSecond*passed.Seconds() + s.Ratio*float64(requests-b.seen)
	if x := passed.Seconds() / budgetMemory.Seconds(); x > 0 {
		// The income arrived evenly over the time that passed, so its early part has decayed, too.
		income *= -math.Expm1(-x) / x
		b.level *= math.Exp(-x)
	}
	b.level += income
	b.seen = requests
	if now.After(b.at) {
		b.at = now
	}
}
