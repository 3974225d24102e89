package balance

import (
	"math"
	"time"
)

// Timed is implemented by pickers that depend on the time. Their Pick reads the clock if necessary.
type Timed interface {
	Picker

	// PickAt is Pick with the current time given.
	PickAt(now time.Time, tried []int) int
}

// PeakEWMA draws two members at random, in proportion to the weights, as [Choices] does, and picks the one whose answer is expected first.
// The expectation is how long its answers take, times its requests in flight per weight, including this one. That is the load metric of
// Finagle's P2C balancer with peak EWMA, and of Linkerd.
//
// In those, one slow answer makes a member slow: the peak counts at once and fades with time, whatever fast answers follow. Here a member
// counts as slower than another only if that is statistically certain:
//   - its answers must take more than 1.5 times as long. A member with less weight may be slower in proportion;
//   - the difference of the means, on a logarithmic scale, must be more than three standard errors, as in Welch's test (Biometrika
//     34, 1947). One answer among 64 never suffices, whatever it took. Envoy's outlier detection compares success rates with the standard
//     deviation of all of them in a similar way.
//
// Otherwise they count as equally fast, and the requests in flight decide. Slow pages are not counted: requests that have been waiting for
// long while the member answered others. If the member has far more of them than the other, some are counted. Prequal (Wydrowski et al.,
// "Load is not what you should balance", NSDI 2024) compares load first, and latency among lightly loaded members; here it is the other way
// round.
//
// In addition:
//   - failures make a member expensive, so that no member is preferred because it fails fast (Prequal calls that sinkholing);
//   - the new request itself is not divided by the weight, so that an idle pool follows the weights by which members are drawn;
//   - a member whose requests have been waiting for far longer than its answers took, with none answered, gets no more while others answer,
//     unless their load is more than thirty times as high;
//   - a member that has not answered yet gets one request at a time until it has, as in Netflix' Zuul;
//   - more members are drawn if the better one was itself avoided recently or, with equal weights, is busy. Otherwise, in a pool of which
//     half is slow, every fourth pick would find only slow members;
//   - an avoided member gets a trial from time to time ([trials]), so that it can recover.
type PeakEWMA struct{ dice *Dice }

const (
	// silence is the factor by which a silent member is more expensive (see Latency.silent).
	silence = 32
	// alike is the ratio up to which two expectations count as equal, and alikeDoublings its base-2 logarithm.
	alike, alikeDoublings = 1.5, 0.5849625007211562
	// mostSlower is the base-2 logarithm of the maximum factor by which being slower makes a member more expensive. Without it, a member that
	// was slow under a load that it no longer has would leave all the load to the others.
	mostSlower = 3
	// certain is the square of the number of standard errors that a difference must exceed.
	certain = 3 * 3
	// moreIfSuspect is the maximum number of members drawn in addition because the best so far was avoided recently.
	moreIfSuspect = 8
	// Slow pages count as load if the member's share of overdue answers exceeds tailTimes that of the other member plus tailLeast. A share
	// above tailMost always counts: such pages are the normal load, not exceptions.
	tailTimes, tailLeast, tailMost = 2, 0.0015, 0.1
)

// With implements [Drawing].
func (p PeakEWMA) With(d *Dice) Policy {
	p.dice = d
	return p
}

// Build implements [Policy].
func (p PeakEWMA) Build(members []Member, prev Picker, _ []int) Picker {
	e := new(peakEWMA)
	e.init(members, 2, p.dice)
	e.weights = make([]relative, len(e.members))
	for i := range e.members {
		m := &e.members[i]
		full := float64(m.weight())
		if m.Warmth > 0 {
			full /= m.Warmth
		}
		e.weights[i] = relative{
			toMean: float64(m.weight()) * float64(len(e.members)) / float64(e.total),
			full:   math.Log2(full),
		}
		if m.Latency == nil {
			m.Latency = new(Latency)
		}
	}
	if e.trials = new(trials); prev != nil {
		if before, ok := prev.(*peakEWMA); ok {
			e.trials = before.trials
		}
	}
	return e
}

