package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// policies lists all policies, to test with each what every policy promises.
var policies = []Policy{RoundRobin{}, Smooth{}, LeastConn{}, Random{}, First{}, Choices{}, Choices{N: 3}, PeakEWMA{}, Hash{size: 251}, Hash{size: 251, Bound: 1.25},
	WithFallback{Hash{size: 251}, LeastConn{}}, WithFallback{Hash{size: 251}, RoundRobin{}}}

// name returns a policy's name for subtests.
func name(p Policy) string {
	text := strings.NewReplacer(" <nil>", "", "<nil>", "").Replace(fmt.Sprintf("%T%v", p, p)) // no dice
	return strings.TrimSuffix(text[len("balance."):], "{}")
}

// weighted returns members without caps.
func weighted(weights ...int) []Member {
	members := make([]Member, len(weights))
	for i, w := range weights {
		members[i] = Member{Weight: w, ID: uint64(i), Load: new(atomic.Int64)}
	}
	return members
}

// capped returns members of weight 1 with caps.
func capped(caps ...int) []Member {
	members := make([]Member, len(caps))
	for i, c := range caps {
		members[i] = Member{Weight: 1, Cap: c, ID: uint64(i), Load: new(atomic.Int64)}
	}
	return members
}

// same returns n equal numbers.
func same(n, v int) []int { return slices.Repeat([]int{v}, n) }

// identity is the prevIndex of an unchanged list.
func identity(n int) []int {
	index := make([]int, n)
	for i := range index {
		index[i] = i
	}
	return index
}

// release releases the slot of member i.
func release(p Picker, members []Member, i int) {
	members[i].Load.Add(-1)
	p.Changed(i)
}

// sequence returns n picks, each released at once.
func sequence(p Picker, members []Member, n int, tried ...int) []int {
	picks := make([]int, n)
	for k := range picks {
		picks[k] = p.Pick(tried)
		if picks[k] >= 0 {
			release(p, members, picks[k])
		}
	}
	return picks
}

// count returns how often each of n members was picked. A pick of -1 is a mistake here.
func count(t *testing.T, picks []int, n int) []int {
	t.Helper()
	counts := make([]int, n)
	for _, i := range picks {
		if i < 0 {
			t.Fatal("nobody picked")
		}
		counts[i]++
	}
	return counts
}

// spread is how far the count of n draws that each hit with probability p may be from n*p: seven standard deviations, and ten more for
// what is rare, whose distribution has a longer tail. Chance alone goes beyond it less than once in 10^11 times.
func spread(n int, p float64) float64 { return 7*math.Sqrt(float64(n)*p*(1-p)) + 10 }

// usable reports whether any member can be picked, by definition.
func usable(members []Member, tried []int) bool {
	for i, m := range members {
		if m.Weight > 0 && (m.Cap == 0 || m.Load.Load() < int64(m.Cap)) && !slices.Contains(tried, i) {
			return true
		}
	}
	return false
}

// pick picks and checks what every policy promises without concurrency.
func pick(t *testing.T, p Picker, members []Member, tried []int) int {
	t.Helper()
	can := usable(members, tried)
	before := make([]int64, len(members))
	for i := range members {
		before[i] = members[i].Load.Load()
	}
	got := p.Pick(tried)
	if (got >= 0) != can {
		t.Fatalf("picked %d, a member is usable: %v; loads %v, tried %v", got, can, before, tried)
	}
	for i := range members {
		want := before[i]
		if i == got {
			want++
		}
		if load := members[i].Load.Load(); load != want {
			t.Fatalf("picked %d: load of %d is %d, want %d", got, i, load, want)
		}
	}
	if got < 0 {
		return got
	}
	m := members[got]
	if m.Weight <= 0 || slices.Contains(tried, got) || m.Cap > 0 && m.Load.Load() > int64(m.Cap) {
		t.Fatalf("picked %d: weight %d, cap %d, load %d, tried %v", got, m.Weight, m.Cap, m.Load.Load(), tried)
	}
	return got
}

