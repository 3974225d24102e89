package exchange

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestRetryAtHalfOpen: a request that failed at the first backend prefers a backend with one failure to a half-open one, which is the last of
// the list, and prefers a half-open one to the first backend.
func TestRetryAtHalfOpen(t *testing.T) {
	for _, backends := range []int{2, 3} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, backends)
			l.settings.Breaker = breaker.Settings{ConsecutiveFailures: 5, Open: time.Second, MaxOpen: time.Second, Probes: 1, ProbeTimeout: time.Minute}
			l.settings.MaxEjected = 0.5
			l.script("a:1", says(2*time.Second, 503))
			l.script("b:1", says(time.Second, 200))
			l.script("c:1", says(time.Second, 200))
			view := l.open().view
			fail := func(i, times int) {
				for range times {
					lease, _ := view.AcquireMember(i)
					lease.Judge(pool.Verdict{Outcome: pool.Failure}, time.Now())
					lease.Release()
				}
			}
			fail(1, 1)
			fail(backends-1, 5)
			if o := l.run(t.Context(), new(front)); o.trail() != "a:1 503 failure; b:1 200 success" {
				t.Errorf("%d backends: %s", backends, o.trail())
			}
		})
	}
}
