package pool

import (
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Outcome is the result of a lease's request with respect to the member.
type Outcome uint8

const (
	// Ignored says nothing about the member: the client went away, or the request never reached it.
	Ignored Outcome = iota
	// Success is an answer that counts in the member's favor.
	Success
	// Failure is an answer, or a missing answer, that counts against the member.
	Failure
	// Outcomes is the number of outcomes.
	Outcomes
)

// String returns the outcome as metrics show it.
func (o Outcome) String() string { return [Outcomes]string{"ignored", "success", "failure"}[o] }

// Verdict describes what the result of an attempt says about its member.
type Verdict struct {
	Outcome Outcome
	Refused bool   // no connection could be made
	Slow    bool   // the answer took longer than a breaker's slow_ratio allows
	Fault   string // description of what was wrong; "" if nothing was
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
	probe      uint32 // number of the half-open probe that the request is; 0 if it is not one
	streaming  bool   // the request is a stream, which does not count for the limit

	shadowed *Shadowed // nil without a decision of a shadow policy
}

// Held reports whether the lease holds a slot.
func (l *Lease) Held() bool { return l.member != nil }

// Of reports whether v granted the lease.
func (l *Lease) Of(v *View) bool { return l.view == v }

// Index returns the member's position among the backends of the view that granted the lease.
func (l *Lease) Index() int { return l.index }

// Probing reports whether the request is a probe of a half-open member.
func (l *Lease) Probing() bool { return l.probe != 0 }

// Dead reports whether the lease's member is dead.
func (l *Lease) Dead() bool { return l.member.dead.Load() }

// Latency returns the latency estimate of the lease's member, which the caller updates when the answer begins, not when it ends; nil if the
// lease holds nothing.
func (l *Lease) Latency() *balance.Latency {
	if l.member == nil {
		return nil
	}
	return &l.member.latency
}

// Ticket records in a member's latency estimate that a request waits for its answer. Members that leave requests waiting are avoided. The
// zero Ticket has no member.
type Ticket struct {
	latency *balance.Latency
	ticket  balance.Ticket
}

// Ticket returns a ticket for the lease's request, which does not wait yet.
func (l *Lease) Ticket() Ticket { return Ticket{latency: l.Latency()} }

// Ask records that the request waits from now on.
func (t *Ticket) Ask(now time.Time) {
	if t.latency != nil {
		t.ticket = t.latency.Asked(now)
	}
}

// Told records that the request no longer waits. alive says whether the member has sent something.
func (t *Ticket) Told(alive bool, now time.Time) {
	if t.latency != nil {
		t.latency.Told(t.ticket, alive, now)
		t.latency = nil
	}
}

// Traffic returns the counters for the attempt; nil if the lease holds nothing.
func (l *Lease) Traffic() *Traffic {
	if l.member == nil {
		return nil
	}
	return l.member.traffic
}

// Judge records what the attempt says about the member. A success may be recorded when the answer begins, and a failure once more if the
// answer then breaks off.
func (l *Lease) Judge(v Verdict, now time.Time) {
	m := l.member
	if m == nil || v.Outcome == Ignored {
		return
	}
	failed := v.Outcome == Failure
	if l.shadowed != nil {
		l.shadowed.good = !failed
	}
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
		jitter = m.pool.Dice().Float64()
	}
	if !failed && !v.Slow {
		m.pool.served.note(v.Origin.Target, m.id, now)
	}
	var due breaker.Cause
	m.mu.Lock()
	if m.vitals.blame == nil {
		m.vitals.blame = new(blame)
	}
	if failed || v.Slow {
		m.vitals.blame.fail(v.Origin, s.blameSpan(), now)
		m.vitals.fault = v.Fault
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
		if turned.To == breaker.Open {
			m.suspectDead(s)
		}
	case due != 0:
		l.view.trip(l.index, due, now)
	}
}

// endProbe releases the probe slot if l holds it. The caller holds m.mu.
func (m *Member) endProbe(l *Lease) {
	if l.probe == 0 {
		return
	}
	m.vitals.breaker.Done(l.probe)
	l.probe = 0
	m.noteSlot()
}

// noteSlot publishes whether the probe slot is taken. The caller holds m.mu.
func (m *Member) noteSlot() {
	if busy := m.vitals.breaker.Busy(); busy.IsZero() {
		m.slot.Store(0)
	} else {
		m.slot.Store(busy.UnixNano())
	}
}

// Release releases the slot. Further calls do nothing.
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

// Abandon releases the slot as if it had never been taken: nothing was sent to the member.
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
	l.endStream()
	if l.shadowed != nil {
		l.shadowed.end()
		l.shadowed = nil
	}
	l.member = nil
	m.load.Add(-1)
	m.changed(nil)
	m.pool.free(false)
}
