package course

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

var (
	// ErrSessionGone refuses a request whose session is bound to a backend that does not take it.
	ErrSessionGone = errors.New("the backend of the session is not usable")
	// ErrSessionFull refuses a request whose session is bound to a backend that has as many requests as it may. The request does
	// not wait in the queue: slots of other backends are of no use to it, and it would stand in the way of requests that wait for one.
	ErrSessionFull = errors.New("the backend of the session is at max_requests")
)

// session is what a request says about its session.
type session struct {
	member int  // position of its backend; -1 if that is none of the members
	bound  bool // there is one
}

// choose chooses a backend and reserves a slot on it. It waits where that makes sense.
func (c *Course) choose(now time.Time) Step {
	// The loop ends: each turn but the last finds a newer snapshot than the one before.
	for {
		members, err := c.source.Members(c.retrying)
		if err != nil {
			return c.chosen(err)
		}
		c.enter(members)
		c.choice, err = c.acquireInTurn(now)
		if errors.Is(err, pool.ErrFull) {
			if size, timeout, may := c.mayQueue(now); may {
				c.phase, c.slept = queued, now
				return Step{Do: Queue, Size: size, Timeout: timeout}
			}
		}
		if step, ok := c.settled(err, now); ok {
			return step
		}
	}
}

// settled is called with the outcome of one try to choose. ok is false if it is to be tried again at once.
func (c *Course) settled(err error, now time.Time) (step Step, ok bool) {
	if err == nil && c.retrying && c.choice.Lease.Held() && c.choice.Lease.Dead() {
		// The snapshot of a large pool takes a moment to show that.
		c.choice.Lease.Abandon()
		c.err, c.snapshot = pool.ErrNone, c.view.Snapshot()
		return c.sleep(awaitingSnapshot, minPoll, now), true
	}
	if err == nil {
		return c.chosen(nil), true
	}
	return c.await(err, now)
}

// chosen ends choosing, with an error if nobody was found.
func (c *Course) chosen(err error) Step {
	switch {
	case c.retrying:
		return c.afterHold(err)
	case err != nil:
		return c.refuse(err)
	default:
		return c.send(false)
	}
}

// enter makes members the ones that the request chooses from.
func (c *Course) enter(members Members) {
	c.silent = false
	if c.members == members {
		return
	}
	before := c.view
	c.members, c.view = members, members.View()
	if before == nil {
		c.tried = c.triedSpace[:0]
		return
	}
	// There are other backends meanwhile: those already tried may have moved.
	moved := c.tried[:0]
	for _, i := range c.tried {
		if at := members.Find(before.Backend(i).Address); at >= 0 {
			moved = append(moved, at)
		}
	}
	c.tried = moved
}

// acquireInTurn is acquire for requests that have just come: they do not overtake those that wait.
func (c *Course) acquireInTurn(now time.Time) (Choice, error) {
	if c.rules.Queue.On && c.pool.QueueLength() > 0 && !c.rules.Strict {
		return Choice{}, pool.ErrFull // strict sessions have nothing to do with a queue for any backend
	}
	return c.acquire(c.tried, now)
}

// acquire chooses a backend of the members and reserves a slot on it, preferably none of those at the positions to avoid.
func (c *Course) acquire(avoid []int, now time.Time) (Choice, error) {
	if b := c.rules.Breaker; b != nil && !b.OK() {
		return Choice{}, pool.ErrNone
	}
	safe := !c.view.Snapshot().Probing() || c.Repeatable()
	if c.rules.Keyed && !c.key.Known {
		c.key = c.request.Key()
	}
	if c.rules.Sessions {
		return c.acquireSession(avoid, safe, now)
	}
	return c.acquireAny(avoid, safe, now)
}

// acquireAny chooses by the policy. safe tells that the request may be made
// again if the attempt fails.
func (c *Course) acquireAny(avoid []int, safe bool, now time.Time) (Choice, error) {
	if c.rules.Foreign {
		return c.acquireForeign(avoid, safe)
	}
	key := c.key
	key.Now = now
	lease, err := c.view.AcquireFor(key, avoid, safe)
	if err != nil {
		return Choice{}, err
	}
	return Choice{c.members.Target(lease.Index()), lease}, nil
}

