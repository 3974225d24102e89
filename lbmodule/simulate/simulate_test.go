package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	_ "github.com/ballastlb/ballast/lbmodule/policies"
)

// simulated runs a simulation of a pool, given as the JSON of its handler, in a scenario.
func simulated(t *testing.T, poolText, scenarioText string) *Result {
	t.Helper()
	r, err := try(t.Context(), poolText, scenarioText)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func try(ctx context.Context, poolText, scenarioText string) (*Result, error) {
	s, err := ReadScenario([]byte(scenarioText))
	if err != nil {
		return nil, err
	}
	p := new(Pool)
	if err := json.Unmarshal([]byte(poolText), p); err != nil {
		return nil, err
	}
	return Run(ctx, p, *s)
}

// policy is the JSON of a pool with this policy, and more settings.
func policy(name, more string) string {
	return fmt.Sprintf(`{"load_balancing": {"selection_policy": {"policy": "lb_%s"}}%s}`, name, more)
}

func near(got, want, tolerance float64) bool { return math.Abs(got-want) <= tolerance*want }

// TestSameSeed: the same input gives the same result, to the last digit, and another seed another one. Breakers, retries, copies, redials of dead
// backends, slow starts and the queue all take part.
func TestSameSeed(t *testing.T) {
	const setting = `, "queue": {"size": 100, "timeout": "1s"}, "hedge": {"percentile": 0.9, "max_extra": 0.05}, "backends": [
		{"address": "a:1", "max_requests": 20}, {"address": "b:1", "max_requests": 20}, {"address": "c:1", "max_requests": 20, "zone": "z"}], "prefer_zone": "z"`
	const load = `{"seed": %d, "balancers": 3, "duration": "20s", "arrivals": {"rate": 300}, "network": {"delay": "300us", "jitter": "200us"},
		"backends": [{"set": {"delay": "20ms", "sigma": 0.8, "workers": 10}}, {"backend": "b:1", "set": {"fail_ratio": 0.3}}],
		"events": [{"at": "5s", "backend": "a:1", "set": {"state": "down"}}, {"at": "8s", "backend": "a:1", "set": {"state": "up"}},
			{"at": "12s", "backend": "c:1", "set": {"state": "stopped"}}, {"at": "13s", "backend": "c:1", "set": {"state": "up"}}]}`
	for _, name := range []string{"peak_ewma", "least_conn", "p2c", "round_robin", "random", "first", "weighted_round_robin"} {
		first := simulated(t, policy(name, setting), fmt.Sprintf(load, 7))
		again := simulated(t, policy(name, setting), fmt.Sprintf(load, 7))
		if !reflect.DeepEqual(first, again) {
			t.Errorf("%s: the same seed gives another result: %v and %v", name, first.Latency, again.Latency)
		}
		if other := simulated(t, policy(name, setting), fmt.Sprintf(load, 8)); reflect.DeepEqual(first.Latency, other.Latency) {
			t.Errorf("%s: another seed gives the same result", name)
		}
		if first.Retries == 0 || first.Copies == 0 {
			t.Errorf("%s: %d retries, %d copies: the scenario shows nothing", name, first.Retries, first.Copies)
		}
	}
}

// TestQueueingTheory: one worker with a constant service time and Poisson arrivals is an M/D/1 queue, whose mean wait is
// rho*s/(2(1-rho)) (Pollaczek and Khinchine).
func TestQueueingTheory(t *testing.T) {
	for _, rho := range []float64{0.3, 0.5, 0.8} {
		r := simulated(t, policy("round_robin", ""), fmt.Sprintf(`{"count": 1, "warm_up": "60s", "duration": "1000s", "arrivals": {"rate": %v}, "backends": [{"set": {"delay": "10ms", "workers": 1}}]}`, rho*100))
		want := 10 + rho*10/(2*(1-rho))
		if !near(r.Latency.Mean, want, 0.02) || r.Failed > 0 {
			t.Errorf("at %v of its capacity: mean %v ms, want %v; %d failed", rho, r.Latency.Mean, want, r.Failed)
		}
	}
}

// TestTimes: the distributions are what they say they are.
func TestTimes(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "access.log")
	lines := strings.Repeat(`{"ts": 1000.5, "duration": 0.007, "request": {"client_ip": "10.0.0.1"}, "load_balancer": {"attempts": [{"backend": "b1", "status": 200, "ms": 3}]}}`+"\n", 3)
	if err := os.WriteFile(log, []byte("not a request\n{\"msg\": 1}\n"+lines), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		set            string
		p50, p99, mean float64
	}{
		{`{"delay": "10ms"}`, 10, 10, 10},
		{`{"delay": "10ms", "jitter": "10ms"}`, 15, 19.9, 15},
		{`{"delay": "10ms", "sigma": 1}`, 10, 10 * math.Exp(2.3263), 10 * math.Exp(0.5)},
		{`{"delay": "10ms", "slow_ratio": 0.05, "slow_delay": "500ms"}`, 10, 500, 10*0.95 + 25},
		{`{"samples": ["5ms", "5ms", "5ms", "50ms"]}`, 5, 50, 16.25},
		{`{"log": "` + log + `"}`, 3, 3, 3},
	}
	for _, test := range tests {
		r := simulated(t, policy("random", ""), `{"count": 1, "duration": "40s", "arrivals": {"rate": 1000}, "backends": [{"set": `+test.set+`}]}`)
		if l := r.Latency; !near(l.P50, test.p50, 0.03) || !near(l.P99, test.p99, 0.05) || !near(l.Mean, test.mean, 0.03) {
			t.Errorf("%s: %+v, want %v, %v, mean %v", test.set, l, test.p50, test.p99, test.mean)
		}
	}
	// A backend that the log does not name takes as long as requests took.
	r := simulated(t, policy("random", ""), `{"count": 2, "duration": "10s", "arrivals": {"rate": 100}, "backends": [{"backend": "b2", "set": {"log": "`+log+`"}}, {"backend": "b1", "set": {"delay": "7ms"}}]}`)
	if r.Latency.Mean != 7 {
		t.Errorf("durations of all requests: mean %v ms, want 7", r.Latency.Mean)
	}
}

