package pool

import (
	"math/rand/v2"
	"time"

	"github.com/ballastlb/ballast/breaker"
)

// mayEject tells whether a breaker may take out the member at position i: no more than max_ejected of the members are,
// rounded down, but one at least, and the last usable member stays.
func (v *View) mayEject(i int) bool {
	s := v.snap.Load()
	others := s.usable - int(v.opened.Load())
	if s.Has(i) {
		others--
	}
	most := max(int(v.settings.MaxEjected*float64(s.total)), 1)
	return others > 0 && s.ejected+int(v.ejected.Load()) < most
}

// living returns the view to go by where v is closed, with the position there of the member at position i: what v shows is out of
// date then.
func (v *View) living(i int) (*View, int) {
	v.mu.Lock()
	closed := v.closed
	v.mu.Unlock()
	watchers := v.members[i].watchers.Load()
	if !closed || watchers == nil || len(*watchers) == 0 {
		return v, i
	}
	w := (*watchers)[len(*watchers)-1]
	return w.view, w.index
}

// trip opens the breaker of the member at position i for that cause, unless too many are out already, or the failures are to be put
// down to the requests.
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
	turned := m.vitals.breaker.Trip(&s.Breaker, cause, now, rand.Float64())
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
	}
	v.pool.Report(events)
}

// spare counts that the breaker should have opened and was not let. That is so again only once a request has succeeded.
func (m *Member) spare() {
	if m.spared.CompareAndSwap(false, true) {
		m.traffic.ejections[EjectionDetected].Add(1)
	}
}

// countEjection counts that the breaker has opened, and with enforced that this takes m out.
func (m *Member) countEjection(enforced bool) {
	if !m.spared.Swap(false) {
		m.traffic.ejections[EjectionDetected].Add(1)
	}
	if enforced {
		m.traffic.ejections[EjectionEnforced].Add(1)
	}
}

// noteOpened has the views of m count that its breaker has opened, until their snapshots show it.
func (m *Member) noteOpened(counts bool) {
	watchers := m.watchers.Load()
	if watchers == nil {
		return
	}
	for _, w := range *watchers {
		w.view.opened.Add(1)
		if counts {
			w.view.ejected.Add(1)
		}
	}
}

// turned is the event of that transition.
func (v *View) turned(i int, t breaker.Transition) Event {
	return Event{
		Kind: BreakerTurned, Pool: v.pool.name, Backend: v.backends[i].Address, Reason: t.Cause.String(), Breaker: t, DryRun: v.settings.DryRun,
	}
}

// safeProbes is for how long after a breaker has turned half-open its probes are requests that may be made again if they
// fail. Then any will do: there may be no others.
const safeProbes = time.Second

// AcquireProbe reserves the probe slot of a half-open member, if one is free. A request that failed elsewhere already is
// none to make experiments with, while there is another way; nor, at first, is one that is not safe, because it could not
// be made again.
func (v *View) AcquireProbe(tried []int, safe bool) (Lease, bool) {
	s := v.snap.Load()
	if len(s.probes) == 0 {
		return Lease{}, false
	}
	now := time.Now()
	if s.first < len(s.tiers) && (len(tried) > 0 || !safe && now.Sub(s.probing) < safeProbes) {
		return Lease{}, false
	}
	// A pick takes its time however many there are: it looks at a few of them, others at others.
	first := 0
	if len(s.probes) > probeLooks {
		first = rand.IntN(len(s.probes))
	}
	for k := range min(len(s.probes), probeLooks) {
		if l, ok := v.probe(s.probes[(first+k)%len(s.probes)], now); ok {
			return l, true
		}
	}
	return Lease{}, false
}

// probeLooks is at how many half-open members a request looks for a free probe slot.
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
	// It is at its max_requests with what it had before.
	m.mu.Lock()
	m.vitals.breaker.Done(probe)
	m.noteSlot()
	m.mu.Unlock()
	return Lease{}, false
}

// NextProbe is in which time a half-open member may take a request, when there is nobody else; 0 if that is not known.
func (v *View) NextProbe(now time.Time) time.Duration {
	at := v.snap.Load().reopens
	if at.IsZero() {
		return 0
	}
	return min(max(at.Sub(now), 0), v.settings.Breaker.Open)
}

// Suspect tells whether the member at position i failed when it was asked last.
func (v *View) Suspect(i int) bool {
	m := v.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused.Load() > 0 || m.vitals.breaker.Run() > 0
}

// Deciding tells whether the breaker of the lease's member has not seen enough failures yet to open, and hears of the one that is
// about to be told.
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

// Doubtful tells whether the member at position i fails so much that its breaker would be open if that were allowed. An
// attempt that failed elsewhere is not worth another one there: when all fail, trying again only multiplies the load.
func (v *View) Doubtful(i int, now time.Time) bool {
	m := v.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vitals.breaker.Due(&v.settings.Breaker, now) != 0
}
