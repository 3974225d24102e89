// Package limit finds out how many requests a backend can work on at a time.
//
// It knows nothing but how long answers took and when they came. Below the number that a backend can work on, more requests in flight
// mean more answers, which take as long as before. Above it they only wait in the backend's own queue: by Little's law each of them takes
// longer by as much as there are more. So the limit is not compared with a remembered latency alone: it is moved a little, down and up,
// all the time, and what that does to the latency says where it should be. That is the gradient of online learning congestion controls
// such as PCC Vivace (Dong et al., NSDI 2018). The place that it looks for is a knee: the latency grows there as a given share of the
// limit's growth. At a half that would be the largest power, throughput by latency, of Kleinrock (1979); here it is more, because what counts
// is that nearly all of the throughput is there.
//
// A single balancer among others at the same backend moves next to nothing by itself. So there is a second sign: the latency in relation to
// what it is with a short queue, as in TCP Vegas (Brakmo and Peterson, 1995) and in the gradients of Netflix's concurrency-limits and of
// Envoy's adaptive concurrency. Those learn that latency slowly from all answers, so that it drifts upwards in an overload that lasts, or
// stop nearly all requests from time to time to measure it. Here it rises only as far as a short queue may explain, and otherwise when the
// limit was halved and the latency did not follow.
package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Initial is the limit of a backend of which nothing is known: that of Netflix's concurrency-limits.
	Initial = 20
	// Least is the smallest limit. A backend that works on one request at a time needs no more.
	Least = 1
	// Most is the largest limit. A backend that can work on more needs none.
	Most = 10_000
)

const (
	// reach is how far the limit is moved down and up, as a share.
	reach = 0.15
	// knee is how much of the limit's growth the latency may follow. The rest of it is throughput.
	knee = 0.85
	// tolerance is how many times as long as with a short queue an answer may take.
	tolerance = 1.75
	// farAbove is as much of it when it is halved, if that was far above the knee.
	farAbove = 0.65
	// follows is the largest pressure.
	follows = 1.5

	// upGain and downGain are how far the limit's logarithm moves, in relation to how far the pressure is from the knee.
	upGain, downGain = 0.3, 0.5
	// climb is by how much it rises while nothing is known against that: it doubles.
	climb = math.Ln2
	// queued is how much longer answers take, as a logarithm, about where a backend begins to queue. leastTrust is the least part of a move.
	queued, leastTrust = 0.3, 0.6
	// fall is by how much it falls at most.
	fall = 1.2
	// leastFall is by how much it may fall when answers take no longer than with a short queue.
	leastFall = 0.03
	// leanShare is the share of a slope in the average of the last ones, mostLean the most that counts of it, and leaning an average that
	// is only seen well above the knee.
	leanShare, mostLean, leaning = 0.25, 1.25, 0.95
	// easy is the pressure up to which nothing speaks against a climb, and easyRun how many times in a row that must be so.
	easy, easyRun = 0.4, 3

	// baseDown and baseUp are the shares of a difference by which the base follows.
	baseDown, baseLevel, baseUp = 0.25, 0.15, 0.02
	// level is an average of slopes at which there is no queue.
	level = 0.2
	// shortQueue is how much longer answers may take, as a logarithm, when the base still follows.
	shortQueue = 0.3

	// settling is how many times as long as an answer nothing is measured after a change, and collecting how many times as long it is
	// measured at least.
	settling, collecting = 1.5, 2
	// shortest is how long it is measured at least, and longest at most if there are enough answers.
	shortest, longest = 50 * time.Millisecond, time.Second
	// leastAnswers is how many answers are enough, and mostAnswers how many are always enough.
	leastAnswers, mostAnswers = 12, 400
	// precise is the standard error of a latency's logarithm that is small enough to compare small moves, and rough that for a half.
	precise, rough = 0.06, 0.12
	// stale is how old a measurement may be that still has too few answers.
	stale = 5 * time.Second

	// overloaded is the share of answers that say so, or of timeouts and broken connections, which presses as hard as a knee.
	overloaded = 0.1
)

