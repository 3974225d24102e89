package lbmodule

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// These tests are in virtual time: a config and its requests are in one bubble, so that all that takes time is what they wait for.

// gate is a network of the test's: whether connections to the backends of a handler can be made.
type gate struct {
	open   atomic.Bool
	dialed atomic.Int64

	takes  time.Duration // until an answer, or until it is known that there is no connection
	resets atomic.Int64  // how many requests are cut off after they were sent
	body   io.ReadCloser // of answers; nil for none
}

// carries has the requests of a handler go through the gate.
func (g *gate) carries(h *Handler) *gate {
	h.stock.Transport = stock.NewTransport(g)
	return g
}

// gated has the requests of a handler go through a gate, and its backends be tried through it when they are dead.
func gated(t *testing.T, h *Handler) *gate {
	t.Helper()
	g := new(gate).carries(h)
	view := h.set().View()
	dial := pool.Dialer(func(context.Context, string) error {
		g.dialed.Add(1)
		if g.open.Load() {
			return nil
		}
		return syscall.ECONNREFUSED
	})
	for i := range view.Len() {
		view.Member(i).Redial(&dial, false)
		t.Cleanup(func() { view.Member(i).EndRedial(&dial) })
	}
	return g
}

// RoundTrip is the transport of requests.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Context().Value(madeKey{}).(*atomic.Int64).Add(1)
	time.Sleep(g.takes)
	if !g.open.Load() {
		return nil, reverseproxy.NewDialError(syscall.ECONNREFUSED)
	}
	if g.resets.Add(-1) >= 0 {
		return nil, syscall.ECONNRESET
	}
	res := answerOf(http.StatusOK)
	if g.body != nil {
		res.Body, res.ContentLength = g.body, -1
	}
	return res, nil
}

// madeKey is where a request's context has the number of attempts that a gate has seen of it.
type madeKey struct{}

// served has h serve a request that goes through a gate. It returns the status, how many attempts were made and how long it took.
func served(h *Handler, r *http.Request) (status int, attempts int64, took time.Duration) {
	var made atomic.Int64
	start, w := time.Now(), httptest.NewRecorder()
	err := h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), madeKey{}, &made)), nil)
	status = w.Code
	if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		status = failed.StatusCode
	}
	return status, made.Load(), time.Since(start)
}

// statuses has that many requests served at the same time, and returns what they are answered.
func statuses(t *testing.T, h *Handler, requests int) <-chan int {
	results := make(chan int, requests)
	for n := range requests {
		go func() {
			r := newRequest(t)
			if n%2 == 1 {
				r.Method = http.MethodPost
			}
			status, _, _ := served(h, r)
			results <- status
		}()
	}
	return results
}

// all expects all of n to be that.
func all(t *testing.T, results <-chan int, n, want int) {
	t.Helper()
	for range n {
		if status := <-results; status != want {
			t.Errorf("status %d, want %d", status, want)
		}
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
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{` + settings + ` "upstreams": [{"dial": "a:1"}]}`)
				g := gated(t, h)
				time.AfterFunc(150*time.Millisecond, func() { g.open.Store(true) })
				const requests = 20
				all(t, statuses(t, h, requests), requests, http.StatusOK)
				if n := g.dialed.Load(); n == 0 || n > 4 {
					t.Errorf("the backend was tried %d times, want a few times by all together", n)
				}
			})
		})
	}
}

// However many backends there are, the request that finds all of them gone is not the one that pays for it; nor is its retry budget.
func TestHoldAfterAllRefused(t *testing.T) {
	for name, settings := range map[string]string{
		"default":    `"retry": {}`,
		"no budget":  `"retry": {"budget": {"ratio": 0, "per_second": 0}}`,
		"lb_retries": `"load_balancing": {"retries": 1, "try_interval": "1ms"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{` + settings + `, "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}, {"dial": "d:1"}]}`)
				g := gated(t, h)
				time.AfterFunc(200*time.Millisecond, func() { g.open.Store(true) })
				status, attempts, _ := served(h, newRequest(t))
				if status != http.StatusOK || attempts < 5 || attempts > 6 {
					t.Errorf("status %d after %d attempts, want 200 after one at each and one more", status, attempts)
				}
				if n := h.plan.Pool.Members()[0].InFlight(); n != 0 {
					t.Errorf("%d requests in flight in the end", n)
				}
			})
		})
	}
}

// With retries off, only a request that found the last backend gone waits: that is no retry.
func TestHoldIsNoRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"retry": {"disabled": true}, "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
		gated(t, h)
		if status, attempts, took := served(h, newRequest(t)); status != http.StatusBadGateway || attempts != 1 || took != 0 {
			t.Errorf("status %d after %d attempts and %v, want 502 after one: there is another backend", status, attempts, took)
		}
	})
}

