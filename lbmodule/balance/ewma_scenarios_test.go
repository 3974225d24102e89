package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// These scenarios show what the default policy is for, in virtual time over the real code. Each also runs with least connections, whose
// figures are logged: `go test -run PeakEWMAScenarios -v`.

// about is that time: 10 % more or less.
func about(seconds float64, random *rand.Rand) float64 {
	return seconds * (0.9 + 0.2*random.Float64())
}

// pages serves most requests in one time, and a share of slow ones in another.
func pages(fast, share, slow float64) func(int, float64, *rand.Rand) (float64, bool) {
	return func(_ int, _ float64, random *rand.Rand) (float64, bool) {
		if random.Float64() < share {
			return slow, false
		}
		return about(fast, random), false
	}
}

// spoilt makes the first member serve as given, and the others in that time.
func spoilt(others float64, first func(now float64, random *rand.Rand) (float64, bool)) func(int, float64, *rand.Rand) (float64, bool) {
	return func(i int, now float64, random *rand.Rand) (float64, bool) {
		if i == 0 {
			return first(now, random)
		}
		return about(others, random), false
	}
}

// windows returns the smallest and the largest share of n members, relative to a fair one, in any ten seconds from then on.
func windows(all []served, n int, from, to float64) (least, most float64) {
	least = math.Inf(1)
	for ; from+10 <= to; from += 10 {
		some := between(all, from, from+10)
		for i := range n {
			fair := shareOf(some, i) * float64(n)
			least, most = min(least, fair), max(most, fair)
		}
	}
	return least, most
}

// backAfter returns after how many seconds from then on the first of n members has that part of its fair share in some second.
func backAfter(all []served, n int, from, part float64) float64 {
	for t := from; t < all[len(all)-1].due-1; t += 0.1 {
		if shareOf(between(all, t, t+1), 0)*float64(n) >= part {
			return t + 1 - from
		}
	}
	return math.Inf(1)
}

// scenarioFigure is what a scenario is judged by.
type scenarioFigure struct {
	name        string
	value       float64
	least, most float64
}

