package balance

import "time"

// WithFallback uses one policy for requests that have a key, and another for those that have none.
type WithFallback struct {
	Keyed Policy // its pickers must be Keyed
	Else  Policy
}

// For implements [Sized].
func (p WithFallback) For(members int) Policy {
	return WithFallback{sized(p.Keyed, members), sized(p.Else, members)}
}

// With implements [Drawing].
func (p WithFallback) With(d *Dice) Policy { return WithFallback{with(p.Keyed, d), with(p.Else, d)} }

func with(p Policy, d *Dice) Policy {
	if drawing, ok := p.(Drawing); ok {
		return drawing.With(d)
	}
	return p
}

func sized(p Policy, members int) Policy {
	if s, ok := p.(Sized); ok {
		return s.For(members)
	}
	return p
}

// Build implements [Policy].
func (p WithFallback) Build(members []Member, prev Picker, prevIndex []int) Picker {
	if before, ok := prev.(*withFallback); ok {
		prev = before.other
	}
	w := &withFallback{keyed: p.Keyed.Build(members, nil, nil).(Keyed), other: p.Else.Build(members, prev, prevIndex)}
	w.timed, _ = w.other.(Timed)
	return w
}

// withFallback is the picker of WithFallback. It calls Changed on each of its two pickers for what the other has
// picked.
type withFallback struct {
	keyed Keyed
	other Picker
	timed Timed // other, if it is Timed; otherwise nil
}

// PickFor implements [Keyed].
func (w *withFallback) PickFor(hash uint64, tried []int) int {
	return notify(w.other, w.keyed.PickFor(hash, tried))
}

// Home implements [Keyed].
func (w *withFallback) Home(hash uint64) int { return w.keyed.Home(hash) }

// Pick implements [Picker].
func (w *withFallback) Pick(tried []int) int { return notify(w.keyed, w.other.Pick(tried)) }

// PickAt implements [Timed].
func (w *withFallback) PickAt(now time.Time, tried []int) int {
	if w.timed == nil {
		return w.Pick(tried)
	}
	return notify(w.keyed, w.timed.PickAt(now, tried))
}

// Avoided implements [Avoiding]. It asks the other picker only, because a key leads to its member whatever its past
// answers.
func (w *withFallback) Avoided(now time.Time) []Avoidance {
	if avoiding, ok := w.other.(Avoiding); ok {
		return avoiding.Avoided(now)
	}
	return nil
}

// notify calls Changed of p for the picked member i, if any, and returns i.
func notify(p Picker, i int) int {
	if i >= 0 {
		p.Changed(i)
	}
	return i
}

// Changed implements [Picker].
func (w *withFallback) Changed(i int) {
	w.keyed.Changed(i)
	w.other.Changed(i)
}

// Sync implements [Picker].
func (w *withFallback) Sync() {
	w.keyed.Sync()
	w.other.Sync()
}
