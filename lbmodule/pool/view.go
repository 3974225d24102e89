package pool

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/canary"
)

var (
	// ErrNone is returned when no member is eligible.
	ErrNone = errors.New("no backend is usable")
	// ErrHeld is returned when no member is eligible, but some wait for their first probe.
	ErrHeld = errors.New("no backend has been checked yet")
	// ErrFull is returned when members are eligible but all of them are at their max_requests.
	ErrFull = errors.New("all usable backends are at max_requests")
)

// View is a pool as one handler sees it: which of the members, in which order, with which weights. It is safe
// for concurrent use.
type View struct {
	pool     *Pool
	settings Settings
	backends []Backend
	members  []*Member // by position in backends
	auto     bool      // some of them are Auto

	shadow       *Shadow // nil without a shadow policy; as what follows
	shadowPolicy balance.Policy
	shades       []*shade // by position in backends

	whole  *View          // what v is a part of; nil if v is none
	places []int          // the positions there, by position in v
	counts *canary.Counts // of what becomes of requests that v chose for; nil if nobody counts them

	snap   atomic.Pointer[Snapshot]
	looked atomic.Int64 // when Look last did something, in Unix nanoseconds

	mu     sync.Mutex // guards the replacement of snap and what follows
	timer  Timer      // calls Refresh when time alone will change something; nil if that has not been so yet
	due    time.Time  // when timer fires; zero if it does not
	closed bool

	built time.Time     // when the last snapshot was
	took  time.Duration // to build

	// What has happened since the last look at the members and is not in the snapshot yet, at most: breakers that have
	// opened, and those of them that count for max_ejected.
	opened, ejected atomic.Int32
}

// Pool is the pool that v shows.
func (v *View) Pool() *Pool { return v.pool }

// Len is the number of backends in the view, eligible or not.
func (v *View) Len() int { return len(v.backends) }

// Backend returns the settings of the backend at position i.
func (v *View) Backend(i int) Backend { return v.backends[i] }

// Snapshot returns the members that are eligible now.
func (v *View) Snapshot() *Snapshot { return v.snap.Load() }

// Close gives up the view's hold on its members. Leases it granted stay good, and a request that still uses
// the view is served.
func (v *View) Close() {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return
	}
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
	v.mu.Unlock()
	v.pool.close(v)
}

// Reopen takes hold of the members again, and returns what there is to [Pool.Report] afterwards. A view is closed and reopened by one
// goroutine at a time.
func (v *View) Reopen() []Event {
	v.mu.Lock()
	closed := v.closed
	v.closed = false
	v.mu.Unlock()
	if !closed {
		return nil
	}
	v.pool.hold(v)
	return v.refresh(v.pool.now())
}

// Key is what policies that choose by a key of the request know of it. The zero Key is that of a request without one.
type Key struct {
	Hash  uint64
	Known bool

	// Now is the time, for policies that go by it and where it is known already; looking at the clock takes as long as choosing.
	Now time.Time
}

// AcquireFor picks a member by the view's policy, for a request with that key, and reserves a slot on it. A half-open member comes first, with
// one request at a time: see [View.AcquireProbe]. tried are the positions of members that this request has been to: they are picked only when
// no other member can be, not even a half-open one. Backups are considered when no primary is eligible, and by a request that found no other
// primary to go to.
func (v *View) AcquireFor(key Key, tried []int, safe bool) (Lease, error) {
	s := v.snap.Load()
	if l, ok := v.AcquireProbe(tried, safe); ok {
		return l, nil
	}
	if s.first == len(s.tiers) {
		if s.held {
			return Lease{}, ErrHeld
		}
		return Lease{}, ErrNone
	}
	if len(tried) > 0 {
		if i := s.pickUntried(key, tried); i >= 0 {
			return v.granted(i), nil
		}
		// Those that it has been to have failed it. Without this, a pool whose requests all belong to sessions of a backend that fails would
		// leave half-open members alone.
		if safe {
			if l, ok := v.probeAny(s, v.pool.now()); ok {
				return l, nil
			}
		}
	}
	if i := s.pick(key); i >= 0 {
		return v.granted(i), nil
	}
	return Lease{}, ErrFull
}

// AcquireMember reserves a slot on the member at position i. It is for views without a policy, whose caller
// chooses among the members of a [Snapshot]. It reports false when the member is at its max_requests.
func (v *View) AcquireMember(i int) (Lease, bool) {
	m, limit := v.members[i], v.bound(i)
	for {
		load := m.load.Load()
		if limit > 0 && load >= limit {
			return Lease{}, false
		}
		// The loop ends: an attempt fails only because another request succeeded.
		if m.load.CompareAndSwap(load, load+1) {
			return v.granted(i), true
		}
	}
}

// bound returns how many requests may be in flight on the member at position i now; 0 if there is no bound.
func (v *View) bound(i int) int64 {
	if most := v.backends[i].MaxRequests; most != Auto {
		return int64(most)
	}
	return v.members[i].limit.Load().Room().Load()
}

