package simulate

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// request runs a simulated request through its course, as package exchange does for a real one.
type request struct {
	world  *world
	of     *balancer
	course course.Course

	due        time.Duration // when it arrived
	client     int
	write      bool
	deadline   *event // when the client gives up
	current    *attempt
	copied     *attempt // a copy in flight; nil if there is none
	copy       course.Copy
	firstFacts *course.Facts // the result of the first attempt, while its copy is awaited
	answered   int           // status of the last attempt's answer; 0 if it has none
	wake       *event        // ends a wait after its maximum time; nil if there is none
	step       course.Step   // the step of the current wait
	place      int           // index among the waiting requests of the balancer
	waiter     *pool.Waiter  // its place in the queue; nil if it is not in the queue
	sends      int           // attempts, and copies that won
	kind       course.Kind   // the result of the last attempt
	left       bool          // the client has given up
	over       bool
}

// attempt is one attempt at a backend, or a copy.
type attempt struct {
	of      *request
	backend int
	choice  *course.Choice
	start   time.Duration
	ticket  pool.Ticket
	work    *work
	connect *event // when the failure to connect is known, or when the answer arrives
	timeout *event
	over    bool
}

// begin starts the request.
func (q *request) begin() {
	w := q.world
	q.due = w.clock.now
	q.deadline = w.clock.after(w.clientTimeout, q.giveUp)
	q.course.Init(&w.rules, q.of.pool, q.of, q)
	q.run(q.course.Begin(w.clock.Now()))
}

// counts reports whether the request arrived after the warm-up.
func (q *request) counts() bool { return q.due >= q.world.warmUp }

// run executes the steps of the course until one takes time.
func (q *request) run(step course.Step) {
	w := q.world
	for { // bound: the rules of the course bound its attempts and its waits
		switch step.Do {
		case course.Send:
			q.send()
			return
		case course.Wait:
			q.step = step
			q.of.sleep(q)
			q.wake = w.clock.after(step.Until.Sub(w.clock.Now()), func() { q.resume(course.Elapsed) })
			return
		case course.Queue:
			waiter, err := q.of.pool.Enqueue(q.Client(), step.Size, func() error { return q.course.Try(w.clock.Now()) }, func() { w.clock.after(0, q.woken) })
			if errors.Is(err, pool.ErrFull) {
				q.waiter = waiter
				q.wake = w.clock.after(step.Timeout, func() { q.leaveQueue(pool.ErrQueueTimeout) })
				return
			}
			step = q.course.Queued(err, w.clock.Now())
		case course.Give:
			q.end(answered)
			return
		case course.Fail:
			q.end(failures[q.kind])
			return
		default:
			q.end(refusalOf(step.Err))
			return
		}
	}
}

// resume continues after a wait.
func (q *request) resume(why course.Woken) {
	q.wake.Stop()
	q.wake = nil
	q.of.unsleep(q)
	q.run(q.course.Resume(why, q.world.clock.Now()))
}

// woken is called when a request in the queue may get a slot.
func (q *request) woken() {
	if q.waiter == nil {
		return
	}
	err := q.waiter.Woken()
	if errors.Is(err, pool.ErrFull) {
		return
	}
	q.waiter = nil
	q.wake.Stop()
	q.wake = nil
	q.run(q.course.Queued(err, q.world.clock.Now()))
}

// leaveQueue ends the wait of a request in the queue.
func (q *request) leaveQueue(err error) {
	waiter := q.waiter
	q.waiter = nil
	q.wake.Stop()
	q.wake = nil
	waiter.Leave()
	q.run(q.course.Queued(err, q.world.clock.Now()))
}