// Limit is the limit of one backend. It is safe for concurrent use. Answers are counted without a lock; the one who counts the last of a
// measurement draws the conclusion.
type Limit struct {
	room    atomic.Int64 // how many requests may be in flight: the limit, and one for each stream
	streams atomic.Int64
	shown   atomic.Int64 // the upper limit of the two that are in force in turn

	opens, due            atomic.Int64 // when measuring begins, and when it may end, in Unix nanoseconds
	answers, pinned, lost atomic.Int64
	roots, total          atomic.Int64 // sums of the square roots of latencies, in rootUnit, and of latencies, in nanoseconds

	mu      sync.Mutex // guards what follows
	center  float64    // the limit between the two
	low     bool       // the lower of the two is in force
	high    measurement
	base    float64 // logarithm of the latency with a short queue
	based   bool    // base is known
	warm    bool    // the limit was exercised all through the measurement before
	ease    int     // how many times in a row there was next to no pressure
	seeks   int     // which way it goes with large steps, as nothing is known yet; 0 if it does not
	lean    float64 // average of the last slopes
	before  anchor  // where the limit was before it was halved
	at      float64 // the limit at which the latency of before was measured
	dips    int64   // when it is halved next to find out whether the base is right, in Unix nanoseconds; 0 if nothing was compared yet
	anchor  anchor
	strains int     // how many times in a row answers took too long
	losing  float64 // center when so many requests began to be lost that it falls; 0 if they are not
	usual   float64 // share of requests that are lost whatever the limit
}

// Directions of seeking: up, down, or whichever the first comparison says.
const (
	seekUp, seekDown, seekAny = 1, -1, 2

	// firstDip and dipEvery are how long it takes until the limit is halved for a moment, as BBR does in its ProbeRTT (Cardwell et al.,
	// 2016): a base that was learned in an overload is too high, and the small moves do not show that if latencies vary much.
	firstDip, dipEvery = 5 * time.Second, 30 * time.Second
)

// rootUnit is how many parts of the square root of a nanosecond are counted.
const rootUnit = 64

// measurement is what was measured while one limit was in force.
type measurement struct {
	latency float64 // logarithm of a typical latency in nanoseconds
	spread  float64 // its standard error
	mean    float64 // latency in nanoseconds
	lost    float64 // share of the requests that were lost
}

// anchor is where the limit was when the latency began to be too long for no reason that was seen.
type anchor struct {
	set             bool
	center, latency float64
}

// New returns a limit of which nothing is known.
func New() *Limit {
	l := new(Limit)
	l.reset()
	return l
}

// Room returns the number of requests that may be in flight, which changes.
func (l *Limit) Room() *atomic.Int64 { return &l.room }

// Current returns the limit.
func (l *Limit) Current() int { return int(l.shown.Load()) }

// Forget drops what is known about the backend, because it has been away.
func (l *Limit) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reset()
}

// reset makes l new, but for its streams. The caller holds mu.
func (l *Limit) reset() {
	l.center, l.based, l.warm, l.ease, l.seeks, l.anchor = Initial, false, false, 0, seekAny, anchor{}
	l.lean, l.before, l.dips = 0, anchor{}, 0
	l.losing, l.usual, l.strains = 0, 0, 0
	l.open(false, 0, 0)
}

// Begin counts a stream: a request that may stay for as long as its client likes, and of which the backend's latency says nothing. It takes
// no room from others. End undoes it.
func (l *Limit) Begin() {
	l.streams.Add(1)
	l.room.Add(1)
}

// End undoes Begin.
func (l *Limit) End() {
	l.room.Add(-1)
	l.streams.Add(-1)
}

// Answered records how long a good answer took, while so many requests were in flight, this one and streams included. wanted says that more
// requests wait for room. It reports whether the room is another now.
func (l *Limit) Answered(took time.Duration, inFlight int64, wanted bool, now time.Time) bool {
	t := now.UnixNano()
	if t < l.opens.Load() || took < 0 {
		return false
	}
	l.answers.Add(1)
	l.roots.Add(int64(math.Sqrt(float64(took)) * rootUnit))
	l.total.Add(int64(took))
	if room := l.room.Load(); wanted || inFlight >= room-max(1, (room-l.streams.Load())/10) {
		l.pinned.Add(1)
	}
	return t >= l.due.Load() && l.conclude(t)
}

// Lost records that the backend said that it is overloaded, did not answer in time, or broke a connection. It reports whether the room is
// another now.
func (l *Limit) Lost(now time.Time) bool {
	t := now.UnixNano()
	if t < l.opens.Load() {
		return false
	}
	l.lost.Add(1)
	return t >= l.due.Load() && l.conclude(t)
}

