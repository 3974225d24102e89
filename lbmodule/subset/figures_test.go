package subset

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// measure returns for a fleet the largest load of a backend in relation to the mean, the smallest one, and the number of members of a subset.
// Each balancer has the same load and spreads it evenly.
func measure(n, balancers, size int, peers bool) (largest, smallest float64, members int) {
	backends := pool(n)
	random := rand.New(rand.NewPCG(uint64(n), uint64(balancers)))
	load := make([]float64, n)
	for b := range balancers {
		r := Rule{Size: size, Identity: random.Uint64()}
		if peers {
			r.Peers, r.Peer = balancers, b
		}
		places := r.Choose(backends, nil).Places
		used := 0
		for _, p := range places {
			if p == Own {
				used++
			}
		}
		for i, p := range places {
			if p == Own {
				load[i] += 1 / float64(used)
			}
		}
		members = max(members, used)
	}
	smallest = float64(balancers)
	for _, l := range load {
		largest, smallest = max(largest, l), min(smallest, l)
	}
	mean := float64(balancers) / float64(n)
	return largest / mean, smallest / mean, members
}

// renumbered returns the share of members that are replaced when a balancer joins a fleet, over all that were there.
func renumbered(n, balancers, size int) float64 {
	backends := pool(n)
	var left, all int
	for b := range balancers {
		before := (&Rule{Size: size, Peers: balancers, Peer: b}).members(backends, nil)
		_, lost := changes(before, (&Rule{Size: size, Peers: balancers + 1, Peer: b}).members(backends, nil))
		left, all = left+lost, all+len(before)
	}
	return float64(left) / float64(all)
}

var measured = []struct{ balancers, backends, size int }{
	{100, 10_000, 20}, {100, 10_000, 100}, {100, 10_000, 200}, {100, 10_000, 1_000}, {100, 10_000, 2_000},
	{10, 1_000, 20}, {10, 1_000, 100}, {10, 1_000, 200}, {20, 200, 20}, {100, 100, 20},
}

// TestFiguresInDocs holds the table of figures in the docs to what is measured.
func TestFiguresInDocs(t *testing.T) {
	docs, err := os.ReadFile("../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range measured {
		even, _, window := measure(m.backends, m.balancers, m.size, true)
		most, least, _ := measure(m.backends, m.balancers, m.size, false)
		cover := (&Rule{Size: m.size, Peers: m.balancers}).Cover(m.backends)
		row := fmt.Sprintf("| %d | %d | %d | %d | %d | %.2f | %.0f %% | %.2f to %.2f |",
			m.balancers, m.backends, m.size, window, cover, even, 100*renumbered(m.backends, m.balancers, m.size), least, most)
		if !strings.Contains(string(docs), row) {
			t.Errorf("docs/fleet.md does not say\n%s", row)
		}
	}
}

// The rule of thumb in the docs: without peers, loads are within 1.3 of the mean if 25 times the logarithm of the number of backends is how
// many balancers use each.
func TestRuleOfThumb(t *testing.T) {
	for _, m := range []struct{ balancers, backends, size int }{{1000, 100, 12}, {1000, 1000, 175}} {
		if most, _, _ := measure(m.backends, m.balancers, m.size, false); most > 1.3 {
			t.Errorf("%+v: %v times the mean", m, most)
		}
	}
}
