package balance

import (
	"math/bits"
	"sync/atomic"
)

// waiting counts the requests that wait for a member's answer, and how many of them are overdue: they have been waiting for far longer
// than its answers take. They are counted by the turn in which they began; turns are so long that what has begun neither in this one
// nor in the last is overdue.
type waiting struct {
	total atomic.Int32
	turns [2]atomic.Uint64 // number of an even turn and of an odd one, with how many of the requests that began in it wait
	shift atomic.Uint32    // a turn is 1<<shift ticks

	heard    atomic.Uint32 // tick of the last answer, or when the first of those who wait began to
	asked    atomic.Int32  // requests that have begun since the last answer
	overtook atomic.Uint32 // tick of the last answer that came while another request was overdue; 0 if there was none
}

// Ticket is what a request that waits was given by [Latency.Asked].
type Ticket struct{ turn uint32 }

const (
	// overdueTimes and overdueMore, in seconds, are how much longer than a typical answer an overdue one takes.
	overdueTimes, overdueMore = 4, 0.020
	// mostOverdue is how many overdue requests at most are taken for slow pages of a member that answers nothing now.
	mostOverdue = 2
	// overtaking is for how long it counts that an answer came while another request was overdue.
	overtaking = ticksPerMinute
)

// overdueAfter is how many seconds a request waits until it is overdue, if its answers typically take so many.
func overdueAfter(typical float64) float64 { return overdueTimes*typical + overdueMore }

// size makes turns as long as it takes, or up to four times that, until a request is overdue. With another length no turn has the
// number that it had, and for one turn all who wait seem to be overdue: a mean that wavers must not change it to and fro.
func (w *waiting) size(typical float64) {
	const most = 1 << 20 // ticks: more than an hour
	shift := uint32(bits.Len64(uint64(min(overdueAfter(typical)/tickLength.Seconds(), most))))
	if now := w.shift.Load(); shift > now || shift+1 < now {
		w.shift.Store(shift)
	}
}

func (w *waiting) turn(t uint32) uint32 { return t >> w.shift.Load() }

// begin counts a request from t on. Bound: each turn of the loop but the last is a change that somebody else succeeded with.
func (w *waiting) begin(t uint32) Ticket {
	w.asked.Add(1)
	if w.total.Add(1) == 1 {
		w.heard.Store(t)
	}
	turn := w.turn(t)
	for count := &w.turns[turn&1]; ; {
		word := count.Load()
		next := word + 1
		if uint32(word>>32) != turn {
			next = uint64(turn)<<32 | 1
		}
		if count.CompareAndSwap(word, next) {
			return Ticket{turn}
		}
	}
}

// end stops counting a request; answered reports whether the member did something.
func (w *waiting) end(k Ticket, answered bool, t uint32) {
	if answered {
		w.heard.Store(t)
		w.asked.Store(0)
		if w.total.Load() > 1 && w.turn(t)-k.turn <= 1 && w.overdue(t) > 0 {
			w.overtook.Store(max(t, 1))
		}
	}
	w.total.Add(-1)
	// Bound: as in begin.
	for count := &w.turns[k.turn&1]; ; {
		word := count.Load()
		if uint32(word>>32) != k.turn || uint32(word) == 0 || count.CompareAndSwap(word, word-1) {
			return
		}
	}
}

// overdue is how many requests are.
func (w *waiting) overdue(t uint32) int {
	n := int(w.total.Load())
	turn := w.turn(t)
	for _, recent := range [2]uint32{turn, turn - 1} {
		if word := w.turns[recent&1].Load(); uint32(word>>32) == recent {
			n -= int(uint32(word))
		}
	}
	return max(n, 0)
}

// pages is how many of the requests that wait are taken for slow pages, which say nothing of how busy the member is: those that are
// overdue, if the member has shown that it answers others meanwhile. It must have answered within the last turn, unless nobody else
// waits, so that it had no chance to.
func (w *waiting) pages(t uint32) int {
	if w.total.Load() == 0 {
		return 0
	}
	n := w.overdue(t)
	if n == 0 {
		return 0
	}
	if !w.overtakes(t) {
		return 0
	}
	if since(w.heard.Load(), t) <= 1<<w.shift.Load() || n <= mostOverdue && n == int(w.total.Load()) {
		return n
	}
	return 0
}

// overtakes reports whether an answer has come lately while another request was overdue.
func (w *waiting) overtakes(t uint32) bool {
	at := w.overtook.Load()
	return at != 0 && since(at, t) <= overtaking
}

// stuck reports whether requests wait, and so many have begun since the last answer that it cannot be all slow pages or long polls. A
// single one may be; where there have been some, so may two.
func (w *waiting) stuck(t uint32) bool {
	return w.total.Load() > 0 && (w.asked.Load() > 2 || w.asked.Load() == 2 && !w.overtakes(t))
}

// silentFor is for how many seconds requests have been waiting and none has been answered.
func (w *waiting) silentFor(t uint32) float64 {
	if w.total.Load() == 0 {
		return 0
	}
	return secondsOf(since(w.heard.Load(), t))
}
