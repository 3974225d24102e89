package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// Latency is what is known of how soon a member answers, and of how likely well. Whoever judges requests tells it, [PeakEWMA] asks
// it. It belongs to the member and is shared by all pickers over it; it takes no lock. The zero Latency knows nothing.
//
// What is known of answers has three parts; what has not been answered yet is a fourth ([Latency.silent]). Each of the three is forgotten
// when it is not renewed, so that a member that was avoided is tried again:
//   - the mean of the answers, over the last ten seconds or the last 64 answers, whichever are fewer (an exponentially weighted
//     moving average; over the first ones it is the plain average). An answer counts as four times the mean and 20 ms at most:
//     one that had to wait for a busy machine says little, three in a row say enough;
//   - the peak: an answer that takes longer than 250 ms counts as what it is at once, for about two seconds. If it is no
//     exception the mean has come to it by then. One slow request in a mix of many kinds makes nobody an outcast;
//   - the blame: every failure doubles what an answer is taken to cost, every success halves what has come together, in
//     doublings. So a member that fails half its requests costs about three times as much, one that fails all a thousand times,
//     however fast it does so.
type Latency struct {
	answers atomic.Uint32
	mean    fading // seconds
	peak    fading // seconds
	blame   fading // doublings

	longest fading        // seconds: the longest answer of the last minute or so
	waiting atomic.Int32  // requests that wait for their answers
	heard   atomic.Uint32 // when there was one last, or the first of those who wait began to

	avoided, trials atomic.Uint64 // picks
}

const (
	// decay and peakDecay are how many times a number halves in a tick, so that it decays by e in ten seconds and in two.
	decay     = math.Log2E * float64(tickLength) / float64(10*time.Second)
	peakDecay = math.Log2E * float64(tickLength) / float64(2*time.Second)

	// sampleWindow is how many answers the mean is of at most.
	sampleWindow = 64
	// mostTimes and mostMore, in seconds, are what an answer counts as at most in relation to the mean.
	mostTimes, mostMore = 4, 0.020
	// peakFloor is what an answer must take longer than to be a peak, in seconds.
	peakFloor = 0.250
	// longestDecay is decay for the longest answer: it decays by e in a minute.
	longestDecay = decay / 6
	// farLonger is how many times as long as the longest answer it must take until no answer is a silence.
	farLonger = 2
	// mostBlame bounds the doublings, and so for how long a failing member is left alone.
	mostBlame = 10
)

// Asked tells that a request waits for its answer from now on. One Told has to follow.
func (l *Latency) Asked(now time.Time) {
	if l.waiting.Add(1) == 1 {
		l.heard.Store(tickOf(now))
	}
}

// Told tells that a request waits no more, and whether that is because the member did something.
func (l *Latency) Told(something bool, now time.Time) {
	if something {
		l.heard.Store(tickOf(now))
	}
	l.waiting.Add(-1)
}

// silent tells whether requests have been waiting for far longer than answers take, of which the mean is that many seconds, and none
// has come all the while. A member that hangs shows by nothing else.
func (l *Latency) silent(mean float64, t uint32) bool {
	if l.waiting.Load() == 0 {
		return false
	}
	longest, age := l.longest.get(t)
	seconds := float64(int32(t-l.heard.Load())) * tickLength.Seconds()
	return seconds > mostTimes*mean+mostMore && seconds > farLonger*float64(longest)*fade(age*longestDecay)
}

// Answered tells of an answer that speaks for the member, and how long it took.
func (l *Latency) Answered(took time.Duration, now time.Time) {
	t, d := tickOf(now), float32(took.Seconds())
	n := l.answers.Load()
	if n < sampleWindow {
		n = l.answers.Add(1)
	}
	l.average(d, n, t)
	l.raise(d, t)
	if longest, age := l.longest.get(t); d > longest*float32(fade(age*longestDecay)) {
		l.longest.change(t, func(old float32, age float64) float32 { return max(old*float32(fade(age*longestDecay)), d) })
	}
	if l.blame.known() {
		l.blame.change(t, func(old float32, age float64) float32 {
			if old *= float32(fade(age*decay)) / 2; old < 1.0/32 {
				return 0
			}
			return old
		})
	}
}

// Unanswered tells that there was no answer in that time, and that nobody is to blame: the one who asked left, or took the answer
// of another member. All that follows is that the member is not faster than this.
func (l *Latency) Unanswered(took time.Duration, now time.Time) {
	l.atLeast(float32(took.Seconds()), tickOf(now))
}

