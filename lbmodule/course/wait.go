package course

import (
	"errors"
	"math"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// maxHeld is the longest time that a request waits for the first probe of a backend.
	maxHeld = time.Second
	// minPoll is the minimum interval at which the dead members of a pool are redialed while requests wait for them.
	minPoll = 10 * time.Millisecond
	// maxHolding is how many requests of a pool may wait at a time for a dead backend to recover.
	maxHolding = 10_000
	// maxReleases is how many times a request that has waited is sent and finds its backend dead again, before it is refused.
	maxReleases = 5
	// lastLook is how long a request that is about to give up waits for a last redial of the dead members: the time to their next regular
	// redial may be longer than the time that the request had left.
	lastLook = 100 * time.Millisecond
	// overtime is how far an lb_try_interval that has begun may reach beyond lb_try_duration. reverse_proxy also waits it out and
	// makes one more attempt; this is the default of lb_try_interval.
	overtime = 250 * time.Millisecond
)

// phase is the state of a course.
type phase uint8

const (
	sending          phase = iota // an attempt is being made
	queued                        // the request is in the pool's queue
	awaitingSnapshot              // a member was chosen that died after the snapshot; waiting for a new snapshot
	awaitingProbes                // no member has been probed yet
	awaitingSource                // all members are dead; waiting for one to recover, or for a quiet source to name others
	holding                       // all members are dead; waiting for one to recover
	lookingLast                   // as holding, while dead members are redialed one last time
	lookingFirst                  // choosing failed; waiting as lb_try_duration says
	lookingAgain                  // as lookingFirst, after a failed attempt
	pausingSame                   // backing off before another attempt at the same backend
	pausingStock                  // waiting for lb_try_interval before another attempt
	over                          // nothing is left to decide
)

// Resume returns the next step after a [Wait].
func (c *Course) Resume(w Woken, now time.Time) Step {
	if c.phase != pausingSame && c.phase != pausingStock {
		c.queued += now.Sub(c.slept)
	}
	switch c.phase {
	case awaitingSnapshot:
		if w == Signaled || w == Elapsed && now.Before(c.patience) {
			return c.choose(now)
		}
	case awaitingProbes:
		if w != Gone {
			return c.choose(now)
		}
	case awaitingSource:
		c.endHold()
		if w != Gone {
			return c.choose(now)
		}
	case holding:
		if w == Elapsed {
			c.view.Look(minPoll, now)
			return c.sleep(lookingLast, lastLook, now)
		}
		return c.afterOutage(w, now)
	case lookingLast:
		return c.afterOutage(w, now)
	case lookingFirst:
		c.endHold()
		if w != Signaled {
			c.looks++
		}
		if w != Gone {
			return c.choose(now)
		}
	case lookingAgain:
		c.endHold()
		if w != Signaled {
			c.looks++
		}
		if w != Gone {
			c.waited = true
			return c.reserveStock(now)
		}
		return c.noRetry(now)
	case pausingSame:
		if w != Gone {
			return c.reserveSame(now)
		}
		return c.noRetry(now)
	case pausingStock:
		if w != Gone {
			return c.reserveStock(now)
		}
		return c.noRetry(now)
	}
	return c.endChoosing(c.err, now)
}

// afterOutage continues after waiting for a dead member to recover.
func (c *Course) afterOutage(w Woken, now time.Time) Step {
	c.endHold()
	c.patience = now.Add(c.rules.Hold)
	if w == Signaled {
		return c.choose(now)
	}
	return c.endChoosing(c.err, now)
}

// await returns the step after a choice that failed with err: a wait until another may succeed, or the end. ok is false if another may
// succeed at once.
func (c *Course) await(err error, now time.Time) (step Step, ok bool) {
	c.err = err
	c.snapshot = c.view.Snapshot()
	snapshot := c.snapshot
	nobody := errors.Is(err, pool.ErrNone) || errors.Is(err, pool.ErrHeld)
	if nobody && len(snapshot.Eligible()) > 0 && (c.rules.Breaker == nil || c.rules.Breaker.OK()) {
		return Step{}, false
	}
	if nobody && c.view.IsPart() {
		// A source that named a part of the backends may name all of them now.
		if members, unknown := c.source.Members(c.retrying); unknown == nil && members != c.members {
			return Step{}, false
		}
	}
	if since := c.goneSince(snapshot, err); !since.IsZero() && c.rules.Hold > 0 {
		return c.hold(since, now), true
	}
	var until time.Time
	if errors.Is(err, pool.ErrHeld) {
		if c.heldUntil.IsZero() {
			c.heldUntil = now.Add(maxHeld)
		}
		until = c.heldUntil
	}
	if c.rules.Retry.Waits() && c.stockLeft(now) > until.Sub(now) {
		if step, ok = c.look(lookingFirst, now); ok {
			return step, true
		}
	}
	if left := until.Sub(now); left > 0 {
		return c.sleep(awaitingProbes, min(left, maxHeld), now), true
	}
	return c.endChoosing(err, now), true
}

