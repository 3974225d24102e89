package balance

import "math/bits"

// Keyed is implemented by pickers that choose by a key of the request. Their Pick is for requests without a key.
type Keyed interface {
	Picker

	// PickFor is Pick for a request whose key has that hash.
	PickFor(hash uint64, tried []int) int

	// Home returns the member that PickFor picks if it is neither full nor in tried, nor at its bound; -1 if there is none. It reserves
	// nothing.
	Home(hash uint64) int
}

// Sized is implemented by policies that depend on the total number of members of a pool, including those that cannot be picked. The owner
// builds pickers with the policy that For returns.
type Sized interface {
	Policy

	For(members int) Policy
}

// Hash picks by the hash of a key: the same member for the same key, in constant time, with shares that follow the weights. Few keys move
// when members are added, removed or change their weight. Members are identified by their ID, not by their index.
//
// Pools of up to eight members use weighted rendezvous hashing, which moves the minimum of keys: see [rendezvous]. Larger ones use a table:
// see [maglev]. It has 65,537 slots, or 1,048,583 from 656 members on, so that every member has at least about a hundred; of the keys of
// members that stay, less than 1 % move. The total size of the pool decides, including members that are down, so that an outage does not
// change the method. A pool that grows beyond eight members, or beyond 655, moves nearly all keys, once.
//
// A pick whose member is full or in tried goes on to others, always the same ones for the same key, and as a last resort takes the first
// free one from there on. With a bound, the same happens if the member has more than Bound times its share of the requests in flight
// (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018). If forty members are all above it, the pick
// takes the one with the fewest requests per weight, so that its cost is bounded whatever keys clients send.
//
// Build fills the table. That takes some milliseconds, or a quarter of a second for a large one, so no request should wait for it.
type Hash struct {
	Members int     // of the pool in total; 0 stands for the number passed to Build
	Bound   float64 // maximum of a member's share of the requests in flight, divided by its share of the weights; 0 for none

	dice *Dice
	size int // of the table; set by tests only
}

const (
	// smallPool is the maximum size of a pool that uses rendezvous hashing, which looks at every member.
	smallPool = 8
	// tableSize and largeTable are numbers of slots. Both are primes.
	tableSize  = 65537
	largeTable = 1048583
	// slotsEach is how many slots a member needs for its share to be accurate within some percent.
	slotsEach = 100
	// rehashes is how many more slots a pick tries for a key, and guesses how many members after that, regardless of their weight.
	rehashes = 8
	guesses  = 4
	// nextHash is added to the hash for the next of these tries; any odd number would do.
	nextHash = 0x9e3779b97f4a7c15
	// boundedRehashes replaces rehashes with a bound, where going on is common: with a bound of 125 % four of five members may be at it.
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

// tableSize returns the number of slots for a pool of that many members.
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
		// A request is never refused because of the bound.
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

// pickFromRing reserves a slot on the first available member in the order of the key. It returns its position, -1 if there is none. Bound:
// each iteration excludes one member of a small pool.
func (h *hashPicker) pickFromRing(hash uint64, tried []int) int {
	for out := uint64(0); ; {
		p := h.ring.first(hash, out)
		if p < 0 || h.take(p, tried) {
			return p
		}
		out |= 1 << p
	}
}

// pickFromTable is pickFromRing for the table. It gives up after a fixed number of tries.
func (h *hashPicker) pickFromTable(hash uint64, tried []int) int {
	n := len(h.members)
	p, lightest := 0, -1
	for k := range 1 + h.rehashes + guesses {
		switch {
		case n == 1:
		case k <= h.rehashes:
			p = int(h.table[scaled(hash, len(h.table))])
		default:
			p = scaled(hash, n) // ignores the table, because one member may have nearly all slots
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

// take reserves a slot at position p, unless its member is in tried, full or at its bound. It reports whether it did.
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

// scaled maps hash to a number below n, uniformly.
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
