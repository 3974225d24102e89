package status

import (
	"testing"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func TestWhyOut(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	since, until := now.Add(-time.Minute), now.Add(time.Minute)
	for _, test := range []struct {
		name string
		b    pool.Backend
		v    pool.Vitals
		want string
	}{
		{"draining", pool.Backend{State: pool.Draining, Weight: 1}, pool.Vitals{Since: since}, "draining"},
		{"an open breaker", pool.Backend{Weight: 1}, pool.Vitals{Breaker: breaker.Open, Until: until, Since: since}, "breaker is open: consecutive failures until 2026-01-02T15:05:05Z"},
		{"its time is over", pool.Backend{Weight: 1}, pool.Vitals{Breaker: breaker.Open, Until: since, Since: since}, "breaker is open: consecutive failures since 2026-01-02T15:03:05Z"},
		{"a check that does not wait for it", pool.Backend{Weight: 1}, pool.Vitals{Status: healthcheck.Down, Breaker: breaker.Open, Until: until, Since: since}, "active check failed since 2026-01-02T15:03:05Z"},
		{"dead", pool.Backend{Weight: 1}, pool.Vitals{Dead: true, Breaker: breaker.Open, Since: since}, "cannot be reached since 2026-01-02T15:03:05Z"},
	} {
		test.v.Cause = breaker.ConsecutiveFailures
		if got := whyOut(test.b, test.v, now); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