// giveUp is called when the client gives up.
func (q *request) giveUp() {
	q.left = true
	switch {
	case q.over:
	case q.waiter != nil:
		q.leaveQueue(context.Canceled)
	case q.wake != nil:
		q.resume(course.Gone)
	default:
		if q.copied != nil {
			q.dropCopy()
		}
		f := course.Facts{Kind: course.Broken, Gone: true, Excused: true}
		if first := q.firstFacts; first != nil {
			q.firstFacts = nil
			f = *first
			f.Gone = true
			q.run(q.course.Ended(&f, q.world.clock.Now()))
			return
		}
		q.current.cancel()
		q.ended(q.current, f, false)
	}
}

// send makes an attempt at the course's choice.
func (q *request) send() {
	w := q.world
	q.sends++
	q.answered = 0
	a := q.attempt(q.course.Choice())
	q.current = a
	if w.tryTimeout > 0 {
		a.timeout = w.clock.after(w.tryTimeout, func() {
			a.cancel()
			q.ended(a, course.Facts{Kind: course.TimedOut}, false)
		})
	}
	if copied, after, ok := q.course.Copy(w.clock.Now()); ok {
		q.copy = copied
		w.clock.after(after, func() {
			if !a.over && q.current == a {
				q.sendCopy()
			}
		})
	}
}

// attempt begins an attempt.
func (q *request) attempt(choice *course.Choice) *attempt {
	w := q.world
	a := &attempt{of: q, backend: q.of.members[choice.Lease.Index()], choice: choice, start: w.clock.now, ticket: choice.Lease.Ticket()}
	a.ticket.Ask(w.clock.Now())
	b := w.backends[a.backend]
	network := w.network.draw(w.random)
	if b.State == down {
		a.connect = w.clock.after(network, func() { a.lost(course.Facts{Kind: course.NotConnected, Unreachable: true}) })
		return a
	}
	a.work = b.receive(func(status int) {
		if status == 0 {
			a.lost(course.Facts{Kind: course.Broken})
			return
		}
		a.connect = w.clock.after(network, func() { a.answered(status) })
	})
	return a
}

// cancel ends an attempt that the balancer abandons.
func (a *attempt) cancel() {
	a.over = true
	a.connect.Stop()
	a.timeout.Stop()
	if a.work != nil {
		a.work.cancel()
	}
}

func (a *attempt) lost(f course.Facts) { a.arrived(f, 0) }

func (a *attempt) answered(status int) {
	a.arrived(course.Facts{Kind: course.Answered, Status: status, Body: true}, status)
}

// arrived is called when the attempt has ended by itself.
func (a *attempt) arrived(f course.Facts, status int) {
	if a.over {
		return
	}
	a.over = true
	a.timeout.Stop()
	q := a.of
	if a == q.copied {
		q.copyEnded(a, f, status)
		return
	}
	q.answered = status
	q.ended(a, f, true)
}

// facts adds the times to the facts of an attempt that ends now.
func (a *attempt) facts(f course.Facts) course.Facts {
	f.Took = a.of.world.clock.now - a.start
	f.Answered, f.Known = f.Took, true
	return f
}

// ended continues after the current attempt; alive says that its backend reacted in some way.
func (q *request) ended(a *attempt, f course.Facts, alive bool) {
	now := q.world.clock.Now()
	a.over = true
	a.ticket.Told(alive, now)
	f = a.facts(f)
	if q.copied != nil {
		if !q.copy.Good(&f) {
			q.firstFacts = &f // the copy may do better
			return
		}
		q.dropCopy()
	}
	q.settle(a, &f)
}

// settle passes the result of the current attempt to the course.
func (q *request) settle(a *attempt, f *course.Facts) {
	q.kind = f.Kind
	q.world.count(a, f)
	q.run(q.course.Ended(f, q.world.clock.Now()))
}

// sendCopy sends a copy of the request to another backend.
func (q *request) sendCopy() {
	choice, ok := q.copy.Choose(q.world.clock.Now())
	if !ok {
		return
	}
	if q.counts() {
		q.world.copies++
	}
	// A variable of its own, because the choice of the course is that of the first attempt.
	held := choice
	q.copied = q.attempt(&held)
}

