// Package limit adapts the limit of concurrent requests to a backend.
//
// Its only input is how long answers took and when they came. Below the number of requests that a backend can work on at a time, more
// requests in flight mean more answers, which take as long as before. Above it requests only wait in the backend's own queue: by Little's
// law the latency grows in proportion to their number. So the latency is not only compared with a remembered one: the limit is moved a
// little, down and up, all the time, and the effect on the latency shows where the limit should be. That is the gradient of online learning
// congestion controls such as PCC Vivace (Dong et al., NSDI 2018). The limit is moved towards a knee: the point where the latency grows by
// a given share of the limit's growth. A share of one half would maximize power, throughput divided by latency (Kleinrock, 1979); here the
// share is larger, because the goal is nearly all of the throughput.
//
// If many balancers share a backend, one of them has hardly any effect on the latency. So there is a second signal: the latency relative to
// the latency with a short queue (the base), as in TCP Vegas (Brakmo and Peterson, 1995) and in the gradients of Netflix's
// concurrency-limits and of Envoy's adaptive concurrency. Those learn the base slowly from all answers, so that it drifts upwards in a
// lasting overload, or stop nearly all requests from time to time to measure it. Here the base rises only as far as a short queue can
// explain, or when the limit was halved and the latency did not fall.
package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Initial is the limit of a backend of which nothing is known. Netflix's concurrency-limits has the same one.
	Initial = 20
	// Least is the smallest limit. A backend that works on one request at a time needs no more.
	Least = 1
	// Most is the largest limit. A backend that can work on more needs none.
	Most = 10_000
)

const (
	// reach is how far the limit is moved down and up, as a share of it.
	reach = 0.15
	// knee is the share of the limit's growth by which the latency may grow. The rest is growth of throughput.
	knee = 0.85
	// tolerance is the factor by which answers may take longer than with a short queue.
	tolerance = 1.75
	// farAbove is the share of a halving of the limit by which the latency falls if the limit was far above the knee.
	farAbove = 0.65
	// follows is the maximum pressure.
	follows = 1.5

	// upGain and downGain are how far the limit's logarithm moves, per difference between the pressure and the knee.
	upGain, downGain = 0.3, 0.5
	// climb is by how much the limit's logarithm rises while there is no sign of a queue: the limit doubles.
	climb = math.Ln2
	// queued is how much longer answers take, as a logarithm, about where a backend begins to queue. leastTrust is the minimum share of a move
	// that is made however uncertain the measurement is.
	queued, leastTrust = 0.3, 0.6
	// fall is the maximum by which the limit's logarithm falls in one move.
	fall = 1.2
	// leastFall is by how much the limit's logarithm may fall when answers take no longer than with a short queue.
	leastFall = 0.03
	// leanShare is the weight of a slope in the moving average of slopes, mostLean the maximum that counts of a slope, and leaning an average
	// that occurs only well above the knee.
	leanShare, mostLean, leaning = 0.25, 1.25, 0.95
	// easy is the maximum pressure for a climb, and easyRun how many times in a row the pressure must be that low.
	easy, easyRun = 0.4, 3

	// baseDown, baseLevel and baseUp are the shares of the difference to a latency by which the base follows it: see learn.
	baseDown, baseLevel, baseUp = 0.25, 0.15, 0.02
	// level is the average of slopes below which there is no queue.
	level = 0.2
	// shortQueue is how much longer, as a logarithm, answers may take for the base to follow.
	shortQueue = 0.3

	// settling is the pause after a change before a measurement begins, and collecting the minimum length of a measurement, both as multiples
	// of the time that an answer takes.
	settling, collecting = 1.5, 2
	// shortest is the minimum length of a measurement, and longest the maximum if there are enough answers.
	shortest, longest = 50 * time.Millisecond, time.Second
	// leastAnswers is the minimum number of answers, and mostAnswers the number that is enough whatever the precision is.
	leastAnswers, mostAnswers = 12, 400
	// precise is the maximum standard error of a latency's logarithm for comparing small moves, and rough that for comparing a halving.
	precise, rough = 0.06, 0.12
	// stale is the maximum age of a measurement with too few answers.
	stale = 5 * time.Second

	// overloaded is the share of requests lost to overload answers, timeouts and broken connections that counts as a pressure of knee.
	overloaded = 0.1
)

// Limit is the limit of one backend. It is safe for concurrent use. Answers are counted without a lock; the goroutine that counts the last
// answer of a measurement evaluates it.
type Limit struct {
	room    atomic.Int64 // maximum number of requests in flight: the limit, plus one for each stream
	streams atomic.Int64
	shown   atomic.Int64 // the upper one of the two alternating limits

	opens, due            atomic.Int64 // when the measurement begins, and when it may end, in Unix nanoseconds
	answers, pinned, lost atomic.Int64
	roots, total          atomic.Int64 // sums of the square roots of latencies, in rootUnit, and of latencies, in nanoseconds

	mu      sync.Mutex // guards the fields below
	center  float64    // the limit between the two alternating ones
	low     bool       // the lower one is in force
	high    measurement
	base    float64 // logarithm of the latency with a short queue
	based   bool    // base is known
	warm    bool    // the limit was used to the full during the whole measurement before
	ease    int     // how many times in a row there was hardly any pressure
	seeks   int     // the direction of large steps while nothing is known yet; 0 when they have ended
	lean    float64 // moving average of slopes
	before  anchor  // the limit and latency before the limit was halved
	at      float64 // the limit at which the latency of before was measured
	dips    int64   // when the limit is halved next to check the base, in Unix nanoseconds; 0 if nothing was compared yet
	anchor  anchor
	strains int     // how many times in a row answers took too long
	losing  float64 // center when the limit began to fall because of lost requests; 0 if it does not
	usual   float64 // share of requests that are lost whatever the limit is
}

