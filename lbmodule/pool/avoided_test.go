package pool

import (
	"fmt"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// slowDown has the members answer for a second, those in slow late.
func slowDown(v *View, slow ...int) {
	late := make(map[int]bool)
	for _, i := range slow {
		late[i] = true
	}
	const answers = 100
	begin := time.Now().Add(-time.Second)
	for n := range answers {
		for i := range v.Len() {
			took := 500 * time.Microsecond
			if late[i] {
				took = 400 * time.Millisecond
			}
			v.Member(i).Latency().Answered(took, begin.Add(time.Duration(n+1)*time.Second/answers))
		}
	}
}

// Avoidance is reported by position in the view, in every tier, but not for members that cannot be picked.
func TestAvoided(t *testing.T) {
	list := zoned("there", "there", "here", "here", "here", "here", "here", "here", "here")
	list[6].Backup, list[7].Backup, list[8].Backup = 1, 1, 1
	for name, test := range map[string]struct {
		policy balance.Policy
		out    int
		want   []int
	}{
		"by answers":              {balance.PeakEWMA{}, -1, []int{1, 4, 8}},
		"as what is otherwise":    {balance.WithFallback{Keyed: balance.Hash{}, Else: balance.PeakEWMA{}}, -1, []int{1, 4, 8}},
		"one of them is out":      {balance.PeakEWMA{}, 4, []int{1, 8}},
		"one before them is out":  {balance.PeakEWMA{}, 2, []int{1, 4, 8}},
		"without regard":          {balance.RoundRobin{}, -1, nil},
		"by keys, without regard": {balance.WithFallback{Keyed: balance.Hash{}, Else: balance.LeastConn{}}, -1, nil},
		"somebody else chooses":   {nil, -1, nil},
	} {
		settings := checked(test.policy)
		settings.PreferZone = "here"
		v := newPool().Open(list, settings)
		mark(v, func(i int) bool { return i == test.out })
		slowDown(v, 1, 4, 8)
		var got []int
		for i, a := range v.Snapshot().Avoided(time.Now()) {
			switch a.Cause {
			case balance.NotAvoided:
			case balance.Slow:
				got = append(got, i)
			default:
				t.Errorf("%s: %d has cause %d", name, i, a.Cause)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v are avoided, want %v", name, got, test.want)
		}
		v.Close()
	}
}

// The counts of picks of members without their own counters do not decrease when the members are deleted or reset.
func TestOtherPicks(t *testing.T) {
	p := newPool()
	settings := checked(balance.PeakEWMA{})
	settings.Unnamed = true
	v := p.Open(backends(3), settings)
	slowDown(v, 1)
	shares(t, v, 1000)
	before := p.OtherPicks()
	var sum Picks
	for i := range v.Len() {
		sum.add(v.Member(i).Picks())
	}
	if before != sum {
		t.Errorf("%+v in all, want the sum %+v", before, sum)
	}
	v.Member(1).Reset(time.Now())
	v.Close()
	p.mu.Lock()
	p.sweep(time.Now().Add(2 * retention))
	left := len(p.members)
	p.mu.Unlock()
	if after := p.OtherPicks(); after != before || left != 0 {
		t.Errorf("%+v with %d members left, want %+v with none", after, left, before)
	}

	settings.Unnamed = false
	named := p.Open(backends(3), settings)
	defer named.Close()
	slowDown(named, 1)
	shares(t, named, 1000)
	if after := p.OtherPicks(); after != before {
		t.Errorf("%+v after picks of members with their own counters, want %+v", after, before)
	}
}
