package main

import (
	"math"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestSimulatedScenarios: every scenario can be simulated, and what is wrong with its backends shows.
func TestSimulatedScenarios(t *testing.T) {
	overhead := []caddy.Duration{caddy.Duration(500 * time.Microsecond)}
	backends := []string{"a:1", "b:1", "c:1", "d:1", "e:1"}
	for _, s := range unevenScenarios {
		for _, policy := range simulatedPolicies {
			k := caddyKind(policy, options{}, "load_balancer", append([]string{"lb_policy " + policy}, s.options...)...)
			k.weights = s.weights
			got, err := s.simulate(t.Context(), k, backends[:len(s.backends)], 20*time.Second, overhead)
			if err != nil {
				t.Errorf("%s, %s: %v", s.name, policy, err)
				continue
			}
			if want := s.rate * 20; got.Sent < want-1 || got.Sent > want+1 {
				t.Errorf("%s, %s: %d requests, want %d", s.name, policy, got.Sent, want)
			}
			if s.name == "late" && policy == "round_robin" && !closeTo(got.Quantile(0.99), 310500*time.Microsecond, 0) {
				t.Errorf("p99 is %v with one of five 300 ms later", got.Quantile(0.99))
			}
			if s.name == "healthy" && !closeTo(got.Quantile(0.99), 10500*time.Microsecond, 0) {
				t.Errorf("%s: p99 is %v where all take 10 ms, and 0.5 ms besides", policy, got.Quantile(0.99))
			}
			if s.name == "failing" && got.Statuses[500] == 0 {
				t.Errorf("%s: nobody got the 500 of the first backend", policy)
			}
			if s.name == "stopped" && got.Quantile(1) < stoppedFor-100*time.Millisecond {
				t.Errorf("%s: the longest took %v, with a backend stopped for %v", policy, got.Quantile(1), stoppedFor)
			}
		}
		if d := s.alike().usualDelay(); d <= 0 {
			t.Errorf("%s: backends that are alike take %v", s.name, d)
		}
	}
}

// closeTo reports whether two durations differ by that share at most.
func closeTo(a, b time.Duration, share float64) bool {
	return math.Abs(a.Seconds()-b.Seconds()) <= share*b.Seconds()
}