func TestEdges(t *testing.T) {
	for _, policy := range policies {
		t.Run(name(policy), func(t *testing.T) {
			for _, test := range []struct {
				members []Member
				tried   []int
				want    int
			}{
				{nil, nil, -1},
				{nil, []int{0}, -1},
				{weighted(0), nil, -1},
				{weighted(0, 0, 0), nil, -1},
				{weighted(-3), nil, -1},
				{weighted(1), nil, 0},
				{weighted(1), []int{0}, -1},
				{weighted(1), []int{-1, 1, 7}, 0},
				{weighted(1, 1), []int{0, 0, 0}, 1},
				{weighted(0, 1), nil, 1},
				{weighted(0, 0, MaxWeight, 0), nil, 2},
				{weighted(1, 1, 1), []int{2, 0}, 1},
				{weighted(1, 0, 1), []int{2, 0}, -1},
				{weighted(same(200, 1)...), identity(199), 199},
				{capped(1), nil, 0},
			} {
				p := policy.Build(test.members, nil, nil)
				p.Sync()
				if got := p.Pick(test.tried); got != test.want {
					t.Errorf("weights %v, tried %v: picked %d, want %d", test.members, test.tried, got, test.want)
				}
			}
			members := capped(same(50_000, 1)...)
			p := policy.Build(members, nil, nil)
			for range members {
				if p.Pick(nil) < 0 {
					t.Fatal("a free one of the huge pool was not found")
				}
			}
			if got := p.Pick(nil); got != -1 {
				t.Errorf("picked %d of a full pool", got)
			}
			release(p, members, 23_456)
			if got := p.Pick(nil); got != 23_456 {
				t.Errorf("picked %d, want the only one that is free", got)
			}
		})
	}
}

func TestBoundsOfWeights(t *testing.T) {
	for _, policy := range policies {
		p := policy.Build(weighted(-1, 1<<40), nil, nil)
		for range 10 {
			if got := p.Pick(nil); got != 1 {
				t.Errorf("%s: picked %d", name(policy), got)
			}
		}
	}
}

// TestOtherPicker has two pickers over the same members, as while a configuration is replaced.
func TestOtherPicker(t *testing.T) {
	for _, policy := range policies {
		t.Run(name(policy), func(t *testing.T) {
			members := capped(2, 1, 3)
			a := policy.Build(members, nil, nil)
			b := policy.Build(members, nil, nil)
			for range 6 {
				if i := pick(t, a, members, nil); i < 0 {
					t.Fatal("no member picked")
				}
			}
			// b has not been notified of the changes, and still must not exceed a cap.
			if got := b.Pick(nil); got != -1 {
				t.Fatalf("picked %d of a full pool", got)
			}
			for i, m := range members {
				if m.Load.Load() != int64(m.Cap) {
					t.Errorf("load of %d is %d, cap %d", i, m.Load.Load(), m.Cap)
				}
			}
			members[1].Load.Add(-1)
			a.Changed(1)
			b.Changed(1)
			if got := b.Pick(nil); got != 1 {
				t.Errorf("picked %d, want the one given back", got)
			}
			for _, m := range members {
				m.Load.Store(0)
			}
			a.Sync()
			if got := a.Pick(nil); got < 0 {
				t.Error("Sync did not find the free members")
			}
		})
	}
}

// TestRandomly runs random operations against pools of random shape.
func TestRandomly(t *testing.T) {
	const seed = 20
	t.Log("seed", seed)
	for _, policy := range policies {
		t.Run(name(policy), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			for range 300 {
				members := randomMembers(r)
				p := policy.Build(members, nil, nil)
				var held []int
				for range 100 {
					switch r.IntN(8) {
					case 0, 1:
						if len(held) > 0 {
							k := r.IntN(len(held))
							release(p, members, held[k])
							held = slices.Delete(held, k, k+1)
						}
					case 2:
						p = policies[r.IntN(len(policies))].Build(members, p, identity(len(members)))
						p = policy.Build(members, p, identity(len(members)))
					default:
						if i := pick(t, p, members, randomTried(r, len(members))); i >= 0 {
							held = append(held, i)
						}
					}
				}
			}
		})
	}
}

