package pool

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// budgetMemory is for how long what was not spent on retries is kept.
const budgetMemory = 10 * time.Second

// BudgetSettings are what requests and time earn for retries.
type BudgetSettings struct {
	Ratio     float64 // retries that a request earns
	PerSecond float64 // retries that a second earns
}

// RetryReason is why an attempt is made again.
type RetryReason uint8

const (
	// RetryConnect is that no connection could be made.
	RetryConnect RetryReason = iota
	// RetryReset is that the connection broke, or what came was no answer.
	RetryReset
	// RetryTimeout is that there was no answer in time.
	RetryTimeout
	// RetryStatus is that the answer's status asks for it.
	RetryStatus
	// RetryHedge is that there was no answer for longer than usual, so that a copy was sent.
	RetryHedge
	// RetryReasons is how many reasons there are.
	RetryReasons
)

// String returns the reason as metrics show it.
func (r RetryReason) String() string {
	return [RetryReasons]string{"connect", "reset", "timeout", "status", "hedge"}[r]
}

// budget is what a pool may spend on retries, so that they do not multiply an outage. It is a bucket with a leak: what
// is in it fades with a time constant of budgetMemory, so that steady income fills it to the income of that time. A
// pool that begins has what ten seconds without requests would have earned.
//
// Requests only count themselves; the sum is done when somebody wants to spend, which is rare.
type budget struct {
	requests atomic.Uint64
	spent    [RetryReasons]atomic.Uint64

	mu    sync.Mutex // guards what follows
	level float64
	at    time.Time // of level; zero if nobody has asked yet
	seen  uint64    // requests that level includes
}

// CountRequest has a request earn its share of a retry.
func (p *Pool) CountRequest() { p.budget.requests.Add(1) }

// SpendRetry takes one retry from the budget, if there is one.
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

// SpendHedge takes a copy of a request from what requests earn for copies, and from the budget for retries, if there is
// one in both. maxExtra is the share of a copy that a request earns.
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

// Retries is how many retries there were for that reason.
func (p *Pool) Retries(reason RetryReason) uint64 { return p.budget.spent[reason].Load() }

// RetryBudget is how many retries the pool could spend now.
func (p *Pool) RetryBudget(s BudgetSettings, now time.Time) float64 {
	b := &p.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(s, now)
	return b.level
}

// settle brings level up to date. It is called with b.mu held.
func (b *budget) settle(s BudgetSettings, now time.Time) {
	if b.at.IsZero() {
		b.level, b.at = s.PerSecond*budgetMemory.Seconds(), now
	}
	requests := b.requests.Load()
	passed := max(now.Sub(b.at), 0)
	income := s.PerSecond*passed.Seconds() + s.Ratio*float64(requests-b.seen)
	if x := passed.Seconds() / budgetMemory.Seconds(); x > 0 {
		// The income came evenly over the time that passed, and the early part of it has faded, too.
		income *= -math.Expm1(-x) / x
		b.level *= math.Exp(-x)
	}
	b.level += income
	b.seen = requests
	if now.After(b.at) {
		b.at = now
	}
}
