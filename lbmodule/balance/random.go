package balance

import (
	"math/bits"
	"slices"
)

// redraws is how many draws a pick makes before it searches the set of free members.
const redraws = 4

// Random picks at random, in proportion to the weights, in constant time: the alias method of Walker (1974), its
// table built as in Vose, "A linear algorithm for generating random numbers with a given distribution" (IEEE
// Transactions on Software Engineering 17(9), 1991), with integers only, so that the shares are exact.
//
// A pick that draws a full or tried member draws again, up to four times in all, and then takes the first free member from a uniformly
// drawn position on. So its cost stays constant when nearly all members are full; members that follow full ones are then slightly favoured.
type Random struct{ dice *Dice }

// With implements [Drawing].
func (p Random) With(d *Dice) Policy {
	p.dice = d
	return p
}

// Build implements [Policy].
func (p Random) Build(members []Member, _ Picker, _ []int) Picker {
	r := &random{dice: p.dice}
	r.fill(members)
	return r
}

// fill initializes r, of which only the dice are set.
func (r *random) fill(members []Member) {
	r.init(members)
	if slices.ContainsFunc(r.members, func(m Member) bool { return m.weight() != r.members[0].weight() }) {
		r.columns, r.total = aliasTable(r.members)
	}
}

// uniform reports whether all weights are equal.
func (r *random) uniform() bool { return r.columns == nil }

// random is the picker of Random.
type random struct {
	slots
	dice    *Dice
	columns []column // one for each position; nil if all weights are equal
	total   uint64   // sum of the weights: the height of each column
}

// column is a column of the alias table. All are equally likely. A height below keep stands for the column's own position, the rest for
// alias.
type column struct {
	keep  uint64
	alias int
}

// Pick implements [Picker].
func (r *random) Pick(tried []int) int {
	n := len(r.members)
	if n == 0 {
		return -1
	}
	for range redraws {
		p := r.draw()
		if !excluded(tried, r.index[p]) && r.at(p) {
			return r.index[p]
		}
	}
	p := r.from(r.dice.IntN(n), tried)
	if p < 0 {
		return -1
	}
	return r.index[p]
}

// draw returns a random position, in proportion to the weights.
func (r *random) draw() int {
	// One random number is enough for the column and the height: the remainder after choosing the column is uniform to within one part in
	// 2^40.
	p, rest := bits.Mul64(r.dice.Uint64(), uint64(len(r.members)))
	if r.uniform() {
		return int(p)
	}
	height, _ := bits.Mul64(rest, r.total)
	if c := &r.columns[p]; height >= c.keep {
		return c.alias
	}
	return int(p)
}

// aliasTable distributes the weights of n members, multiplied by n, over n columns whose height is the sum of the weights. Each column has
// parts of at most two members.
func aliasTable(members []Member) (columns []column, total uint64) {
	n := len(members)
	columns = make([]column, n)
	rest := make([]uint64, n) // the part of each member's weight that is not yet in a column
	for i := range members {
		w := uint64(members[i].weight())
		total += w
		rest[i] = w * uint64(n)
	}
	var low, high []int // members with less than a column, and with one or more
	for i := range rest {
		if rest[i] < total {
			low = append(low, i)
		} else {
			high = append(high, i)
		}
	}
	// Bound: each iteration finishes one member of low, n in all. Integers have no rounding: as long as one member has less than a column,
	// another has more.
	for len(low) > 0 {
		l, h := low[len(low)-1], high[len(high)-1]
		low = low[:len(low)-1]
		columns[l] = column{keep: rest[l], alias: h}
		rest[h] -= total - rest[l]
		if rest[h] < total {
			high = high[:len(high)-1]
			low = append(low, h)
		}
	}
	for _, h := range high {
		columns[h] = column{keep: total}
	}
	return columns, total
}