func randomMembers(r *rand.Rand) []Member {
	members := weighted(make([]int, r.IntN(80))...)
	top := []int{1, 3, 100, MaxWeight}[r.IntN(4)]
	caps := r.IntN(4)
	for i := range members {
		members[i].Weight = r.IntN(top + 1)
		members[i].Cap = r.IntN(caps + 1)
	}
	return members
}

func randomTried(r *rand.Rand, n int) []int {
	if r.IntN(2) == 0 {
		return nil
	}
	tried := make([]int, r.IntN(n+2))
	for k := range tried {
		tried[k] = r.IntN(n+2) - 1
	}
	return tried
}

// TestConcurrently picks on many goroutines, with two pickers over members that are nearly always full. Caps must hold at each moment,
// every slot must be released, and no free member may be hidden at the end.
func TestConcurrently(t *testing.T) {
	const workers, rounds = 8, 3000
	for _, policy := range policies {
		t.Run(name(policy), func(t *testing.T) {
			members := capped(1, 2, 1, 0, 3, 1, 2)
			members[3].Weight = 0
			members[4].Weight = 5
			pickers := []Picker{policy.Build(members, nil, nil), policy.Build(members, nil, nil)}
			var group sync.WaitGroup
			for worker := range workers {
				group.Go(func() {
					r := rand.New(rand.NewPCG(uint64(worker), 0))
					p := pickers[worker%2]
					for range rounds {
						var held [3]int
						tried := randomTried(r, 2)
						for k := range held {
							held[k] = p.Pick(tried)
						}
						for _, i := range held {
							if i < 0 {
								continue
							}
							if slices.Contains(tried, i) {
								t.Errorf("picked %d, tried %v", i, tried)
							}
							if load := members[i].Load.Add(-1) + 1; load > int64(members[i].Cap) {
								t.Errorf("load %d above cap %d", load, members[i].Cap)
							}
							for _, p := range pickers {
								p.Changed(i)
							}
						}
					}
				})
			}
			group.Wait()
			for i := range members {
				if load := members[i].Load.Load(); load != 0 {
					t.Errorf("load of %d is %d at the end", i, load)
				}
			}
			for _, p := range pickers {
				for range 10 {
					pick(t, p, members, nil)
				}
				if usable(members, nil) {
					t.Error("a free member is hidden")
				}
				for i := range members {
					members[i].Load.Store(0)
				}
				for _, p := range pickers {
					p.Sync()
				}
			}
		})
	}
}

// TestEnoughForAll has as many slots as workers hold at once: then no pick may ever fail, whatever the others do.
func TestEnoughForAll(t *testing.T) {
	const workers, rounds = 6, 5000
	for _, policy := range policies {
		t.Run(name(policy), func(t *testing.T) {
			members := capped(same(workers, 1)...)
			p := policy.Build(members, nil, nil)
			var group sync.WaitGroup
			for range workers {
				group.Go(func() {
					for range rounds {
						i := p.Pick(nil)
						if i < 0 {
							t.Error("refused although there is a slot for each")
							return
						}
						release(p, members, i)
					}
				})
			}
			group.Wait()
		})
	}
}

func TestNoAllocations(t *testing.T) {
	for _, policy := range policies {
		for _, n := range []int{1, 3, 100} {
			for _, c := range []int{0, 1} {
				for _, top := range []int{1, 7} {
					members := weighted(same(n, 1)...)
					for i := range members {
						members[i].Weight = 1 + i%top
						members[i].Cap = c
					}
					p := policy.Build(members, nil, nil)
					tried := []int{n - 1}
					if n == 1 {
						tried = nil
					}
					allocs := testing.AllocsPerRun(100, func() {
						release(p, members, p.Pick(nil))
						release(p, members, p.Pick(tried))
					})
					if allocs != 0 {
						t.Errorf("%s, %d members: %v allocations", name(policy), n, allocs)
					}
				}
			}
		}
	}
}