func TestPeakEWMAScenarios(t *testing.T) {
	const fast, usual = 0.0005, 0.010 // seconds
	inf := math.Inf(1)
	p99 := func(some []served, most float64) scenarioFigure {
		return scenarioFigure{"p99 in ms", 1000 * quantileOf(some, 0.99), 0, 1000 * most}
	}
	share := func(some []served, most float64) scenarioFigure {
		return scenarioFigure{"% of the requests", 100 * shareOf(some, 0), 0, 100 * most}
	}
	fair := func(all []served, n int, from, to float64) []scenarioFigure {
		least, most := windows(all, n, from, to)
		return []scenarioFigure{{"least % of a fair share", 100 * least, 85, 200}, {"most", 100 * most, 0, 115}}
	}
	unnoticed := func(all []served, _ []Member) []scenarioFigure {
		all = between(all, 2, 32)
		return []scenarioFigure{p99(all, 1.5*usual), share(all, 0.02)}
	}
	for _, test := range []struct {
		name  string
		setup simulation
		judge func(all []served, members []Member) []scenarioFigure
	}{
		{
			"nothing is wrong", simulation{weights: same(5, 1), rate: 400, seconds: 32, serve: pages(usual, 0, 0)},
			func(all []served, _ []Member) []scenarioFigure {
				return append(fair(all, 5, 2, 32), p99(all, 1.5*usual))
			},
		},
		{
			"one answer of 1 s", simulation{weights: same(3, 1), rate: 150, seconds: 30, serve: onlyOnce(fast)},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"seconds to half its share", backAfter(all, 3, 6, 0.5), 0, 3}}
			},
		},
		{
			"2 % of pages 400 ms on all", simulation{weights: same(3, 1), rate: 150, steady: true, seconds: 80, serve: pages(fast, 0.02, 0.4)},
			func(all []served, _ []Member) []scenarioFigure { return append(fair(all, 3, 20, 80), p99(all, 0.401)) },
		},
		{
			"heavy tail on all", simulation{weights: same(3, 1), rate: 300, seconds: 62, serve: func(_ int, _ float64, random *rand.Rand) (float64, bool) {
				return 0.002 * math.Exp(1.5*random.NormFloat64()), false
			}},
			func(all []served, _ []Member) []scenarioFigure { return fair(all, 3, 2, 62) },
		},
		{
			"5 % of pages fail on all", simulation{weights: same(5, 1), rate: 150, seconds: 62, serve: func(_ int, _ float64, random *rand.Rand) (float64, bool) {
				return about(usual, random), random.Float64() < 0.05
			}},
			func(all []served, _ []Member) []scenarioFigure { return fair(all, 5, 2, 62) },
		},
		{
			"one of five +300 ms", simulation{weights: same(5, 1), rate: 400, seconds: 32, serve: spoilt(usual, late(0.310))},
			unnoticed,
		},
		{
			"one of five ten times as slow", simulation{weights: same(5, 1), rate: 400, seconds: 32, serve: spoilt(usual, late(0.100))},
			unnoticed,
		},
		{
			"two of five +300 ms", simulation{weights: same(5, 1), rate: 400, seconds: 32, serve: func(i int, _ float64, random *rand.Rand) (float64, bool) {
				if i < 2 {
					return about(0.310, random), false
				}
				return about(usual, random), false
			}},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{p99(between(all, 2, 32), 1.5*usual)}
			},
		},
		{
			"one of five refuses at once", simulation{weights: same(5, 1), rate: 400, seconds: 32, serve: spoilt(usual, fails)},
			func(all []served, _ []Member) []scenarioFigure { return []scenarioFigure{share(all, 0.01)} },
		},
		{
			"one of two refuses at once, few requests", simulation{weights: same(2, 1), rate: 20, seconds: 60, serve: spoilt(usual, fails)},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{share(between(all, 1, 60), 0.02)}
			},
		},
		{
			"one of five takes 1 s for 1 %", simulation{weights: same(5, 1), rate: 2500, seconds: 12, serve: spoilt(usual, func(_ float64, random *rand.Rand) (float64, bool) {
				return pages(usual, 0.01, 1)(0, 0, random)
			})},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"% of a fair share", 500 * shareOf(between(all, 2, 12), 0), 50, 85}}
			},
		},
		{
			"a phase of +2 s ends", simulation{weights: same(3, 1), rate: 150, seconds: 40, serve: spoilt(fast, func(now float64, random *rand.Rand) (float64, bool) {
				if now > 10 && now < 18 {
					return 2 + fast, false
				}
				return about(fast, random), false
			})},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"seconds to half its share", backAfter(all, 3, 18, 0.5), 0, 5}, {"seconds to 0.85 of it", backAfter(all, 3, 18, 0.85), 0, 10}}
			},
		},
		{
			"one of three becomes 300 ms slower", simulation{weights: same(3, 1), rate: 400, seconds: 30, serve: spoilt(fast, func(now float64, random *rand.Rand) (float64, bool) {
				if now > 10 {
					return about(0.3, random), false
				}
				return about(fast, random), false
			})},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"requests it has in five seconds", float64(len(between(all, 10, 15))) * shareOf(between(all, 10, 15), 0), 0, 25}}
			},
		},
		{
			"a phase of +2 s ends, and some wait for a minute", simulation{weights: same(3, 1), rate: 150, seconds: 100, serve: func(i int, now float64, random *rand.Rand) (float64, bool) {
				switch {
				case random.Float64() < 0.01:
					return 60, false // a long poll
				case i == 0 && now > 70 && now < 78:
					return 2, false
				default:
					return about(fast, random), false
				}
			}},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"seconds to half its share", backAfter(all, 3, 78, 0.5), 0, 15}}
			},
		},
		{
			"a phase of failures ends", simulation{weights: same(3, 1), rate: 150, seconds: 40, serve: spoilt(fast, func(now float64, random *rand.Rand) (float64, bool) {
				return about(fast, random), now > 10 && now < 18
			})},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"seconds to half its share", backAfter(all, 3, 18, 0.5), 0, 6}, share(between(all, 10, 18), 0.02)}
			},
		},
		{
			"mixed sizes: requests at a time", simulation{weights: []int{5, 3, 2}, rate: 150, seconds: 100, workers: []int{5, 3, 2}, serve: pages(usual, 0, 0)},
			func(all []served, _ []Member) []scenarioFigure { return ofWeights(all, 5, 3, 2) },
		},
		{
			"mixed sizes: speed", simulation{weights: []int{5, 3, 2}, rate: 40, seconds: 300, serve: func(i int, _ float64, random *rand.Rand) (float64, bool) {
				return about([]float64{0.006, 0.010, 0.015}[i], random), false
			}},
			func(all []served, _ []Member) []scenarioFigure { return ofWeights(all, 5, 3, 2) },
		},
		{
			"one of three is stopped", simulation{weights: same(3, 1), rate: 1000, seconds: 12, serve: spoilt(fast, func(now float64, random *rand.Rand) (float64, bool) {
				if now > 4 {
					return inf, false
				}
				return about(fast, random), false
			})},
			func(_ []served, members []Member) []scenarioFigure {
				return []scenarioFigure{{"requests held", float64(members[0].Load.Load()), 0, 3}}
			},
		},
		{
			"one of three is stopped, and all are busy", simulation{weights: same(3, 1), rate: 1000, seconds: 12, serve: spoilt(usual, func(now float64, random *rand.Rand) (float64, bool) {
				if now > 4 {
					return inf, false
				}
				return about(usual, random), false
			})},
			func(_ []served, members []Member) []scenarioFigure {
				return []scenarioFigure{{"requests held", float64(members[0].Load.Load()), 0, 10}}
			},
		},
		{
			"all +300 ms", simulation{weights: same(5, 1), rate: 400, seconds: 42, serve: func(_ int, now float64, random *rand.Rand) (float64, bool) {
				if now > 10 {
					return about(0.310, random), false
				}
				return about(usual, random), false
			}},
			func(all []served, _ []Member) []scenarioFigure {
				return append(fair(all, 5, 12, 42), p99(between(all, 12, 42), 0.350))
			},
		},
		{
			"two cold ones of five", simulation{weights: same(5, 1), rate: 400, seconds: 10, serve: coldAtFirst(3, usual)},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{p99(between(all, 0, 4), 0.200), {"% of the requests of one of the others", 100 * shareOf(between(all, 5, 10), 0), 15, 25}}
			},
		},
		{
			"one request at a time, 0.3 % of pages 400 ms", simulation{weights: same(3, 1), rate: 150, seconds: 200, workers: same(3, 1), serve: pages(fast, 0.003, 0.4)},
			func(all []served, _ []Member) []scenarioFigure {
				return []scenarioFigure{{"% above 20 ms", 100 * aboveOf(all, 0.020), 0, 1}}
			},
		},
		{
			"one request at a time, 80 % busy, one half as fast",
			simulation{weights: same(3, 1), rate: 200, seconds: 60, workers: same(3, 1), serve: func(i int, _ float64, random *rand.Rand) (float64, bool) {
				if i == 0 {
					return 2 * usual * random.ExpFloat64(), false
				}
				return usual * random.ExpFloat64(), false
			}},
			func(all []served, _ []Member) []scenarioFigure { return []scenarioFigure{p99(all, 0.400)} },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			// Pickers draw at random. Of five runs the figure in the middle says what is usual.
			usual := func(policy Policy) (middle []scenarioFigure) {
				const runs = 5
				var values [][]float64
				for seed := range uint64(runs) {
					for i, f := range test.judge(test.setup.run(policy, seed)) {
						if seed == 0 {
							middle, values = append(middle, f), append(values, nil)
						}
						values[i] = append(values[i], f.value)
					}
				}
				for i := range middle {
					slices.Sort(values[i])
					middle[i].value = values[i][runs/2]
				}
				return middle
			}
			for _, f := range usual(LeastConn{}) {
				t.Logf("least connections: %s: %.4g", f.name, f.value)
			}
			for _, f := range usual(PeakEWMA{}) {
				t.Logf("%s: %.4g", f.name, f.value)
				if f.value < f.least || f.value > f.most {
					t.Errorf("%s: %.4g, want %v to %v", f.name, f.value, f.least, f.most)
				}
			}
		})
	}
}