// conclude ends the measurement, if it is good enough.
func (l *Limit) conclude(t int64) bool {
	if !l.mu.TryLock() {
		return false // somebody else does it
	}
	defer l.mu.Unlock()
	if t < l.due.Load() {
		return false
	}
	before := l.room.Load()
	age := time.Duration(t - l.opens.Load())
	n, lost := l.answers.Load(), l.lost.Load()
	m := l.measured(n, lost)
	if enough := n+lost >= leastAnswers; !enough && age < stale || enough && n < mostAnswers && m.spread > l.precision() && age < longest {
		l.due.Store(t + int64(age/4))
		return false
	} else if !enough {
		l.idle(t, m.mean)
		return l.room.Load() != before
	}
	pinned, warm := lost > 0 || 3*l.pinned.Load() >= 2*n, l.warm
	l.warm = pinned
	if n > 0 {
		l.learn(m.latency)
	}
	switch {
	case n == 0:
		l.move(-downGain*(follows-knee), t)
	case !pinned:
		l.idle(t, m.mean)
	case !warm:
		l.open(false, t, m.mean) // the queues may only have begun to grow
		l.opens.Add(int64(settling * m.mean))
		l.due.Add(int64(settling * m.mean))
	case l.before.set:
		l.halved(m.latency, t)
	case !l.low:
		l.high = m
		l.open(true, t, m.mean)
	default:
		l.compare(&m, t)
	}
	return l.room.Load() != before
}

// idle goes on with the upper limit where fewer requests came than it admits: they say nothing about it.
func (l *Limit) idle(t int64, mean float64) {
	if l.before.set {
		l.center, l.before.set = l.before.center, false
	}
	l.warm = false
	l.open(false, t, mean)
}

// measured sums up. The typical latency is the power mean with an exponent of a half: the logarithm of the mean would hear nothing but the
// few slow answers, that of the geometric mean nothing of them.
func (l *Limit) measured(n, lost int64) (m measurement) {
	if n+lost > 0 {
		m.lost = float64(lost) / float64(n+lost)
	}
	if n == 0 {
		return m
	}
	root := float64(l.roots.Load()) / rootUnit / float64(n)
	m.mean = float64(l.total.Load()) / float64(n)
	if root <= 0 {
		root = 1
	}
	m.latency = 2 * math.Log(root)
	m.spread = 2 * math.Sqrt(max(m.mean-root*root, 0)/float64(n)) / root
	return m
}

// learn makes the base follow a latency.
func (l *Limit) learn(latency float64) {
	switch {
	case !l.based:
		l.base, l.based = latency, true
	case latency < l.base:
		l.base += baseDown * (latency - l.base)
	case latency < l.base+shortQueue && l.lean < level:
		l.base += baseLevel * (latency - l.base)
	case latency < l.base+shortQueue:
		l.base += baseUp * (latency - l.base)
	}
}

// compare moves the limit by what the lower and the upper one did. The lower one has just been measured.
func (l *Limit) compare(low *measurement, t int64) {
	down, up := bounds(l.center)
	width := math.Log(float64(up) / float64(down))
	slope := (l.high.latency - low.latency) / width
	doubt := math.Hypot(l.high.spread, low.spread) / width
	latency := (l.high.latency + low.latency) / 2
	strain := knee * (latency - l.base) / math.Log(tolerance)
	if l.relearn(latency, strain) {
		l.move(0, t)
		return
	}
	strain = max(strain, l.losses((l.high.lost+low.lost)/2))
	trust := 1 / (1 + 4*doubt*doubt)
	excess := latency - l.base // of what a short queue takes
	// Where latencies vary so much that a slope says little, how long answers take says more.
	likely := trust*min(slope, 1) + (1-trust)*min(knee*excess/queued, 1)
	pressure := max(likely, min(strain, follows), 0)
	trust = max(trust, leastTrust)
	l.lean += leanShare * (min(max(slope, -mostLean), mostLean) - l.lean)
	if l.ease++; pressure > easy && (pressure > knee || l.lean > easy || excess > queued) {
		l.ease = 0
	}
	if l.dips == 0 {
		l.dips = t + int64(firstDip)
	}
	if l.seeks == 0 && t >= l.dips && l.center >= 2*Least {
		l.dips = t + int64(dipEvery)
		l.halve(latency, math.Sqrt(float64(down*up)), t)
		return
	}
	if l.seek(pressure, latency, t) {
		return
	}
	switch {
	case l.ease >= easyRun:
		l.move(climb*trust, t)
	case pressure < knee:
		l.move(upGain*(knee-pressure)*trust, t)
	case likely >= knee:
		by := downGain * (knee - pressure)
		by = min(by, queued-excess)
		if l.lean < leaning {
			by = max(by, -max(excess, 0)-leastFall)
		}
		l.move(max(by*trust, -fall), t)
	default:
		l.move(downGain*(knee-pressure), t)
	}
}

