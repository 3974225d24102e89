package balance

// First picks the first member, in order, that has a free slot: the next one gets only what does not fit. Without
// caps it is a primary with spares, as Caddy's and HAProxy's "first". Weights do not matter, but for 0.
type First struct{}

// Build implements [Policy].
func (First) Build(members []Member, _ Picker, _ []int) Picker {
	f := new(first)
	f.init(members)
	return f
}

// first is the picker of First.
type first struct {
	slots
}

// Pick implements [Picker].
func (f *first) Pick(tried []int) int {
	p := f.from(0, tried)
	if p < 0 {
		return -1
	}
	return f.index[p]
}
