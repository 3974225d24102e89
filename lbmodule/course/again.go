package course

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// maxSuspects is how many backends a retry skips because their last request failed.
const maxSuspects = 3

// Ended returns the next step after an attempt was answered or failed.
func (c *Course) Ended(f *Facts, now time.Time) Step {
	c.judge(f, now)
	if f.Kind == Answered && !c.rules.Retry.concerns(f.Status, c.call.Status) {
		return c.give()
	}
	c.answered, c.overload = f.Kind == Answered, f.RetryAfter
	reason, ok := c.reasonFor(f)
	ok = ok && c.request.EndInforming()
	holds := c.lost && c.rules.Hold > 0 && !f.Gone && !f.BodyFailed && c.request.Rewindable()
	if c.choice.Lease.Held() && (ok || holds) {
		c.tried = append(c.tried, c.choice.Lease.Index())
	}
	c.mayHold = holds
	if ok && (!holds || c.others()) {
		c.reason = reason
		return c.reserve(now)
	}
	return c.noRetry(now)
}

// give ends the course with the answer of the current attempt.
func (c *Course) give() Step {
	c.phase = over
	c.leave()
	return Step{Do: Give}
}

// noRetry continues when the rules for retries allow no other attempt. A request that could not connect may still wait for a backend,
// because nothing was sent.
func (c *Course) noRetry(now time.Time) Step {
	switch {
	case c.mayHold:
		return c.holdOut(now)
	case c.answered:
		return c.give()
	default:
		c.phase = over
		return Step{Do: Fail}
	}
}

// concerns reports whether an answer with that status might be dropped for another attempt.
func (r *RetryRules) concerns(status int, call GRPC) bool {
	return r.Stock != nil && r.Stock.Answers || r.Statuses.Has(status, call)
}

// reasonFor returns the reason for another attempt; ok is false if there must be none.
func (c *Course) reasonFor(f *Facts) (reason pool.RetryReason, ok bool) {
	rules := &c.rules.Retry
	switch {
	case rules.Attempts > 0 && c.attempts-c.unsent >= rules.Attempts, f.Gone, f.BodyFailed, f.NoDescriptors:
		return 0, false
	case f.Kind == Answered:
		reason = pool.RetryStatus
	case f.Kind == NotConnected:
		reason = pool.RetryConnect
	case f.Kind == TimedOut:
		reason = pool.RetryTimeout
	default:
		reason = pool.RetryReset
	}
	switch {
	case rules.Stock != nil:
		ok = c.request.Wanted(reason)
	case reason == pool.RetryConnect:
		ok = rules.On[reason]
	default:
		ok = rules.On[reason] && c.Repeatable()
	}
	return reason, ok && c.request.Rewindable()
}

// others reports whether there are backends that the request has not tried.
func (c *Course) others() bool {
	if c.rules.Strict && c.session.bound {
		return false
	}
	return c.view.Snapshot().Others(c.tried)
}

// reserve chooses the backend of another attempt and reserves a slot on it, or returns a step that waits first.
func (c *Course) reserve(now time.Time) Step {
	if !c.answered {
		c.choice.Lease.Release() // first, because its backend may be the only one
	}
	rules := &c.rules.Retry
	if s := rules.Stock; s != nil {
		c.waited = false
		switch {
		case s.Duration > 0 && c.stockLeft(now) <= 0:
			return c.noRetry(now)
		case c.lost && s.waits() && !c.others():
			// Wait for a member to recover, which is faster than trying one after the other.
			c.view.Lose(c.tried, now)
			c.waited = true
			return c.reserveStock(now)
		default:
			return c.pause(pausingStock, s.Interval, now)
		}
	}
	next, err := c.chooseNext(now)
	if err != nil {
		return c.noRetry(now)
	}
	same := next.Lease.Held() && slices.Contains(c.tried, next.Lease.Index())
	if next.Lease.Held() && (c.reason != pool.RetryConnect && c.view.Doubtful(next.Lease.Index(), now) || same && c.answered && c.overload) {
		next.Lease.Abandon()
		return c.noRetry(now)
	}
	if same {
		// The backoff is for a backend that has just failed; another one needs none.
		next.Lease.Abandon()
		return c.pause(pausingSame, c.pool.Dice().Duration(max(min(rules.Base<<min(c.attempts-1, 20), rules.Max), 1)), now)
	}
	return c.spend(next, false, now)
}

// reserveSame is reserve after the backoff before another attempt at the same backend.
func (c *Course) reserveSame(now time.Time) Step {
	next, err := c.chooseNext(now)
	if err != nil {
		return c.noRetry(now)
	}
	return c.spend(next, false, now)
}