// sleep waits for d, or until the snapshot or the list of members is replaced.
func (c *Course) sleep(p phase, d time.Duration, now time.Time) Step {
	c.phase, c.slept = p, now
	step := Step{Do: Wait, Until: now.Add(d)}
	step.Wake[0] = c.snapshot.Replaced()
	if !c.silent { // while the source fails, waking up for a replaced list is pointless
		step.Wake[1], step.Wake[2] = c.members.Superseded()
	}
	return step
}

// hold waits until a member recovers, unless the outage is too old. since is when the last backend that the request could go to died.
func (c *Course) hold(since, now time.Time) Step {
	left := since.Add(c.rules.Hold).Sub(now)
	if left <= 0 || !c.pool.Hold(maxHolding) {
		return c.endChoosing(c.err, now)
	}
	c.holding = true
	c.stay()
	c.holds++
	switch early := left - lastLook; {
	case early > maxHeld && c.source.Quiet():
		return c.sleep(awaitingSource, maxHeld, now)
	case early > 0:
		return c.sleep(holding, early, now)
	default:
		c.view.Look(minPoll, now)
		return c.sleep(lookingLast, left, now)
	}
}

// endHold tells the pool that the request no longer waits for a dead member.
func (c *Course) endHold() {
	if c.holding {
		c.holding = false
		c.pool.EndHold()
	}
}

// stockLeft returns how much of lb_try_duration is left.
func (c *Course) stockLeft(now time.Time) time.Duration {
	return c.rules.Retry.Stock.Duration - now.Sub(c.began)
}

// look waits as lb_try_duration says: dead members are redialed at each lb_try_interval, and one last time at the end. ok is false after
// that.
func (c *Course) look(p phase, now time.Time) (step Step, ok bool) {
	// A look counts towards lb_retries, because reverse_proxy would make an attempt instead.
	if n := c.rules.Retry.Attempts; c.gaveUp || n > 0 && max(c.attempts, 1)+c.looks >= n {
		return Step{}, false
	}
	interval, left := max(c.rules.Retry.Stock.Interval, minPoll), c.stockLeft(now)
	d := min(interval, max(left, overtime))
	if left <= 0 {
		c.gaveUp = true
		interval, d = minPoll, lastLook
	}
	if !c.snapshot.Gone().IsZero() {
		c.pool.Hold(math.MaxInt) // no bound, as in reverse_proxy
		c.holding = true
	}
	c.stay()
	c.view.Look(interval, now)
	return c.sleep(p, d, now), true
}

// goneSince returns since when every backend that the request could go to has been dead; zero if one is alive, or is unusable for another
// reason.
func (c *Course) goneSince(snapshot *pool.Snapshot, err error) time.Time {
	switch {
	case errors.Is(err, pool.ErrNone):
		return snapshot.Gone()
	case errors.Is(err, ErrSessionGone) && c.session.member >= 0:
		return c.view.Member(c.session.member).Died()
	default:
		return time.Time{}
	}
}

// mayQueue reports whether the request may wait for a slot, and returns the bounds of the queue and of its wait. Requests that waited for
// a dead backend may always queue, because they are all released at once when it recovers.
func (c *Course) mayQueue(now time.Time) (size int, timeout time.Duration, may bool) {
	timeout = c.patience.Sub(now)
	if may = timeout > 0; may {
		size = maxHolding
	}
	if q := &c.rules.Queue; c.queues() {
		return max(size, q.Size), max(timeout, q.Timeout), true
	}
	return size, timeout, may
}

// queues reports whether requests of the list may wait for a slot.
func (c *Course) queues() bool {
	return c.rules.Queue.On || c.rules.Queue.OnAuto && c.view.Auto()
}

// Try chooses a backend for a request in the queue. It returns [pool.ErrFull] if the request must continue to wait.
func (c *Course) Try(now time.Time) error {
	members, err := c.source.Members(false)
	if err != nil {
		return err
	}
	c.enter(members)
	c.choice, err = c.acquire(c.tried, now)
	return err
}

// Queued returns the next step after a [Queue]; err is the result of the wait in the queue.
func (c *Course) Queued(err error, now time.Time) Step {
	c.queued += now.Sub(c.slept)
	c.pool.Queued.Add(c.queued)
	if !errors.Is(err, pool.ErrNone) {
		return c.endChoosing(err, now)
	}
	if step, ok := c.afterTry(err, now); ok {
		return step
	}
	return c.choose(now)
}
