package balance

import (
	"math/rand/v2"
	"testing"
)

func TestRandomShares(t *testing.T) {
	for _, weights := range [][]int{{1, 1, 1}, {5, 3, 2}, {0, 1, 0, 1000, 7}, {1, MaxWeight}} {
		members := weighted(weights...)
		checkShares(t, Random{}.Build(members, nil, nil), members, weights)
	}
}

// TestRandomOthers leaves a member out and fills one: the others keep their ratio as long as draws hit them.
func TestRandomOthers(t *testing.T) {
	members := weighted(1, 4, 6, 8, 1)
	members[0].Cap = 1
	members[0].Load.Store(1)
	checkShares(t, Random{}.Build(members, nil, nil), members, []int{0, 4, 6, 8, 0}, 4)
}

// TestAliasTable adds the parts of all columns up again.
func TestAliasTable(t *testing.T) {
	r := rand.New(rand.NewPCG(40, 1))
	for range 500 {
		members := weighted(make([]int, 1+r.IntN(200))...)
		top := 1 + r.IntN(MaxWeight)
		for i := range members {
			members[i].Weight = 1 + r.IntN(top)
		}
		columns, total := aliasTable(members)
		sums := make([]uint64, len(members))
		for p, c := range columns {
			if c.keep > total {
				t.Fatalf("column %d keeps %d of %d", p, c.keep, total)
			}
			sums[p] += c.keep
			sums[c.alias] += total - c.keep
		}
		for p, sum := range sums {
			if want := uint64(members[p].Weight * len(members)); sum != want {
				t.Fatalf("position %d has %d, want %d", p, sum, want)
			}
		}
	}
}
