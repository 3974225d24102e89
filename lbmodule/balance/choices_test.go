package balance

import (
	"slices"
	"testing"
)

func TestChoicesShares(t *testing.T) {
	// With nothing in flight it is a draw by weight.
	for _, weights := range [][]int{{1, 1, 1}, {5, 3, 2}, {0, 1, 0, 1000, 7}} {
		members := weighted(weights...)
		checkShares(t, Choices{}.Build(members, nil, nil), members, weights)
	}
}

// Of two members the one with less load per weight wins.
func TestChoicesPrefersTheLighter(t *testing.T) {
	for _, tt := range []struct {
		weights, loads []int
		want           int // the one that wins against each other
	}{
		{[]int{1, 1}, []int{5, 0}, 1},
		{[]int{1, 1}, []int{0, 5}, 0},
		{[]int{10, 1}, []int{10, 2}, 0},
		{[]int{1, 10}, []int{1, 9}, 1},
		{[]int{MaxWeight, 1}, []int{1 << 20, 1 << 20}, 0},
	} {
		members := weighted(tt.weights...)
		for i, load := range tt.loads {
			members[i].Load.Store(int64(load))
		}
		p := Choices{}.Build(members, nil, nil)
		const picks = 10_000
		got := count(t, sequence(p, members, picks), 2)
		// The other is picked if both draws hit it; with equal weights never, as they hit two.
		most := 0.0
		if tt.weights[0] != tt.weights[1] {
			share := float64(tt.weights[1-tt.want]) / float64(tt.weights[0]+tt.weights[1])
			most = picks*share*share + spread(picks, share*share)
		}
		if float64(got[1-tt.want]) > most {
			t.Errorf("weights %v, loads %v: picked %v, want %d unless both draws hit the other", tt.weights, tt.loads, got, tt.want)
		}
	}
}

// As many balls as bins, 10,000: with one draw the fullest has about 7 or 8, with two 3 or 4. With one about 190 have four or more, by
// a Poisson distribution; with two that is one in some of the runs.
func TestPowerOfTwoChoices(t *testing.T) {
	const n = 10_000
	throw := func(policy Policy) (fullest int64, crowded int) {
		members := weighted(same(n, 1)...)
		p := policy.Build(members, nil, nil)
		for range n {
			p.Pick(nil)
		}
		loads := make([]int64, n)
		for i := range members {
			loads[i] = members[i].Load.Load()
			if loads[i] >= 4 {
				crowded++
			}
		}
		return slices.Max(loads), crowded
	}
	if fullest, crowded := throw(Choices{}); fullest > 5 || float64(crowded) > spread(n, 0) {
		t.Errorf("two choices: the fullest has %d, want at most 5; %d have four and more", fullest, crowded)
	}
	if fullest, _ := throw(Choices{N: 4}); fullest > 4 {
		t.Errorf("four choices: the fullest has %d, want at most 4", fullest)
	}
	const four = 0.01899 // of a Poisson distribution with mean 1
	if fullest, crowded := throw(Random{}); float64(crowded) < n*four-spread(n, four) {
		t.Errorf("one choice: the fullest has %d, %d have four and more: the test shows nothing", fullest, crowded)
	}
}

// A member that is idle among busy ones gets no more than the draws that hit it.
func TestChoicesBoundTheShareOfTheIdle(t *testing.T) {
	const picks = 20_000
	for _, weights := range [][]int{same(10, 1), {10, 100}, {1, 100}, {1, 98, 1}, {10, 100, 100}, {10, 50, 10, 10}} {
		members := weighted(weights...)
		total := 0
		for i, w := range weights {
			total += w
			if i > 0 {
				members[i].Load.Store(1 << 20)
			}
		}
		got := count(t, sequence(Choices{}.Build(members, nil, nil), members, picks), len(weights))
		own := float64(weights[0]) / float64(total)
		if n := float64(got[0]); n > picks*2*own+spread(picks, 2*own) || n < picks*own {
			t.Errorf("weights %v: the idle one has a share of %.3f, its own is %.3f", weights, n/picks, own)
		}
	}
}