// TestArrivals: how many requests arrive, and when.
func TestArrivals(t *testing.T) {
	poisson := simulated(t, policy("random", ""), `{"count": 1, "duration": "100s", "arrivals": {"rate": 1000}}`)
	if !near(float64(poisson.Requests), 100_000, 0.02) {
		t.Errorf("poisson: %d requests, want about 100,000", poisson.Requests)
	}
	constant := simulated(t, policy("random", ""), `{"count": 1, "warm_up": "10s", "duration": "100s", "arrivals": {"rate": 50, "process": "constant"}}`)
	if constant.Requests != 5000 || constant.Timeline[0].Requests != constant.Timeline[1].Requests {
		t.Errorf("constant: %d requests, want 5,000, evenly spaced", constant.Requests)
	}
	// Ten at a time wait for each other.
	bursts := simulated(t, policy("random", ""), `{"count": 1, "duration": "100s", "arrivals": {"rate": 50, "process": "bursts"}, "backends": [{"set": {"delay": "1ms", "workers": 1}}]}`)
	if bursts.Latency.Max != 10 || bursts.Latency.P50 < 5 || bursts.Latency.P50 > 6 {
		t.Errorf("bursts: %+v, want 1 to 10 ms", bursts.Latency)
	}
	log := filepath.Join(t.TempDir(), "access.log")
	text := `{"ts": 1012, "duration": 2, "request": {"remote_ip": "10.0.0.2"}}
{"ts": 1003, "duration": 1, "request": {"client_ip": "10.0.0.1", "remote_ip": "10.0.0.9"}}
{"ts": 1011, "duration": 1.5, "request": {"client_ip": "10.0.0.1"}}
`
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	replayed := simulated(t, policy("random", ""), `{"count": 1, "arrivals": {"log": "`+log+`"}}`)
	at := map[float64]int{}
	for _, s := range replayed.Timeline {
		if s.Requests > 0 {
			at[s.At] = s.Requests
		}
	}
	if want := map[float64]int{0: 1, 7.4: 1, 8: 1}; replayed.Requests != 3 || !reflect.DeepEqual(at, want) {
		t.Errorf("replayed: %v of %d, want %v", at, replayed.Requests, want)
	}
}

