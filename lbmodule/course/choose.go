package course

import (
	"errors"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

var (
	// ErrSessionGone refuses a request whose session is bound to a backend that is not usable.
	ErrSessionGone = errors.New("the backend of the session is not usable")
	// ErrSessionFull refuses a request whose session is bound to a backend that is at its max_requests. The request does not wait in
	// the queue: it cannot use the slots of other backends, and would block requests that can.
	ErrSessionFull = errors.New("the backend of the session is at max_requests")
)

// RefusalOf returns the cause under which a request that was refused with that error is counted.
func RefusalOf(err error) pool.Refusal {
	switch {
	case errors.Is(err, pool.ErrNone), errors.Is(err, pool.ErrHeld):
		return pool.RefusedNoBackend
	case errors.Is(err, pool.ErrFull):
		return pool.RefusedLimit
	case errors.Is(err, pool.ErrQueueFull):
		return pool.RefusedQueueFull
	case errors.Is(err, pool.ErrQueueTimeout):
		return pool.RefusedQueueTimeout
	case errors.Is(err, ErrSessionGone), errors.Is(err, ErrSessionFull):
		return pool.RefusedSession
	case errors.Is(err, pool.ErrDrained):
		return pool.RefusedDrained
	case errors.Is(err, pool.ErrDismissed):
		return pool.RefusedShutdown
	default: // an error of the source of backends
		return pool.RefusedSource
	}
}

// session describes the session of a request.
type session struct {
	member int  // position of its backend; -1 if the backend is not among the members
	bound  bool // the request has a session
}

// choose chooses a backend and reserves a slot on it, or returns a step that waits for one.
func (c *Course) choose(now time.Time) Step {
	// The loop ends: it goes round only if there is a newer snapshot.
	for {
		members, err := c.source.Members(c.retrying)
		if err != nil {
			return c.endChoosing(err, now)
		}
		c.enter(members)
		c.choice, err = c.acquireInTurn(now)
		if errors.Is(err, pool.ErrFull) {
			if size, timeout, may := c.mayQueue(now); may {
				c.phase, c.slept = queued, now
				return Step{Do: Queue, Size: size, Timeout: timeout}
			}
		}
		if step, ok := c.afterTry(err, now); ok {
			return step
		}
	}
}

// afterTry continues after a try to choose that ended with err. ok is false if the caller must try again at once.
func (c *Course) afterTry(err error, now time.Time) (step Step, ok bool) {
	if err == nil && c.retrying && c.choice.Lease.Held() && c.choice.Lease.Dead() {
		// A large pool takes a moment to publish a snapshot without the dead member.
		c.choice.Lease.Abandon()
		c.err, c.snapshot = pool.ErrNone, c.view.Snapshot()
		return c.sleep(awaitingSnapshot, minPoll, now), true
	}
	if err == nil {
		return c.endChoosing(nil, now), true
	}
	return c.await(err, now)
}

// endChoosing ends choosing, with an error if no backend was found.
func (c *Course) endChoosing(err error, now time.Time) Step {
	switch {
	case c.retrying:
		return c.afterHold(err)
	case err != nil:
		return c.refuse(err)
	default:
		if c.view.Shadow() != nil {
			c.shadow(now)
		}
		return c.send(false)
	}
}

// shadow lets the shadow policy decide on the request, which has just been given a backend. It does not decide on probes of a half-open
// backend, which no policy chooses.
func (c *Course) shadow(now time.Time) {
	l := &c.choice.Lease
	if !l.Held() || l.Probing() {
		return
	}
	var key pool.Key
	if c.rules.ShadowKeyed {
		key = c.request.ShadowKey()
	}
	key.Now = now
	l.Shadow(&c.shadowed, key, now)
}

// enter makes members the list that the request chooses from.
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
	// The list has been replaced: the backends in tried may have other positions, or be gone.
	moved := c.tried[:0]
	for _, i := range c.tried {
		if at := members.Find(before.Backend(i).Address); at >= 0 {
			moved = append(moved, at)
		}
	}
	c.tried = moved
}

// acquireInTurn is acquire for a new request, which must not overtake the requests in the queue.
func (c *Course) acquireInTurn(now time.Time) (Choice, error) {
	if c.pool.QueueLength() > 0 && c.queues() && !c.rules.Strict {
		return Choice{}, pool.ErrFull // strict sessions do not use the queue, see ErrSessionFull
	}
	return c.acquire(c.tried, now)
}

// acquire chooses a backend and reserves a slot on it. It chooses a position in avoid only if there is no other.
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

// acquireAny chooses by the policy. safe says that the request may be sent again if the attempt fails.
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

// acquireSession chooses the backend of the request's session, or another one if that is not available.
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

// acquireStrictly is acquireSession for a session that only its own backend may serve.
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

// acquireForeign lets a policy of another module choose among the eligible members.
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
	// Each iteration but the last removes a candidate: one without a free slot, or one that slow start skips this time.
	// (Such policies know no weights, so a skip takes the place of a lower weight.)
	for len(candidates) > 0 {
		i, own := c.request.Foreign(c.members, candidates)
		switch {
		case i < 0 && own != nil:
			return Choice{Target: own}, nil
		case i < 0:
			return Choice{}, pool.ErrFull
		}
		offered := slices.Contains(candidates, i)
		if passedOver := offered && len(candidates) > 1 && c.pool.Dice().Float64() >= snapshot.Warmth(i); !passedOver {
			if lease, ok := c.view.AcquireMember(i); ok {
				return Choice{c.members.Target(i), lease}, nil
			}
		}
		if !offered {
			break // the policy remembers a backend that is not a candidate, and would choose it again
		}
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(k int) bool { return k == i })
	}
	return Choice{}, pool.ErrFull
}

// Rebind returns the position of the backend to which the client's session is now bound. ok reports whether the answer must inform the
// client. renew says that the session was bound there before, so that the client must be informed only if its session data is stale.
func (c *Course) Rebind() (position int, renew, ok bool) {
	if !c.rules.BindSessions || !c.choice.Lease.Held() {
		return 0, false, false
	}
	at, was := c.choice.Lease.Index(), c.session.member
	if !c.choice.Lease.Of(c.view) { // the list was replaced, and no backend was found for another attempt
		at = c.members.Find(c.choice.Target.Address())
	}
	switch {
	case at < 0:
		return 0, false, false // the backend was removed
	case was == at:
		return at, true, true
	case was >= 0 && !slices.Contains(c.tried, was) && c.view.Snapshot().Keeps(was):
		return 0, false, false // the session's backend is full at the moment, and stays bound
	case c.session.bound:
		c.pool.CountRebound()
	}
	return at, false, true
}