// peakEWMA is the picker of PeakEWMA.
type peakEWMA struct {
	choices
	weights []relative // of a position
	trials  *trials    // shared with the pickers before and after
}

// relative holds two forms of a weight.
type relative struct {
	toMean float64 // divided by the mean weight
	full   float64 // base-2 logarithm of the weight without the ramp-up
}

// clock is the time of a pick. It is read when it is first needed.
type clock struct {
	tick  uint32
	known bool
}

func (c *clock) now() uint32 {
	if !c.known {
		c.tick, c.known = tickNow(), true
	}
	return c.tick
}

// Pick implements [Picker].
func (p *peakEWMA) Pick(tried []int) int { return p.pickBy(&clock{}, tried) }

// PickAt implements [Timed].
func (p *peakEWMA) PickAt(now time.Time, tried []int) int {
	return p.pickBy(&clock{tickOf(now), true}, tried)
}

func (p *peakEWMA) pickBy(c *clock, tried []int) int {
	if len(p.members) == 0 {
		return -1
	}
	best, found, want, again, avoided := -1, 0, p.n, false, false
	// Bound: want never exceeds n and moreIfSuspect.
	for draws := 0; found < want && draws < want+more; draws++ {
		next := p.draw()
		if next == best && p.uniform() {
			next = p.other(next)
		}
		if excluded(tried, p.index[next]) || p.members[next].full() {
			continue
		}
		if next == best {
			again = true
			continue
		}
		if found++; best < 0 {
			best = next
			continue
		}
		d := p.compare(next, best, again, c)
		if d.cause != NotAvoided {
			l := p.members[d.loser].Latency
			if l.avoid(!avoided); !avoided && p.trials.due(l, d.cause, c.now()) {
				best = d.loser
				break
			}
			avoided = true
		}
		if best = d.winner; found == want {
			want += p.drawsMore(best, found, c)
		}
	}
	return p.take(best, tried)
}

// drawsMore returns how many more members to draw, with position best as the best of the found ones.
func (p *peakEWMA) drawsMore(best, found int, c *clock) int {
	m := &p.members[best]
	switch {
	case m.Latency.suspect.Load():
		if len(p.members) > p.n && found < p.n+moreIfSuspect {
			return 1
		}
	case p.uniform() && found == p.n && found < len(p.members):
		switch load := m.Load.Load(); {
		case load == 0:
		case m.Latency.waiting.total.Load() == 0, load > int64(m.Latency.waiting.pages(c.now())):
			return 1
		}
	}
	return 0
}

// duel is the result of comparing two positions.
type duel struct {
	winner, loser int
	cause         Cause // why the loser is avoided, if it is
}

// compare returns as winner the position whose answer is expected first, b if there is no difference. again says that b was drawn twice;
// then a must also have the faster answers. Otherwise an idle light member would be preferred whenever a heavy one was drawn twice.
func (p *peakEWMA) compare(a, b int, again bool, c *clock) duel {
	loadA, loadB := p.loads(a, b, c)
	if newA, newB := p.members[a].Latency.awaitsFirst(), p.members[b].Latency.awaitsFirst(); newA != newB {
		if newB && !again {
			return duel{winner: a, loser: b, cause: Silent}
		}
		return duel{winner: b, loser: a, cause: Silent}
	}
	dearer, cause := p.dearer(a, b, c)
	winner, loser := b, a
	if (!again || dearer < 1) && dearer*(p.perWeight(loadA, a)+1) < p.perWeight(loadB, b)+1 {
		winner, loser = a, b
	}
	if (loser == a) != (dearer > 1) {
		cause = NotAvoided
	}
	return duel{winner, loser, cause}
}

// perWeight returns a load divided by the relative weight of that position, rounded up or down at random in proportion to the fraction. One
// request of a heavy member counts less than one of a light member, but not nothing, and must not decide each time.
func (p *peakEWMA) perWeight(load float64, position int) float64 {
	if load == 0 || p.uniform() {
		return load
	}
	return math.Floor(load/p.weights[position].toMean + p.dice.Float64())
}

