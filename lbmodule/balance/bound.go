package balance

import "sync/atomic"

// bound limits each member's requests in flight to its share of all of them by weight, times a factor. It maintains the sum of the loads
// incrementally: note records each change of a load. The zero bound allows everything.
type bound struct {
	factor  float64 // a weight times factor is the share of total that the member may have
	members []Member
	noted   []atomic.Int64 // load of each member as included in total
	total   atomic.Int64
}

// init has b allow each member factor times its share.
func (b *bound) init(members []Member, factor float64) {
	sum := 0
	for i := range members {
		sum += members[i].weight()
	}
	b.members, b.noted = members, make([]atomic.Int64, len(members))
	b.factor = factor / float64(max(sum, 1))
	for p := range members {
		b.note(p)
	}
}

// allows reports whether position p may have one more request. Every member may have one. With a factor above 1 at least one member may
// always have more, because not all of them can be above their share.
func (b *bound) allows(p int) bool {
	if b.factor == 0 {
		return true
	}
	m := &b.members[p]
	return m.Load.Load() <= int64(b.factor*float64(m.weight())*float64(b.total.Load()+1))
}

// note updates the sum with the load of position p. Bound: every iteration but the last means that the load changed in between.
func (b *bound) note(p int) {
	if b.factor == 0 {
		return
	}
	m := &b.members[p]
	for {
		load := m.Load.Load()
		b.total.Add(load - b.noted[p].Swap(load))
		if m.Load.Load() == load {
			return
		}
	}
}
