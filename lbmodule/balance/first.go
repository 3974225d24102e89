package balance

import "slices"

// First picks the first member, in order, that has a free slot: the next one gets only what does not fit. Without caps
// it is a primary with spares, as Caddy's and HAProxy's "first". Weights other than 0 do not matter. A member that is
// ramped up is passed over at random if another one is free.
type First struct{ dice *Dice }

// With implements [Drawing].
func (p First) With(d *Dice) Policy {
	p.dice = d
	return p
}

// Build implements [Policy].
func (p First) Build(members []Member, _ Picker, _ []int) Picker {
	f := &first{dice: p.dice}
	f.init(members)
	for i := range members {
		if w := members[i].Warmth; f.pos[i] >= 0 && w > 0 && w < 1 && len(f.ramped) < warmUp {
			f.ramped = append(f.ramped, i)
		}
	}
	return f
}

// first is the picker of First.
type first struct {
	slots
	dice   *Dice
	ramped []int // indexes of the first warmUp members that are ramped up
}

// Pick implements [Picker].
func (f *first) Pick(tried []int) int {
	p := -1
	if len(f.ramped) > 0 {
		p = f.from(0, f.passOver(tried))
	}
	if p < 0 {
		p = f.from(0, tried)
	}
	if p < 0 {
		return -1
	}
	return f.index[p]
}

// passOver returns tried plus the ramped-up members that this pick passes over. It allocates if there are any, which is
// the case during slow start only.
func (f *first) passOver(tried []int) []int {
	all := slices.Clip(tried)
	for _, i := range f.ramped {
		if f.slots.members[f.pos[i]].cold(f.dice) {
			all = append(all, i)
		}
	}
	return all
}