// If the outage is older than hold, or requests must not wait, the answer is 503 at once; only the first request has waited.
func TestHoldEnds(t *testing.T) {
	t.Run("on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const hold = 300 * time.Millisecond
			h := newQuietConfig(t).mustLoad(`{"hold": "300ms", "upstreams": [{"dial": "a:1"}]}`)
			g := gated(t, h)
			if status, attempts, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || attempts != 1 || took != hold {
				t.Errorf("status %d after %d attempts and %v, want 503 after one and %v", status, attempts, took, hold)
			}
			for range 5 {
				if status, attempts, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || attempts != 0 || took != 0 {
					t.Errorf("status %d after %d attempts and %v, want 503 at once", status, attempts, took)
				}
			}
			// The next outage is another one.
			g.open.Store(true)
			time.Sleep(time.Second) // it is tried
			if status, _, _ := served(h, newRequest(t)); status != http.StatusOK {
				t.Errorf("status %d, want 200: the backend is back", status)
			}
			g.open.Store(false)
			if status, _, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || took != hold {
				t.Errorf("in the next outage: status %d after %v, want 503 after %v", status, took, hold)
			}
		})
	})
	t.Run("off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newQuietConfig(t).mustLoad(`{"hold": {"disabled": true}, "upstreams": [{"dial": "a:1"}]}`)
			gated(t, h)
			for n, want := range []int{502, 502, 502, 503, 503} { // two attempts each, of which five are enough
				if status, _, took := served(h, newRequest(t)); status != want || took > time.Second {
					t.Errorf("request %d: status %d after %v, want %d", n+1, status, took, want)
				}
			}
		})
	})
}

// The number of waiting requests is bounded, and they end with their clients.
func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 10_000
		h := newQuietConfig(t).mustLoad(`{"hold": "1m", "upstreams": [{"dial": "a:1"}]}`)
		gated(t, h)
		r := newRequest(t)
		ctx, cancel := context.WithCancel(r.Context())
		left := make(chan int)
		go func() {
			status, _, _ := served(h, r.WithContext(ctx))
			left <- status
		}()
		synctest.Wait()
		if n := h.plan.Pool.Holding(); n != 1 {
			t.Fatalf("%d requests wait, want 1", n)
		}
		for range most - 1 {
			h.plan.Pool.Hold(math.MaxInt)
		}
		if status, attempts, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || attempts != 0 || took != 0 {
			t.Errorf("one too many: status %d after %d attempts and %v, want 503 at once", status, attempts, took)
		}
		h.plan.Pool.EndHold()
		last := statuses(t, h, 1)
		synctest.Wait()
		if n := h.plan.Pool.Holding(); n != most {
			t.Errorf("%d requests wait, want %d: there is room for one more", n, most)
		}
		began := time.Now()
		cancel()
		if status := <-left; status != 499 || time.Since(began) != 0 {
			t.Errorf("status %d %v after the client has left, want 499 at once", status, time.Since(began))
		}
		all(t, last, 1, http.StatusServiceUnavailable)
		for range most - 2 {
			h.plan.Pool.EndHold()
		}
		if n := h.plan.Pool.Holding(); n != 0 {
			t.Errorf("%d requests wait in the end", n)
		}
	})
}

// All waiting requests continue together: those without a slot then wait for one, even without a queue.
func TestHoldThenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"backends": [{"address": "a:1", "max_requests": 1}]}`)
		g := gated(t, h)
		g.takes = 20 * time.Millisecond
		first := statuses(t, h, 1)
		time.Sleep(2 * g.takes)
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

// If no backend could be used anyway, requests do not wait.
func TestHoldIsForOutagesOnly(t *testing.T) {
	for name, backends := range map[string]string{
		"weight 0": `{"address": "a:1", "weight": 0}`,
		"full":     `{"address": "a:1", "max_requests": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{"backends": [` + backends + `]}`)
				gated(t, h)
				if l, ok := h.set().View().AcquireMember(0); ok {
					defer l.Release()
				}
				if status, _, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || took != 0 {
					t.Errorf("status %d after %v, want 503 at once", status, took)
				}
			})
		})
	}
}

// What was sent is not sent again because a backend is back: a connection that broke is not one that could not be made.
func TestHoldIsNotForWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]}`)
		g := gated(t, h)
		g.open.Store(true)
		g.resets.Store(math.MaxInt64)
		r := newRequest(t)
		r.Method = http.MethodPost
		if status, attempts, took := served(h, r); status != http.StatusBadGateway || attempts != 1 || took != 0 {
			t.Errorf("status %d after %d attempts and %v, want 502 after one", status, attempts, took)
		}
	})
}