// TestOutages: what a breaker, retries, holding and a queue are for happens in virtual time, too.
func TestOutages(t *testing.T) {
	const three = `"count": 3, "duration": "20s", "arrivals": {"rate": 300}, "backends": [{"set": {"delay": "5ms"}}]`
	tests := []struct {
		name, pool, scenario string
		endings              map[string]int // at least; 0 means none
		check                func(*Result) bool
	}{
		{
			"one of three killed", policy("round_robin", ""), `{` + three + `, "events": [{"at": "5s", "backend": "b1", "set": {"state": "down"}}]}`,
			map[string]int{"connect": 0, "reset": 0}, func(r *Result) bool { return r.Retries >= 1 && r.Retries < 30 && r.Failed == 0 },
		},
		{
			"without retries", policy("round_robin", `, "retry": {"disabled": true}, "hold": {"disabled": true}`), `{` + three + `, "events": [{"at": "5s", "backend": "b1", "set": {"state": "down"}}]}`,
			map[string]int{"connect": 3}, func(r *Result) bool { return r.Retries == 0 && r.Failed <= 10 },
		},
		{
			"all away for a second", policy("round_robin", ""), `{` + three + `, "events": [{"at": "5s", "set": {"state": "down"}}, {"at": "6s", "set": {"state": "up"}}]}`,
			map[string]int{"no backend usable": 0, "connect": 0}, func(r *Result) bool { return r.Latency.Max > 900 && r.Latency.Max < 1500 && r.Failed <= 3 },
		},
		{
			"all away for longer than hold", policy("round_robin", ""), `{` + three + `, "events": [{"at": "5s", "set": {"state": "down"}}, {"at": "15s", "set": {"state": "up"}}]}`,
			map[string]int{"no backend usable": 2000}, func(r *Result) bool {
				return r.Timeline[len(r.Timeline)-4].Failed == 0 && r.Timeline[30].P50 < 10 // 503 at once
			},
		},
		{
			"one answers 503", policy("round_robin", ""), `{` + three + `, "events": [{"at": "5s", "backend": "b1", "set": {"status": 503}}]}`,
			map[string]int{}, func(r *Result) bool {
				return r.Failed == 0 && r.Backends[0].Ejections > 0 && r.Backends[0].Attempts < r.Backends[1].Attempts/2
			},
		},
		{
			"an upload is not sent twice", policy("round_robin", `, "breaker": {"disabled": true}`), `{` + three + `, "writes": 1, "events": [{"at": "5s", "backend": "b1", "set": {"status": 503}}]}`,
			map[string]int{}, func(r *Result) bool { return r.Retries == 0 && r.Failed > 1000 },
		},
		{
			"one stops, without try_timeout", policy("round_robin", ""), `{` + three + `, "client_timeout": "3s", "events": [{"at": "5s", "backend": "b1", "set": {"state": "stopped"}}, {"at": "8s", "backend": "b1", "set": {"state": "up"}}]}`,
			map[string]int{}, func(r *Result) bool { return r.Latency.Max > 2900 },
		},
		{
			"one stops, with try_timeout", policy("round_robin", `, "retry": {"try_timeout": "100ms"}`), `{` + three + `, "events": [{"at": "5s", "backend": "b1", "set": {"state": "stopped"}}]}`,
			map[string]int{"timeout": 0}, func(r *Result) bool {
				return r.Failed == 0 && r.Latency.Max > 100 && r.Latency.Max < 250 && r.Retries > 4
			},
		},
		{
			"clients give up", policy("round_robin", ""), `{"count": 1, "client_timeout": "100ms", "duration": "10s", "arrivals": {"rate": 20}, "backends": [{"set": {"delay": "50ms", "slow_ratio": 0.2, "slow_delay": "1s"}}]}`,
			map[string]int{"client gave up": 20}, func(r *Result) bool { return r.Latency.Max == 100 },
		},
		{
			"caps without a queue", policy("least_conn", `, "backends": [{"address": "a:1", "max_requests": 2}, {"address": "b:1", "max_requests": 2}]`),
			`{"duration": "20s", "arrivals": {"rate": 500}, "backends": [{"set": {"delay": "10ms"}}]}`,
			map[string]int{"backends full": 500}, func(r *Result) bool { return r.Latency.Max == 10 },
		},
		{
			"caps with a queue", policy("least_conn", `, "queue": {"size": 20, "timeout": "200ms"}, "backends": [{"address": "a:1", "max_requests": 2}, {"address": "b:1", "max_requests": 2}]`),
			`{"duration": "20s", "arrivals": {"rate": 500}, "backends": [{"set": {"delay": "10ms"}}]}`,
			map[string]int{"backends full": 0, "queue full": 500}, func(r *Result) bool {
				return near(float64(r.Endings["answered"]), 20*400, 0.01) && r.Latency.Max > 50 && r.Latency.Max < 200
			},
		},
		{
			"the queue's timeout", policy("least_conn", `, "queue": {"size": 1000, "timeout": "50ms"}, "backends": [{"address": "a:1", "max_requests": 2}]`),
			`{"duration": "20s", "arrivals": {"rate": 500}, "backends": [{"set": {"delay": "10ms"}}]}`,
			map[string]int{"queue timeout": 1000}, func(r *Result) bool { return r.Latency.Max <= 60 },
		},
		{
			"a backlog", policy("round_robin", `, "retry": {"disabled": true}, "breaker": {"disabled": true}`),
			`{"count": 1, "duration": "10s", "arrivals": {"rate": 200}, "backends": [{"set": {"delay": "10ms", "workers": 1, "backlog": 2}}]}`,
			map[string]int{}, func(r *Result) bool { return r.Statuses[503] > 800 && r.Latency.Max <= 30 },
		},
	}
	for _, test := range tests {
		r := simulated(t, test.pool, test.scenario)
		for name, least := range test.endings {
			if n := r.Endings[name]; n < least || least == 0 && n > 0 {
				t.Errorf("%s: %d requests ended with %s, want %d or more", test.name, n, name, least)
			}
		}
		if !test.check(r) {
			t.Errorf("%s: not as expected: endings %v, statuses %v, %d failed, %d retries, %+v, %+v", test.name, r.Endings, r.Statuses, r.Failed, r.Retries, r.Latency, r.Backends)
		}
	}
}

