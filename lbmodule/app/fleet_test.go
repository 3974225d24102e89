package app

import (
	"testing"
	"time"
)

// TestRates: rates are of the time since the last description; a count that has gone back, or was not there, gives none.
func TestRates(t *testing.T) {
	now := time.Now()
	var r rates
	for i, test := range []struct {
		after              time.Duration
		asked              bool
		requests, failures uint64
		want, wantFailed   float64
	}{
		{0, true, 100, 7, 0, 0},
		{2 * time.Second, true, 110, 11, 5, 2},
		{time.Second, true, 3, 11, 0, 0},
		{time.Second, true, 6, 2, 0, 0},
		{4 * time.Second, true, 7, 2, 0.3, 0},
		{time.Second, false, 0, 0, 0, 0},
		{time.Second, true, 20, 5, 0, 0},
	} {
		now = now.Add(test.after)
		r.begin(now)
		if !test.asked {
			continue
		}
		if got, failed := r.of("p", "a:1", test.requests, test.failures); got != test.want || failed != test.wantFailed {
			t.Errorf("%d: %v and %v a second, want %v and %v", i, got, failed, test.want, test.wantFailed)
		}
	}
}