// Full reports whether as many requests are in flight on the member at position i as may be.
func (v *View) Full(i int) bool {
	most := v.bound(i)
	return most > 0 && v.members[i].load.Load() >= most
}

// granted makes the lease of a slot that has been reserved and tells the other views of the member.
func (v *View) granted(i int) Lease {
	m := v.members[i]
	m.changed(v)
	return Lease{view: v, member: m, index: i, generation: m.generation.Load(), life: m.life.Load(), deaths: m.deaths.Load()}
}

// Checked reports whether active checks decide on the members.
func (v *View) Checked() bool { return v.settings.Checked }

// Member returns the member at position i.
func (v *View) Member(i int) *Member { return v.members[i] }

// Refresh looks at the members anew and makes the snapshot that follows from how they are now.
func (v *View) Refresh(now time.Time) { v.pool.Report(v.refresh(now)) }

// refresh returns what there is to report.
func (v *View) refresh(now time.Time) []Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rebuild(now)
}

const (
	// largePool is from how many members on a pool is not looked at for every change: when it dies as a whole, looking
	// at all members for each of them would be all that is done.
	largePool = 256
	// restShare is how many times as long as that took there is a rest then.
	restShare = 9
)

// refreshSoon is refresh, at once or when it may be.
func (v *View) refreshSoon(now time.Time) []Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	if rest := max(restShare*v.took-v.pool.now().Sub(v.built), 0); len(v.backends) >= largePool && !v.closed {
		// Not here, also when it may be at once: whoever is called back has requests to see to.
		if at := now.Add(rest); v.due.IsZero() || at.Before(v.due) {
			v.arm(at, now)
		}
		return nil
	}
	return v.rebuild(now)
}

// rebuild makes the next snapshot. The caller holds v.mu.
func (v *View) rebuild(now time.Time) []Event {
	if v.closed {
		return nil
	}
	start := v.pool.now()
	// Who asks meanwhile counts some twice, rather than not at all.
	opened, ejected := v.opened.Load(), v.ejected.Load()
	defer func() {
		v.opened.Add(-opened)
		v.ejected.Add(-ejected)
	}()
	old := v.snap.Load()
	next, events, due := v.build(old, now)
	v.built = v.pool.now()
	v.took = v.built.Sub(start)
	if !next.like(old) {
		v.snap.Store(next)
		// Loads that changed while the snapshot was built were told to its predecessor.
		next.sync()
		if old != nil {
			close(old.replaced)
			v.pool.free(true)
		}
	}
	v.arm(due, now)
	return events
}

// arm has Refresh called when it is due. The caller holds v.mu.
func (v *View) arm(due, now time.Time) {
	v.due = due
	switch {
	case due.IsZero():
		if v.timer != nil {
			v.timer.Stop()
		}
	case v.timer == nil:
		v.timer = v.pool.afterFunc(due.Sub(now), func() { v.Refresh(v.pool.now()) })
	default:
		v.timer.Reset(due.Sub(now))
	}
}

// build makes the snapshot of the members that are eligible now; old is the one it is to replace, nil at first.
// due is when to build again, zero if nothing will change by itself. The caller holds v.mu.
func (v *View) build(old *Snapshot, now time.Time) (s *Snapshot, events []Event, due time.Time) {
	s = &Snapshot{tiers: make([]tier, tierCount(v.backends)), at: make([]place, len(v.backends)), dice: v.pool.Dice(), replaced: make(chan struct{})}
	conditions := make([]condition, len(v.backends))
	dead, died := 0, time.Time{}
	for i, b := range v.backends {
		c, flipped := v.members[i].examine(&v.settings, b.State, now)
		if b.Unchecked {
			c = condition{warmth: 1, withdrawn: c.withdrawn}
		} else {
			events = v.tell(events, i, &c, flipped)
		}
		conditions[i] = c
		if !c.next.IsZero() && (due.IsZero() || c.next.Before(due)) {
			due = c.next
		}
		if !b.takesNew() {
			continue
		}
		s.total++
		s.held = s.held || c.held
		if c.dead() {
			if dead++; c.died.After(died) {
				died = c.died
			}
		} else if c.ejected {
			s.ejected++
		}
		if !c.until.IsZero() && (s.reopens.IsZero() || c.until.Before(s.reopens)) {
			s.reopens = c.until
		}
		if c.usable() {
			s.usable++
		}
	}
	switch {
	case dead < s.total || dead == 0:
	case old == nil:
		s.gone = died
	case !old.gone.IsZero():
		s.gone = old.gone
		if died.After(s.gone) {
			s.gone = died // it was back for a while that no snapshot shows
		}
	default:
		s.gone = now
	}
	s.panicking = v.panics(s, conditions)
	v.place(s, conditions)
	if v.settings.Policy != nil {
		for t := range s.tiers {
			v.buildPicker(s, old, t)
		}
	}
	if v.shadow != nil {
		for t := range s.tiers {
			v.buildShadow(s, old, t)
		}
	}
	if v.whole == nil && v.pool.panicking.Swap(s.panicking) != s.panicking {
		e := Event{Kind: PanicEnded, Pool: v.pool.name, Usable: s.usable, Total: s.total}
		if s.panicking {
			e.Kind = PanicBegan
		}
		events = append(events, e)
	}
	return s, events, due
}