// TestHedging: copies take the tail off, and there are no more of them than allowed.
func TestHedging(t *testing.T) {
	const load = `{"count": 5, "warm_up": "10s", "duration": "30s", "arrivals": {"rate": 500}, "backends": [{"set": {"delay": "10ms", "slow_ratio": 0.02, "slow_delay": "1s"}}]}`
	without := simulated(t, policy("p2c", ""), load)
	with := simulated(t, policy("p2c", `, "hedge": {"percentile": 0.95, "max_extra": 0.05}`), load)
	if without.Latency.P99 != 1000 || with.Latency.P99 > 100 {
		t.Errorf("p99 %v ms without, %v with copies", without.Latency.P99, with.Latency.P99)
	}
	if share := float64(with.Copies) / float64(with.Requests); share < 0.015 || share > 0.06 || with.CopiesWon < with.Copies/2 {
		t.Errorf("%d copies of %d requests, of which %d won", with.Copies, with.Requests, with.CopiesWon)
	}
}

// TestSessions: a client stays at its backend, with a cookie and with a hash.
func TestSessions(t *testing.T) {
	for _, p := range []string{
		`{"policy": "lb_sticky", "secrets": ["0123456789abcdef0123456789abcdef"]}`,
		`{"policy": "lb_hash", "keys": ["{http.request.header.x}"]}`,
	} {
		s, err := ReadScenario([]byte(`{"count": 4, "duration": "10s", "clients": 2, "arrivals": {"rate": 100}}`))
		if err != nil {
			t.Fatal(err)
		}
		pool := new(Pool)
		pool.LoadBalancing.Policy = json.RawMessage(p)
		r, err := Run(t.Context(), pool, *s)
		if err != nil {
			t.Fatal(err)
		}
		used := 0
		for _, b := range r.Backends {
			if b.Attempts > 0 {
				used++
			}
		}
		if used > 2 || r.Failed > 0 {
			t.Errorf("%s: two clients used %d backends", p, used)
		}
	}
}

