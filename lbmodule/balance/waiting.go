package balance

import (
	"math/bits"
	"sync/atomic"
)

// waiting counts the requests that wait for a member's answer, and how many of them are overdue, which means that they have been waiting
// for far longer than its answers take. Time is divided into turns, and requests are counted by the turn in which they began. A turn is so
// long that a request that began neither in the current turn nor in the previous one is overdue.
type waiting struct {
	total atomic.Int32
	turns [2]atomic.Uint64 // the latest even turn and the latest odd one: its number, and how many of the requests that began in it still wait
	shift atomic.Uint32    // a turn is 1<<shift ticks

	heard    atomic.Uint32 // tick of the last answer, or the one at which the first of the waiting requests began
	asked    atomic.Int32  // requests that have begun since the last answer
	overtook atomic.Uint32 // tick of the last answer that came while another request was overdue; 0 if there was none
}

// Ticket identifies a waiting request. [Latency.Asked] returns it.
type Ticket struct{ turn uint32 }

const (
	// A request is overdue after overdueTimes the typical time of an answer plus overdueMore seconds.
	overdueTimes, overdueMore = 4, 0.020
	// mostOverdue is the maximum number of overdue requests that are taken for slow pages while the member answers nothing.
	mostOverdue = 2
	// overtaking is how long it is remembered that an answer came while another request was overdue.
	overtaking = ticksPerMinute
)

// overdueAfter returns after how many seconds a request is overdue, given the typical time of an answer in seconds.
func overdueAfter(typical float64) float64 { return overdueTimes*typical + overdueMore }

// size sets the length of a turn to between one and four times the time after which a request is overdue. A change of the length renumbers
// all turns, so that for one turn all waiting requests look overdue. Therefore a mean that fluctuates must not change the length back and
// forth.
func (w *waiting) size(typical float64) {
	const most = 1 << 20 // ticks: more than an hour
	shift := uint32(bits.Len64(uint64(min(overdueAfter(typical)/tickLength.Seconds(), most))))
	if now := w.shift.Load(); shift > now || shift+1 < now {
		w.shift.Store(shift)
	}
}

func (w *waiting) turn(t uint32) uint32 { return t >> w.shift.Load() }

// begin counts a request from t on. Bound: every iteration but the last means that another caller changed the count.
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

// end stops counting a request. answered says whether the member did something to end it.
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

// overdue returns the number of overdue requests.
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

// pages returns how many of the waiting requests are taken for slow pages, which say nothing about how busy the member is. These are the
// overdue ones, if the member has shown that it answers other requests in the meantime. It must have answered within the last turn, unless
// only overdue requests wait, so that there was nothing else to answer.
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

// overtakes reports whether an answer came recently while another request was overdue.
func (w *waiting) overtakes(t uint32) bool {
	at := w.overtook.Load()
	return at != 0 && since(at, t) <= overtaking
}

// stuck reports whether requests wait and too many have begun since the last answer for all of them to be slow pages or long polls. One
// request may be a slow page; on a member that has had slow pages recently (overtakes), two may be.
func (w *waiting) stuck(t uint32) bool {
	return w.total.Load() > 0 && (w.asked.Load() > 2 || w.asked.Load() == 2 && !w.overtakes(t))
}

// silentFor returns for how many seconds requests have been waiting without any answer.
func (w *waiting) silentFor(t uint32) float64 {
	if w.total.Load() == 0 {
		return 0
	}
	return secondsOf(since(w.heard.Load(), t))
}
