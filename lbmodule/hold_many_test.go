package lbmodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
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
		h := newConfig(t).mustLoad(`{"name": "hold-large-` + strings.NewReplacer(" ", "-", ",", "").Replace(name) + `", ` + test.settings + `, ` + manyBackends(test.backends) + `}`)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gated(t, h)
			time.AfterFunc(time.Second, func() { g.open.Store(true) })
			const requests = 5
			type result struct{ status, attempts int }
			results := make(chan result, requests)
			for range requests {
				go func() {
					status, attempts, _ := g.serve(h, newRequest(t))
					results <- result{status, attempts}
				}()
			}
			attempts := 0
			for range requests {
				r := <-results
				attempts += r.attempts
				if r.status != http.StatusOK {
					t.Errorf("status %d", r.status)
				}
			}
			t.Logf("%d attempts at %d backends", attempts, test.backends)
			// Once the budget is spent, a refused connection is enough for a backend to be dead.
			if most := 3 * test.backends; attempts > most {
				t.Errorf("%d attempts, want %d at most", attempts, most)
			}
		})
	}
}

// A queue that is shorter than the crowd that has waited for a backend is for those who come new.
func TestHoldBesideQueue(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-queue", "queue": {"size": 1, "timeout": "1ms"}, "backends": [{"address": "a:1", "max_requests": 1}]}`)
	g := gated(t, h)
	g.takes = 5 * time.Millisecond
	const requests = 10
	statuses := make(chan int, requests)
	ask := func() {
		status, _, _ := g.serve(h, newRequest(t))
		statuses <- status
	}
	go ask()
	eventually(t, "it to find that the backend is gone", func() bool { return h.set().View().Member(0).Vitals().Dead })
	for range requests - 1 {
		go ask()
	}
	eventually(t, "all to wait", func() bool { return h.pool.Holding() == requests })
	g.open.Store(true)
	for range requests {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
}

// With lb_retries beside lb_try_duration, a look at the dead is one of the attempts, as it is for reverse_proxy.
func TestTryDurationAndRetries(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "try-retries", "load_balancing": {"retries": 2, "try_duration": "1m", "try_interval": "50ms"}, "upstreams": [{"dial": "a:1"}]}`)
	g := gated(t, h)
	for n := range 2 {
		status, _, took := g.serve(h, newRequest(t))
		if status < 500 || took < 80*time.Millisecond || took > 10*time.Second {
			t.Errorf("request %d: status %d after %v, want an error after 100 ms", n+1, status, took)
		}
	}
}

// While nobody has been checked yet, requests wait for that, however few looks lb_retries allows.
func TestRetriesWhileUnchecked(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "try-unchecked", "health_check": {"interval": "1h"}, "load_balancing": {"retries": 1, "try_duration": "1m", "try_interval": "10ms"},
		"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
	t.Parallel()
	status, _, took := new(gate).serve(h, newRequest(t))
	if status != http.StatusServiceUnavailable || took < maxHeld-50*time.Millisecond {
		t.Errorf("status %d after %v, want 503 after %v", status, took, maxHeld)
	}
}

// Who waits for a slot, as lb_try_duration says, does not wait for a dead backend.
func TestTryDurationForASlot(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "try-slot", "load_balancing": {"try_duration": "1m", "try_interval": "10ms"}, "backends": [{"address": "a:1", "max_requests": 1}]}`)
	g := gated(t, h)
	g.open.Store(true)
	l, ok := h.set().View().AcquireMember(0)
	if !ok {
		t.Fatal("no slot")
	}
	status := make(chan int)
	r := newRequest(t)
	var asked asking
	h.stock.CircuitBreaker = &asked
	q := &request{h: h}
	go func() {
		defer q.end()
		if q.next(r, httptest.NewRecorder()) == nil {
			t.Error(q.refused)
			status <- 0
			return
		}
		res, err := q.attempt(g, r)
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		status <- res.StatusCode
	}()
	eventually(t, "it to wait", func() bool { return asked.times.Load() > 1 })
	if n := h.pool.Holding(); n != 0 {
		t.Errorf("%d requests are counted as waiting for a dead backend", n)
	}
	l.Release()
	if s := <-status; s != http.StatusOK {
		t.Errorf("status %d", s)
	}
}

// asking is a circuit breaker that lets everything pass, and counts how often it is asked: before each look for a backend.
type asking struct{ times atomic.Int64 }

func (a *asking) OK() bool {
	a.times.Add(1)
	return true
}

func (*asking) RecordMetric(int, time.Duration) {}