// seek doubles or halves the limit until that has gone too far. It reports whether it did.
func (l *Limit) seek(pressure, latency float64, t int64) bool {
	if l.seeks == 0 {
		return false
	}
	way := 0
	switch {
	case pressure <= easy:
		way = seekUp
	case pressure >= knee:
		way = seekDown
	}
	if way == 0 || l.seeks != way && l.seeks != seekAny {
		l.seeks = 0
		return false
	}
	l.seeks = way
	if way == seekDown {
		down, up := bounds(l.center)
		l.halve(latency, math.Sqrt(float64(down*up)), t)
	} else {
		l.move(climb, t)
	}
	return true
}

// halve halves the limit, to compare how long answers take then. They took that long with a limit of at.
func (l *Limit) halve(latency, at float64, t int64) {
	l.before, l.at = anchor{true, l.center, latency}, at
	l.move(-climb, t)
}

// halved compares what it did that the limit was halved, and halves it again if it was far above the knee. A whole step shows more than a
// small one.
func (l *Limit) halved(latency float64, t int64) {
	before := l.before
	_, up := bounds(l.center)
	gone, step := before.latency-latency, math.Log(l.at/float64(up))
	if gone >= farAbove*step && l.center >= 2*Least {
		l.base = min(l.base, latency)
		l.halve(latency, float64(up), t)
		return
	}
	if gone < step/2 {
		gone = 0 // it was about right
	} else {
		l.base = min(l.base, latency)
		l.dips = t + int64(firstDip)
	}
	// Now it is below the knee. That is where answers begin to take longer than they do now.
	l.center = max(l.center, l.at*math.Exp(-gone))
	l.before.set, l.seeks = false, 0
	l.move(0, t)
}

// precision is the standard error of the latency's logarithm that is small enough.
func (l *Limit) precision() float64 {
	if l.before.set {
		return rough
	}
	return precise
}

// relearn reports whether the latency with a short queue turned out to be another: the limit was halved because answers took too long,
// and they still do.
func (l *Limit) relearn(latency, strain float64) bool {
	switch {
	case strain < knee:
		l.anchor, l.strains = anchor{}, 0
	case !l.anchor.set:
		// The first time, part of it is from before.
		if l.strains++; l.strains > 1 {
			l.anchor = anchor{true, l.center, latency}
		}
	case l.center <= l.anchor.center/2 || l.center <= Least:
		old := l.anchor
		l.anchor = anchor{true, l.center, latency}
		if latency > old.latency-math.Ln2/2 {
			l.base, l.center, l.anchor.set = latency, old.center, false
			return true
		}
	}
	return false
}

// losses returns the pressure of the share of requests that were lost. Where that stays when the limit has fallen as far as it can, it has
// other causes, and counts no more for a while.
func (l *Limit) losses(share float64) float64 {
	l.usual -= l.usual * baseUp
	pressure := knee * (share - l.usual) / overloaded
	switch {
	case pressure < knee:
		l.losing = 0
	case l.losing == 0:
		l.losing = l.center
	case l.center < 2*Least:
		l.usual, l.center, l.losing = share, l.losing, 0
		return 0
	}
	return pressure
}

// move changes the limit's logarithm, and goes on with the upper limit.
func (l *Limit) move(by float64, t int64) {
	l.center = min(max(l.center*math.Exp(by), Least), Most)
	l.open(false, t, l.high.mean)
}

// bounds are the two limits that are in force in turn.
func bounds(center float64) (down, up int64) {
	down = max(int64(math.Ceil(center*(1-reach))), Least)
	up = min(max(int64(math.Round(center*(1+reach))), down+1), Most)
	return min(down, up-1), up
}

// open begins a measurement, with the lower or the upper limit. mean is how long answers take, in nanoseconds.
func (l *Limit) open(low bool, t int64, mean float64) {
	down, up := bounds(l.center)
	next := up
	if low {
		next = down
	}
	before := l.room.Load() - l.streams.Load()
	if next != before {
		l.room.Add(next - before)
	}
	settle := int64(0)
	if low != l.low || next != before {
		settle = int64(settling * mean)
	}
	l.low = low
	l.shown.Store(up)
	l.answers.Store(0)
	l.pinned.Store(0)
	l.lost.Store(0)
	l.roots.Store(0)
	l.total.Store(0)
	settle = min(settle, int64(stale))
	l.opens.Store(t + settle)
	l.due.Store(t + settle + max(int64(shortest), min(int64(collecting*mean), int64(longest))))
}
