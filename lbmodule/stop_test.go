package lbmodule

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// When the process is about to exit, all requests that wait for a backend are answered, for whatever reason they wait, and no request
// begins to wait.
func TestDismissed(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		full     bool
		want     int
	}{
		"hold":      {`{"hold": "1m", "upstreams": [{"dial": "a:1"}]}`, false, http.StatusServiceUnavailable},
		"no budget": {`{"hold": "1m", "retry": {"budget": {"ratio": 0, "per_second": 0}}, "upstreams": [{"dial": "a:1"}]}`, false, http.StatusServiceUnavailable},
		"queue": {`{"queue": {"size": 10, "timeout": "1m"}, "backends": [{"address": "a:1", "max_requests": 1}]}`, true,
			http.StatusServiceUnavailable},
		"lb_try_duration": {`{"load_balancing": {"try_duration": "1m"}, "upstreams": [{"dial": "a:1"}]}`, false, http.StatusBadGateway},
		"backoff":         {`{"retry": {"attempts": 2, "backoff": {"base": "10s", "max": "10s"}}, "hold": {"disabled": true}, "upstreams": [{"dial": "a:1"}]}`, false, http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(test.settings)
				g := gated(t, h)
				if test.full {
					g.open.Store(true)
					l, ok := h.set().View().AcquireMember(0)
					if !ok {
						t.Fatal("the slot is taken")
					}
					defer l.Release()
				}
				const at = time.Microsecond // a random pause is longer
				time.AfterFunc(at, h.plan.Pool.Dismiss)
				if status, _, took := served(h, newRequest(t)); status != test.want || took != at {
					t.Errorf("status %d after %v, want %d after %v", status, took, test.want, at)
				}
				if _, _, took := served(h, newRequest(t)); took != 0 {
					t.Errorf("a request that came later waited for %v", took)
				}
			})
		})
	}
}

// What need not wait is served to the end.
func TestServedWhenDismissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]}`)
		g := gated(t, h)
		g.open.Store(true)
		g.takes = time.Second
		time.AfterFunc(500*time.Millisecond, h.plan.Pool.Dismiss)
		for range 2 {
			if status, _, took := served(h, newRequest(t)); status != http.StatusOK || took != time.Second {
				t.Errorf("status %d after %v, want 200 after 1 s", status, took)
			}
		}
	})
}

// A server that shuts down at a reload dismisses no request: its requests continue to wait.
func TestNoLastCallAtReload(t *testing.T) {
	c := newConfig(t)
	h := c.serve(`{"upstreams": [{"dial": "a:1"}]}`)
	c.app().LastCall()
	select {
	case <-h.plan.Pool.Dismissed():
		t.Error("requests are dismissed, though Caddy does not exit")
	default:
	}
}
