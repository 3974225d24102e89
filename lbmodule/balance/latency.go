package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// Latency records how fast a member answers, and how often it fails. Callers that judge requests write to it, and [PeakEWMA] reads it. It
// belongs to the member and is shared by all pickers over it; it takes no lock. The zero Latency has no records.
//
// It has four parts:
//   - how long answers take, and how certain that is;
//   - the requests that wait for an answer, and which of them are overdue;
//   - the blame, counted in doublings of the cost: a failure adds one, a success halves the count. So a member that fails half its requests
//     costs about three times as much, one that fails all of them a thousand times as much, however fast it fails. The blame decays by e in
//     twenty seconds;
//   - the tail: the share of overdue answers among the last 512 or so.
type Latency struct {
	// The fields that every pick reads come first, to share a cache line.
	takes   estimate
	blame   fading        // doublings
	suspect atomic.Bool   // a choice has avoided the member since a request to it last ended
	hopeful atomic.Bool   // the last answer suggests that there is no reason to avoid the member
	tried   atomic.Uint32 // tick of the last request or of the last answer
	waiting waiting

	longest fading        // seconds: the longest answer of the last minute or so
	tail    atomic.Uint32 // a share, as the bits of a float32

	avoided, trials atomic.Uint64 // choices
	lastTrial       atomic.Uint32 // tick
}

const (
	// longestDecay is decay for the longest answer: it decays by e in a minute.
	longestDecay = decay / 6
	// farLonger is how many times the longest answer a member must be without an answer to count as silent.
	farLonger = 2
	// blameDecay is decay for the blame: it decays by e in twenty seconds.
	blameDecay = decay / 2
	// mostBlame is the maximum number of doublings. Less than leastBlame counts as none. Two failures in a row make less than slightBlame.
	// They may come from a page that fails on every member, so such a member is tried again at once.
	mostBlame, leastBlame, slightBlame = 10, 1.0 / 32, 2.6
	// tailWindow is how many answers the tail covers.
	tailWindow = 512
	// longAnyway is a time that is long for an answer of any member.
	longAnyway = 250 * time.Millisecond
)

// Asked records that a request waits for its answer from now on. The caller must pass the returned ticket to Told.
func (l *Latency) Asked(now time.Time) Ticket {
	t := tickOf(now)
	l.tried.Store(t)
	return l.waiting.begin(t)
}

// Told records that a request no longer waits, and whether the member did something to end that.
func (l *Latency) Told(k Ticket, something bool, now time.Time) {
	t := tickOf(now)
	l.tried.Store(t)
	if l.suspect.Load() {
		l.suspect.Store(false)
	}
	l.waiting.end(k, something, t)
}

// Answered records a good answer, and how long it took.
func (l *Latency) Answered(took time.Duration, now time.Time) {
	t, d := tickOf(now), took.Seconds()
	if l.takes.known() {
		l.lengthen(d > overdueAfter(unscale(l.takes.mean())))
	}
	f := l.takes.add(scale(took), t)
	l.waiting.size(unscale(f.mean))
	if d > l.longest.get(t, longestDecay) {
		l.longest.change(t, longestDecay, func(left float64) float64 { return max(left, d) })
	}
	hopeful := f.run < 0 || f.weight == 1 // better than the estimate, or the first answer
	if l.blame.known() {
		hopeful = true
		l.blame.change(t, blameDecay, func(left float64) float64 {
			if left /= 2; left < leastBlame {
				return 0
			}
			return left
		})
	}
	// A slow answer to a request that is older than the last trial says nothing about the trial.
	const rounding = 1
	if began := t - uint32(took/tickLength); l.hopeful.Load() != hopeful && (hopeful || !l.triedSince(began+rounding)) {
		l.hopeful.Store(hopeful)
	}
}

// lengthen updates the tail with one answer. Of two concurrent updates one may be lost.
func (l *Latency) lengthen(overdue bool) {
	tail := l.tailShare()
	switch {
	case overdue:
		tail += (1 - tail) / tailWindow
	case tail == 0:
		return
	default:
		tail -= tail / tailWindow
	}
	l.tail.Store(math.Float32bits(float32(tail)))
}