// reserveStock is reserve after waiting as reverse_proxy's retry settings ask for.
func (c *Course) reserveStock(now time.Time) Step {
	s := c.rules.Retry.Stock
	c.snapshot = c.view.Snapshot()
	next, err := c.chooseNext(now)
	if err == nil && c.waited && next.Lease.Held() && next.Lease.Dead() {
		next.Lease.Abandon() // the snapshot is older than its death
		err = pool.ErrNone
	}
	switch {
	case err == nil && c.waited:
		c.choice = next
		return c.send(true)
	case err == nil:
		return c.spend(next, c.lost && s.waits(), now)
	case c.answered || s.Duration == 0:
		return c.noRetry(now) // give the answer rather than wait for another
	}
	if step, ok := c.look(lookingAgain, now); ok {
		return step
	}
	return c.noRetry(now)
}

// pause waits for d, unless the client's deadline is earlier.
func (c *Course) pause(p phase, d time.Duration, now time.Time) Step {
	if deadline, ok := c.request.Deadline(); ok && deadline.Sub(now) <= d {
		return c.noRetry(now)
	}
	if c.phase, c.slept = p, now; d <= 0 {
		return c.Resume(Elapsed, now)
	}
	return Step{Do: Wait, Until: now.Add(d)}
}

// chooseNext chooses the backend of another attempt and reserves a slot on it. It prefers backends that this request has not tried and
// whose last request did not fail.
func (c *Course) chooseNext(now time.Time) (Choice, error) {
	members, err := c.source.Members(true)
	if err != nil {
		c.silent = true
		return Choice{}, err
	}
	c.enter(members)
	best, err := c.acquire(c.tried, now)
	avoid := c.tried
	for range maxSuspects {
		if err != nil || !c.suspect(&best) {
			break
		}
		avoid = append(slices.Clip(avoid), best.Lease.Index())
		other, none := c.acquire(avoid, now)
		if none != nil {
			break
		}
		// One failure is less than what has opened the breaker of a half-open backend.
		if c.suspect(&other) || slices.Contains(avoid, other.Lease.Index()) || other.Lease.Probing() {
			other.Lease.Abandon()
			continue
		}
		best.Lease.Abandon()
		best = other
	}
	return best, err
}

// suspect reports whether the last request to the chosen backend failed, and that was not this request.
func (c *Course) suspect(choice *Choice) bool {
	l := &choice.Lease
	return l.Held() && !slices.Contains(c.tried, l.Index()) && c.view.Suspect(l.Index())
}

// spend takes a retry from the pool's budget and returns the step that makes an attempt at next. free says that nothing has been sent yet;
// then the attempt is made even if the budget is spent. In that case many connections are failing, so the tried backends are marked dead at
// once, and no other request has to try them.
func (c *Course) spend(next Choice, free bool, now time.Time) Step {
	if !c.pool.SpendRetry(c.rules.Retry.Budget, c.reason, now) {
		if !free {
			next.Lease.Abandon()
			return c.noRetry(now)
		}
		c.view.Lose(c.tried, now)
	}
	if !c.request.Rewind() {
		next.Lease.Abandon()
		return c.noRetry(now) // the last attempt, whose answer may still be given, has read more of the body
	}
	c.choice.Lease.Release() // of the attempt whose answer is dropped
	c.choice = next
	return c.send(true)
}

// holdOut continues after an attempt that could not connect, if the rules for retries allow no other attempt or no backend is left. It
// marks the tried backends dead; the request goes to another one, or waits for one to recover. This is not a retry and spends no budget,
// because the request has not been sent.
func (c *Course) holdOut(now time.Time) Step {
	rules := &c.rules.Retry
	c.mayHold = false
	if retries := rules.Attempts != 1 && (rules.Stock != nil || rules.On[pool.RetryConnect]); !retries && c.others() {
		c.phase = over
		return Step{Do: Fail}
	}
	c.choice.Lease.Release()
	c.view.Lose(c.tried, now)
	c.unsent++
	c.patience = now.Add(c.rules.Hold)
	c.retrying, c.before, c.reason = true, c.holds, pool.RetryConnect
	return c.choose(now)
}

// afterHold continues after holdOut has chosen a backend, or has found none because of err.
func (c *Course) afterHold(err error) Step {
	c.retrying = false
	if err != nil {
		return c.refuse(err)
	}
	if c.holds > c.before {
		c.releases++
	}
	if c.releases > maxReleases {
		c.choice.Lease.Abandon()
		return c.refuse(pool.ErrNone)
	}
	return c.send(true)
}