// Directions of seeking: up, down, or the one that the first comparison shows.
const (
	seekUp, seekDown, seekAny = 1, -1, 2

	// firstDip and dipEvery are the times until the limit is first halved for a moment, and between two halvings, as in the ProbeRTT of BBR
	// (Cardwell et al., 2016): a base that was learned in an overload is too high, and small moves do not show that if latencies vary much.
	firstDip, dipEvery = 5 * time.Second, 30 * time.Second
)

// rootUnit is the number of units that roots counts per square root of a nanosecond.
const rootUnit = 64

// measurement is the result of a measurement while one limit was in force.
type measurement struct {
	latency float64 // logarithm of a typical latency in nanoseconds
	spread  float64 // standard error of latency
	mean    float64 // mean latency in nanoseconds
	lost    float64 // share of the requests that were lost
}

// anchor is a limit and its latency to compare later ones with. Limit.anchor is set when the latency began to be too long for an unknown
// reason.
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

// Room returns the maximum number of requests in flight, which l updates.
func (l *Limit) Room() *atomic.Int64 { return &l.room }

// Current returns the limit.
func (l *Limit) Current() int { return int(l.shown.Load()) }

// Forget drops what was learned about the backend. Callers use it when the backend comes back after having been down.
func (l *Limit) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reset()
}

// reset resets l except for its streams. The caller holds mu.
func (l *Limit) reset() {
	l.center, l.based, l.warm, l.ease, l.seeks, l.anchor = Initial, false, false, 0, seekAny, anchor{}
	l.lean, l.before, l.dips = 0, anchor{}, 0
	l.losing, l.usual, l.strains = 0, 0, 0
	l.open(false, 0, 0)
}

// Begin counts a stream: a request whose duration depends on its client and says nothing about the backend. It takes no room from other
// requests. End undoes it.
func (l *Limit) Begin() {
	l.streams.Add(1)
	l.room.Add(1)
}

// End undoes Begin.
func (l *Limit) End() {
	l.room.Add(-1)
	l.streams.Add(-1)
}

// Answered records how long a good answer took. inFlight is the number of requests in flight, including this one and streams. wanted says
// that more requests wait for room. It reports whether Room has changed.
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

// Lost records that the backend answered that it is overloaded, did not answer in time, or broke a connection. It reports whether Room has
// changed.
func (l *Limit) Lost(now time.Time) bool {
	t := now.UnixNano()
	if t < l.opens.Load() {
		return false
	}
	l.lost.Add(1)
	return t >= l.due.Load() && l.conclude(t)
}

// conclude evaluates the measurement, if it is good enough. It reports whether the room has changed.
func (l *Limit) conclude(t int64) bool {
	if !l.mu.TryLock() {
		return false // another goroutine does it
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
		l.open(false, t, m.mean) // the queues may have only begun to grow
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

// idle continues with the upper limit after too few requests to use the limit to the full, which say nothing about the limit.
func (l *Limit) idle(t int64, mean float64) {
	if l.before.set {
		l.center, l.before.set = l.before.center, false
	}
	l.warm = false
	l.open(false, t, mean)
}

// measured returns the result of the measurement. The typical latency is the power mean with an exponent of one half: the arithmetic mean
// would reflect only the few slow answers, and the geometric mean would ignore them.
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

// learn updates the base with a latency.
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

// compare moves the limit according to the latencies under the lower and the upper limit. The lower one has just been measured.
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
	excess := latency - l.base // over the latency with a short queue
	// If latencies vary so much that a slope says little, the latency itself says more.
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

// seek doubles or halves the limit until it has gone too far. It reports whether it changed the limit.
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

// halve halves the limit, to compare the latency then with the given one, which was measured with a limit of at.
func (l *Limit) halve(latency, at float64, t int64) {
	l.before, l.at = anchor{true, l.center, latency}, at
	l.move(-climb, t)
}

// halved evaluates the effect of halving the limit, and halves it again if the limit was far above the knee. A large step shows more than a
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
		gone = 0 // the limit was about right
	} else {
		l.base = min(l.base, latency)
		l.dips = t + int64(firstDip)
	}
	// Now the limit is below the knee. The knee is where answers begin to take longer than they do now.
	l.center = max(l.center, l.at*math.Exp(-gone))
	l.before.set, l.seeks = false, 0
	l.move(0, t)
}

// precision returns the maximum standard error of the latency's logarithm for a measurement to end.
func (l *Limit) precision() float64 {
	if l.before.set {
		return rough
	}
	return precise
}

// relearn replaces the base, and reports that, if the limit has fallen to half because answers took too long, and they still do: then the
// latency with a short queue has changed.
func (l *Limit) relearn(latency, strain float64) bool {
	switch {
	case strain < knee:
		l.anchor, l.strains = anchor{}, 0
	case !l.anchor.set:
		// The first time, part of the measurement may be from before the change.
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

// losses returns the pressure that follows from the share of lost requests. If requests are still lost when the limit has fallen as far as
// it can, the losses have other causes, and do not count for a while.
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

// move adds by to the limit's logarithm, and continues with the upper limit.
func (l *Limit) move(by float64, t int64) {
	l.center = min(max(l.center*math.Exp(by), Least), Most)
	l.open(false, t, l.high.mean)
}

// bounds returns the two limits that alternate.
func bounds(center float64) (down, up int64) {
	down = max(int64(math.Ceil(center*(1-reach))), Least)
	up = min(max(int64(math.Round(center*(1+reach))), down+1), Most)
	return min(down, up-1), up
}

// open begins a measurement with the lower or the upper limit. mean is the mean latency in nanoseconds.
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