// tell adds to events what turned over when the member at position i was looked at.
func (v *View) tell(events []Event, i int, c *condition, f flips) []Event {
	if f.passive {
		e := Event{Kind: BackendUp, Pool: v.pool.name, Backend: v.backends[i].Address, Reason: ReasonPassive}
		if c.down {
			e.Kind = BackendDown
		}
		events = append(events, e)
	}
	if f.breaker.Happened() {
		events = append(events, v.turned(i, f.breaker))
	}
	return events
}

// panics reports whether too few members are usable, and others exist that can be used all the same.
// Held members are not counted: they are not known to be unfit.
func (v *View) panics(s *Snapshot, conditions []condition) bool {
	known, resort := 0, false
	for i, c := range conditions {
		if !v.backends[i].takesNew() || c.held {
			continue
		}
		known++
		resort = resort || !c.usable() && c.lastResort(s.held)
	}
	few := s.usable == 0 || float64(s.usable) < v.settings.PanicThreshold*float64(known)
	return few && resort
}

// place puts the members that are eligible into their tiers.
func (v *View) place(s *Snapshot, conditions []condition) {
	for i, b := range v.backends {
		s.at[i] = nowhere
		c := &conditions[i]
		eligible := c.fit() || s.panicking && c.lastResort(s.held)
		if eligible && b.keepsSessions() {
			s.kept = append(s.kept, i)
		}
		if !b.takesNew() || !eligible {
			continue
		}
		n := v.tierOf(&b)
		t := &s.tiers[n]
		s.at[i] = place{tier: n, index: int32(len(t.members))}
		t.members = append(t.members, i)
		t.warmth = append(t.warmth, c.warmth)
	}
	v.settleTiers(s)
	for i, b := range v.backends {
		c := &conditions[i]
		halfOpen := c.ejected && c.breaker == breaker.HalfOpen && !c.down && !c.held && !c.dead()
		inTurn := b.Backup*zones <= s.first
		if halfOpen && s.at[i] == nowhere {
			s.halfOpen = append(s.halfOpen, i)
		}
		if halfOpen && inTurn && b.takesNew() && s.at[i] == nowhere {
			s.probes = append(s.probes, i)
			if s.probing.IsZero() || c.since.Before(s.probing) {
				s.probing = c.since
			}
		}
	}
}

// buildPicker gives tier t of s its picker, which carries on where that of old was.
func (v *View) buildPicker(s, old *Snapshot, t int) {
	tier := &s.tiers[t]
	if old != nil && tier.like(&old.tiers[t]) {
		// Nothing that it goes by is another: weights and caps belong to the view.
		tier.setPicker(old.tiers[t].picker)
		return
	}
	members, before := v.candidates(s, old, t)
	var prev balance.Picker
	if old != nil {
		prev = old.tiers[t].picker
	}
	tier.setPicker(v.settings.Policy.Build(members, prev, before))
}

// candidates are the members of tier t of s as pickers know them, and the indexes that they had in old, or -1.
func (v *View) candidates(s, old *Snapshot, t int) (members []balance.Member, before []int) {
	tier := &s.tiers[t]
	members = make([]balance.Member, len(tier.members))
	before = make([]int, len(tier.members))
	scale := v.scale(tier)
	for k, i := range tier.members {
		b := v.backends[i]
		weight := max(int(float64(b.Weight*scale)*tier.warmth[k]+0.5), 1)
		members[k] = balance.Member{Weight: weight, Cap: b.MaxRequests, ID: v.members[i].id, Load: &v.members[i].load, Warmth: tier.warmth[k], Latency: &v.members[i].latency}
		if b.MaxRequests == Auto {
			members[k].Cap, members[k].Limit = 0, v.members[i].limit.Load().Room()
		}
		before[k] = -1
		if old != nil && old.at[i].tier == int8(t) {
			before[k] = int(old.at[i].index)
		}
	}
	return members, before
}

// scale is what weights are multiplied by, so that a share of a small one is still a whole number: a hundred while
// a member is ramped up, less where the largest weight would become too large.
func (v *View) scale(t *tier) int {
	if !slices.ContainsFunc(t.warmth, func(w float64) bool { return w < 1 }) {
		return 1
	}
	largest := 1
	for _, i := range t.members {
		largest = max(largest, v.backends[i].Weight)
	}
	return min(max(balance.MaxWeight/largest, 1), 100)
}
