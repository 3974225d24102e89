package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// Times are counted in ticks from the start of the program, on the monotonic clock: a step of the wall clock makes nothing look old or
// new.
const (
	// tickLength is the unit: 31 bits of it are 104 days, after which a number that nobody has renewed looks new for as long.
	tickLength = 1 << 22 * time.Nanosecond

	ticksPerMinute = uint32(time.Minute / tickLength)
)

// start is a whole number of ticks from the Unix epoch, so that virtual times fall on the same part of a tick in each run of a simulation.
var start = func() time.Time {
	now := time.Now()
	return now.Add(-time.Duration(now.UnixNano()) % tickLength)
}()

func tickOf(now time.Time) uint32 { return uint32(now.Sub(start) / tickLength) }

// tickNow costs half of what time.Now does, which reads the wall clock as well.
func tickNow() uint32 { return uint32(time.Since(start) / tickLength) }

// since is how many ticks have passed from then to t, 0 if then is yet to come.
func since(then, t uint32) uint32 { return uint32(max(int32(t-then), 0)) }

// secondsOf is how long so many ticks are.
func secondsOf(ticks uint32) float64 { return float64(ticks) * tickLength.Seconds() }

// fading is a number and the tick that it is of, in one word, so that both are read and replaced at once. The zero fading is 0.
type fading struct{ word atomic.Uint64 }

// known reports whether the number is not 0.
func (f *fading) known() bool { return f.word.Load()>>32 != 0 }

func (f *fading) forget() { f.word.Store(0) }

// get returns what is left of the number at t when it halves so many times in a tick.
func (f *fading) get(t uint32, halvings float64) float64 {
	word := f.word.Load()
	return float64(math.Float32frombits(uint32(word>>32))) * fade(float64(since(uint32(word), t))*halvings)
}

// change replaces the number by what next makes of what is left of it, which it returns. Its tick is the latest one that was given. Bound: each turn but
// the last is a change that somebody else succeeded with.
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

// fade is what is left of 1 when it has halved x times: a power of two, with a straight line from one to the next, which is 6 % too
// high at most and costs next to nothing.
func fade(x float64) float64 {
	const most, bias, mantissa = 62, 1023, 52
	if x >= most {
		return 0
	}
	n := uint64(x)
	return (1 - (x-float64(n))/2) * math.Float64frombits((bias-n)<<mantissa)
}
