package lbmodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// gate is a network of the test's: whether connections to the backends of a handler can be made.
type gate struct {
	open   atomic.Bool
	dialed atomic.Int64
}

// gated has the handler's backends be tried through a gate when they are dead.
func gated(t *testing.T, h *Handler) *gate {
	t.Helper()
	g := new(gate)
	view := h.static.Load().view
	for i := range view.Len() {
		t.Cleanup(view.Member(i).Redial(func(context.Context) error {
			g.dialed.Add(1)
			if g.open.Load() {
				return nil
			}
			return syscall.ECONNREFUSED
		}))
	}
	return g
}

// RoundTrip is the transport of requests.
func (g *gate) RoundTrip(*http.Request) (*http.Response, error) {
	if !g.open.Load() {
		return nil, reverseproxy.NewDialError(syscall.ECONNREFUSED)
	}
	return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}, nil
}

// serve has h serve a request as reverse_proxy's loop does, over that transport, and returns the status, how often the request was
// tried and how long it took.
func (g *gate) serve(h *Handler, r *http.Request) (status, attempts int, took time.Duration) {
	start := time.Now()
	q := &request{h: h}
	defer q.end()
	for {
		q.next(r, httptest.NewRecorder())
		res, err := q.attempt(g, r)
		switch took = time.Since(start); {
		case q.again:
			continue
		case q.refused != nil:
			return http.StatusServiceUnavailable, q.attempts, took
		case err != nil:
			return http.StatusBadGateway, q.attempts, took
		}
		return res.StatusCode, q.attempts, took
	}
}

// A request that finds no connection waits until there is one, however few attempts it may make; so do those that come after it.
func TestHold(t *testing.T) {
	for name, settings := range map[string]string{
		"default":                  ``,
		"retry off":                `"retry": {"disabled": true},`,
		"retry not on connect":     `"retry": {"on": ["reset"]},`,
		"no budget":                `"retry": {"budget": {"ratio": 0, "per_second": 0}},`,
		"breaker off":              `"breaker": {"disabled": true},`,
		"breaker in dry run":       `"breaker": {"dry_run": true},`,
		"lb_retries":               `"load_balancing": {"retries": 1},`,
		"lb_try_duration":          `"load_balancing": {"try_duration": "2s"},`,
		"lb_try_duration, no hold": `"hold": {"disabled": true}, "load_balancing": {"try_duration": "2s"},`,
		"strict sessions":          `"load_balancing": {"selection_policy": {` + oneSecret + `, "strict": true}},`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newConfig(t).mustLoad(`{"name": "hold-` + strings.NewReplacer(" ", "-", ",", "").Replace(name) + `",` + settings + ` "upstreams": [{"dial": "a:1"}]}`)
			g := gated(t, h)
			time.AfterFunc(150*time.Millisecond, func() { g.open.Store(true) })
			results := make(chan int)
			const requests = 20
			for n := range requests {
				go func() {
					r := newRequest(t)
					if n%2 == 1 {
						r.Method = http.MethodPost
					}
					status, _, _ := g.serve(h, r)
					results <- status
				}()
			}
			for range requests {
				if status := <-results; status != http.StatusOK {
					t.Errorf("status %d", status)
				}
			}
			if n := g.dialed.Load(); n == 0 || n > 4 {
				t.Errorf("the backend was tried %d times, want a few times by all together", n)
			}
		})
	}
}