// dropCopy cancels the copy, which is no longer needed.
func (q *request) dropCopy() {
	c := q.copied
	q.copied = nil
	c.cancel()
	q.copyLost(c, course.Facts{Kind: course.Broken, Excused: true}, false)
}

// copyLost judges the backend of a copy that did not win.
func (q *request) copyLost(c *attempt, f course.Facts, alive bool) {
	now := q.world.clock.Now()
	c.ticket.Told(alive, now)
	f = c.facts(f)
	q.copy.Lost(c.choice, &f, now)
}

// copyEnded continues after a copy has ended by itself.
func (q *request) copyEnded(c *attempt, f course.Facts, status int) {
	now := q.world.clock.Now()
	q.copied = nil
	first, firstFacts := q.current, q.firstFacts
	q.firstFacts = nil
	if whole := c.facts(f); !q.copy.Good(&whole) {
		q.copyLost(c, f, true)
		if firstFacts != nil {
			q.settle(first, firstFacts)
		}
		return
	}
	if firstFacts == nil {
		first.cancel()
		first.ticket.Told(false, now)
	}
	if q.counts() {
		q.world.copiesWon++
	}
	q.course.CopyWon(firstFacts, *c.choice, q.world.clock.now-first.start, now)
	q.current, q.answered = c, status
	q.sends++
	c.choice = q.course.Choice()
	q.ended(c, f, true)
}

// end ends the request.
func (q *request) end(how ending) {
	w := q.world
	now := w.clock.Now()
	q.over = true
	q.deadline.Stop()
	if q.left {
		how = clientLeft
	}
	if w.rules.BindSessions && how == answered {
		if at, _, ok := q.course.Rebind(); ok {
			w.sessions[q.client] = int32(q.of.members[at])
		}
	}
	ending := course.Ending{Complete: how == answered}
	at := -1
	if a := q.current; a != nil {
		ending.Answered, ending.Known = w.clock.now-a.start, true
	}
	if l := &q.course.Choice().Lease; l.Held() && how == answered {
		at = q.of.members[l.Index()]
	}
	q.course.End(ending, now)
	w.record(q, at, how)
}

// Key implements [course.Request].
func (q *request) Key() pool.Key {
	keyed, ok := q.world.policy.(policies.Keyed)
	if !ok {
		return pool.Key{}
	}
	return keyed.KeyOf([]string{q.Client()})
}

// ShadowKey implements [course.Request]. Shadow policies are not simulated.
func (q *request) ShadowKey() pool.Key { return pool.Key{} }

// Session implements [course.Request].
func (q *request) Session(course.Members) (position int, known, signed bool) {
	at := q.world.sessions[q.client]
	if at < 0 {
		return -1, false, false
	}
	position = q.of.positionOf(int(at))
	return position, position >= 0, true
}

// Origin implements [course.Request].
func (q *request) Origin() pool.Origin { return pool.Origin{Client: uint32(q.client) + 1, Target: 1} }

// Client implements [course.Request].
func (q *request) Client() string { return strconv.Itoa(q.client) }

// Idempotent implements [course.Request].
func (q *request) Idempotent() bool { return !q.write }

// Upgrade implements [course.Request].
func (q *request) Upgrade() bool { return false }

// Rewindable implements [course.Request].
func (q *request) Rewindable() bool { return true }

// Rewind implements [course.Request].
func (q *request) Rewind() bool { return true }

// EndInforming implements [course.Request].
func (q *request) EndInforming() bool { return true }

// Wanted implements [course.Request], as reverse_proxy does without lb_retry_match.
func (q *request) Wanted(reason pool.RetryReason) bool {
	return reason == pool.RetryConnect || reason != pool.RetryStatus && !q.write
}

// Deadline implements [course.Request].
func (q *request) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Foreign implements [course.Request]. Policies of other modules are not simulated.
func (q *request) Foreign(course.Members, []int) (position int, own course.Target) { return -1, nil }
