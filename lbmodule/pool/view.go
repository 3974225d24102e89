package pool

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Reason is why a member must not be given new requests; several may hold at once. What watches members
// (health checks, breakers, operators) owns one Reason each and marks it with [View.Mark].
type Reason uint8

const (
	// Down means that health checks, active or passive, found the member unfit.
	Down Reason = 1 << iota
)

var (
	// ErrNone is returned when no member is eligible.
	ErrNone = errors.New("no backend is usable")
	// ErrFull is returned when members are eligible but all of them are at their max_requests.
	ErrFull = errors.New("all usable backends are at max_requests")
)

// View is a pool as one handler sees it: which of the members, in which order, with which weights. It is safe
// for concurrent use.
type View struct {
	pool     *Pool
	policy   balance.Policy // nil: the caller chooses
	backends []Backend
	members  []*Member // by position in backends

	snap atomic.Pointer[Snapshot]

	mu      sync.Mutex // guards reasons and the replacement of snap
	reasons []Reason
	closed  sync.Once
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
	v.closed.Do(func() { v.pool.close(v) })
}

// Acquire picks a member by the view's policy and reserves a slot on it. tried are the positions of members
// that this request has been to: they are picked only when no other member can be. Backups are considered
// when no primary is eligible, and by a request that found no other primary to go to.
func (v *View) Acquire(tried []int) (Lease, error) {
	s := v.snap.Load()
	if s.first == len(s.tiers) {
		return Lease{}, ErrNone
	}
	if len(tried) > 0 {
		if i := s.pickUntried(tried); i >= 0 {
			return v.granted(i), nil
		}
	}
	if i := s.tiers[s.first].pick(nil); i >= 0 {
		return v.granted(i), nil
	}
	return Lease{}, ErrFull
}

// AcquireMember reserves a slot on the member at position i. It is for views without a policy, whose caller
// chooses among the members of a [Snapshot]. It reports false when the member is at its max_requests.
func (v *View) AcquireMember(i int) (Lease, bool) {
	m, limit := v.members[i], int64(v.backends[i].MaxRequests)
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

// granted makes the lease of a slot that has been reserved and tells the other views of the member.
func (v *View) granted(i int) Lease {
	m := v.members[i]
	m.changed(v)
	return Lease{member: m, index: i, generation: m.generation.Load()}
}

// Mark sets, for every member, whether reason r holds: the member at position i is marked when marked(i)
// says so. If that changes anything a new snapshot is in force when Mark returns true.
func (v *View) Mark(r Reason, marked func(i int) bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed := false
	for i, old := range v.reasons {
		now := old &^ r
		if marked(i) {
			now |= r
		}
		changed = changed || now != old
		v.reasons[i] = now
	}
	if !changed {
		return false
	}
	s := v.build(v.snap.Load())
	v.snap.Store(s)
	// Loads that changed while the snapshot was built were told to its predecessor.
	s.sync()
	return true
}

// Marked returns the positions of the members marked with r.
func (v *View) Marked(r Reason) []int {
	v.mu.Lock()
	defer v.mu.Unlock()
	var marked []int
	for i, have := range v.reasons {
		if have&r != 0 {
			marked = append(marked, i)
		}
	}
	return marked
}

// build makes the snapshot of the members that are eligible now; old is the one it is to replace, nil at
// first. It is called with v.mu held, or before v is shared.
func (v *View) build(old *Snapshot) *Snapshot {
	s := &Snapshot{at: make([]place, len(v.backends))}
	for i, b := range v.backends {
		s.at[i] = nowhere
		if b.Weight == 0 || v.reasons[i] != 0 {
			continue
		}
		t := primary
		if b.Backup {
			t = backup
		}
		s.at[i] = place{tier: t, index: int32(len(s.tiers[t].members))}
		s.tiers[t].members = append(s.tiers[t].members, i)
	}
	s.first = slices.IndexFunc(s.tiers[:], func(t tier) bool { return len(t.members) > 0 })
	if s.first < 0 {
		s.first = len(s.tiers)
	}
	if v.policy == nil {
		return s
	}
	for t := range s.tiers {
		v.buildPicker(s, old, t)
	}
	return s
}

// buildPicker gives tier t of s its picker, which carries on where that of old was.
func (v *View) buildPicker(s, old *Snapshot, t int) {
	tier := &s.tiers[t]
	members := make([]balance.Member, len(tier.members))
	before := make([]int, len(tier.members))
	var prev balance.Picker
	if old != nil {
		prev = old.tiers[t].picker
	}
	for k, i := range tier.members {
		b := v.backends[i]
		members[k] = balance.Member{Weight: b.Weight, Cap: b.MaxRequests, Load: &v.members[i].load}
		before[k] = -1
		if old != nil && old.at[i].tier == int8(t) {
			before[k] = int(old.at[i].index)
		}
	}
	tier.picker = v.policy.Build(members, prev, before)
}
