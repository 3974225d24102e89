package balance

import "math/bits"

// Keyed is implemented by pickers that choose by a key of the request. Their Pick is for requests that have none.
type Keyed interface {
	Picker

	// PickFor is Pick for a request with that hash of its key.
	PickFor(hash uint64, tried []int) int

	// Home is the member that PickFor picks when nothing is in the way, -1 if there is none. It reserves nothing.
	Home(hash uint64) int
}

// Sized is implemented by policies that depend on how many members a pool has in all, whether they can be picked or not. The owner
// builds pickers by what For returns.
type Sized interface {
	Policy

	For(members int) Policy
}

// Hash picks by the hash of a key: the same member for the same key, in constant time, with shares that follow the weights, and
// few keys that move when members come, go or change their weight. Members are told apart by their ID, wherever they stand.
//
// Pools of up to eight members use weighted rendezvous hashing, by which no key moves that need not: see [rendezvous]. Larger ones use
// a table: see [maglev]. It has 65,537 slots, or 1,048,583 from 656 members on, so that everybody has about a hundred; of the keys
// of those who stay, less than 1 % move. How large the pool is in all decides, so that no key moves for a member that is down for a
// while; a pool that grows beyond eight members, or 655, moves nearly all, once.
//
// A pick whose member is full or in tried goes on to others, always the same ones for the same key, and takes the first free one
// from there at last. With a bound, so does one whose member has more than that many times its share of the requests in flight
// (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018). Of forty that all have more it is the one
// with the fewest, so that a pick takes its time whatever clients ask for.
//
// Build fills the table, which takes some milliseconds, and a quarter of a second for a large one: no request should wait for it.
type Hash struct {
	Members int     // that the pool has in all; 0 for as many as are to be picked
	Bound   float64 // of a member's share of the requests in flight, in relation to its share of the weights; 0 for none

	dice *Dice
	size int // of the table, where a test wants another
}

const (
	// smallPool is how many members are few enough to look at each of them.
	smallPool = 8
	// tableSize is how many slots there are: a prime, as largeTable is.
	tableSize  = 65537
	largeTable = 1048583
	// slotsEach is how many slots a member should have, to have its share within some percent.
	slotsEach = 100
	// rehashes is how many slots a key may go on to, and guesses how many members after that, whatever their weight.
	rehashes = 8
	guesses  = 4
	// nextHash is what leads from one of them to the next; any odd number would do.
	nextHash = 0x9e3779b97f4a7c15
	// boundedRehashes is the same where going on is no exception: with a bound of 125 % four of five members may be at it.
	boundedRehashes = 40
)

// With implements [Drawing].
func (p Hash) With(d *Dice) Policy {
	p.dice = d
	return p
}

// For implements [Sized].
func (p Hash) For(members int) Policy {
	p.Members = members
	return p
}

// Build implements [Policy].
func (p Hash) Build(members []Member, _ Picker, _ []int) Picker {
	h := &hashPicker{dice: p.dice, rehashes: rehashes}
	h.init(members)
	all := max(p.Members, len(h.members))
	switch {
	case all <= smallPool:
		h.ring = newRendezvous(h.members)
	case len(h.members) > 1:
		h.table = maglev(h.members, p.tableSize(all))
	}
	if p.Bound > 0 {
		h.rehashes = boundedRehashes
		h.bound.init(h.members, p.Bound)
	}
	return h
}

// hashPicker is the picker of Hash.
type hashPicker struct {
	slots
	dice     *Dice
	bound    bound
	rehashes int

	ring  rendezvous // of small pools
	table []int32    // positions
}

// tableSize is how many slots the table of a pool with so many members has.
func (p Hash) tableSize(all int) int {
	switch {
	case p.size > 0:
		return p.size
	case all*slotsEach <= tableSize:
		return tableSize
	default:
		return largeTable
	}
}

// Pick implements [Picker].
func (h *hashPicker) Pick(tried []int) int { return h.PickFor(h.dice.Uint64(), tried) }

// PickFor implements [Keyed].
func (h *hashPicker) PickFor(hash uint64, tried []int) int {
	n := len(h.members)
	if n == 0 {
		return -1
	}
	var p int
	if h.ring != nil {
		p = h.pickFromRing(hash, tried)
	} else {
		p = h.pickFromTable(hash, tried)
	}
	if p < 0 {
		// Bounds of shares are no reason to refuse anybody.
		if p = h.from(scaled(hash, n), tried); p < 0 {
			return -1
		}
	}
	h.bound.note(p)
	return h.index[p]
}

// Home implements [Keyed].
func (h *hashPicker) Home(hash uint64) int {
	switch {
	case len(h.members) == 0:
		return -1
	case h.ring != nil:
		return h.index[h.ring.first(hash, 0)]
	case len(h.members) == 1:
		return h.index[0]
	default:
		return h.index[h.table[scaled(hash, len(h.table))]]
	}
}

// pickFromRing reserves a slot on the first member, in the order of the key, that is to be had; -1 if there is none. Bound: each turn
// takes one of a small pool out.
func (h *hashPicker) pickFromRing(hash uint64, tried []int) int {
	for out := uint64(0); ; {
		p := h.ring.first(hash, out)
		if p < 0 || h.take(p, tried) {
			return p
		}
		out |= 1 << p
	}
}

// pickFromTable is pickFromRing by the table. It gives up when it has looked at a few.
func (h *hashPicker) pickFromTable(hash uint64, tried []int) int {
	n := len(h.members)
	p, lightest := 0, -1
	for k := range 1 + h.rehashes + guesses {
		switch {
		case n == 1:
		case k <= h.rehashes:
			p = int(h.table[scaled(hash, len(h.table))])
		default:
			p = scaled(hash, n) // one member may have nearly all slots
		}
		if h.take(p, tried) {
			return p
		}
		if h.bound.factor > 0 && !excluded(tried, h.index[p]) && !h.members[p].full() && (lightest < 0 || h.members[p].lighter(&h.members[lightest])) {
			lightest = p
		}
		hash += nextHash
	}
	if lightest >= 0 && h.at(lightest) {
		return lightest
	}
	return -1
}

// take reserves a slot at position p, if it is to be had within its bound.
func (h *hashPicker) take(p int, tried []int) bool {
	return !excluded(tried, h.index[p]) && h.bound.allows(p) && h.at(p)
}

// Changed implements [Picker].
func (h *hashPicker) Changed(i int) {
	h.slots.Changed(i)
	if p := h.pos[i]; p >= 0 {
		h.bound.note(int(p))
	}
}

// Sync implements [Picker].
func (h *hashPicker) Sync() {
	h.slots.Sync()
	for p := range h.members {
		h.bound.note(p)
	}
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
