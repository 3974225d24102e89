package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// estimate is how long a member's answers take, and how sure that is. The zero estimate knows nothing.
//
// Answers count on a logarithmic scale, as log2(1 + took/5 ms): on it one slow page does not outweigh all the fast ones, and what lies
// below 5 ms is much the same. The estimate is an exponentially weighted mean over the last 64 answers, with its
// standard deviation. An answer counts as no further from the mean than three standard deviations, or a factor of two,
// whichever is more (Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964). What the estimate
// rests on fades in ten seconds, so that old answers say less.
//
// When five answers in a row are all far longer, or all far shorter, than the mean, the member has changed: the past is forgotten and
// the last of them is the estimate. Far is twice as long, or two standard deviations, whichever is more, so that a member whose
// answers vary by their nature does not seem to change all the time.
type estimate struct {
	word atomic.Uint64 // a typical, packed
	at   atomic.Uint32 // the tick of the last answer
}

// typical is an estimate as of the last answer.
type typical struct {
	mean   float64 // on the scale
	spread float64 // the standard deviation
	weight float64 // how many answers it rests on
	run    int     // how many answers in a row were far longer than the mean; below 0, far shorter
}

const (
	// grain is the time up to which answers are much the same, in seconds.
	grain = 0.005
	// sampleWindow is how many answers an estimate rests on at most.
	sampleWindow = 64
	// decay is how many times the weight halves in a tick, so that it decays by e in ten seconds.
	decay = math.Log2E * float64(tickLength) / float64(10*time.Second)
	// runLength is how many answers in a row show a change. Where one page of ten is slow, that many in a row come once in 100,000 answers.
	runLength = 5
	// far, on the scale, and farSpreads are what an answer must differ by to be part of a run, and mostSpreads what it counts as at most.
	far, farSpreads, mostSpreads = 1, 2, 3
	// The variance is taken as if there had been firstAnswers more answers with a variance of firstVariance: the first ones may have had to
	// wait for a connection.
	firstVariance, firstAnswers = 1, 2
)

// scale is how long an answer took on the scale of estimates, and unscale the seconds that a number on it stands for.
func scale(took time.Duration) float64 { return math.Log2(1 + max(took.Seconds(), 0)/grain) }

func unscale(y float64) float64 { return (math.Exp2(y) - 1) * grain }

// known reports whether there is an estimate.
func (e *estimate) known() bool { return e.word.Load() != 0 }

func (e *estimate) forget() { e.word.Store(0) }

func (e *estimate) get() typical { return unpack(e.word.Load()) }

// mean is that of get, for less.
func (e *estimate) mean() float64 { return float64(math.Float32frombits(uint32(e.word.Load() >> 32))) }

// left is how much of the weight is left at t.
func (e *estimate) left(t uint32) float64 { return fade(float64(since(e.at.Load(), t)) * decay) }

// add makes an answer part of the estimate and returns that. Bound: each turn but the last is a change that somebody else succeeded
// with.
func (e *estimate) add(y float64, t uint32) typical {
	for {
		word := e.word.Load()
		next := typical{mean: y, weight: 1}
		if word != 0 {
			next = unpack(word).with(y, e.left(t))
		}
		if e.word.CompareAndSwap(word, next.pack()) {
			e.at.Store(t)
			return next
		}
	}
}

// with is f with one more answer, when so much of its weight is left.
func (f typical) with(y, left float64) typical {
	d := y - f.mean
	switch limit := max(far, farSpreads*f.spread); {
	case d > limit:
		f.run = max(f.run, 0) + 1
	case d < -limit:
		f.run = min(f.run, 0) - 1
	default:
		f.run = 0
	}
	if f.run == runLength || f.run == -runLength {
		return typical{mean: y, spread: f.spread, weight: 1}
	}
	most := max(far, mostSpreads*math.Sqrt(f.variance(f.weight*left)))
	d = min(max(d, -most), most)
	f.weight = min(f.weight*left+1, sampleWindow)
	share := 1 / f.weight
	f.mean += share * d
	f.spread = math.Sqrt((1 - share) * (f.spread*f.spread + share*d*d))
	return f
}

// variance is the square of the spread, as far as can be told from so many answers.
func (f typical) variance(answers float64) float64 {
	return (f.spread*f.spread*answers + firstVariance*firstAnswers) / (answers + firstAnswers)
}

// doubt is the square of the standard error of the mean, when so much of the weight is left.
func (f typical) doubt(left float64) float64 {
	const least = 1e-9 // keeps a weight that has faded from being a divisor of 0
	w := max(f.weight*left, least)
	return f.variance(w) / w
}

// How a typical is packed: 32 bits of mean and, from the top, so many of each of the others, which are multiples of their units.
const (
	spreadBits, spreadUnit = 14, 1.0 / (1 << 10)
	weightBits, weightUnit = 12, 1.0 / (1 << 5)
	runBits                = 6
)

// pack returns a word other than 0, which stands for no estimate.
func (f typical) pack() uint64 {
	spread := min(uint64(f.spread/spreadUnit+0.5), 1<<spreadBits-1)
	weight := max(1, min(uint64(f.weight/weightUnit+0.5), 1<<weightBits-1))
	return uint64(math.Float32bits(float32(f.mean)))<<32 | spread<<(weightBits+runBits) | weight<<runBits | uint64(f.run)&(1<<runBits-1)
}

func unpack(word uint64) typical {
	return typical{
		mean:   float64(math.Float32frombits(uint32(word >> 32))),
		spread: float64(word>>(weightBits+runBits)&(1<<spreadBits-1)) * spreadUnit,
		weight: float64(word>>runBits&(1<<weightBits-1)) * weightUnit,
		run:    int(int64(word) << (64 - runBits) >> (64 - runBits)),
	}
}
