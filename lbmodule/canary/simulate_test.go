package canary

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// world makes the requests of a canary.
type world struct {
	share    float64
	perBlock int // requests of both sides
	most     int // requests of both sides; then it ends

	errors  func(s Side, block int) float64
	latency func(s Side, rng *rand.Rand) float64 // in milliseconds; nil if it does not matter
}

// run returns with how many requests of the canary it is rolled back, and why; "" if it is not.
func (w *world) run(seed uint64, s *Settings) (canary int, reason string) {
	rng := rand.New(rand.NewPCG(seed, 7))
	g := newGuard(s)
	now := time.Unix(1, 0)
	for block, n := 0, 0; n < w.most; block++ {
		now = now.Add(time.Second)
		var more [sides]tally
		for range w.perBlock {
			n++
			side := Others
			if rng.Float64() < w.share {
				side = Canary
				canary++
			}
			if rng.Float64() < w.errors(side, block) {
				more[side].failed++
				continue
			}
			took := time.Millisecond
			if w.latency != nil {
				took = time.Duration(w.latency(side, rng) * float64(time.Millisecond))
			}
			more[side].answered[bucketOf(took)]++
		}
		if reason := g.add(&more, now); reason != "" {
			return canary, reason
		}
	}
	return canary, ""
}

// both are settings with both tests, and the defaults.
var both = Settings{Errors: true, Latency: true, MoreErrors: 0.1, Slower: 0.25}

// manyRuns is for how many runs of each kind simulations go.
var manyRuns = flag.Int("canary.runs", 80, "runs of each simulated canary")

// simulate returns with how many requests of the canary runs were rolled back, sorted; the others are not in it.
func (w *world) simulate(s *Settings, runs int) (found []int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	seeds := make(chan uint64)
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for seed := range seeds {
				if n, reason := w.run(seed, s); reason != "" {
					mu.Lock()
					found = append(found, n)
					mu.Unlock()
				}
			}
		})
	}
	for seed := range uint64(runs) {
		seeds <- seed + 1
	}
	close(seeds)
	all.Wait()
	slices.Sort(found)
	return found
}

// constant is a probability of errors that is the same for both sides.
func constant(p float64) func(Side, int) float64 { return func(Side, int) float64 { return p } }

// lognormal are latencies around that many milliseconds.
func lognormal(median, sigma float64) func(*rand.Rand) float64 {
	return func(rng *rand.Rand) float64 { return median * math.Exp(sigma*rng.NormFloat64()) }
}

// TestFalseAlarms: a canary that is as good as the others is rolled back in fewer than 1 % of the runs.
func TestFalseAlarms(t *testing.T) {
	heavy := func(_ Side, rng *rand.Rand) float64 { return 5 / math.Pow(1-rng.Float64(), 1/1.1) } // Pareto, of infinite variance
	drift := func(_ Side, block int) float64 { return 0.02 + 0.3*math.Pow(math.Sin(float64(block)/7), 2) }
	outage := func(_ Side, block int) float64 {
		if block%20 < 5 {
			return 0.9
		}
		return 0.001
	}
	type kind struct {
		name string
		w    world
	}
	var kinds []kind
	for _, share := range []float64{0.01, 0.05, 0.5} {
		for _, p := range []float64{0, 0.001, 0.01, 0.05, 0.2} {
			kinds = append(kinds, kind{fmt.Sprintf("errors %v share %v", p, share), world{share: share, errors: constant(p), latency: heavy}})
		}
		kinds = append(kinds,
			kind{fmt.Sprintf("drift share %v", share), world{share: share, errors: drift}},
			kind{fmt.Sprintf("outage of everything share %v", share), world{share: share, errors: outage}})
	}
	runs, alarms := 0, 0
	for _, k := range kinds {
		for _, perBlock := range []int{20, 2000} {
			k.w.perBlock, k.w.most = perBlock, 5000
			n := *manyRuns
			if perBlock == 2000 {
				k.w.most = 100_000
				n /= 16
			}
			found := len(k.w.simulate(&both, n))
			runs, alarms = runs+n, alarms+found
			if found > max(n/100, 2) {
				t.Errorf("%s, %d a second: %d of %d runs rolled back", k.name, perBlock, found, n)
			}
		}
	}
	t.Logf("%d alarms in %d runs", alarms, runs)
	if alarms*100 >= runs {
		t.Errorf("%d of %d runs rolled back, must be less than 1 %%", alarms, runs)
	}
}

