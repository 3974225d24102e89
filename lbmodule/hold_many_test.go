package lbmodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// manyBackends is a list of n upstreams.
func manyBackends(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`{"dial": "a:%d"}`, i+1))
	}
	return `"upstreams": [` + strings.Join(all, ",") + `]`
}

// In a large pool, too, a request waits that finds backend after backend gone. It is not their number, nor the budget for retries, that
// ends that: nothing has been sent.
func TestHoldInLargePool(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		backends int
	}{
		"hold":                   {`"hold": "20s"`, 2000},
		"lb_try_duration":        {`"load_balancing": {"try_duration": "20s", "try_interval": "1ms"}`, 100},
		"lb_try_duration, large": {`"load_balancing": {"try_duration": "20s", "try_interval": "1ms"}`, 2 * 256},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{` + test.settings + `, ` + manyBackends(test.backends) + `}`)
				g := gated(t, h)
				g.takes = 100 * time.Microsecond
				time.AfterFunc(time.Second, func() { g.open.Store(true) })
				const requests = 5
				type result struct {
					status   int
					attempts int64
				}
				results := make(chan result, requests)
				for range requests {
					go func() {
						status, attempts, _ := served(h, newRequest(t))
						results <- result{status, attempts}
					}()
				}
				attempts := int64(0)
				for range requests {
					r := <-results
					attempts += r.attempts
					if r.status != http.StatusOK {
						t.Errorf("status %d", r.status)
					}
				}
				t.Logf("%d attempts at %d backends", attempts, test.backends)
				// Once the budget is spent, a refused connection is enough for a backend to be dead.
				if most := int64(3 * test.backends); attempts > most {
					t.Errorf("%d attempts, want %d at most", attempts, most)
				}
			})
		})
	}
}

// The bound of the queue is for new requests: requests that have waited for a backend may exceed it.
func TestHoldBesideQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"queue": {"size": 1, "timeout": "1ms"}, "backends": [{"address": "a:1", "max_requests": 1}]}`)
		g := gated(t, h)
		g.takes = 5 * time.Millisecond
		first := statuses(t, h, 1)
		time.Sleep(2 * g.takes) // it finds that the backend is gone
		others := statuses(t, h, 9)
		synctest.Wait()
		if n := h.plan.Pool.Holding(); n != 10 {
			t.Fatalf("%d requests wait, want 10", n)
		}
		g.open.Store(true)
		all(t, first, 1, http.StatusOK)
		all(t, others, 9, http.StatusOK)
	})
}

// With lb_retries beside lb_try_duration, a look at the dead is one of the attempts, as it is for reverse_proxy.
func TestTryDurationAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"load_balancing": {"retries": 2, "try_duration": "1m", "try_interval": "50ms"}, "upstreams": [{"dial": "a:1"}]}`)
		gated(t, h)
		for n, want := range []int{http.StatusBadGateway, http.StatusServiceUnavailable} {
			if status, _, took := served(h, newRequest(t)); status != want || took != 100*time.Millisecond {
				t.Errorf("request %d: status %d after %v, want %d after 100 ms", n+1, status, took, want)
			}
		}
	})
}

// While no backend has been checked yet, requests wait for that, however few attempts lb_retries allows.
func TestRetriesWhileUnchecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"health_check": {"interval": "1h"}, "load_balancing": {"retries": 1, "try_duration": "1m", "try_interval": "10ms"},
			"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
		gated(t, h)
		if status, _, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || took != time.Second {
			t.Errorf("status %d after %v, want 503 after a second", status, took)
		}
	})
}

// Who waits for a slot, as lb_try_duration says, does not wait for a dead backend.
func TestTryDurationForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"load_balancing": {"try_duration": "1m", "try_interval": "10ms"}, "backends": [{"address": "a:1", "max_requests": 1}]}`)
		g := gated(t, h)
		g.open.Store(true)
		l, ok := h.set().View().AcquireMember(0)
		if !ok {
			t.Fatal("no slot")
		}
		status := statuses(t, h, 1)
		time.Sleep(105 * time.Millisecond)
		select {
		case s := <-status:
			t.Fatalf("it does not wait: status %d", s)
		default:
		}
		if n := h.plan.Pool.Holding(); n != 0 {
			t.Errorf("%d requests are counted as waiting for a dead backend", n)
		}
		l.Release()
		all(t, status, 1, http.StatusOK)
	})
}
