package course

import (
	"errors"
	"math"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// maxHeld is how long a request waits at most while no backend has been checked yet.
	maxHeld = time.Second
	// minPoll is the least time between two looks at a pool, while somebody waits for it.
	minPoll = 10 * time.Millisecond
	// maxHolding is how many requests of a pool wait at a time until a dead backend is back.
	maxHolding = 10_000
	// maxReleases is how often a request is sent on its way after it has waited, should it find the backend dead again.
	maxReleases = 5
	// lastLook is for how long a request that is about to give up waits for the dead to be tried once more: the time between two
	// tries may be longer than what was left.
	lastLook = 100 * time.Millisecond
	// overtime is by how much an lb_try_interval that has begun may go beyond lb_try_duration. reverse_proxy lets it pass, too,
	// and asks once more after it; this is its default.
	overtime = 250 * time.Millisecond
)

// phase is where a course stands.
type phase uint8

const (
	sending          phase = iota // an attempt is being made
	queued                        // it is in the pool's queue
	awaitingSnapshot              // a dead member was chosen, which the snapshot does not show yet
	awaitingProbes                // no member has been checked yet
	awaitingSource                // all are dead, and the source may name others without telling
	holding                       // all are dead, and one of them is waited for
	lookingLast                   // the same, and the dead are being tried once more
	lookingFirst                  // all are dead, and the words of reverse_proxy say how to wait
	lookingAgain                  // the same, for another attempt
	pausingSame                   // before another attempt at the same backend
	pausingStock                  // for the lb_try_interval before another attempt
	over                          // there is nothing more to decide
)

// Resume goes on after a step that asked to wait.
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
		return c.noneLeft(now)
	case pausingSame:
		if w != Gone {
			return c.reserveSame(now)
		}
		return c.noneLeft(now)
	case pausingStock:
		if w != Gone {
			return c.reserveStock(now)
		}
		return c.noneLeft(now)
	}
	return c.chosen(c.err)
}

// afterOutage goes on after waiting for a dead member to be back.
func (c *Course) afterOutage(w Woken, now time.Time) Step {
	c.endHold()
	c.patience = now.Add(c.rules.Hold)
	if w == Signaled {
		return c.choose(now)
	}
	return c.chosen(c.err)
}

// await waits until another choice may succeed, after one that failed with err. ok is false if it may succeed now.
func (c *Course) await(err error, now time.Time) (step Step, ok bool) {
	c.err = err
	c.snapshot = c.view.Snapshot()
	snapshot := c.snapshot
	nobody := errors.Is(err, pool.ErrNone) || errors.Is(err, pool.ErrHeld)
	if nobody && len(snapshot.Eligible()) > 0 && (c.rules.Breaker == nil || c.rules.Breaker.OK()) {
		return Step{}, false
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
	return c.chosen(err), true
}

// sleep waits for d, or until there is another snapshot than the one that was looked at, or other members.
func (c *Course) sleep(p phase, d time.Duration, now time.Time) Step {
	c.phase, c.slept = p, now
	step := Step{Do: Wait, Until: now.Add(d)}
	step.Wake[0] = c.snapshot.Replaced()
	if !c.silent { // while the source does not answer, that there is another list is of no use
		step.Wake[1], step.Wake[2] = c.members.Superseded()
	}
	return step
}

// hold waits until one of the members is back, all of which have been dead since then, unless the outage is too old.
func (c *Course) hold(since, now time.Time) Step {
	left := since.Add(c.rules.Hold).Sub(now)
	if left <= 0 || !c.pool.Hold(maxHolding) {
		return c.chosen(c.err)
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

// endHold ends that the request counts as one that waits for a dead member.
func (c *Course) endHold() {
	if c.holding {
		c.holding = false
		c.pool.EndHold()
	}
}

// stockLeft is for how long the request may go on waiting as lb_try_duration says.
func (c *Course) stockLeft(now time.Time) time.Duration {
	return c.rules.Retry.Stock.Duration - now.Sub(c.began)
}

// look waits as the words of reverse_proxy say: the dead are tried each lb_try_interval, and once more when the time is up. ok is
// false when that is over.
func (c *Course) look(p phase, now time.Time) (step Step, ok bool) {
	// A look counts as an attempt for lb_retries, which reverse_proxy would make.
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
		c.pool.Hold(math.MaxInt) // counted only: reverse_proxy has no bound
		c.holding = true
	}
	c.stay()
	c.view.Look(interval, now)
	return c.sleep(p, d, now), true
}

// goneSince is since when there has been nobody whom the request could go to, for no other reason than that no connection can be
// made; zero if that is not so.
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

// mayQueue tells whether the request may wait for a slot, with how many others and for how long. Where there is no queue, requests
// may that had to wait for a backend: they are all let go together when one is back, however short the queue for others is.
func (c *Course) mayQueue(now time.Time) (size int, timeout time.Duration, may bool) {
	timeout = c.patience.Sub(now)
	if may = timeout > 0; may {
		size = maxHolding
	}
	if q := &c.rules.Queue; q.On {
		return max(size, q.Size), max(timeout, q.Timeout), true
	}
	return size, timeout, may
}

// Try chooses a backend for a request that is in the queue. It returns [pool.ErrFull] if that has to go on waiting.
func (c *Course) Try(now time.Time) error {
	members, err := c.source.Members(false)
	if err != nil {
		return err
	}
	c.enter(members)
	c.choice, err = c.acquire(c.tried, now)
	return err
}

// Queued goes on after a step that asked to queue; err is what became of that.
func (c *Course) Queued(err error, now time.Time) Step {
	c.queued += now.Sub(c.slept)
	c.pool.Queued.Add(c.queued)
	if !errors.Is(err, pool.ErrNone) {
		return c.chosen(err)
	}
	if step, ok := c.settled(err, now); ok {
		return step
	}
	return c.choose(now)
}
