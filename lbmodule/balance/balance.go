// Package balance decides which member of a pool gets the next request.
//
// A member is an index, a weight, a cap, a counter of requests in flight and an estimate of its latency. The package knows nothing of
// addresses, health or HTTP. Those belong to the callers, which build a [Picker] over the members that may be used and build another one
// when those change.
//
// A policy is one file: a comparable struct type that implements [Policy], its picker, and its test beside it. The package has the parts
// that policies share: [slots] for policies that only step over full members, [tree] for policies that keep members in order.
//
// What every policy promises:
//   - caps are exact: a slot is reserved with compare-and-swap, a member's load never exceeds its cap;
//   - a pick does not allocate, and its cost is constant or logarithmic in the size of the pool;
//   - every loop has a bound, which a comment beside it states;
//   - without concurrency, a pick succeeds if any member can be picked. Under concurrency, a pick fails only if at some instant during it
//     no member was free. A member counts as free again once [Picker].Changed has returned.
package balance

import (
	"slices"
	"sync/atomic"
)

// MaxWeight is the largest weight; Build treats larger ones as MaxWeight and negative ones as 0.
const MaxWeight = 65535

// Member is what a picker knows about a member.
type Member struct {
	// Weight is the member's share relative to the others', 0 to MaxWeight. A member with weight 0 is never picked.
	Weight int

	// Cap is the exact bound of Load. 0 means none.
	Cap int

	// Limit replaces Cap with a bound that can change; nil means that Cap applies. Code that changes it calls Changed on the pickers. When it
	// falls below Load, the member is full until Load has fallen below it.
	Limit *atomic.Int64

	// Warmth is Weight as a share of the full weight, between 0 and 1, while the member is ramped up. 0 and 1 mean that it is not ramped up.
	// Policies that pick by weight can ignore it. Policies that would send an idle member every request whatever its weight consider the
	// member with this probability only.
	Warmth float64

	// ID identifies the member independently of its index, for policies that send it the same requests again.
	ID uint64

	// Load counts the requests in flight. It is shared with the other pickers over the same member (there are two while a configuration is
	// replaced): Pick adds 1, the owner subtracts 1 when the request is done.
	Load *atomic.Int64

	// Latency records how fast and how well the member answers, for policies that use it. It is shared as Load is. A picker that uses it also
	// counts there how often it avoided the member. nil means that nothing is known.
	Latency *Latency
}

// Picker chooses a member and reserves one slot of it. It is safe for concurrent use.
type Picker interface {
	// Pick reserves a slot (Load+1, never above Cap) on one member and returns its index, or -1 when no member with
	// a weight above 0 has a free slot, or all such are in tried.
	//
	// Members in tried are never picked: they have already received this request. The list is searched linearly, so it should be short. Values
	// that are not an index are ignored.
	Pick(tried []int) int

	// Changed must be called after anything but this picker's Pick changed the load of member i: a slot was released, or another picker took
	// one. Until then the picker may treat a free member as full.
	Changed(i int)

	// Sync is Changed for every member. The owner calls it once after publishing the picker, for the changes
	// between Build and then.
	Sync()
}

// Scored is implemented by pickers that rank members by a number. Score returns that of member i now; lower is better.
type Scored interface {
	Score(i int) float64
}

// Policy builds pickers. Policies are comparable values: two equal ones build pickers that behave alike.
type Policy interface {
	// Build returns a picker over members. It keeps the slice, which must not be modified afterwards.
	//
	// prev is the picker that the new one replaces, nil at first, and prevIndex[i] the index that member i has in
	// prev, or -1. They let a rotation continue, rather than restart, when the members change. A policy without a rotation ignores them, and
	// every policy ignores a prev without one. prev may still be in use: Build only reads it and does not keep it.
	Build(members []Member, prev Picker, prevIndex []int) Picker
}

// loadPerWeight returns the load divided by the weight.
func (m *Member) loadPerWeight() float64 {
	return float64(m.Load.Load()) / float64(max(m.weight(), 1))
}

// weight returns Weight within its bounds.
func (m *Member) weight() int {
	return min(max(m.Weight, 0), MaxWeight)
}

// cold decides at random whether this pick passes over a member that is being ramped up.
func (m *Member) cold(d *Dice) bool {
	return m.Warmth > 0 && m.Warmth < 1 && d.Float64() >= m.Warmth
}

// warmUp is the maximum number of ramped-up members that one pick passes over.
const warmUp = 4

// full reports whether there is no slot left.
func (m *Member) full() bool {
	return m.capped() && m.fullWith(m.Load.Load())
}

// fullWith reports whether a load of that size leaves no slot.
func (m *Member) fullWith(load int64) bool {
	if m.Limit != nil {
		return load >= m.Limit.Load()
	}
	return m.Cap > 0 && load >= int64(m.Cap)
}

// capped reports whether the load of m is bounded.
func (m *Member) capped() bool { return m.Cap > 0 || m.Limit != nil }

// reserve takes a slot. It returns the load including that slot, or, if ok is false, the load that left no slot.
func (m *Member) reserve() (load int64, ok bool) {
	most := int64(m.Cap)
	if m.Limit != nil {
		most = m.Limit.Load()
	} else if most <= 0 {
		return m.Load.Add(1), true
	}
	// Adding and undoing would be simpler, but shows a load above the cap in between and can refuse the last slot to two callers at once.
	// Bound: every iteration but the last means that another caller changed the load.
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

// rotation is implemented by the round-robin pickers, so that a new one can continue where the old one was.
type rotation interface {
	// waits returns for every member the time until its next turn, as a fraction of the interval between two of its turns: from 0 (now) to
	// unit (it has just had a turn), or unknown.
	waits() []uint64
}

// inherit returns the waits that the n members of a new picker take over from prev, unknown for new members. It returns nil if prev has no
// rotation.
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

// excluded reports whether i is in tried. The length check lets the usual case, an empty list, be inlined.
func excluded(tried []int, i int) bool {
	return len(tried) > 0 && slices.Contains(tried, i)
}