// TestSlowStart: a backend that is back is ramped up.
func TestSlowStart(t *testing.T) {
	r := simulated(t, policy("round_robin", `, "slow_start": "20s"`), `{"count": 2, "duration": "60s", "arrivals": {"rate": 500}, "backends": [{"set": {"delay": "2ms"}}],
		"events": [{"at": "10s", "backend": "b1", "set": {"state": "down"}}, {"at": "20s", "backend": "b1", "set": {"state": "up"}}]}`)
	early, late := r.Timeline[23].Shares[0], r.Timeline[50].Shares[0]
	if early < 0.05 || early > 0.35 || !near(late, 0.5, 0.05) {
		t.Errorf("its share is %v after 3 s, and %v after 30 s", early, late)
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct{ pool, scenario, want string }{
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "seeds": 2}`, `unknown field "seeds"`},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}} {}`, "data after the first value"},
		{`{}`, `{"arrivals": {"rate": 1}}`, "count: missing; the pool has no backends"},
		{`{"dynamic_upstreams": {}}`, `{"arrivals": {"rate": 1}}`, "count: missing; the pool's backends come from a dynamic source"},
		{`{}`, `{"count": 1}`, "arrivals: rate 0: must be above 0"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1, "process": "normal"}}`, `process "normal": must be poisson, constant or bursts`},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1, "log": "x"}}`, "cannot be combined with rate"},
		{`{}`, `{"count": 1, "arrivals": {"log": "/nowhere"}}`, "/nowhere"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1e6}, "duration": "1h"}`, "must be at most 50000000 requests"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "balancers": 1001}`, "balancers 1001: must be from 1 to 1000"},
		{`{}`, `{"count": 5000, "arrivals": {"rate": 1}, "balancers": 1000}`, "must be at most 1000000 in all"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "writes": 2}`, "writes 2: must be from 0 to 1"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "backends": [{"set": {"delays": 1}}]}`, `backends: entry 1: set: json: unknown field "delays"`},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "backends": [{"set": {"status": 99}}]}`, "status 99: must be from 200 to 599"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "backends": [{"set": {"state": "gone"}}]}`, `state "gone": must be up, down or stopped`},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "backends": [{"set": {"sigma": 4}}]}`, "sigma 4: must be from 0 to 3"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "backends": [{"backend": "[", "set": {}}]}`, "syntax error in pattern"},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "backends": [{"backend": "b9", "set": {"delay": "1ms"}}]}`, `backend "b9": matches no backend`},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "events": [{"at": "1s", "backend": "b2", "set": {"delay": "1ms"}}]}`, `events: entry 1: backend "b2": matches no backend`},
		{`{}`, `{"count": 1, "arrivals": {"rate": 1}, "events": [{"at": "-1s"}]}`, "at -1s: must be from 0s"},
		{policy("nonsense", ""), `{"count": 1, "arrivals": {"rate": 1}}`, "nonsense"},
		{`{"load_balancing": {"selection_policy": {"policy": "lb_weighted_round_robin", "weights": [1, 2]}}}`, `{"count": 3, "arrivals": {"rate": 1}}`, "2 weights for 3 backends"},
		{`{"queue": {"size": -1, "timeout": "1s"}}`, `{"count": 1, "arrivals": {"rate": 1}}`, "queue"},
		{`{"backends": [{"address": "a:1"}, {"address": "a:1"}]}`, `{"arrivals": {"rate": 1}}`, "backend a:1: given twice"},
	}
	for _, test := range tests {
		_, err := try(t.Context(), test.pool, test.scenario)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s in %s: error %v, want %q in it", test.pool, test.scenario, err, test.want)
		}
	}
}

