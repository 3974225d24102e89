package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// minima returns the members with the least load/weight, by definition.
func minima(members []Member, tried []int) []int {
	var best []int
	for i, m := range members {
		if m.Weight <= 0 || m.full() || slices.Contains(tried, i) {
			continue
		}
		sign := -1
		if len(best) > 0 {
			b := members[best[0]]
			sign = int(m.Load.Load())*b.Weight - int(b.Load.Load())*m.Weight
		}
		if sign < 0 {
			best = best[:0]
		}
		if sign <= 0 {
			best = append(best, i)
		}
	}
	return best
}

// TestLeastConnModel compares every decision with the definition.
func TestLeastConnModel(t *testing.T) {
	const seed = 30
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		members := randomMembers(r)
		p := LeastConn{}.Build(members, nil, nil)
		var held []int
		for range 200 {
			if len(held) > 0 && r.IntN(3) == 0 {
				k := r.IntN(len(held))
				release(p, members, held[k])
				held = slices.Delete(held, k, k+1)
				continue
			}
			tried := randomTried(r, len(members))
			want := minima(members, tried)
			got := pick(t, p, members, tried)
			if got < 0 {
				continue
			}
			held = append(held, got)
			if !slices.Contains(want, got) {
				t.Fatalf("picked %d, the least loaded are %v", got, want)
			}
		}
	}
}

// TestLeastConnFills picks without releasing: loads stay in proportion to the weights.
func TestLeastConnFills(t *testing.T) {
	members := weighted(5, 3, 2)
	p := LeastConn{}.Build(members, nil, nil)
	for range 1000 {
		p.Pick(nil)
	}
	for i, want := range []int64{500, 300, 200} {
		if got := members[i].Load.Load(); got != want {
			t.Errorf("load of %d is %d, want %d", i, got, want)
		}
	}
}

// TestLeastConnTies picks from an idle pool: the shares follow the weights.
func TestLeastConnTies(t *testing.T) {
	weights := []int{1, 5, 0, 3, 2, 9, 1}
	members := weighted(weights...)
	p := LeastConn{}.Build(members, nil, nil)
	checkShares(t, p, members, weights)
	// Among those tied at another load as well.
	for i, w := range weights {
		members[i].Load.Store(int64(w))
	}
	members[5].Load.Add(1)
	p.Sync()
	weights[5] = 0
	checkShares(t, p, members, weights)
}

// checkShares checks that picks that are released at once follow the weights, and that members without a weight get
// nothing.
func checkShares(t *testing.T, p Picker, members []Member, weights []int, tried ...int) {
	t.Helper()
	const picks = 60_000
	total := 0
	for _, w := range weights {
		total += w
	}
	counts := count(t, sequence(p, members, picks, tried...), len(members))
	for i, w := range weights {
		share := float64(w) / float64(total)
		if off := math.Abs(float64(counts[i]) - picks*share); off > spread(picks, share) || w == 0 && counts[i] > 0 {
			t.Errorf("member %d: %d of %d picks, weight %d of %d", i, counts[i], picks, w, total)
		}
	}
}

func TestRatio(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 1))
	compare := func(a, v, b, w uint64) {
		t.Helper()
		left, right := a*w, b*v
		x, y := ratio(int64(a), v), ratio(int64(b), w)
		if (left < right) != (x < y) || (left == right) != (x == y) {
			t.Fatalf("%d/%d and %d/%d: %d, %d", a, v, b, w, x, y)
		}
	}
	compare(MaxWeight-2, MaxWeight-1, MaxWeight-1, MaxWeight) // as close as two can be
	for range 200_000 {
		v, w := 1+r.Uint64N(MaxWeight), 1+r.Uint64N(MaxWeight)
		a := r.Uint64N(1 << (1 + r.IntN(30)))
		near := min(a*w/v, 1<<30) // the fraction with w that is next to a/v
		compare(a, v, near, w)
		compare(a, v, near+1, w)
		compare(a, v, r.Uint64N(1<<30), w)
	}
	if ratio(-1, 1) != 0 || ratio(math.MaxInt64, 1) >= never {
		t.Error("loads out of range")
	}
}