func (l *Latency) tailShare() float64 { return float64(math.Float32frombits(l.tail.Load())) }

// Unanswered records that there was no answer in that time for a reason that is not the member's fault: the client left, or another member
// answered. It shows only that the member takes at least that long.
func (l *Latency) Unanswered(took time.Duration, now time.Time) { l.atLeast(took, tickOf(now)) }

// Failed records a bad answer, or a failure without one. It never makes the member look faster, however soon it came.
func (l *Latency) Failed(took time.Duration, now time.Time) {
	t := tickOf(now)
	l.atLeast(took, t)
	blame := l.blame.change(t, blameDecay, func(left float64) float64 { return min(left+1, mostBlame) })
	l.hopeful.Store(blame < slightBlame)
}

// atLeast records that an answer takes that long or longer. It never lowers the estimate. For a member without an estimate it counts only
// if the time is long.
func (l *Latency) atLeast(took time.Duration, t uint32) {
	if y := scale(took); y > l.takes.mean() && (l.takes.known() || took > longAnyway) {
		l.takes.add(y, t)
	}
}

// triedSince reports whether there has been a trial after t.
func (l *Latency) triedSince(t uint32) bool {
	return l.trials.Load() > 0 && int32(l.lastTrial.Load()-t) > 0
}

// trialPending reports whether the last trial may still be waiting for its answer. Other waiting requests, such as long polls, do not delay the
// next trial.
func (l *Latency) trialPending() bool {
	return l.waiting.total.Load() > 0 && l.triedSince(l.waiting.heard.Load())
}

// awaitsFirst reports whether the member has requests in flight but has never answered one.
func (l *Latency) awaitsFirst() bool { return !l.takes.known() && l.waiting.total.Load() > 0 }

// Forget drops the records. Callers use it when the member comes back after having been down.
func (l *Latency) Forget() {
	l.takes.forget()
	l.blame.forget()
	l.longest.forget()
	l.tail.Store(0)
	l.hopeful.Store(false)
}

// Estimate returns how long a typical answer takes, 0 if that is unknown. A few answers that take far longer or shorter hardly change it.
func (l *Latency) Estimate() time.Duration {
	return time.Duration(unscale(l.takes.mean()) * float64(time.Second))
}

// Penalty returns the factor by which failures make the member more expensive, 1 if there were none recently.
func (l *Latency) Penalty(now time.Time) float64 { return l.penalty(tickOf(now)) }

func (l *Latency) penalty(t uint32) float64 {
	if !l.blame.known() {
		return 1
	}
	return math.Exp2(l.blame.get(t, blameDecay))
}

// silent reports whether requests have been waiting for far longer than answers take, without any answer in that time. This is the only
// sign of a member that hangs.
func (l *Latency) silent(t uint32) bool {
	seconds := l.waiting.silentFor(t)
	return seconds > overdueMore && l.waiting.stuck(t) && seconds > overdueAfter(unscale(l.takes.mean())) && seconds > farLonger*l.longest.get(t, longestDecay)
}

// HeardSince reports whether the member has answered a request after that time, or a request began to wait when no other did. It may miss
// what happened in the few milliseconds after that time.
func (l *Latency) HeardSince(then time.Time) bool {
	return l.takes.known() && int32(l.waiting.heard.Load()-tickOf(then)) > 0
}

// avoid records that a choice has preferred another member. counts says whether the choice is counted.
func (l *Latency) avoid(counts bool) {
	if counts {
		l.avoided.Add(1)
	}
	if !l.suspect.Load() {
		l.suspect.Store(true)
	}
}

// Avoided returns how many choices preferred another member because of this member's answers. It never decreases.
func (l *Latency) Avoided() uint64 { return l.avoided.Load() }

// Trials returns how many requests the member got although it was avoided, to find out whether that still holds. It never decreases.
func (l *Latency) Trials() uint64 { return l.trials.Load() }