func TestFindPools(t *testing.T) {
	text := `{"apps": {"http": {"servers": {"a": {"routes": [{"handle": [{"handler": "subroute", "routes": [{"handle": [
		{"handler": "load_balancer", "name": "x", "upstreams": [{"dial": "a:1"}]}, {"handler": "load_balancer", "backends": [{"address": "c:1"}], "health_check": {}}
	]}]}]}]}}}}}`
	pools, err := FindPools([]byte(text))
	if err != nil || len(pools) != 2 || pools[0].Title() != "x" || pools[1].Title() != "c:1" {
		t.Fatalf("pools %v, error %v", pools, err)
	}
	if left := pools[1].NotSimulated(); !reflect.DeepEqual(left, []string{"health_check"}) {
		t.Errorf("not simulated: %v", left)
	}
	if _, err := FindPools([]byte(`{"handler": "load_balancer", "upstreams": 1}`)); err == nil {
		t.Error("upstreams that are a number are no error")
	}
}

// TestPoolAsInCaddy: an upstream that is listed twice, and weights by position, mean what they mean in a running load balancer.
func TestPoolAsInCaddy(t *testing.T) {
	const load = `{"duration": "30s", "arrivals": {"rate": 100}}`
	shares := func(r *Result) (all []float64) {
		for _, b := range r.Backends {
			all = append(all, math.Round(100*b.Share))
		}
		return all
	}
	twice := simulated(t, policy("weighted_round_robin", `, "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "a:1"}], "backends": [{"address": "c:1", "weight": 2}]`), load)
	if got, want := shares(twice), []float64{40, 20, 40}; !reflect.DeepEqual(got, want) {
		t.Errorf("shares %v, want %v", got, want)
	}
	listed := simulated(t, `{"load_balancing": {"selection_policy": {"policy": "lb_weighted_round_robin", "weights": [5, 3, 2]}}, "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "a:1"}]}`, load)
	if got, want := shares(listed), []float64{70, 30}; !reflect.DeepEqual(got, want) {
		t.Errorf("shares %v, want %v", got, want)
	}
	// lb_try_duration makes a request wait for a backend that is down, at its default interval.
	waits := simulated(t, `{"upstreams": [{"dial": "a:1"}], "load_balancing": {"try_duration": "3s"}}`,
		`{"duration": "5s", "arrivals": {"rate": 50}, "events": [{"at": "1s", "set": {"state": "down"}}, {"at": "3s", "set": {"state": "up"}}]}`)
	if waits.Failed > 1 || waits.Latency.Max < 1500 {
		t.Errorf("%d failed, the longest took %v ms", waits.Failed, waits.Latency.Max)
	}
	// Passive checks take a backend out by failures in a span.
	passive := simulated(t, policy("round_robin", `, "breaker": {"disabled": true}, "retry": {"disabled": true}, "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "health_checks": {"passive": {"fail_duration": "60s", "max_fails": 3, "unhealthy_status": [5]}}`),
		`{"duration": "10s", "arrivals": {"rate": 100}, "backends": [{"backend": "a:1", "set": {"status": 500}}]}`)
	if passive.Failed != 3 {
		t.Errorf("%d failed, want the 3 that take the backend out", passive.Failed)
	}
}

// TestStopped: when a stopped backend resumes, it answers the requests that it had, and those that have arrived since.
func TestStopped(t *testing.T) {
	r := simulated(t, policy("round_robin", ""), `{"count": 1, "duration": "10s", "arrivals": {"rate": 100, "process": "constant"}, "backends": [{"set": {"delay": "100ms", "workers": 50}}],
		"events": [{"at": "4s", "set": {"state": "stopped"}}, {"at": "6s", "set": {"state": "up"}}]}`)
	if r.Failed > 0 || r.Statuses[200] != r.Requests || r.Latency.Max < 2000 || r.Latency.Max > 3000 {
		t.Errorf("%v, %+v", r.Endings, r.Latency)
	}
	for _, s := range r.Timeline {
		if at := s.At; at >= 4 && at < 5.8 && s.P50 < 1000*(6-at-1) || at < 3.8 && s.P99 != 100 {
			t.Errorf("at %v s: %v ms", at, s.P50)
		}
	}
}

