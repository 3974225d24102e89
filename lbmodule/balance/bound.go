package balance

import "sync/atomic"

// bound keeps members from having more of the requests in flight than their share of the weights, times a factor. It knows the sum
// of them without adding up: each change of a load is noted. The zero bound allows everything.
type bound struct {
	factor  float64 // by which weights become shares that are allowed
	members []Member
	noted   []atomic.Int64 // load of each, as far as it is in total
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

// allows reports whether position p may have one more. Everybody may have one, and with a factor above 1 somebody always may have
// more: not all can have more than their share.
func (b *bound) allows(p int) bool {
	if b.factor == 0 {
		return true
	}
	m := &b.members[p]
	return m.Load.Load() <= int64(b.factor*float64(m.weight())*float64(b.total.Load()+1))
}

// note takes the load of position p into the sum. Bound: each turn but the last is a change that happened meanwhile.
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
