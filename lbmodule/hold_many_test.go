package lbmodule

import (
	"fmt"
	"net/http"
	"strings"
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
			statuses := make(chan int, requests)
			for range requests {
				go func() {
					status, _, _ := g.serve(h, newRequest(t))
					statuses <- status
				}()
			}
			for range requests {
				if status := <-statuses; status != http.StatusOK {
					t.Errorf("status %d", status)
				}
			}
		})
	}
}

// A queue that is shorter than the crowd that has waited for a backend is for those who come new.
func TestHoldBesideQueue(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-queue", "queue": {"size": 1, "timeout": "5s"}, "backends": [{"address": "a:1", "max_requests": 1}]}`)
	g := gated(t, h)
	g.takes = 5 * time.Millisecond
	const requests = 10
	statuses := make(chan int, requests)
	ask := func() {
		status, _, _ := g.serve(h, newRequest(t))
		statuses <- status
	}
	go ask()
	eventually(t, "it to find that the backend is gone", func() bool { return h.static.Load().view.Member(0).Vitals().Dead })
	for range requests - 1 {
		go ask()
	}
	eventually(t, "all to wait", func() bool { return h.pool.Held() == requests })
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
