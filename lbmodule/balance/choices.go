package balance

import "math"

// Choices draws a few members at random, in proportion to the weights, and picks the one with the fewest requests in flight in
// relation to its weight; the first drawn among equals. Two draws are enough for the load of the busiest of n members to stay
// within a constant of log log n above the mean (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE
// Transactions on Parallel and Distributed Systems 12(10), 2001), and a member that looks idle gets a bounded share, unlike with least
// connections: with two draws at most twice its own.
//
// It takes constant time and no lock. If the weights are equal, no member is drawn twice in a row. If they differ, drawing the same member
// again counts as a draw. Otherwise the second draw would nearly always differ from a heavy first one, and a light member that looks idle,
// such as one that is ramped up, would get many times its share. As with [Random], a pick that finds only full and tried members takes the
// first free one from a uniformly drawn position.
type Choices struct {
	N int // number of draws: at least two, and at most the number of members

	dice *Dice
}

// With implements [Drawing].
func (p Choices) With(d *Dice) Policy {
	p.dice = d
	return p
}

// more is the maximum number of draws that are repeated because the drawn member is full, in tried, or, where that does not count, the same
// as before.
const more = 8

// Build implements [Policy].
func (p Choices) Build(members []Member, _ Picker, _ []int) Picker {
	c := new(choices)
	c.init(members, p.N, p.dice)
	return c
}

// choices is the picker of Choices.
type choices struct {
	random
	n int
}

// init fills c, which is the zero value.
func (c *choices) init(members []Member, n int, d *Dice) {
	c.dice = d
	c.fill(members)
	c.n = min(max(n, 2), len(c.members))
}

// Pick implements [Picker].
func (c *choices) Pick(tried []int) int {
	if len(c.members) == 0 {
		return -1
	}
	best, found := -1, 0
	for draws := 0; found < c.n && draws < c.n+more; draws++ {
		p := c.draw()
		if p == best && c.uniform() {
			p = c.other(p)
		}
		if excluded(tried, c.index[p]) || c.members[p].full() {
			continue
		}
		found++
		if best < 0 || c.members[p].lighter(&c.members[best]) {
			best = p
		}
	}
	return c.take(best, tried)
}

// take reserves a slot at position best, or, if that is -1 or full by now, at the first free position from a uniformly drawn one on. It
// returns the member's index, or -1.
func (c *choices) take(best int, tried []int) int {
	if best < 0 || !c.at(best) {
		if best = c.from(c.dice.IntN(len(c.members)), tried); best < 0 {
			return -1
		}
	}
	return c.index[best]
}

// other draws a position other than p, uniformly. There are at least two, because a pool of one member has only one draw.
func (c *choices) other(p int) int {
	p += 1 + c.dice.IntN(len(c.members)-1)
	if p >= len(c.members) {
		p -= len(c.members)
	}
	return p
}

// Score implements [Scored].
func (c *choices) Score(i int) float64 {
	if c.pos[i] < 0 {
		return math.Inf(1)
	}
	return c.members[c.pos[i]].loadPerWeight()
}

// lighter reports whether m has fewer requests in flight per weight than o.
func (m *Member) lighter(o *Member) bool {
	return m.Load.Load()*int64(o.weight()) < o.Load.Load()*int64(m.weight())
}
