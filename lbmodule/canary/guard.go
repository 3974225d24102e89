package canary

import "time"

// Enough is the evidence at which the canary is rolled back. A canary that is not worse than tolerated reaches it with a probability of at
// most 1/250, for each of the two tests.
const Enough = 250

const (
	// slowShare is the share of the others' answers that count as fast; answers that take longer are slow.
	slowShare = 0.9
	// leastSlower is by how much the canary's answers may take longer in any case.
	leastSlower = time.Millisecond
	// longestBlock is how long a block waits until both sides have requests, before it is dropped.
	longestBlock = time.Minute
)

// guard compares the two sides.
type guard struct {
	errors, latency *test // nil for one that is not compared
	slower          float64

	block   [sides]tally // counts not compared yet
	since   time.Time    // when it began
	seen    [sides]tally // counts that were compared
	lately  [sides]recent
	cleared bool // block is empty
}

func newGuard(s *Settings) *guard {
	g := &guard{slower: s.Slower, cleared: true}
	if s.Errors {
		g.errors = newErrorTest(s.MoreErrors)
	}
	if s.Latency {
		g.latency = newLatencyTest()
	}
	return g
}

// add adds the counts since the last call to the block, and compares the sides once both have requests. It returns why the canary must be
// rolled back; "" if it need not.
func (g *guard) add(more *[sides]tally, now time.Time) (reason string) {
	if g.cleared {
		g.since, g.cleared = now, false
	}
	for s := range g.block {
		g.block[s].add(&more[s])
		g.seen[s].add(&more[s])
	}
	a, b := &g.block[Canary], &g.block[Others]
	if a.total() == 0 || b.total() == 0 {
		if now.Sub(g.since) >= longestBlock {
			g.drop()
		}
		return ""
	}
	if g.errors != nil {
		g.errors.look(a.failed, a.total(), b.failed, b.total(), -1)
	}
	if g.latency != nil {
		g.compareLatency(a, b)
	}
	for s := range g.block {
		g.lately[s].add(&g.block[s])
	}
	g.drop()
	switch {
	case g.errors != nil && g.errors.evidence() >= Enough:
		return ReasonErrors
	case g.latency != nil && g.latency.evidence() >= Enough:
		return ReasonLatency
	default:
		return ""
	}
}

// drop discards the block and begins another.
func (g *guard) drop() { g.block, g.cleared = [sides]tally{}, true }

// compareLatency counts how many of the good answers are slow. The threshold follows from earlier blocks: the bucket above which a tenth of
// the others' answers were, and for the canary one that is higher by the tolerance.
func (g *guard) compareLatency(a, b *tally) {
	bound, above := g.lately[Others].quantile(slowShare)
	if bound < 0 {
		return
	}
	took := boundOf(bound)
	tolerated := max(took+leastSlower, time.Duration(float64(took)*(1+g.slower)))
	higher := bound
	for higher < buckets-1 && boundOf(higher) < tolerated {
		higher++
	}
	g.latency.look(a.above(higher), a.good(), b.above(bound), b.good(), above)
}
