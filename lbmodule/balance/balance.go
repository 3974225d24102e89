// Package balance decides which member of a pool gets the next request.
//
// It is blind: a member is an index, a weight, a cap, a counter of requests in flight and an
// estimate of its latency. Addresses, health and
// HTTP belong to the callers, who build a [Picker] over the members that may be used and build another one when
// those change.
//
// A policy is one file: a comparable struct type that implements [Policy], its picker, and its test beside it. What
// policies share is here: [slots] for those that only have to step over full members, [tree] for those that keep
// members in order.
//
// What every policy promises:
//   - caps are exact: a slot is reserved with compare-and-swap, a member's load never exceeds its cap;
//   - a pick does not allocate, and its cost does not grow with the pool, or logarithmically;
//   - every loop has a bound, which stands beside it;
//   - at a quiet moment somebody is picked if somebody can be. Under concurrency a pick fails only if there was an
//     instant during it when nobody was free, where a member is free again once [Picker].Changed has returned.
package balance

import (
	"slices"
	"sync/atomic"
)

// MaxWeight is the largest weight; Build treats larger ones as MaxWeight and negative ones as 0.
const MaxWeight = 65535

// Member is what a picker knows of a member.
type Member struct {
	// Weight is the member's share relative to the others', 0 to MaxWeight. 0 gets nothing.
	Weight int

	// Cap is the exact bound of Load. 0 means none.
	Cap int

	// Limit is a bound that changes, in place of Cap; nil for none. Who changes it calls Changed of the pickers. When it falls below the
	// load, the member is full until the load has fallen, too.
	Limit *atomic.Int64

	// Warmth is the share of its full weight that Weight stands for while the member is ramped up, between 0 and 1.
	// Policies that go by weights need not look at it; those that would send an idle member every request in spite
	// of its weight let it pass with this probability only. 0 and 1 mean that it is not ramped up.
	Warmth float64

	// ID tells the member from others, wherever it stands in the list, for policies that give it the same requests again.
	ID uint64

	// Load counts the requests in flight. It is shared with the other pickers over the same member (there are two
	// while a configuration is replaced): Pick adds 1, the owner takes 1 away when the request is done.
	Load *atomic.Int64

	// Latency is what is known of the member's answers, for policies that go by that. It is shared as Load is. Who
	// picks by it notes there whom it has avoided. Without one nothing is known.
	Latency *Latency
}

// Picker chooses a member and reserves one slot of it. It is safe for concurrent use.
type Picker interface {
	// Pick reserves a slot (Load+1, never above Cap) on one member and returns its index, or -1 when no member with
	// a weight above 0 has a free slot, or all such are in tried.
	//
	// Members in tried are never picked: those are the ones which have had this request already. The list is
	// expected to be short, it is searched linearly. Values that are no index are ignored.
	Pick(tried []int) int

	// Changed must be called after the load of member i was changed by anything but this picker's Pick: a slot
	// was given back, or another picker took one. Until then the picker may take a free member for full.
	Changed(i int)

	// Sync is Changed for every member. The owner calls it once after publishing the picker, for the changes
	// between Build and then.
	Sync()
}

// Scored is a picker that goes by a number for each member, as it is now: the lower the better.
type Scored interface {
	Score(i int) float64
}

// Policy builds pickers. Policies are comparable values: two equal ones build pickers that behave alike.
type Policy interface {
	// Build returns a picker over members. It keeps the slice, which must not be modified afterwards.
	//
	// prev is the picker that the new one replaces, nil at first, and prevIndex[i] the index that member i has in
	// prev, or -1. They are there so that a rotation goes on, rather than restarts, whenever the members change;
	// policies without a rotation ignore them, as any policy ignores a prev that has none. prev is only read, may
	// still be in use, and is not kept.
	Build(members []Member, prev Picker, prevIndex []int) Picker
}

// loadPerWeight is the load in relation to the weight.
func (m *Member) loadPerWeight() float64 {
	return float64(m.Load.Load()) / float64(max(m.weight(), 1))
}

// weight returns Weight within its bounds.
func (m *Member) weight() int {
	return min(max(m.Weight, 0), MaxWeight)
}

// cold decides by chance whether a member that is ramped up is to be passed over this time.
func (m *Member) cold(d *Dice) bool {
	return m.Warmth > 0 && m.Warmth < 1 && d.Float64() >= m.Warmth
}

// warmUp is how many members that are ramped up a pick passes over at most.
const warmUp = 4

// full reports whether there is no slot left.
func (m *Member) full() bool {
	return m.capped() && m.fullWith(m.Load.Load())
}

// fullWith reports whether that load leaves no slot.
func (m *Member) fullWith(load int64) bool {
	if m.Limit != nil {
		return load >= m.Limit.Load()
	}
	return m.Cap > 0 && load >= int64(m.Cap)
}

// capped reports whether there is a bound.
func (m *Member) capped() bool { return m.Cap > 0 || m.Limit != nil }

// reserve takes a slot and returns the load with it, or the load that left none.
func (m *Member) reserve() (load int64, ok bool) {
	most := int64(m.Cap)
	if m.Limit != nil {
		most = m.Limit.Load()
	} else if most <= 0 {
		return m.Load.Add(1), true
	}
	// Add and take back would be simpler, but shows a load above the cap meanwhile and can refuse the last slot to
	// two callers at once. Bound: each turn but the last is a change that somebody else succeeded with.
	for {
		load = m.Load.Load()
		if load >= most {
			return load, false
		}
		if m.Load.CompareAndSwap(load, load+1) {
			return load + 1, true
		}
	}
}

// unit is 1 in the fixed-point numbers of this package: 32 bits after the point.
const unit = 1 << 32

// unknown marks a member without a place in a rotation.
const unknown = ^uint64(0)

// rotation is implemented by the pickers that go round, so that one can go on where another was.
type rotation interface {
	// waits returns for every member how much of the time between two turns of it (at its weight, whatever that
	// is) is still to pass before its next turn, from 0 (now) to unit (it has just had one); or unknown.
	waits() []uint64
}

// inherit returns the waits that the n members of a new picker have from prev, unknown for newcomers. It returns
// nil if prev has no rotation.
func inherit(n int, prev Picker, prevIndex []int) []uint64 {
	r, ok := prev.(rotation)
	if !ok || len(prevIndex) != n {
		return nil
	}
	old := r.waits()
	waits := make([]uint64, n)
	for i, p := range prevIndex {
		waits[i] = unknown
		if p >= 0 && p < len(old) {
			waits[i] = old[p]
		}
	}
	return waits
}

// excluded reports whether i is in tried. The test of the length keeps the usual case, no list, inlined.
func excluded(tried []int, i int) bool {
	return len(tried) > 0 && slices.Contains(tried, i)
}