// TestTolerated: what is tolerated is tolerated with any number of requests.
func TestTolerated(t *testing.T) {
	w := world{share: 0.5, perBlock: 20000, most: 1_000_000, errors: func(s Side, _ int) float64 { return 0.05 + 0.004*float64(s) }}
	w.latency = func(s Side, rng *rand.Rand) float64 { return lognormal(20*(1+0.2*float64(s)), 0.5)(rng) }
	if found := w.simulate(&both, 20); len(found) > 0 {
		t.Errorf("rolled back in %d of 20 runs", len(found))
	}
}

// TestFound prints with how many requests of the canary something is found, and holds it to that.
func TestFound(t *testing.T) {
	worse := func(base, canary float64) func(Side, int) float64 {
		return func(s Side, _ int) float64 { return [sides]float64{base, canary}[s] }
	}
	slower := func(times, sigma float64) func(Side, *rand.Rand) float64 {
		return func(s Side, rng *rand.Rand) float64 { return lognormal([sides]float64{20, 20 * times}[s], sigma)(rng) }
	}
	for _, k := range []struct {
		name        string
		errors      func(Side, int) float64
		latency     func(Side, *rand.Rand) float64
		median, p95 int // at most
	}{
		{"errors 0 % to 100 %", worse(0, 1), nil, 12, 25},
		{"errors 0 % to 50 %", worse(0, 0.5), nil, 30, 45},
		{"errors 0.1 % to 10 %", worse(0.001, 0.1), nil, 150, 250},
		{"errors 1 % to 10 %", worse(0.01, 0.1), nil, 260, 550},
		{"errors 20 % to 40 %", worse(0.2, 0.4), nil, 300, 500},
		{"errors 10 % to 20 %", worse(0.1, 0.2), nil, 600, 1200},
		{"errors 5 % to 10 %", worse(0.05, 0.1), nil, 1500, 3000},
		{"errors 1 % to 2 %", worse(0.01, 0.02), nil, 9000, 17000},
		{"latency 1.5 times", constant(0), slower(1.5, 0.5), 14000, 35000},
		{"latency twice", constant(0), slower(2, 0.5), 200, 400},
		{"latency twice, wide", constant(0), slower(2, 1), 1200, 2800},
		{"latency four times", constant(0), slower(4, 0.5), 60, 100},
	} {
		for _, share := range []float64{0.05, 0.5} {
			w := world{share: share, perBlock: int(10 / share), most: int(40000 / share), errors: k.errors, latency: k.latency}
			found := w.simulate(&both, 100)
			if len(found) < 96 {
				t.Errorf("%s, share %v: found in %d of 100 runs only", k.name, share, len(found))
				continue
			}
			median, p95 := found[50], found[95]
			t.Logf("%-24s share %-5v median %6d, 95 %% %6d", k.name, share, median, p95)
			if median > k.median || p95 > k.p95 {
				t.Errorf("%s, share %v: found with %d requests (median), %d (95 %%), want at most %d, %d", k.name, share, median, p95, k.median, k.p95)
			}
		}
	}
}

// TestFoundLate: a canary that was good for an hour, and then is not, is found as well.
func TestFoundLate(t *testing.T) {
	const hour = 3600
	w := world{share: 0.2, perBlock: 50, most: 50 * (hour + 300), errors: func(s Side, block int) float64 {
		if s == Canary && block >= hour {
			return 0.2
		}
		return 0.01
	}}
	found := w.simulate(&both, 40)
	if len(found) < 40 {
		t.Fatalf("found in %d of 40 runs", len(found))
	}
	late := 10 * hour
	t.Logf("found with %d more requests of the canary (median)", found[20]-late)
	if found[0] < late-late/20 || found[20] > late+600 {
		t.Errorf("found with %d to %d requests, %d of them good", found[0], found[20], late)
	}
}
