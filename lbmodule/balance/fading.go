package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// Times are counted in ticks from the start of the program, on the monotonic clock, so that a step of the wall clock does not change an
// age.
const (
	// tickLength is the unit. 31 bits of ticks are 104 days: a number that has not been renewed for that long looks new for another 104 days.
	tickLength = 1 << 22 * time.Nanosecond

	ticksPerMinute = uint32(time.Minute / tickLength)
)

// start is a whole number of ticks after the Unix epoch, so that virtual times have the same offset within a tick in each run of a
// simulation.
var start = func() time.Time {
	now := time.Now()
	return now.Add(-time.Duration(now.UnixNano()) % tickLength)
}()

func tickOf(now time.Time) uint32 { return uint32(now.Sub(start) / tickLength) }

// tickNow costs half as much as time.Now, which reads the wall clock as well.
func tickNow() uint32 { return uint32(time.Since(start) / tickLength) }

// since returns the number of ticks from then to t, 0 if then is later than t.
func since(then, t uint32) uint32 { return uint32(max(int32(t-then), 0)) }

// secondsOf converts ticks to seconds.
func secondsOf(ticks uint32) float64 { return float64(ticks) * tickLength.Seconds() }

// fading is a number that decays, with the tick at which it was set. Both are in one word, so that they are read and replaced atomically.
// The zero fading is 0.
type fading struct{ word atomic.Uint64 }

// known reports whether the number is not 0.
func (f *fading) known() bool { return f.word.Load()>>32 != 0 }

func (f *fading) forget() { f.word.Store(0) }

// get returns what is left of the number at t. halvings is how many times it halves in a tick.
func (f *fading) get(t uint32, halvings float64) float64 {
	word := f.word.Load()
	return float64(math.Float32frombits(uint32(word>>32))) * fade(float64(since(uint32(word), t))*halvings)
}

// change passes what is left of the number to next, stores the result and returns it. The stored tick is the latest t so far. Bound: every
// iteration but the last means that another caller changed the number.
func (f *fading) change(t uint32, halvings float64, next func(left float64) float64) float64 {
	for {
		word := f.word.Load()
		age := since(uint32(word), t)
		at := t
		if age == 0 && word != 0 {
			at = uint32(word)
		}
		left := float64(math.Float32frombits(uint32(word>>32))) * fade(float64(age)*halvings)
		value := next(left)
		if f.word.CompareAndSwap(word, uint64(math.Float32bits(float32(value)))<<32|uint64(at)) {
			return value
		}
	}
}

// fade returns what is left of 1 after x halvings. It interpolates linearly between powers of two, which is at most 6 % too high and very
// cheap.
func fade(x float64) float64 {
	const most, bias, mantissa = 62, 1023, 52
	if x >= most {
		return 0
	}
	n := uint64(x)
	return (1 - (x-float64(n))/2) * math.Float64frombits((bias-n)<<mantissa)
}