// TestSlowPages: peak_ewma knows which requests wait for their answer, so that a few slow pages do not cost a backend its share.
func TestSlowPages(t *testing.T) {
	r := simulated(t, policy("peak_ewma", ""), `{"count": 3, "warm_up": "10s", "duration": "60s", "arrivals": {"rate": 300},
		"backends": [{"set": {"delay": "1ms", "slow_ratio": 0.02, "slow_delay": "1s"}}, {"backend": "b2", "set": {"slow_ratio": 0}}]}`)
	// About 7,900. If the backends' silence did not count, the share would be that of a backend's whole latency: 6,300.
	if n := r.Backends[0].Attempts + r.Backends[2].Attempts; n < 7_200 {
		t.Errorf("the backends with slow pages got %d of %d requests, want at least 7,200", n, r.Requests)
	}
}

// TestFairness: Jain's index and the extremes of the loads are in relation to the weights, and only of the primary backends.
func TestFairness(t *testing.T) {
	const load = `{"duration": "40s", "arrivals": {"rate": 100, "process": "constant"}}`
	const three = `, "backends": [{"address": "a:1", "weight": 6}, {"address": "b:1", "weight": 3}, {"address": "c:1", "weight": 1}, {"address": "d:1", "backup": true}]`
	if r := simulated(t, policy("weighted_round_robin", three), load); r.Fairness < 0.9999 || r.LeastLoad < 0.99 || r.LargestLoad > 1.01 {
		t.Errorf("by weight: %v, %v to %v", r.Fairness, r.LeastLoad, r.LargestLoad)
	}
	// One of three has all: per weight it is 1/6, and the others are 0.
	if r := simulated(t, policy("first", three), load); !near(r.Fairness, 1.0/3, 0.01) || r.LeastLoad != 0 || !near(r.LargestLoad, 3, 0.01) {
		t.Errorf("one has all: %v, %v to %v", r.Fairness, r.LeastLoad, r.LargestLoad)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := try(ctx, `{}`, `{"count": 5, "arrivals": {"rate": 10000}, "duration": "1000s"}`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

// TestSubset: balancers with numbers share the load evenly with few members each; those without do as chance has it. Both use fewer members than
// all balancers times all backends.
func TestSubset(t *testing.T) {
	const load = `{"count": 1000, "balancers": 50, "duration": "8s", "arrivals": {"rate": 4000, "process": "constant"}, "backends": [{"set": {"delay": "5ms"}}]}`
	numbered := simulated(t, policy("round_robin", `, "subset": {"size": 40, "peer": 0, "peers": 50}`), load)
	if numbered.Members != 2000 || numbered.LargestLoad > 1.3 || numbered.LeastLoad < 0.7 || numbered.Failed > 0 {
		t.Errorf("with numbers: %d members, loads from %v to %v, %d failed", numbered.Members, numbered.LeastLoad, numbered.LargestLoad, numbered.Failed)
	}
	other := simulated(t, policy("round_robin", `, "subset": {"size": 40}`), load)
	if other.Members != 2000 || other.LargestLoad < 1.5 || other.Failed > 0 {
		t.Errorf("without numbers: %d members, loads from %v to %v, %d failed", other.Members, other.LeastLoad, other.LargestLoad, other.Failed)
	}
	all := simulated(t, policy("round_robin", ""), load)
	if all.Members != 50_000 {
		t.Errorf("without subsets: %d members, want 50,000", all.Members)
	}
	// Sessions are known where their backend is used only.
	sticky := simulated(t, `{"load_balancing": {"selection_policy": {"policy": "lb_sticky", "secrets": ["0123456789abcdef0123456789abcdef"]}}, "subset": {"size": 2}}`, `{"count": 6, "balancers": 3, "clients": 5, "duration": "20s", "arrivals": {"rate": 100}}`)
	if sticky.Failed > 0 {
		t.Errorf("sticky: %v", sticky.Endings)
	}
}
