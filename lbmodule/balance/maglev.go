package balance

import (
	"cmp"
	"slices"
)

// maglev is the table of Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016). Every member
// has an order of preference for the slots of the table, and the members take turns in claiming one. Weights determine when a member's turn
// is due, as in [Smooth]. The result is the position of the member that has each slot.
//
// size must be a prime, so that any step width visits all slots.
func maglev(members []Member, size int) []int32 {
	table := slices.Repeat([]int32{-1}, size)
	turns := make([]claimant, len(members)) // a heap, with the next member in turn on top
	for p := range members {
		m := &members[p]
		turns[p] = claimant{
			id: m.ID, member: int32(p), turns: 1, weight: uint64(m.weight()),
			next: int(Mix(m.ID) % uint64(size)), step: int(Mix(m.ID^1<<63)%uint64(size-1)) + 1,
		}
	}
	slices.SortFunc(turns, func(a, b claimant) int { return a.compare(&b) })
	// Bound: each iteration claims one slot. The search for a free one ends, because stepping through a prime number of slots visits all.
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

// claimant is a member that claims slots.
type claimant struct {
	id     uint64
	turns  uint64 // twice the number of turns that it has had, plus one: the next is due at turns / weight
	weight uint64
	next   int   // the slot that it prefers next
	step   int   // from one preferred slot to the next
	member int32 // its position
}

// before compares without rounding, so that multiplying all weights by a factor, as while members are ramped up, moves no keys.
func (c *claimant) before(o *claimant) bool { return c.compare(o) < 0 }

func (c *claimant) compare(o *claimant) int {
	return cmp.Or(cmp.Compare(c.turns*o.weight, o.turns*c.weight), cmp.Compare(c.id, o.id))
}

// sink moves the first element of a heap down to its place. Bound: each iteration goes down a level.
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
