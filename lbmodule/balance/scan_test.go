package balance

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// scan returns n picks among fixed weights.
func scan(s *Scan, n int, weights ...int) []int {
	picks := make([]int, n)
	for k := range picks {
		picks[k] = s.Pick(len(weights), func(i int) int { return weights[i] })
	}
	return picks
}

func TestScan(t *testing.T) {
	for _, test := range []struct {
		weights []int
		want    string
	}{
		{[]int{5, 1, 1}, "aabacaaaabacaa"}, // as in nginx's documentation of the algorithm
		{[]int{1, 1, 1}, "abcabc"},
		{[]int{0, 2, -1, 1}, "bdbbdb"},
	} {
		if got := letters(scan(new(Scan), len(test.want), test.weights...)); got != test.want {
			t.Errorf("%v: %s, want %s", test.weights, got, test.want)
		}
	}
	exact(t, scan(new(Scan), 300, 5, 3, 2), []int{50, 30, 20})
	exact(t, scan(new(Scan), 1000, same(200, 3)...), same(200, 1))
}

func TestScanNobody(t *testing.T) {
	s := new(Scan)
	for _, weights := range [][]int{nil, {0}, {0, -1}} {
		if got := scan(s, 1, weights...)[0]; got != -1 {
			t.Errorf("%v: picked %d", weights, got)
		}
	}
	if got := s.Pick(-1, nil); got != -1 {
		t.Errorf("picked %d of -1", got)
	}
}

// TestScanMemberGone has a member without a weight for a while.
func TestScanMemberGone(t *testing.T) {
	for offset := range 30 {
		s := new(Scan)
		scan(s, offset, 5, 3, 2)
		got := count(t, scan(s, 700, 5, 0, 2), 3)
		if got[0] < 499 || got[0] > 501 || got[1] != 0 {
			t.Errorf("after %d: %v, want about 500 and 200", offset, got)
		}
		if got := letters(scan(s, 20, 5, 3, 2)); strings.Contains(got, "bbb") || !strings.Contains(got[:8], "b") {
			t.Errorf("after %d, back again: %s", offset, got)
		}
	}
}

// TestScanChangingLength has lists of another length at each call.
func TestScanChangingLength(t *testing.T) {
	s, r := new(Scan), rand.New(rand.NewPCG(60, 1))
	counts := make([]int, 4)
	for range 20_000 {
		counts[scan(s, 1, same(2+r.IntN(3), 1)...)[0]]++
	}
	// Ideally 1/2 and 1/3 and 1/4 of the thirds.
	for i, want := range []int{7222, 7222, 3889, 1667} {
		if counts[i] < want*8/10 || counts[i] > want*12/10 {
			t.Errorf("counts %v: member %d is far from %d", counts, i, want)
		}
	}
	sum := 0
	for _, c := range s.current {
		sum += c
	}
	if sum != 0 {
		t.Errorf("values drift away: %v", s.current)
	}
}

func TestScanConcurrently(t *testing.T) {
	s := new(Scan)
	counts := make([]int, 3)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for _, i := range scan(s, 500, 5, 3, 2) {
				mu.Lock()
				counts[i]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if want := []int{1000, 600, 400}; !slices.Equal(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
}

func TestScanAllocations(t *testing.T) {
	s := new(Scan)
	one := func(int) int { return 1 }
	if allocs := testing.AllocsPerRun(100, func() { s.Pick(onStack, one) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
