package pool

import (
	"math/rand/v2"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Outcome is how the request of a lease ended, as far as its member is concerned.
type Outcome uint8

const (
	// Ignored says nothing about the member: the client went away, or the request never reached it.
	Ignored Outcome = iota
	// Success is an answer the member is to be credited with.
	Success
	// Failure is an answer, or the lack of one, the member is to be blamed for.
	Failure
	// Outcomes is how many there are.
	Outcomes
)

// String returns the outcome as metrics show it.
func (o Outcome) String() string { return [Outcomes]string{"ignored", "success", "failure"}[o] }

// Verdict is what an attempt says about its member.
type Verdict struct {
	Outcome Outcome
	Refused bool // no connection could be made
	Slow    bool // the answer took longer than a breaker's slow_ratio allows
	Origin  Origin
}

// Lease is a reserved slot on a member: one request in flight. The zero Lease holds nothing. A Lease belongs
// to one request and is not safe for concurrent use.
type Lease struct {
	view       *View
	member     *Member
	index      int
	generation uint64 // of the member's counters
	life       uint32 // of its breaker
	deaths     uint32 // of the member
	probe      uint32 // number of the probe that the request is; 0 if it is none
}

// Held tells whether the lease holds a slot.
func (l *Lease) Held() bool { return l.member != nil }

// Of tells whether v granted the lease.
func (l *Lease) Of(v *View) bool { return l.view == v }

// Index is the member's position among the backends of the view that granted the lease.
func (l *Lease) Index() int { return l.index }

// Probing tells whether the request is a probe of a half-open member.
func (l *Lease) Probing() bool { return l.probe != 0 }

// Dead tells whether no connection can be made to the lease's member.
func (l *Lease) Dead() bool { return l.member.dead.Load() }

// Latency is what is known of how soon the lease's member answers, for those to tell who see how its requests end; nil if the
// lease holds nothing. Unlike a verdict it is told when the answer begins.
func (l *Lease) Latency() *balance.Latency {
	if l.member == nil {
		return nil
	}
	return &l.member.latency
}

// Ticket is a request that waits for its answer, for the latency of the member that is to give it. A member on which requests wait in
// vain is avoided. The zero Ticket is of no member.
type Ticket struct {
	latency *balance.Latency
	ticket  balance.Ticket
}

// Ticket returns the ticket of the lease's request, which does not wait yet.
func (l *Lease) Ticket() Ticket { return Ticket{latency: l.Latency()} }

// Ask tells that the request waits from now on.
func (t *Ticket) Ask(now time.Time) {
	if t.latency != nil {
		t.ticket = t.latency.Asked(now)
	}
}

// Told tells that the request waits no longer. alive tells whether it is because the member has said something.
func (t *Ticket) Told(alive bool, now time.Time) {
	if t.latency != nil {
		t.latency.Told(t.ticket, alive, now)
		t.latency = nil
	}
}

// Traffic is where the attempt is to be counted; nil if the lease holds nothing.
func (l *Lease) Traffic() *Traffic {
	if l.member == nil {
		return nil
	}
	return l.member.traffic
}

// Judge books what the attempt says about the member. A success may be judged when the answer begins, and a failure
// once more should it break off.
func (l *Lease) Judge(v Verdict, now time.Time) {
	m := l.member
	if m == nil || v.Outcome == Ignored {
		return
	}
	failed := v.Outcome == Failure
	if failed && m.generation.Load() == l.generation {
		m.failures.Add(1)
	}
	if !failed && !v.Slow && m.spared.Load() {
		m.spared.Store(false)
	}
	if l.view.backends[l.index].Unchecked {
		return
	}
	s := &l.view.settings
	if m.deaths.Load() == l.deaths {
		m.connected(!v.Refused, s.deadAfter(), now)
	}
	if s.ConnectionsOnly {
		return
	}
	jitter := 0.0
	if failed || v.Slow {
		jitter = rand.Float64()
	}
	if !failed && !v.Slow {
		m.pool.served.note(v.Origin.Target, m.id, now)
	}
	var due breaker.Cause
	m.mu.Lock()
	if failed || v.Slow {
		m.vitals.blame.fail(v.Origin, s.blameSpan(), now)
	} else {
		m.vitals.blame.serve(v.Origin, now)
	}
	b := &m.vitals.breaker
	turned := b.Record(&s.Breaker, l.life, failed, v.Slow, now, jitter)
	if turned.Happened() {
		m.life.Store(b.Generation())
	} else if failed || v.Slow {
		due = b.Due(&s.Breaker, now)
	}
	m.endProbe(l)
	m.mu.Unlock()
	switch {
	case turned.Happened():
		l.view.pool.report(l.view.turned(l.index, turned))
		m.refresh(now)
	case due != 0:
		l.view.trip(l.index, due, now)
	}
}

// endProbe gives the probe slot back that l holds, if it does. It is called with m.mu held.
func (m *Member) endProbe(l *Lease) {
	if l.probe == 0 {
		return
	}
	m.vitals.breaker.Done(l.probe)
	l.probe = 0
	m.noteSlot()
}

// noteSlot publishes whether the probe slot is taken. It is called with m.mu held.
func (m *Member) noteSlot() {
	if busy := m.vitals.breaker.Busy(); busy.IsZero() {
		m.slot.Store(0)
	} else {
		m.slot.Store(busy.UnixNano())
	}
}

// Release gives the slot back. A second call does nothing.
func (l *Lease) Release() {
	m := l.member
	if m == nil {
		return
	}
	if m.generation.Load() == l.generation {
		m.requests.Add(1)
	}
	l.Abandon()
}

// Abandon gives the slot back as if it had never been taken: nothing was sent to the member.
func (l *Lease) Abandon() {
	m := l.member
	if m == nil {
		return
	}
	if l.probe != 0 {
		m.mu.Lock()
		m.endProbe(l)
		m.mu.Unlock()
	}
	l.member = nil
	m.load.Add(-1)
	m.changed(nil)
	m.pool.free(false)
}
