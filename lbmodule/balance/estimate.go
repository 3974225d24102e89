package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// estimate holds how long a member's answers take, and how certain that is. The zero estimate holds nothing.
//
// Answers count on a logarithmic scale, as log2(1 + took/5 ms): on it, one slow page does not outweigh all the fast ones, and times below 5
// ms hardly differ. The estimate is an exponentially weighted mean over the last 64 answers, with its standard deviation. An answer's
// distance from the mean is limited to three standard deviations, or a factor of two, whichever is more (Huber, "Robust Estimation of a
// Location Parameter", Annals of Mathematical Statistics 35, 1964). The weight of the answers decays by e in ten seconds, so that old ones
// count less.
//
// When five answers in a row are all far longer, or all far shorter, than the mean, the member has changed: the estimate starts over with
// the last of them. "Far" means a factor of two, or two standard deviations, whichever is more, so that a member whose answers vary by
// their nature does not seem to change all the time.
type estimate struct {
	word atomic.Uint64 // a typical, packed
	at   atomic.Uint32 // the tick of the last answer
}

// typical is an estimate as of the last answer.
type typical struct {
	mean   float64 // on the scale
	spread float64 // the standard deviation
	weight float64 // how many answers it is based on
	run    int     // how many answers in a row were far longer than the mean; below 0, far shorter
}

const (
	// grain is the time in seconds below which answers hardly differ on the scale.
	grain = 0.005
	// sampleWindow is the maximum number of answers that an estimate is based on.
	sampleWindow = 64
	// decay is how many times the weight halves in a tick, so that it decays by e in ten seconds.
	decay = math.Log2E * float64(tickLength) / float64(10*time.Second)
	// runLength is how many answers in a row show a change. If one page in ten is slow, that many in a row occur once in 100,000 answers.
	runLength = 5
	// An answer is part of a run if it differs from the mean by more than far (on the scale) and more than farSpreads standard deviations.
	// mostSpreads limits the difference that counts, in standard deviations.
	far, farSpreads, mostSpreads = 1, 2, 3
	// The variance is computed as if there had been firstAnswers more answers with a variance of firstVariance, because the first answers may
	// have included the time to connect.
	firstVariance, firstAnswers = 1, 2
)

// scale converts a duration to the logarithmic scale of estimates. unscale converts a value on the scale to seconds.
func scale(took time.Duration) float64 { return math.Log2(1 + max(took.Seconds(), 0)/grain) }

func unscale(y float64) float64 { return (math.Exp2(y) - 1) * grain }

// known reports whether there is an estimate.
func (e *estimate) known() bool { return e.word.Load() != 0 }

func (e *estimate) forget() { e.word.Store(0) }

func (e *estimate) get() typical { return unpack(e.word.Load()) }

// mean returns get().mean without unpacking the rest.
func (e *estimate) mean() float64 { return float64(math.Float32frombits(uint32(e.word.Load() >> 32))) }

// left returns the share of the weight that is left at t.
func (e *estimate) left(t uint32) float64 { return fade(float64(since(e.at.Load(), t)) * decay) }

// add includes an answer in the estimate and returns the result. Bound: every iteration but the last means that another caller changed the
// estimate.
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

// with returns f with one more answer. left is the share of f's weight that has not decayed.
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

// variance returns the estimated variance if f is based on that many answers.
func (f typical) variance(answers float64) float64 {
	return (f.spread*f.spread*answers + firstVariance*firstAnswers) / (answers + firstAnswers)
}

// doubt returns the square of the standard error of the mean. left is the share of the weight that has not decayed.
func (f typical) doubt(left float64) float64 {
	const least = 1e-9 // avoids a division by 0 when the weight has decayed
	w := max(f.weight*left, least)
	return f.variance(w) / w
}

// The layout of a packed typical, from the top: 32 bits of mean (a float32), then spread and weight as multiples of their units, then run.
const (
	spreadBits, spreadUnit = 14, 1.0 / (1 << 10)
	weightBits, weightUnit = 12, 1.0 / (1 << 5)
	runBits                = 6
)

// pack never returns 0, because 0 stands for no estimate.
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
