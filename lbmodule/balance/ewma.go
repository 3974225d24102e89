package balance

import (
	"math"
	"time"
)

// Timed is implemented by pickers that go by what has happened lately. Their Pick looks at the clock.
type Timed interface {
	Picker

	// PickAt is Pick at that time.
	PickAt(now time.Time, tried []int) int
}

// PeakEWMA draws two members at random, in proportion to the weights, as [Choices] does, and picks the one whose answer is expected
// to be there first: what its answers take lately ([Latency]), times the requests that it has to do, this one with them, in relation
// to its weight. It is the load metric of Finagle's P2C balancer with peak EWMA, and of Linkerd.
//
// What differs from there:
//   - failures make a member expensive, so none is chosen for failing fast;
//   - members whose answers take about as long (within a half) are alike, and the requests in flight decide: the noise of a
//     healthy pool sends nobody more than his share;
//   - the request itself is not divided by the weight, so that an idle pool follows the weights that it draws by;
//   - a member whose requests have been waiting for far longer than its answers took, with none answered, is given no more while others
//     answer, unless they have more than thirty times as much to do;
//   - a member that nothing is known of is taken for one like any other, for one request at a time until it has answered.
type PeakEWMA struct{}

// silence is how many times as expensive it makes a member that requests have been waiting for far longer than its answers take.
const silence = 32

// alike is up to which ratio two expectations are the same.
const alike = 1.5

// Build implements [Policy].
func (PeakEWMA) Build(members []Member, _ Picker, _ []int) Picker {
	p := new(peakEWMA)
	p.init(members, 2)
	p.redraw = true
	p.weight = make([]float64, len(p.members))
	for i := range p.members {
		m := &p.members[i]
		p.weight[i] = float64(m.weight()) * float64(len(p.members)) / float64(p.total)
		if m.Latency == nil {
			m.Latency = new(Latency)
		}
	}
	return p
}

// peakEWMA is the picker of PeakEWMA.
type peakEWMA struct {
	choices
	weight []float64 // of a position, in relation to the mean
}

// Pick implements [Picker].
func (p *peakEWMA) Pick(tried []int) int { return p.PickAt(time.Now(), tried) }

// PickAt implements [Timed].
func (p *peakEWMA) PickAt(now time.Time, tried []int) int {
	t := tickOf(now)
	return p.pick(tried, func(a, b int, again bool) bool { return p.better(a, b, again, t) })
}

// Score implements [Scored]: the seconds until an answer is expected.
func (p *peakEWMA) Score(i int) float64 {
	at := p.pos[i]
	if at < 0 {
		return math.Inf(1)
	}
	m := &p.members[at]
	seconds, factor := m.Latency.expect(tickOf(time.Now()))
	return seconds * factor * (float64(m.Load.Load())/p.weight[at] + 1)
}

// better tells whether an answer of position a is expected before one of b. With b drawn again, a must be the faster one for itself,
// too: a light member is not to be preferred for having nothing to do whenever a heavy one was drawn twice.
func (p *peakEWMA) better(a, b int, again bool, t uint32) bool {
	ma, mb := &p.members[a], &p.members[b]
	la, fa := ma.Latency.expect(t)
	lb, fb := mb.Latency.expect(t)
	loadA, loadB := float64(ma.Load.Load()), float64(mb.Load.Load())
	switch trialA, trialB := la == 0 && loadA > 0, lb == 0 && loadB > 0; {
	case trialA != trialB:
		return trialB && !again
	case la == 0 || lb == 0:
		la, lb = 1, 1
	default:
		doubt := max(ma.Latency.doubt(), mb.Latency.doubt())
		// Who says nothing gets nothing while others answer, but for when they have that many times as much to do.
		if ma.Latency.silent(la, t) {
			fa *= silence
		}
		if mb.Latency.silent(lb, t) {
			fb *= silence
		}
		la, lb = la+doubt, lb+doubt
	}
	la, lb = la*fa, lb*fb
	if la <= alike*lb && lb <= alike*la {
		if again {
			return false
		}
		la, lb = 1, 1
	}
	if again && la > lb {
		return false
	}
	return la*(loadA/p.weight[a]+1) < lb*(loadB/p.weight[b]+1)
}
