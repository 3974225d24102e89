package balance

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
)

// Keyed is implemented by pickers that choose by a key of the request. Their Pick is for requests that have none.
type Keyed interface {
	Picker

	// PickFor is Pick for a request with that hash of its key.
	PickFor(hash uint64, tried []int) int
}

// Hash picks by the hash of a key: the same member for the same key, in constant time, with shares that follow the weights, and
// few keys that move when members come, go or change their weight. Members are told apart by their ID, wherever they stand.
//
// It is the table of Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016). Every
// member has an order in which it would like to have the slots of the table, and they take turns; with weights a turn comes when it
// is due, as in [Smooth].
//
// A pick whose member is full or in tried goes on to other slots, the same for the same key, up to eight times, then to members
// in an order that follows from the key, and takes the first free one from there at last.
//
// The table is filled for the first pick, which takes some milliseconds. Its size is always the same: another one would move every key.
// Shares are as even as that many slots can make them; a member with less than one of them may get none.
type Hash struct {
	size int // of the table, a prime; 0 for tableSize
}

const (
	// tableSize is how many slots there are: a prime, so that every step through the table meets all of them.
	tableSize = 65537
	// rehashes is how many slots a key may go on to, and guesses how many members after that, whatever their weight.
	rehashes = 8
	guesses  = 4
)

// Build implements [Policy].
func (p Hash) Build(members []Member, _ Picker, _ []int) Picker {
	h := &hashPicker{size: p.size}
	if h.size == 0 {
		h.size = tableSize
	}
	h.init(members)
	return h
}

// hashPicker is the picker of Hash.
type hashPicker struct {
	slots
	size   int
	filled sync.Once
	table  []int32 // positions
}

// Pick implements [Picker].
func (h *hashPicker) Pick(tried []int) int { return h.PickFor(rand.Uint64(), tried) }

// PickFor implements [Keyed].
func (h *hashPicker) PickFor(hash uint64, tried []int) int {
	n := len(h.members)
	if n == 0 {
		return -1
	}
	if n > 1 {
		h.filled.Do(h.fill)
	}
	p := 0
	for k := range 1 + rehashes + guesses {
		switch {
		case n == 1:
		case k <= rehashes:
			p = int(h.table[scaled(hash, h.size)])
		default:
			p = scaled(hash, n) // one member may have nearly all slots
		}
		if !excluded(tried, h.index[p]) && h.at(p) {
			return h.index[p]
		}
		hash++
	}
	if p = h.from(p, tried); p < 0 {
		return -1
	}
	return h.index[p]
}

// scaled is a number below n that follows from hash.
func scaled(hash uint64, n int) int {
	high, _ := bits.Mul64(Mix(hash), uint64(n))
	return int(high)
}

// Mix makes every bit of the result depend on every bit of x (the finalizer of SplitMix64, Steele et al., 2014).
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
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

// fill has the members take the slots of the table in turns.
func (h *hashPicker) fill() {
	size := h.size
	h.table = slices.Repeat([]int32{-1}, size)
	turns := make([]claimant, len(h.members)) // a heap, with the one on top whose turn it is
	for p := range h.members {
		m := &h.members[p]
		turns[p] = claimant{
			id: m.ID, member: int32(p), turns: 1, weight: uint64(m.weight()),
			next: int(Mix(m.ID) % uint64(size)), step: int(Mix(m.ID^1<<63)%uint64(size-1)) + 1,
		}
	}
	slices.SortFunc(turns, func(a, b claimant) int { return a.compare(&b) })
	// Bound: each turn takes one slot. Looking for it ends because a step through a prime number of slots meets all.
	for range size {
		c := &turns[0]
		for h.table[c.next] >= 0 {
			if c.next += c.step; c.next >= size {
				c.next -= size
			}
		}
		h.table[c.next] = c.member
		c.turns += 2
		sink(turns)
	}
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
