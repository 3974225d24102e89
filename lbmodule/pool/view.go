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

// View is a handler's view of a pool: a selection of its members, with an order and weights. It is safe for concurrent use.
type View struct {
	pool     *Pool
	settings Settings
	backends []Backend
	members  []*Member // by position in backends
	auto     bool      // MaxRequests of some backends is Auto

	shadow       *Shadow // nil without a shadow policy, as the next two fields
	shadowPolicy balance.Policy
	shades       []*shade // by position in backends

	whole  *View          // the view that v is a part of; nil if v is not a part
	places []int          // positions in whole, by position in v
	counts *canary.Counts // counts the outcomes of requests that v chose members for; nil if they are not counted

	snap   atomic.Pointer[Snapshot]
	looked atomic.Int64 // when Look last did something, in Unix nanoseconds

	mu     sync.Mutex // guards the replacement of snap and what follows
	timer  Timer      // calls Refresh when a condition changes by the passage of time; nil before it is first needed
	due    time.Time  // when timer fires; zero if it is not set
	closed bool

	built time.Time     // when the last snapshot was built
	took  time.Duration // how long that took

	// Upper bounds of what happened since the members were last examined, and so is not in the snapshot: the number of breakers that opened,
	// and of those that count for max_ejected.
	opened, ejected atomic.Int32
}

// Pool returns the pool of v.
func (v *View) Pool() *Pool { return v.pool }

// Len returns the number of backends in the view, eligible or not.
func (v *View) Len() int { return len(v.backends) }

// Backend returns the settings of the backend at position i.
func (v *View) Backend(i int) Backend { return v.backends[i] }

// Snapshot returns the members that are eligible now.
func (v *View) Snapshot() *Snapshot { return v.snap.Load() }

// Close releases the view's members. Leases that it granted remain valid, and a request that still uses the view is served.
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

// Reopen undoes Close, and returns the events to pass to [Pool.Report] afterwards. Close and Reopen must not be called concurrently.
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

// Key holds what policies may use of a request. The zero Key is that of a request without a key.
type Key struct {
	Hash  uint64
	Known bool

	// Now is the current time, for policies that use it; zero if the caller does not know it. Reading the clock takes as long as choosing a
	// member.
	Now time.Time
}

// AcquireFor picks a member by the view's policy, for a request with that key, and reserves a slot on it. A half-open member comes first,
// with one request at a time: see [View.AcquireProbe]. tried are the positions of members that already had this request: they are picked
// only if no other member can be, not even a half-open one. Backups are considered if no primary is eligible, or if the request has tried
// all primaries.
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
		// The tried members have failed this request. Without this, a pool whose requests all belong to sessions of a failing backend would
		// never probe its half-open members.
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

// AcquireMember reserves a slot on the member at position i. It is for views without a policy, where the caller chooses among the members
// of a [Snapshot]. It reports false if the member is at its max_requests.
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

// Full reports whether the member at position i is at its max_requests.
func (v *View) Full(i int) bool {
	most := v.bound(i)
	return most > 0 && v.members[i].load.Load() >= most
}

// granted returns the lease of a reserved slot, and notifies the member's other views.
func (v *View) granted(i int) Lease {
	m := v.members[i]
	m.changed(v)
	return Lease{view: v, member: m, index: i, generation: m.generation.Load(), life: m.life.Load(), deaths: m.deaths.Load()}
}

// Checked reports whether the members have active checks.
func (v *View) Checked() bool { return v.settings.Checked }

// Member returns the member at position i.
func (v *View) Member(i int) *Member { return v.members[i] }

// Refresh examines the members and replaces the snapshot if something has changed.
func (v *View) Refresh(now time.Time) { v.pool.Report(v.refresh(now)) }

// refresh is Refresh, but returns the events to report.
func (v *View) refresh(now time.Time) []Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rebuild(now)
}

const (
	// largePool is the size from which the members of a pool are not examined on every change. If all of a large pool dies, examining all
	// members for each death would take all the time.
	largePool = 256
	// restShare is the minimum pause between two examinations of a large pool, as a multiple of the time that one takes.
	restShare = 9
)

// refreshSoon is refresh, but for a large pool it only schedules a Refresh.
func (v *View) refreshSoon(now time.Time) []Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	if rest := max(restShare*v.took-v.pool.now().Sub(v.built), 0); len(v.backends) >= largePool && !v.closed {
		// The timer's goroutine does it even without a pause, so that the caller, which may be serving a request, does not wait.
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
	// Until the deferred subtraction, mayEject may count some of these twice, but misses none.
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
		// Load changes while the snapshot was built were reported to its predecessor.
		next.sync()
		if old != nil {
			close(old.replaced)
			v.pool.free(true)
		}
	}
	v.arm(due, now)
	return events
}

// arm schedules a call of Refresh at that time, or none if due is zero. The caller holds v.mu.
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

// build returns a snapshot of the members that are eligible now. old is the one that it replaces, nil at first. due is when to build again,
// zero if no condition changes by the passage of time. The caller holds v.mu.
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
			s.gone = died // a member was alive for a time that no snapshot shows
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

// tell appends the events for what changed when the member at position i was examined.
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

// panics reports whether too few members are usable and there are others to use as a last resort. Held members are not counted, because
// they are not known to be unfit.
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

// place puts the eligible members into their tiers.
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

// buildPicker sets the picker of tier t of s, which continues where that of old was.
func (v *View) buildPicker(s, old *Snapshot, t int) {
	tier := &s.tiers[t]
	if old != nil && tier.like(&old.tiers[t]) {
		// The old picker still applies: weights and caps belong to the view and have not changed.
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

// candidates returns the members of tier t of s in the form that pickers need, and the indexes that they had in old, or -1.
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

// scale returns the factor for the weights, so that a share of a small weight is still an integer: 100 while a member is ramped up, less if
// the largest weight would exceed MaxWeight, and 1 otherwise.
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