// An attempt that found no connection, so that its request had to wait, is none of those that it may make.
func TestHoldTakesNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]}`)
		g := gated(t, h)
		g.resets.Store(1)
		time.AfterFunc(100*time.Millisecond, func() { g.open.Store(true) })
		if status, attempts, _ := served(h, newRequest(t)); status != http.StatusOK || attempts != 3 {
			t.Errorf("status %d after %d attempts, want 200 after one that was not sent, one that was cut off and another", status, attempts)
		}
	})
}

// A backend that is back within hold costs nothing, also where its turn to be tried would come later.
func TestHoldLooksBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]}`)
		g := gated(t, h)
		// It is tried after 1.2 s to 1.5 s, and then after 2 s at the earliest.
		time.AfterFunc(1550*time.Millisecond, func() { g.open.Store(true) })
		if status, _, took := served(h, newRequest(t)); status != http.StatusOK || took >= 2*time.Second {
			t.Errorf("status %d after %v", status, took)
		}
	})
}

// While requests wait as lb_try_duration says, a dead backend is tried each lb_try_interval, as by reverse_proxy: it may be back only just
// before they give up.
func TestTryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(`{"load_balancing": {"try_duration": "10s", "try_interval": "50ms"}, "upstreams": [{"dial": "a:1"}]}`)
		g := gated(t, h)
		tried := make(chan int64, 1)
		time.AfterFunc(2*time.Second, func() {
			tried <- g.dialed.Load()
			g.open.Store(true)
		})
		if status, _, took := served(h, newRequest(t)); status != http.StatusOK || took < 2*time.Second || took > 2050*time.Millisecond {
			t.Errorf("status %d after %v, want 200 after the interval in which it was back", status, took)
		}
		// By itself it would be tried five times in that time.
		if n := <-tried; n < 38 || n > 45 {
			t.Errorf("the backend was tried %d times in 2s, want about 40", n)
		}
	})
}

// A backend that is back only just before the time is up is found, however long the time between two tries; and, as by reverse_proxy, one
// that is back before an interval that has begun is over.
func TestTryUntilTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		interval string
		back     time.Duration
	}{
		"short":                {"20ms", 985 * time.Millisecond},
		"longer than the time": {"10s", 985 * time.Millisecond},
		"overtime":             {"300ms", 1060 * time.Millisecond}, // the last interval begins after 900 ms
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{"load_balancing": {"try_duration": "1s", "try_interval": "` + test.interval + `"}, "upstreams": [{"dial": "a:1"}]}`)
				g := gated(t, h)
				time.AfterFunc(test.back, func() { g.open.Store(true) })
				if status, _, took := served(h, newRequest(t)); status != http.StatusOK || took > 1300*time.Millisecond {
					t.Errorf("status %d after %v", status, took)
				}
			})
		})
	}
}

// Requests that wait when their config ends in the middle of an outage are served when the backend is back.
func TestHoldOverReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const settings = `{"upstreams": [{"dial": "a:1"}]}`
		before := newQuietConfig(t)
		h := before.mustLoad(settings)
		g := new(gate).carries(h)
		status := statuses(t, h, 1)
		synctest.Wait()
		if !h.set().View().Member(0).Vitals().Dead {
			t.Fatal("the request does not wait")
		}
		next := newQuietConfig(t).mustLoad(settings)
		again := gated(t, next)
		before.cancel()
		again.open.Store(true)
		g.open.Store(true)
		all(t, status, 1, http.StatusOK)
	})
}

// goneSocket is a backend that cannot be connected to: after the end of its config, waiting requests try it themselves.
const goneSocket = "unix//nonexistent/ballast.sock"

// A request that finds the backend gone when its config has ended does not wait for longer than others.
func TestHoldAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newQuietConfig(t)
		h := c.mustLoad(`{"hold": "300ms", "upstreams": [{"dial": "` + goneSocket + `"}]}`)
		new(gate).carries(h)
		c.cancel()
		if status, attempts, took := served(h, newRequest(t)); status != http.StatusServiceUnavailable || took != 300*time.Millisecond {
			t.Errorf("status %d after %d attempts and %v, want 503 after 300 ms", status, attempts, took)
		}
	})
}

// Nor does it ask as fast as it can where lb_try_duration rules.
func TestTryDurationAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newQuietConfig(t)
		h := c.mustLoad(`{"load_balancing": {"try_duration": "300ms", "try_interval": "20ms"}, "upstreams": [{"dial": "` + goneSocket + `"}]}`)
		new(gate).carries(h)
		c.cancel()
		if status, attempts, took := served(h, newRequest(t)); attempts > 20 || took < 300*time.Millisecond {
			t.Errorf("status %d after %d attempts in %v, want one every 20 ms at most", status, attempts, took)
		}
	})
}
