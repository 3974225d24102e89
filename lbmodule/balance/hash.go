package balance

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
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
// A pick whose member is full or in tried goes on to other slots, the same for the same key, up to eight times, and then takes the
// first free member from there on.
type Hash struct {
	size int // of the table, a prime; 0 for what the number of members asks for
}

const (
	// smallTable and largeTable are how many slots there are: primes, so that every step through the table meets all of them.
	smallTable = 65537
	largeTable = 262147
	// manyMembers is from how many members on the large one is used: twenty slots for each make their shares even enough.
	manyMembers = smallTable / 20
	// rehashes is how many slots a key may go on to.
	rehashes = 8
)

// Build implements [Policy].
func (p Hash) Build(members []Member, _ Picker, _ []int) Picker {
	h := new(hashPicker)
	h.init(members)
	switch {
	case p.size > 0:
		h.fill(p.size)
	case len(h.members) < manyMembers:
		h.fill(smallTable)
	default:
		h.fill(largeTable)
	}
	return h
}

// hashPicker is the picker of Hash.
type hashPicker struct {
	slots
	table []int32 // positions
}

// Pick implements [Picker].
func (h *hashPicker) Pick(tried []int) int { return h.PickFor(rand.Uint64(), tried) }

// PickFor implements [Keyed].
func (h *hashPicker) PickFor(hash uint64, tried []int) int {
	if len(h.table) == 0 {
		return -1
	}
	p := 0
	for range 1 + rehashes {
		slot, _ := bits.Mul64(Mix(hash), uint64(len(h.table)))
		p = int(h.table[slot])
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
	due    float64 // when its next turn is
	pause  float64 // until the one after
	next   int     // the slot that it would like to have then
	step   int     // from there to the one after
	member int32   // its position
}

func (c *claimant) before(o *claimant) bool { return c.due < o.due || c.due == o.due && c.id < o.id }

// fill has the members take the slots of a table of that size in turns.
func (h *hashPicker) fill(size int) {
	if len(h.members) == 0 {
		return
	}
	h.table = slices.Repeat([]int32{-1}, size)
	turns := make([]claimant, len(h.members)) // a heap, with the one on top whose turn it is
	for p := range h.members {
		m := &h.members[p]
		pause := 1 / float64(m.weight())
		turns[p] = claimant{
			id: m.ID, member: int32(p), pause: pause, due: pause / 2,
			next: int(Mix(m.ID) % uint64(size)), step: int(Mix(m.ID^1<<63)%uint64(size-1)) + 1,
		}
	}
	slices.SortFunc(turns, func(a, b claimant) int { return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.id, b.id)) })
	// Bound: each turn takes one slot. Looking for it ends because a step through a prime number of slots meets all.
	for range size {
		c := &turns[0]
		for h.table[c.next] >= 0 {
			if c.next += c.step; c.next >= size {
				c.next -= size
			}
		}
		h.table[c.next] = c.member
		c.due += c.pause
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
