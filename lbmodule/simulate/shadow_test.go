package simulate

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// withShadow simulates the pool with a shadow policy; nil for none.
func withShadow(t *testing.T, poolText, scenarioText string, shadow balance.Policy) (*Result, *pool.View) {
	t.Helper()
	s, err := ReadScenario([]byte(scenarioText))
	if err != nil {
		t.Fatal(err)
	}
	p := new(Pool)
	if err := json.Unmarshal([]byte(poolText), p); err != nil {
		t.Fatal(err)
	}
	if err := s.complete(); err != nil {
		t.Fatal(err)
	}
	ready, end, err := p.prepare(t.Context(), s.Count)
	defer end()
	if err != nil {
		t.Fatal(err)
	}
	ready.settings.Shadow = shadow
	w, arrivals, err := newWorld(ready, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.run(t.Context(), arrivals); err != nil {
		t.Fatal(err)
	}
	return w.result(p, s), w.balancers[0].view
}

var shadows = map[string]balance.Policy{
	"round_robin": balance.RoundRobin{}, "random": balance.Random{}, "least_conn": balance.LeastConn{}, "p2c": balance.Choices{N: 2},
	"peak_ewma": balance.PeakEWMA{}, "hash": balance.Hash{}, "first": balance.First{}, "weighted_round_robin": balance.Smooth{},
}

// eventful has backends that are unlike, full, slow for a while, fail, die and come back.
const eventful = `{"seed": 7, "warm_up": "1s", "duration": "30s", "count": 4, "arrivals": {"rate": 400}, "backends": [
	{"set": {"delay": "10ms", "sigma": 0.8, "workers": 8}}, {"backend": "b2", "set": {"delay": "25ms"}}],
	"events": [{"at": "5s", "backend": "b3", "set": {"delay": "200ms"}}, {"at": "12s", "backend": "b3", "set": {"delay": "10ms"}},
	{"at": "14s", "backend": "b1", "set": {"fail_ratio": 0.8}}, {"at": "18s", "backend": "b1", "set": {"fail_ratio": 0}},
	{"at": "20s", "backend": "b4", "set": {"state": "down"}}, {"at": "24s", "backend": "b4", "set": {"state": "up"}}]}`

// TestShadowHasNoEffect: all that happens is the same with any shadow policy as without one, request by request.
func TestShadowHasNoEffect(t *testing.T) {
	for name := range shadows {
		if name == "hash" {
			continue // as the real one it has a key for each client here, which takes no part in this
		}
		text := policy(name, `, "max_requests": 40, "hedge": {"percentile": 0.95, "max_extra": 0.05}, "slow_start": "5s"`)
		without, _ := withShadow(t, text, eventful, nil)
		if without.Retries == 0 || without.Copies == 0 {
			t.Fatalf("%s: %d retries, %d copies: the scenario shows nothing", name, without.Retries, without.Copies)
		}
		for other, shadow := range shadows {
			with, view := withShadow(t, text, eventful, shadow)
			if !slices.Equal(with.All, without.All) {
				t.Errorf("%s is another with the shadow policy %s", name, other)
			}
			if n := decided(view.Shadow()); n < uint64(without.Requests)*9/10 {
				t.Errorf("%s with the shadow policy %s: %d decisions on %d requests", name, other, n, without.Requests)
			}
		}
	}
}

func decided(s *pool.Shadow) (n uint64) {
	for r := range pool.ShadowResults {
		n += s.Decisions(r)
	}
	return n
}

// prediction is what a shadow policy says that it would do.
type prediction struct {
	agreed   float64
	shares   []float64
	p50, p99 float64 // milliseconds
}

func predicted(v *pool.View, now time.Time) (p prediction) {
	s := v.Shadow()
	chosen := 0.0
	for i := range v.Len() {
		n := float64(s.Share(v.Member(i)).Chosen)
		p.shares = append(p.shares, n)
		chosen += n
	}
	for i := range p.shares {
		p.shares[i] /= chosen
	}
	p.agreed = float64(s.Decisions(pool.ShadowAgreed)) / float64(decided(s))
	if expected, _ := s.Quantiles(now, 0.5, 0.99); expected != nil {
		p.p50, p.p99 = expected[0].Seconds()*1000, expected[1].Seconds()*1000
	}
	return p
}

// TestShadowPredicts compares what a shadow policy predicts with what it does when it is the policy in force. docs/shadow.md has the table.
func TestShadowPredicts(t *testing.T) {
	uneven := func(rate float64, workers int) string {
		return fmt.Sprintf(`{"seed": 3, "warm_up": "20s", "duration": "20s", "count": 3, "arrivals": {"rate": %v}, "backends": [
			{"set": {"delay": "10ms", "sigma": 0.5, "workers": %d}}, {"backend": "b2", "set": {"delay": "20ms"}}, {"backend": "b3", "set": {"delay": "40ms"}}]}`, rate, workers)
	}
	light, half, high := uneven(200, 100), uneven(450, 8), uneven(700, 8)
	for _, test := range []struct {
		name, scenario  string
		from, to        string
		share, p50, p99 float64 // how far off it may be: in points, and how many times
	}{
		{"light", light, "round_robin", "least_conn", 0.03, 1.15, 1.15},
		{"light", light, "round_robin", "peak_ewma", 0.03, 1.15, 1.15},
		{"light", light, "peak_ewma", "round_robin", 0.03, 1.15, 1.15},
		{"light", light, "least_conn", "peak_ewma", 0.03, 1.15, 1.15},
		{"half", half, "round_robin", "least_conn", 0.05, 1.2, 1.3},
		{"half", half, "round_robin", "peak_ewma", 0.05, 1.2, 1.3},
		{"half", half, "peak_ewma", "round_robin", 0.05, 1.2, 1.3},
		{"half", half, "least_conn", "peak_ewma", 0.05, 1.2, 1.3},
		{"high", high, "least_conn", "p2c", 0.05, 1.2, 1.3},
		{"high", high, "least_conn", "peak_ewma", 0.05, 1.2, 1.3},
		{"high", high, "round_robin", "least_conn", 0.2, 1.3, 1.7},    // one backend is overloaded
		{"high", high, "least_conn", "round_robin", 0.02, 1.3, blind}, // one would be
	} {
		_, view := withShadow(t, policy(test.from, ""), test.scenario, shadows[test.to])
		said := predicted(view, epoch.Add(40*time.Second))
		was, _ := withShadow(t, policy(test.to, ""), test.scenario, nil)
		before, _ := withShadow(t, policy(test.from, ""), test.scenario, nil)
		worst := 0.0
		for i, b := range was.Backends {
			worst = max(worst, math.Abs(b.Share-said.shares[i]))
		}
		times := func(a, b float64) float64 { return max(a/b, b/a) }
		t.Logf("| %s | %s | %s | %.0f | %s | %s | %s | %.0f / %.0f | %.0f / %.0f | %.0f / %.0f |", test.name, test.from, test.to, said.agreed*100, percents(before), percents(was), listed(said.shares),
			before.Latency.P50, before.Latency.P99, was.Latency.P50, was.Latency.P99, said.p50, said.p99)
		if test.p99 == blind {
			// The effect of a load that has not occurred cannot be predicted, as docs/shadow.md says.
			if said.p99 > was.Latency.P99/10 {
				t.Errorf("%s, %s for %s: p99 %.0f ms, %.0f ms predicted: the overload is foreseen", test.name, test.to, test.from, was.Latency.P99, said.p99)
			}
			said.p99 = was.Latency.P99
		}
		if worst > test.share || times(said.p50, was.Latency.P50) > test.p50 || times(said.p99, was.Latency.P99) > test.p99 {
			t.Errorf("%s, %s for %s: %.2f off, p50 %.2f, p99 %.2f times", test.name, test.to, test.from, worst, times(said.p50, was.Latency.P50), times(said.p99, was.Latency.P99))
		}
	}
}

// blind as a bound says that the prediction is known to be far off.
const blind = 1000

func percents(r *Result) string {
	var shares []float64
	for _, b := range r.Backends {
		shares = append(shares, b.Share)
	}
	return listed(shares)
}

func listed(shares []float64) (text string) {
	for i, s := range shares {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%.0f", s*100)
	}
	return text
}
