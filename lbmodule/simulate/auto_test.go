package simulate

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// bounded is the JSON of a pool of n backends with this max_requests, "" for none.
func bounded(n int, most string) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{"address": "b%d:1"}`, i+1))
	}
	if most != "" {
		most = `"max_requests": ` + most + `,`
	}
	return fmt.Sprintf(`{%s "retry": {"disabled": true}, "queue": {"size": 1000, "timeout": "1s"}, "breaker": {"disabled": true},
		"load_balancing": {"selection_policy": {"policy": "lb_least_conn"}}, "backends": [%s]}`, most, strings.Join(list, ","))
}

// goodput returns how many requests per second got a good answer in that time, at most 1.5 s after they arrived, and how long their backends
// took, in milliseconds.
func goodput(r *Result, from, to time.Duration) (rate, took float64) {
	n := 0
	for _, q := range r.All {
		if at := q.Due + q.Took; at >= from && at < to && !q.failed() && q.Took <= 1500*time.Millisecond {
			n++
			took += q.Attempt.Seconds() * 1000
		}
	}
	return float64(n) / (to - from).Seconds(), took / float64(max(n, 1))
}

// TestAutoIsAsGoodAsTheBestCap: a backend with ten workers that is asked for half of what it can do, and up to three times as much. With auto
// it answers nearly as many requests as with the cap that is best for it, and takes not much longer than alone. Without a cap an overload
// makes its queue grow until no answer is in time.
func TestAutoIsAsGoodAsTheBestCap(t *testing.T) {
	const workers = 10
	for _, b := range []struct {
		name, set string
		mean      float64 // of how long it works on a request, in milliseconds
	}{
		{"constant", `"delay": "20ms"`, 20},
		{"sigma 0.5", `"delay": "20ms", "sigma": 0.5`, 20 * math.Exp(0.125)},
		{"sigma 1", `"delay": "20ms", "sigma": 1`, 20 * math.Exp(0.5)},
		{"bimodal", `"delay": "20ms", "slow_ratio": 0.05, "slow_delay": "500ms"`, 44},
	} {
		for _, load := range []float64{0.5, 0.9, 1.5, 3} {
			run := func(most string) (rate, took float64) {
				r := simulated(t, bounded(1, most), fmt.Sprintf(`{"warm_up": "10s", "duration": "10s", "arrivals": {"rate": %v}, "backends": [{"set": {%s, "workers": %d}}]}`,
					load*workers/b.mean*1000, b.set, workers))
				return goodput(r, 1500*time.Millisecond, 10*time.Second)
			}
			caps := []string{"9", "10", "11", "13", "20"}
			if load < 1 {
				caps = []string{""}
			}
			best, bestCap := 0.0, ""
			for _, most := range caps {
				if rate, _ := run(most); rate > best {
					best, bestCap = rate, most
				}
			}
			rate, took := run(`"auto"`)
			t.Logf("%s, load %v: %.0f/s, %.2f of those with a cap of %q; the backend takes %.2f times as long as alone", b.name, load, rate, rate/best, bestCap, took/b.mean)
			if rate < 0.9*best || took > 1.6*b.mean {
				t.Errorf("%s, load %v: %.0f/s, but %.0f/s with a cap of %q; the backend takes %.1f ms, alone %.1f ms", b.name, load, rate, best, bestCap, took, b.mean)
			}
			if load < 1 {
				continue
			}
			if without, _ := run(""); without > rate/2 {
				t.Errorf("%s, load %v: %.0f/s without a cap: the scenario shows nothing", b.name, load, without)
			}
		}
	}
}

// TestAutoFollows: ten seconds after a backend can do less, or more, or takes longer for each request, it does what it can, and takes not much
// longer for it than alone.
func TestAutoFollows(t *testing.T) {
	for _, sigma := range []float64{0, 0.5} {
		for _, n := range []int{1, 5} {
			longer := math.Exp(sigma * sigma / 2)
			rate := 1500 * float64(n) / longer
			r := simulated(t, bounded(n, `"auto"`), fmt.Sprintf(`{"warm_up": "15s", "duration": "80s", "arrivals": {"rate": %v},
				"backends": [{"set": {"delay": "20ms", "workers": 10, "sigma": %v}}],
				"events": [{"at": "5s", "set": {"workers": 3}}, {"at": "25s", "set": {"workers": 20}}, {"at": "45s", "set": {"delay": "100ms"}}, {"at": "65s", "set": {"delay": "20ms"}}]}`, rate, sigma))
			for _, part := range []struct{ from, workers, delay float64 }{{2, 10, 20}, {15, 3, 20}, {35, 20, 20}, {55, 20, 100}, {75, 20, 20}} {
				from := time.Duration(part.from * float64(time.Second))
				got, took := goodput(r, from, from+min(10*time.Second, time.Duration(r.Timeline[len(r.Timeline)-1].At*float64(time.Second))-from))
				if part.from == 2 {
					got, took = goodput(r, from, 5*time.Second)
				}
				can := min(part.workers/part.delay*1000/longer*float64(n), rate)
				t.Logf("sigma %v, %d backends with %v workers and %v ms: %.2f of what they can, %.2f times as long as alone", sigma, n, part.workers, part.delay, got/can, took/part.delay/longer)
				least := 0.9
				if part.delay == 100 {
					least = 0.8 // it halves its limit to find out that this is no queue
				}
				if got < least*can || took > 1.7*part.delay*longer {
					t.Errorf("sigma %v, %d backends with %v workers and %v ms: %.0f/s of %.0f/s, %.1f ms each", sigma, n, part.workers, part.delay, got, can, took)
				}
			}
		}
	}
}

// TestAutoOfSeveralBalancers: each of them moves the backend less, so that the queue is longer, but still bounded.
func TestAutoOfSeveralBalancers(t *testing.T) {
	for _, balancers := range []int{2, 3} {
		r := simulated(t, bounded(1, `"auto"`), fmt.Sprintf(`{"balancers": %d, "warm_up": "10s", "duration": "30s", "arrivals": {"rate": 1000}, "backends": [{"set": {"delay": "20ms", "workers": 10}}]}`, balancers))
		rate, took := goodput(r, 2*time.Second, 30*time.Second)
		t.Logf("%d balancers: %.0f/s, %.0f ms each", balancers, rate, took)
		if rate < 450 || took > 20*20 {
			t.Errorf("%d balancers: %.0f/s, %.0f ms each", balancers, rate, took)
		}
	}
}

// TestAutoUsesOthersFirst: no request waits for a backend at its limit while another one has room.
func TestAutoUsesOthersFirst(t *testing.T) {
	r := simulated(t, `{"load_balancing": {"selection_policy": {"policy": "lb_first"}}, "backends": [{"address": "a:1", "max_requests": "auto"}, {"address": "b:1"}]}`,
		`{"warm_up": "10s", "duration": "10s", "arrivals": {"rate": 1000}, "backends": [{"set": {"delay": "20ms"}}, {"backend": "a:1", "set": {"workers": 3}}]}`)
	if r.Failed > 0 || r.Latency.P99 > 60 || r.Backends[1].Attempts < 7000 {
		t.Errorf("%d failed, p99 %v ms, %+v", r.Failed, r.Latency.P99, r.Backends)
	}
}

// TestAutoQueues: without a word about a queue, requests wait for a second at most; with queue off they do not.
func TestAutoQueues(t *testing.T) {
	const load = `{"duration": "10s", "arrivals": {"rate": 1000}, "backends": [{"set": {"delay": "20ms", "workers": 10}}]}`
	waits := simulated(t, `{"backends": [{"address": "a:1", "max_requests": "auto"}]}`, load)
	if waits.Endings["queue timeout"] == 0 || waits.Endings["backends full"] > 0 || waits.Latency.Max > 1300 {
		t.Errorf("endings %v, %v ms at most", waits.Endings, waits.Latency.Max)
	}
	refuses := simulated(t, `{"queue": {"disabled": true}, "backends": [{"address": "a:1", "max_requests": "auto"}]}`, load)
	if refuses.Endings["backends full"] == 0 || refuses.Latency.P99 > 100 {
		t.Errorf("endings %v, p99 %v ms", refuses.Endings, refuses.Latency.P99)
	}
}