// Failed tells of an answer that speaks against the member, or that there was none. However soon that was, it makes nobody fast.
func (l *Latency) Failed(took time.Duration, now time.Time) {
	t := tickOf(now)
	l.atLeast(float32(took.Seconds()), t)
	l.blame.change(t, func(old float32, age float64) float32 {
		return min(old*float32(fade(age*decay))+1, mostBlame)
	})
}

// Forget makes the member one that nothing is known of, as it is when it has been away.
func (l *Latency) Forget() {
	l.answers.Store(0)
	l.mean.forget()
	l.peak.forget()
	l.blame.forget()
	l.longest.forget()
}

// Estimate returns how long the next answer is expected to take, 0 if nothing is known of that.
func (l *Latency) Estimate(now time.Time) time.Duration {
	seconds, _ := l.expect(tickOf(now))
	return time.Duration(seconds * float64(time.Second))
}

// Penalty returns how many times as expensive failures make an answer, 1 if there were none lately.
func (l *Latency) Penalty(now time.Time) float64 {
	_, factor := l.expect(tickOf(now))
	return factor
}

// atLeast notes that an answer takes d or more. It makes nobody known, nor faster.
func (l *Latency) atLeast(d float32, t uint32) {
	if mean, _ := l.mean.get(t); mean > 0 && d > mean {
		l.average(d, l.answers.Load(), t)
	}
	l.raise(d, t)
}

// average makes d part of the mean, as one of n.
func (l *Latency) average(d float32, n, t uint32) {
	l.mean.change(t, func(old float32, age float64) float32 {
		left := fade(age * decay)
		if left < 0.4 {
			old *= float32(left) // it was only tried because its mean had fallen to this: it must not rise again
		}
		share := max(1-left, 1/float64(max(n, 1)))
		if old == 0 {
			share = 1 // also for one that was counted later than another that is on its way
		}
		return old + (min(d, mostTimes*old+mostMore)-old)*float32(share)
	})
}

// raise notes a peak, if d is one.
func (l *Latency) raise(d float32, t uint32) {
	if d <= peakFloor {
		return
	}
	l.peak.change(t, func(old float32, age float64) float32 { return max(old*float32(fade(age*peakDecay)), d) })
}

// expect returns how long an answer takes, 0 if that is not known, and by how much failures make it more expensive.
func (l *Latency) expect(t uint32) (seconds, factor float64) {
	factor = 1
	if l.answers.Load() > 0 {
		mean, age := l.mean.get(t)
		seconds = float64(mean) * fade(age*decay)
	}
	if l.peak.known() {
		peak, age := l.peak.get(t)
		seconds = max(seconds, float64(peak)*fade(age*peakDecay))
	}
	if l.blame.known() {
		blame, age := l.blame.get(t)
		factor = math.Exp2(float64(blame) * fade(age*decay))
	}
	return seconds, factor
}

// doubt is how much the mean may be off, in seconds: differences within it mean nothing.
func (l *Latency) doubt() float64 {
	n := l.answers.Load()
	if n >= sampleWindow {
		return leastDoubt
	}
	return leastDoubt + firstDoubt/float64(max(n*n, 1))
}

const (
	leastDoubt = 0.005
	firstDoubt = 0.064 // of a single answer, which may have had to wait for a connection
)

// fading is a number and the time that it is of, in one word, so that both are read and replaced at once. The zero fading is 0.
type fading struct{ word atomic.Uint64 }

// tickLength is the unit of these times: 32 bits of it are 208 days, after which a number looks new again.
const tickLength = 1 << 22 * time.Nanosecond

func tickOf(now time.Time) uint32 { return uint32(now.UnixNano() / int64(tickLength)) }

// known tells whether the number is another than 0.
func (f *fading) known() bool { return f.word.Load()>>32 != 0 }

func (f *fading) forget() { f.word.Store(0) }

// get returns the number and its age in ticks, 0 for one of a time to come.
func (f *fading) get(t uint32) (value float32, age float64) { return unpack(f.word.Load(), t) }

// change replaces the number by what next makes of it. Its time is the latest one that was given. Bound: each turn but the last is
// a change that somebody else succeeded with.
func (f *fading) change(t uint32, next func(old float32, age float64) float32) {
	for {
		word := f.word.Load()
		old, age := unpack(word, t)
		at := t
		if age == 0 {
			at = uint32(word)
			if word == 0 {
				at = t
			}
		}
		if f.word.CompareAndSwap(word, uint64(math.Float32bits(next(old, age)))<<32|uint64(at)) {
			return
		}
	}
}

func unpack(word uint64, t uint32) (value float32, age float64) {
	return math.Float32frombits(uint32(word >> 32)), float64(max(int32(t-uint32(word)), 0))
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
