package balance

import (
	"slices"
	"testing"
)

func TestFirst(t *testing.T) {
	members := capped(1, 2, 0, 1)
	members = append(members, weighted(0, 1)...)
	members[0].Weight = 0
	p := First{}.Build(members, nil, nil)
	var got []int
	for range 4 {
		got = append(got, p.Pick(nil))
	}
	if want := []int{1, 1, 2, 2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := p.Pick([]int{2, 1}); got != 3 {
		t.Errorf("with two tried: %d, want 3", got)
	}
	if got := p.Pick([]int{2, 1}); got != 5 {
		t.Errorf("with the next one full: %d, want 5", got)
	}
	release(p, members, 1)
	if got := p.Pick(nil); got != 1 {
		t.Errorf("with the first one free again: %d, want 1", got)
	}
}
