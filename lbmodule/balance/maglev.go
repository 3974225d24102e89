package balance

import (
	"cmp"
	"slices"
)

// maglev is the table of Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016). Every member
// has an order in which it would like to have the slots of the table, and they take turns; with weights a turn comes when it is due,
// as in [Smooth]. The result is who has each slot, by position.
//
// size is a prime, so that every step through the table meets all slots.
func maglev(members []Member, size int) []int32 {
	table := slices.Repeat([]int32{-1}, size)
	turns := make([]claimant, len(members)) // a heap, with the one on top whose turn it is
	for p := range members {
		m := &members[p]
		turns[p] = claimant{
			id: m.ID, member: int32(p), turns: 1, weight: uint64(m.weight()),
			next: int(Mix(m.ID) % uint64(size)), step: int(Mix(m.ID^1<<63)%uint64(size-1)) + 1,
		}
	}
	slices.SortFunc(turns, func(a, b claimant) int { return a.compare(&b) })
	// Bound: each turn takes one slot. Looking for it ends because a step through a prime number of slots meets all.
	for range size {
		c := &turns[0]
		for table[c.next] >= 0 {
			if c.next += c.step; c.next >= size {
				c.next -= size
			}
		}
		table[c.next] = c.member
		c.turns += 2
		sink(turns)
	}
	return table
}

// claimant is a member that takes slots.
type claimant struct {
	id     uint64
	turns  uint64 // that it has had, twice, and one: its next is due at turns / weight
	weight uint64
	next   int   // the slot that it would like to have then
	step   int   // from there to the one after
	member int32 // its position
}

// before compares without rounding: weights that are all multiplied, as while members are ramped up, must not move keys.
func (c *claimant) before(o *claimant) bool { return c.compare(o) < 0 }

func (c *claimant) compare(o *claimant) int {
	return cmp.Or(cmp.Compare(c.turns*o.weight, o.turns*c.weight), cmp.Compare(c.id, o.id))
}

// sink puts the first of a heap where it belongs. Bound: each turn goes down a level.
func sink(heap []claimant) {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && heap[child+1].before(&heap[child]) {
			child++
		}
		if !heap[child].before(&heap[i]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}
