package balance

import "math"

// Choices draws a few members at random, in proportion to the weights, and picks the one with the fewest requests in flight in
// relation to its weight; the first drawn among equals. Two draws are enough for the load of the busiest of n members to stay
// within a constant of log log n above the mean (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE
// Transactions on Parallel and Distributed Systems 12(10), 2001), and, unlike the least loaded of all, a member that looks idle
// gets a bounded share: twice its own with two.
//
// It takes constant time and no lock. Where weights are equal no member is drawn twice in a row. Where they differ that counts as a
// draw: in its place, the second would nearly always be another than a heavy first, and a light one that looks idle, such as one
// that is ramped up, would get many times its share. As with [Random], a pick that only finds full and tried members takes the
// first free one from a place drawn evenly.
type Choices struct {
	N int // draws; two where it is less, and never more than there are members

	dice *Dice
}

// With implements [Drawing].
func (p Choices) With(d *Dice) Policy {
	p.dice = d
	return p
}

// more is how many draws are made again for having drawn one that is full, one in tried, or, where that does not count, the same.
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

// take reserves a slot at position best, or, if that is -1 or full by now, at the first free one from a place drawn evenly. It returns
// the member's index, or -1.
func (c *choices) take(best int, tried []int) int {
	if best < 0 || !c.at(best) {
		if best = c.from(c.dice.IntN(len(c.members)), tried); best < 0 {
			return -1
		}
	}
	return c.index[best]
}

// other draws a position other than p evenly. There are two at least: with one member there is one draw.
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

// lighter reports whether m has fewer requests in flight than o, each in relation to its weight.
func (m *Member) lighter(o *Member) bool {
	return m.Load.Load()*int64(o.weight()) < o.Load.Load()*int64(m.weight())
}