// loads returns the loads of positions a and b. Slow pages count if a member has far more of them than the other. Whether they count is
// decided at random, because counting a fraction of them would break a tie as surely as counting them all.
func (p *peakEWMA) loads(a, b int, c *clock) (loadA, loadB float64) {
	ma, mb := &p.members[a], &p.members[b]
	loadA, loadB = float64(ma.Load.Load()), float64(mb.Load.Load())
	if loadA == 0 && loadB == 0 {
		return 0, 0
	}
	less := func(m, other *Latency, load float64) float64 {
		if m.waiting.total.Load() == 0 {
			return load
		}
		pages := m.waiting.pages(c.now())
		if pages == 0 {
			return load
		}
		own, usual := m.tailShare(), tailTimes*(other.tailShare()+tailLeast)
		if own > tailMost || own > usual && p.dice.Float64()*own > usual {
			return load
		}
		return max(load-float64(pages), 0)
	}
	return less(ma.Latency, mb.Latency, loadA), less(mb.Latency, ma.Latency, loadB)
}

// dearer returns how many times as expensive position a is as b by their past answers, and the main cause why the more expensive one is so.
func (p *peakEWMA) dearer(a, b int, c *clock) (ratio float64, cause Cause) {
	la, lb := p.members[a].Latency, p.members[b].Latency
	slow, silent, failing := 1.0, 1.0, 1.0
	if d := p.slower(a, b, c); d != 0 {
		slow = math.Exp2(d)
	}
	silentA := la.waiting.total.Load() > 0 && la.silent(c.now())
	silentB := lb.waiting.total.Load() > 0 && lb.silent(c.now())
	switch {
	case silentA && !silentB:
		silent = silence
	case silentB && !silentA:
		silent = 1.0 / silence
	}
	if fA, fB := p.penalties(a, b, c); !similar(fA, fB) {
		failing = fA / fB
	}
	switch ratio = slow * silent * failing; {
	case ratio == 1:
		return 1, NotAvoided
	case ratio > 1:
		return ratio, worst(slow, silent, failing)
	default:
		return ratio, worst(1/slow, 1/silent, 1/failing)
	}
}

// worst returns the cause with the greatest factor.
func worst(slow, silent, failing float64) Cause {
	switch max(slow, silent, failing) {
	case failing:
		return Failing
	case silent:
		return Silent
	default:
		return Slow
	}
}

func (p *peakEWMA) penalties(a, b int, c *clock) (fA, fB float64) {
	la, lb := p.members[a].Latency, p.members[b].Latency
	if !la.blame.known() && !lb.blame.known() {
		return 1, 1
	}
	return la.penalty(c.now()), lb.penalty(c.now())
}

func similar(a, b float64) bool { return a <= alike*b && b <= alike*a }

// slower returns the base-2 logarithm of how many times as long the answers of position a take as those of b. It is negative if those of b
// take longer, and 0 if the difference is not certain.
func (p *peakEWMA) slower(a, b int, c *clock) float64 {
	la, lb := p.members[a].Latency, p.members[b].Latency
	if !la.takes.known() || !lb.takes.known() {
		return 0
	}
	d := la.takes.mean() - lb.takes.mean()
	// Less weight may mean less speed.
	if may := p.weights[b].full - p.weights[a].full; may > 0 && d > 0 {
		d = max(d-may, 0)
	} else if may < 0 && d < 0 {
		d = min(d-may, 0)
	}
	beyond := math.Abs(d) - alikeDoublings
	if beyond <= 0 {
		return 0
	}
	t := c.now()
	if doubt := la.takes.get().doubt(la.takes.left(t)) + lb.takes.get().doubt(lb.takes.left(t)); beyond*beyond < certain*doubt {
		return 0
	}
	return min(max(d, -mostSlower), mostSlower)
}

// Score implements [Scored]. It returns the seconds until an answer is expected.
func (p *peakEWMA) Score(i int) float64 {
	at := p.pos[i]
	if at < 0 {
		return math.Inf(1)
	}
	m := &p.members[at]
	return m.Latency.Estimate().Seconds() * m.Latency.penalty(tickNow()) * (float64(m.Load.Load())/p.weights[at].toMean + 1)
}
