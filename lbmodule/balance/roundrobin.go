package balance

import (
	"sync/atomic"
)

// RoundRobin picks one member after the other, in order, with one atomic counter. Full and tried members are skipped
// and miss their turn. The rotation continues after the member that was picked instead, so that a full member's share
// is spread over all and does not double its neighbour's (except in picks that overlap).
//
// If weights above 0 differ, it is [Smooth], because users do not expect a round robin that ignores weights.
type RoundRobin struct{}

// Build implements [Policy].
func (RoundRobin) Build(members []Member, prev Picker, prevIndex []int) Picker {
	w := 0
	for i := range members {
		switch v := members[i].weight(); {
		case w == 0:
			w = v
		case v != 0 && v != w:
			return Smooth{}.Build(members, prev, prevIndex)
		}
	}
	r := new(roundRobin)
	r.init(members)
	// A new rotation starts with the second member, as Caddy's own round robin does, which increments its counter before
	// reading it.
	r.turn.Store(1)
	// The member with the shortest wait is next. New members get their turn when the rotation reaches their position.
	least := unknown
	for i, wait := range inherit(len(members), prev, prevIndex) {
		if wait < least && r.pos[i] >= 0 {
			least = wait
			r.turn.Store(uint64(r.pos[i]))
		}
	}
	return r
}

// roundRobin is the picker of RoundRobin for equal weights.
type roundRobin struct {
	slots
	turn atomic.Uint64 // the position that is next, modulo the number of positions
}

// Pick implements [Picker].
func (r *roundRobin) Pick(tried []int) int {
	n := uint64(len(r.members))
	if n == 0 {
		return -1
	}
	turn := r.turn.Add(1) - 1
	want := int(turn % n)
	got := r.from(want, tried)
	if got == want {
		return r.index[got]
	}
	if got < 0 {
		return -1
	}
	// Continue after the picked member. If the counter has moved on meanwhile, leave it to the picks that moved it.
	skipped := (uint64(got) + n - uint64(want)) % n
	r.turn.CompareAndSwap(turn+1, turn+1+skipped)
	return r.index[got]
}

// waits implements rotation.
func (r *roundRobin) waits() []uint64 {
	n := uint64(len(r.members))
	waits := make([]uint64, len(r.pos))
	for i, p := range r.pos {
		waits[i] = unknown
		if p >= 0 {
			before := (uint64(p) + n - r.turn.Load()%n) % n
			waits[i] = (2*before + 1) * (unit / 2) / n
		}
	}
	return waits
}
