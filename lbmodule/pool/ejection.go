package pool

import (
	"errors"
	"time"

	"github.com/ballastlb/ballast/breaker"
)

// mayEject reports whether a breaker may take out the member at position i: at most max_ejected of the members are out, rounded down but
// at least one, and the last usable member stays.
func (v *View) mayEject(i int) bool {
	s := v.snap.Load()
	others := s.usable - int(v.opened.Load())
	if s.Has(i) {
		others--
	}
	most := max(int(v.settings.MaxEjected*float64(s.total)), 1)
	return others > 0 && s.ejected+int(v.ejected.Load()) < most
}

// living returns v or, if v is closed and so out of date, another view of the member at position i, with the member's position there. Of a
// part, it returns the whole.
func (v *View) living(i int) (*View, int) {
	v.mu.Lock()
	closed := v.closed
	v.mu.Unlock()
	latest := v.members[i].watchers.Load()
	if closed && latest != nil {
		v, i = latest.view, latest.index
	}
	if v.whole != nil { // max_ejected applies to the whole pool
		return v.whole, v.places[i]
	}
	return v, i
}

// trip opens the breaker of the member at position i for that cause, unless too many are out already, or the failures are due to the
// requests.
func (v *View) trip(i int, cause breaker.Cause, now time.Time) {
	v, i = v.living(i)
	m, s := v.members[i], &v.settings
	if !s.DryRun && !v.mayEject(i) || m.oneSided(s.blameSpan(), now) {
		m.spare()
		return
	}
	v.pool.ejecting.Lock()
	if !s.DryRun && !v.mayEject(i) {
		v.pool.ejecting.Unlock()
		m.spare()
		return
	}
	m.mu.Lock()
	turned := m.vitals.breaker.Trip(&s.Breaker, cause, now, v.pool.Dice().Float64())
	m.life.Store(m.vitals.breaker.Generation())
	m.noteSlot()
	m.mu.Unlock()
	if turned.Happened() {
		m.countEjection(!s.DryRun)
	}
	if turned.Happened() && !s.DryRun {
		m.noteOpened(true)
	}
	events := m.refreshQuietly(now)
	v.pool.ejecting.Unlock()
	if turned.Happened() {
		v.pool.report(v.turned(i, turned))
		m.suspectDead(&v.settings)
	}
	v.pool.Report(events)
}

// spare counts a breaker that should have opened but was not allowed to. The next one counts only after a success.
func (m *Member) spare() {
	if m.spared.CompareAndSwap(false, true) {
		m.traffic.ejections[EjectionDetected].Add(1)
	}
}

// countEjection counts an opening of the breaker; enforced says that it takes m out.
func (m *Member) countEjection(enforced bool) {
	if !m.spared.Swap(false) {
		m.traffic.ejections[EjectionDetected].Add(1)
	}
	if enforced {
		m.traffic.ejections[EjectionEnforced].Add(1)
	}
}

// noteOpened makes the views of m count its open breaker until their snapshots include it.
func (m *Member) noteOpened(counts bool) {
	for w := range m.watchers.Load().all {
		w.view.opened.Add(1)
		if counts {
			w.view.ejected.Add(1)
		}
	}
}

// turned returns the event of a transition.
func (v *View) turned(i int, t breaker.Transition) Event {
	e := Event{
		Kind: BreakerTurned, Pool: v.pool.name, Backend: v.backends[i].Address, Reason: t.Cause.String(), Breaker: t, DryRun: v.settings.DryRun,
	}
	if t.To == breaker.Open {
		if fault := v.members[i].Vitals().Fault; fault != "" {
			e.Err = errors.New(fault)
		}
	}
	return e
}

// safeProbes is how long after a breaker turned half-open only requests that may be retried are used as probes. Then any request may be
// used, because there may be no others.
const safeProbes = time.Second

// AcquireProbe reserves the probe slot of a half-open member, if one is free. A request that already failed elsewhere is not risked while
// there is another way; nor, at first, is one that could not be retried.
func (v *View) AcquireProbe(tried []int, safe bool) (Lease, bool) {
	s := v.snap.Load()
	if len(s.probes) == 0 {
		return Lease{}, false
	}
	now := v.pool.now()
	if s.first < len(s.tiers) && (len(tried) > 0 || !safe && now.Sub(s.probing) < safeProbes) {
		return Lease{}, false
	}
	return v.probeAny(s, now)
}

// probeAny reserves the probe slot of one of the snapshot's half-open members, if one is free.
func (v *View) probeAny(s *Snapshot, now time.Time) (Lease, bool) {
	if len(s.probes) == 0 {
		return Lease{}, false
	}
	// A pick examines only a few members, so that its cost is constant; other picks examine others.
	first := 0
	if len(s.probes) > probeLooks {
		first = v.pool.Dice().IntN(len(s.probes))
	}
	for k := range min(len(s.probes), probeLooks) {
		if l, ok := v.probe(s.probes[(first+k)%len(s.probes)], now); ok {
			return l, true
		}
	}
	return Lease{}, false
}

// probeLooks is the number of half-open members that a request examines for a free probe slot.
const probeLooks = 8

// probe reserves the probe slot of the member at position i, if it is half-open and the slot is free.
func (v *View) probe(i int, now time.Time) (Lease, bool) {
	m := v.members[i]
	if m.slot.Load() > now.UnixNano() {
		return Lease{}, false
	}
	m.mu.Lock()
	probe, ok := m.vitals.breaker.Admit(&v.settings.Breaker, now)
	m.noteSlot()
	m.mu.Unlock()
	if !ok {
		return Lease{}, false
	}
	l, free := v.AcquireMember(i)
	if free {
		l.probe = probe
		return l, true
	}
	// Requests from before the breaker opened take up its max_requests.
	m.mu.Lock()
	m.vitals.breaker.Done(probe)
	m.noteSlot()
	m.mu.Unlock()
	return Lease{}, false
}

// NextProbe returns the time until a half-open member may take a request, when there is no other member; 0 if unknown.
func (v *View) NextProbe(now time.Time) time.Duration {
	at := v.snap.Load().reopens
	if at.IsZero() {
		return 0
	}
	return min(max(at.Sub(now), 0), v.settings.Breaker.Open)
}

// Suspect reports whether the last request to the member at position i failed.
func (v *View) Suspect(i int) bool {
	m := v.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused.Load() > 0 || m.vitals.breaker.Run() > 0
}

// Deciding reports whether the breaker of the lease's member still needs more failures to open, and will count the one that is about to
// be recorded.
func (l *Lease) Deciding(refused bool, now time.Time) bool {
	v, m := l.view, l.member
	if v.settings.ConnectionsOnly {
		return refused && !m.dead.Load()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.vitals.breaker
	return b.State() == breaker.Closed && b.Due(&v.settings.Breaker, now) == 0
}

// Doubtful reports whether the member at position i fails so often that its breaker would be open if that were allowed. It is not worth a
// retry: when all members fail, retries only multiply the load.
func (v *View) Doubtful(i int, now time.Time) bool {
	m := v.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vitals.breaker.Due(&v.settings.Breaker, now) != 0
}