// aboveOf is what share of them took longer than that.
func aboveOf(some []served, seconds float64) float64 {
	n := 0
	for _, r := range some {
		if r.took > seconds {
			n++
		}
	}
	return float64(n) / float64(max(len(some), 1))
}

func late(takes float64) func(float64, *rand.Rand) (float64, bool) {
	return func(_ float64, random *rand.Rand) (float64, bool) { return about(takes, random), false }
}

func fails(_ float64, random *rand.Rand) (float64, bool) { return about(0.0002, random), true }

// onlyOnce makes the first member take a second for one request, five seconds after the start.
func onlyOnce(usual float64) func(int, float64, *rand.Rand) (float64, bool) {
	began := 0.0 // the request's; another simulation begins anew
	return func(i int, now float64, random *rand.Rand) (float64, bool) {
		if i == 0 && now > 5 && (began == 0 || now < began) {
			began = now
			return 1, false
		}
		return about(usual, random), false
	}
}

// coldAtFirst makes members from that one on take up to 200 ms more, decreasing, in the second after their first request.
func coldAtFirst(from int, usual float64) func(int, float64, *rand.Rand) (float64, bool) {
	first := make(map[int]float64)
	return func(i int, now float64, random *rand.Rand) (float64, bool) {
		if i < from {
			return about(usual, random), false
		}
		if began, known := first[i]; !known || now < began {
			first[i] = now
		}
		return about(usual, random) + 0.2*max(0, 1-(now-first[i])), false
	}
}

// ofWeights are the shares in relation to the weights.
func ofWeights(all []served, weights ...int) (figures []scenarioFigure) {
	total := 0
	for _, w := range weights {
		total += w
	}
	for i, w := range weights {
		figures = append(figures, scenarioFigure{"% of what the weight says", 100 * shareOf(all, i) * float64(total) / float64(w), 90, 110})
	}
	return figures
}
