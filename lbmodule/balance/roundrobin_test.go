package balance

import (
	"slices"
	"sync"
	"testing"
)

func TestRoundRobinOrder(t *testing.T) {
	for _, test := range []struct {
		members []Member
		tried   []int
		want    []int
	}{
		{weighted(1, 1, 1), nil, []int{1, 2, 0, 1, 2, 0, 1}},
		{weighted(7, 7), nil, []int{1, 0, 1, 0}},
		{weighted(7), nil, []int{0, 0}},
		{weighted(0, 4, 0, 4), nil, []int{3, 1, 3, 1}},
		{weighted(1, 1, 1), []int{0}, []int{1, 2, 1, 2, 1}},
		{weighted(1, 1, 1), []int{2, 1}, []int{0, 0, 0}},
	} {
		p := RoundRobin{}.Build(test.members, nil, nil)
		if got := sequence(p, test.members, len(test.want), test.tried...); !slices.Equal(got, test.want) {
			t.Errorf("%v, tried %v: %v, want %v", test.members, test.tried, got, test.want)
		}
	}
}

// TestRoundRobinFull has a full member: its share goes to all others, not to the next one.
func TestRoundRobinFull(t *testing.T) {
	members := capped(0, 1, 0, 0)
	members[1].Load.Store(1)
	p := RoundRobin{}.Build(members, nil, nil)
	if got, want := sequence(p, members, 6), []int{2, 3, 0, 2, 3, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	release(p, members, 1)
	if got, want := sequence(p, members, 5), []int{1, 2, 3, 0, 1}; !slices.Equal(got, want) {
		t.Errorf("back: %v, want %v", got, want)
	}
}

func TestRoundRobinWithWeightsIsSmooth(t *testing.T) {
	if _, ok := (RoundRobin{}).Build(weighted(1, 0, 2), nil, nil).(*smooth); !ok {
		t.Error("weights are ignored")
	}
	if _, ok := (RoundRobin{}).Build(weighted(2, 0, 2), nil, nil).(*roundRobin); !ok {
		t.Error("equal weights need no smooth picker")
	}
}

// TestRoundRobinGoesOn replaces the picker before each pick.
func TestRoundRobinGoesOn(t *testing.T) {
	for _, test := range []struct {
		what      string
		prevIndex []int // of each new picker in turn, from 4 members of which the third is next
		want      []int
	}{
		{"unchanged", []int{0, 1, 2, 3}, []int{2, 3, 0, 1}},
		{"the next one left", []int{0, 1, 3}, []int{2, 0, 1}},
		{"one behind left", []int{1, 2, 3}, []int{1, 2, 0}},
		{"a newcomer in front", []int{-1, 0, 1, 2, 3}, []int{3, 4, 0, 1, 2}},
		{"a newcomer at the place", []int{0, 1, -1, 2, 3}, []int{3, 4, 0, 1, 2}},
		{"all are new", []int{-1, -1}, []int{1, 0}},
	} {
		old := weighted(1, 1, 1, 1)
		prev := RoundRobin{}.Build(old, nil, nil)
		sequence(prev, old, 1)
		members := weighted(same(len(test.prevIndex), 1)...)
		p := RoundRobin{}.Build(members, prev, test.prevIndex)
		if got := sequence(p, members, len(test.want)); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

// TestRoundRobinThroughSmooth has one member in slow start: the picker becomes a smooth one and a plain one again.
func TestRoundRobinThroughSmooth(t *testing.T) {
	const n = 5
	var p Picker
	counts := make([]int, n)
	for round := range 20 * n {
		members := weighted(same(n, 10)...)
		if round%2 == 1 {
			members[0].Weight = 9
		}
		p = RoundRobin{}.Build(members, p, identity(n))
		counts[p.Pick(nil)]++
	}
	for i, c := range counts {
		if c < 18 || c > 22 {
			t.Errorf("member %d was picked %d times, others %v", i, c, counts)
		}
	}
}

func TestRoundRobinConcurrently(t *testing.T) {
	members := weighted(1, 0, 1, 1)
	p := RoundRobin{}.Build(members, nil, nil)
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			for range 1000 {
				p.Pick(nil)
			}
		})
	}
	group.Wait()
	for i, want := range []int64{2000, 0, 2000, 2000} {
		if got := members[i].Load.Load(); got != want {
			t.Errorf("member %d was picked %d times, want %d", i, got, want)
		}
	}
}
