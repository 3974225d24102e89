package course

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// A request that waits for the answer of a backend is moved to another one when the backend is found to be gone. This is a retry like that
// after a timeout, except that another backend and a retry of the budget are acquired before the attempt is broken off: without both, the
// request stays.

// MayMove reports whether the current attempt, which is about to begin, may be moved.
func (c *Course) MayMove() bool {
	rules := &c.rules.Retry
	switch {
	case rules.Stock != nil, !rules.On[pool.RetryTimeout], rules.Attempts > 0 && c.attempts-c.unsent >= rules.Attempts:
		return false
	case !c.choice.Lease.Held(), c.rules.Foreign, c.rules.Strict && c.session.bound:
		return false
	}
	return c.Repeatable()
}

// Checked reports whether the backends are checked.
func (c *Course) Checked() bool { return c.view.Checked() }

// Move chooses another backend for the current attempt, reserves a slot on it, and takes a retry from the budget. ok is false if that is
// not possible, or if the pool panics, so that no other backend is known to be better. Another goroutine may call it while the attempt
// waits for its answer; then [Course.Moved] must follow.
func (c *Course) Move(now time.Time) (to Choice, ok bool) {
	if c.pool.QueueLength() > 0 || isSuperseded(c.members) || c.view.Snapshot().Panicking() {
		return Choice{}, false
	}
	key, avoid := c.key, append(slices.Clip(c.tried), c.choice.Lease.Index())
	key.Now = now
	lease, err := c.view.AcquireFor(key, avoid, false)
	if err != nil {
		return Choice{}, false
	}
	at := lease.Index()
	if slices.Contains(avoid, at) || lease.Dead() || c.view.Doubtful(at, now) || !c.pool.SpendRetry(c.rules.Retry.Budget, pool.RetryTimeout, now) {
		lease.Abandon()
		return Choice{}, false
	}
	return Choice{c.members.Target(at), lease}, true
}

// Moved returns the next step after an attempt that was moved, instead of [Course.Ended].
func (c *Course) Moved(f *Facts, to Choice, now time.Time) Step {
	c.judge(f, now)
	c.request.EndInforming()
	c.answered, c.overload, c.mayHold, c.reason = false, false, false, pool.RetryTimeout
	c.tried = append(c.tried, c.choice.Lease.Index())
	c.choice.Lease.Release()
	c.choice = to
	return c.send(true)
}