// acquireSession chooses the backend of the request's session, or another one where that is not to be had.
func (c *Course) acquireSession(avoid []int, safe bool, now time.Time) (Choice, error) {
	at, known, signed := c.request.Session(c.members)
	c.session = session{member: -1, bound: known || signed}
	if known {
		c.session.member = at
	}
	if c.rules.Strict && c.session.bound {
		return c.acquireStrictly()
	}
	if known && !slices.Contains(avoid, at) {
		if lease, free := c.view.AcquireSession(at); free {
			return Choice{c.members.Target(at), lease}, nil
		}
	}
	return c.acquireAny(avoid, safe, now)
}

// acquireStrictly is acquireSession for a session that may be served by its own backend only.
func (c *Course) acquireStrictly() (Choice, error) {
	at := c.session.member
	if at < 0 {
		return Choice{}, ErrSessionGone
	}
	lease, ok := c.view.ProbeSession(at)
	switch {
	case ok:
		return Choice{c.members.Target(at), lease}, nil
	case c.view.Snapshot().Keeps(at):
		return Choice{}, ErrSessionFull
	default:
		return Choice{}, ErrSessionGone
	}
}

// acquireForeign has a policy that is not ours choose among the members that may be picked.
func (c *Course) acquireForeign(avoid []int, safe bool) (Choice, error) {
	snapshot := c.view.Snapshot()
	if lease, ok := c.view.AcquireProbe(avoid, safe); ok {
		return Choice{c.members.Target(lease.Index()), lease}, nil
	}
	all := snapshot.Eligible()
	if len(all) == 0 {
		if snapshot.Held() {
			return Choice{}, pool.ErrHeld
		}
		return Choice{}, pool.ErrNone
	}
	candidates := all
	if len(avoid) > 0 {
		candidates = slices.DeleteFunc(slices.Clone(all), func(i int) bool { return slices.Contains(avoid, i) })
		if len(candidates) == 0 {
			candidates = all
		}
	}
	// Each turn but the last takes a candidate away that has no free slot, or that is being ramped up and left out
	// this time: such policies know no weights that could be lowered.
	for len(candidates) > 0 {
		i, own := c.request.Foreign(c.members, candidates)
		switch {
		case i < 0 && own != nil:
			return Choice{Target: own}, nil
		case i < 0:
			return Choice{}, pool.ErrFull
		}
		offered := slices.Contains(candidates, i)
		if passedOver := offered && len(candidates) > 1 && rand.Float64() >= snapshot.Warmth(i); !passedOver {
			if lease, ok := c.view.AcquireMember(i); ok {
				return Choice{c.members.Target(i), lease}, nil
			}
		}
		if !offered {
			break // it may remember one that it was not offered, and would choose that again
		}
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(k int) bool { return k == i })
	}
	return Choice{}, pool.ErrFull
}

// Rebind tells whether the client is to be told with the answer that its session is bound to the backend of the last attempt, whose
// position it returns. renew tells that the client knows and need be told only if what it has is out of date.
func (c *Course) Rebind() (position int, renew, ok bool) {
	if !c.rules.Told || !c.choice.Lease.Held() {
		return 0, false, false
	}
	at, was := c.choice.Lease.Index(), c.session.member
	if !c.choice.Lease.Of(c.view) { // nobody was found for another attempt in newer members than those of this attempt
		at = c.members.Find(c.choice.Target.Address())
	}
	switch {
	case at < 0:
		return 0, false, false // there are no sessions any more at a backend that was taken out
	case was == at:
		return at, true, true
	case was >= 0 && !slices.Contains(c.tried, was) && c.view.Snapshot().Keeps(was):
		return 0, false, false // it is full just now
	case c.session.bound:
		c.pool.CountRebound()
	}
	return at, false, true
}
