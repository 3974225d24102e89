package simulate

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func autoPool(n int, most string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{"address": "b%d:1"}`, i+1))
	}
	return fmt.Sprintf(`{"max_requests": %s, "retry": {"disabled": true}, "queue": {"size": 1000, "timeout": "1s"},
		"load_balancing": {"selection_policy": {"policy": "lb_least_conn"}}, "backends": [%s]}`, most, strings.Join(list, ","))
}

func good(r *Result, from, to time.Duration) (n int) {
	for _, q := range r.All {
		if q.Due >= from && q.Due < to && !q.failed() && q.Took <= 1200*time.Millisecond {
			n++
		}
	}
	return n
}

func attemptMean(r *Result) float64 {
	sum, n := 0.0, 0
	for _, q := range r.All {
		if !q.failed() {
			sum += q.Attempt.Seconds() * 1000
			n++
		}
	}
	return sum / float64(n)
}

func TestExplore(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	for _, s := range []struct {
		set     string
		mean    float64
		workers int
	}{
		{`"delay": "20ms"`, 20, 10}, {`"delay": "20ms", "sigma": 0.5`, 22.66, 10}, {`"delay": "20ms", "sigma": 1`, 32.97, 10},
		{`"delay": "20ms", "slow_ratio": 0.05, "slow_delay": "500ms"`, 44, 10},
		{`"delay": "20ms"`, 20, 1}, {`"delay": "20ms"`, 20, 3}, {`"delay": "20ms", "sigma": 1`, 32.97, 3}, {`"delay": "20ms"`, 20, 100}, {`"delay": "200ms"`, 200, 10}, {`"delay": "2ms", "sigma": 0.5`, 2.266, 10},
	} {
		for _, load := range loads() { //{0.5, 0.9, 1.5, 3} {
			rate := load * float64(s.workers) / s.mean * 1000
			run := func(most string) *Result {
				return simulated(t, autoPool(1, most), fmt.Sprintf(`{"warm_up": "5s", "duration": "20s", "arrivals": {"rate": %v}, "backends": [{"set": {%s, "workers": %d}}]}`, rate, s.set, s.workers))
			}
			fixed, auto := run(fmt.Sprint(s.workers+1)), run(`"auto"`)
			t.Logf("%d x %s load %v: good %.3f  p99 %v (fixed %v) attempt %.1f (fixed %.1f) limit %d", s.workers, s.set, load, float64(good(auto, 0, time.Minute))/float64(good(fixed, 0, time.Minute)),
				auto.Latency.P99, fixed.Latency.P99, attemptMean(auto), attemptMean(fixed), auto.Backends[0].Limit)
		}
	}
}

func loads() []float64 {
	if os.Getenv("TRACE") != "" {
		return []float64{3}
	}
	return []float64{0.5, 0.9, 1.5, 3}
}

func TestExploreChange(t *testing.T) {
	if os.Getenv("EXPLORE") == "" {
		t.Skip()
	}
	for _, sigma := range []float64{0, 0.5, 1} {
		for _, n := range []int{1, 5} {
			for _, balancers := range []int{1, 3} {
				e := math.Exp(sigma * sigma / 2)
				rate := 750.0 * float64(n) / e * 2
				r := simulated(t, autoPool(n, `"auto"`), fmt.Sprintf(`{"balancers": %d, "warm_up": "10s", "duration": "125s", "arrivals": {"rate": %v}, "backends": [{"set": {"delay": "20ms", "workers": 10, "sigma": %v}}],
		"events": [{"at": "10s", "set": {"workers": 3}}, {"at": "40s", "set": {"workers": 20}}, {"at": "70s", "set": {"delay": "100ms"}}, {"at": "100s", "set": {"delay": "20ms"}}]}`, balancers, rate, sigma))
				line := ""
				for _, phase := range []struct{ from, to, workers, delay float64 }{{0, 10, 10, 20}, {20, 40, 3, 20}, {50, 70, 20, 20}, {80, 100, 20, 100}, {110, 125, 20, 20}} {
					g, sum := 0, 0.0
					for _, q := range r.All {
						if at := q.Due + q.Took; at >= time.Duration(phase.from*1e9) && at < time.Duration(phase.to*1e9) && !q.failed() {
							g++
							sum += q.Attempt.Seconds() * 1000
						}
					}
					capacity := phase.workers / phase.delay * 1000 / e * float64(n) * (phase.to - phase.from)
					line += fmt.Sprintf("  %.3f x%.2f", float64(g)/min(capacity, rate*(phase.to-phase.from)), sum/float64(g)/(phase.delay*e))
				}
				t.Logf("sigma %v n %d balancers %d: %s", sigma, n, balancers, line)
			}
		}
	}
}
