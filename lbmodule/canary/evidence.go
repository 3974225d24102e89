package canary

import "math"

// test accumulates the evidence that the canary is worse than tolerated. See the package comment.
type test struct {
	ratio, slack float64   // tolerated is slack + ratio times the others' probability
	guesses      []guess   // hypothetical values of the canary's probability
	products     []float64 // by guess: the sum over the blocks with which the products began
	blocks       int

	canary, others estimate // of the probabilities
}

// guess is a hypothetical value of the canary's probability: a multiple of the tolerated one, a constant, or the recent one.
type guess struct {
	times, at float64
	lately    bool
}

// estimate is a probability estimated from recent requests.
type estimate struct{ bad, all float64 }

func (e *estimate) add(bad, all uint64) {
	e.bad, e.all = e.bad*fade+float64(bad), e.all*fade+float64(all)
}

// Before any request, one in 200 is assumed to be bad.
const (
	priorBad = 0.1
	priorAll = 20
)

func (e *estimate) probability() float64 { return (e.bad + priorBad) / (e.all + priorAll) }

// newErrorTest returns a test of failures. more is the share by which the canary may exceed those of the others.
func newErrorTest(more float64) *test {
	return newTest(1+more, 0.0005, guess{times: 1.5}, guess{times: 2.5}, guess{times: 6}, guess{at: 0.1}, guess{at: 0.6}, guess{lately: true})
}

// newLatencyTest returns a test of answers that are slow.
func newLatencyTest() *test {
	return newTest(1, 0.03, guess{times: 1.5}, guess{times: 3}, guess{times: 6}, guess{lately: true})
}

func newTest(ratio, slack float64, guesses ...guess) *test {
	return &test{ratio: ratio, slack: slack, guesses: guesses, products: make([]float64, len(guesses))}
}

// tolerated returns the largest probability of the canary that is tolerated.
func (t *test) tolerated(others float64) float64 { return t.slack + t.ratio*others }

// look adds a block in which the canary was bad ya of na times, and the others yb of nb times. others is an estimate of the others'
// probability that does not come from the block; if it is negative, the test uses its own.
func (t *test) look(ya, na, yb, nb uint64, others float64) {
	if na == 0 || nb == 0 {
		return
	}
	if others < 0 {
		others = t.others.probability()
	}
	others = min(max(others, 1e-6), 0.98)
	begins := beginning(t.blocks) / float64(len(t.guesses))
	t.blocks++
	for i, g := range t.guesses {
		worse := g.at
		switch {
		case g.lately:
			worse = t.canary.probability()
		case g.times > 0:
			worse = g.times * t.tolerated(others)
		}
		e := t.value(min(worse, 0.98), others, ya, na, yb, nb)
		t.products[i] = min((t.products[i]+begins)*e, conclusive)
	}
	t.canary.add(ya, na)
	t.others.add(yb, nb)
}

// conclusive is the largest value of the evidence: larger ones would mean the same.
const conclusive = 1e9

// beginning returns the weight of the products that begin with the nth block. The weights of all blocks add up to less than 1.
func beginning(n int) float64 {
	k := float64(n + 2)
	log := math.Log(k)
	return 0.47 / (k * log * log)
}

// value returns the e-value of a block for the hypothesis that the probabilities are worse for the canary and others for the other side. It
// is 1 if that would be tolerated.
func (t *test) value(worse, others float64, ya, na, yb, nb uint64) float64 {
	// The relative entropy has its minimum at t0: at others it decreases, and where worse is just tolerated it increases.
	low, high := others, (worse-t.slack)/t.ratio
	if high <= low*(1+1e-9) {
		return 1
	}
	a, b := float64(na), float64(nb)
	for range 64 {
		mid := (low + high) / 2
		g := t.tolerated(mid)
		if a*t.ratio*(worse-g)/(g*(1-g))+b*(others-mid)/(mid*(1-mid)) > 0 {
			low = mid
		} else {
			high = mid
		}
	}
	g := t.tolerated(low)
	log := weigh(ya, na, worse, g) + weigh(yb, nb, others, low)
	return math.Exp(log)
}

// weigh returns the logarithm of the likelihood ratio of y of n between the probabilities p and q.
func weigh(y, n uint64, p, q float64) float64 {
	return float64(y)*math.Log(p/q) + float64(n-y)*(math.Log1p(-p)-math.Log1p(-q))
}

// evidence returns the evidence so far.
func (t *test) evidence() (sum float64) {
	for _, p := range t.products {
		sum += p
	}
	return sum
}
