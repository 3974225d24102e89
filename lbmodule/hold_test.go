package lbmodule

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
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

	takes  time.Duration // until an answer
	resets atomic.Int64  // how many requests are cut off after they were sent
}

// gated has the handler's backends be tried through a gate when they are dead.
func gated(t *testing.T, h *Handler) *gate {
	t.Helper()
	g := new(gate)
	view := h.set().View()
	for i := range view.Len() {
		t.Cleanup(view.Member(i).Redial(func(context.Context) error {
			g.dialed.Add(1)
			if g.open.Load() {
				return nil
			}
			return syscall.ECONNREFUSED
		}, false))
	}
	return g
}

// RoundTrip is the transport of requests.
func (g *gate) RoundTrip(*http.Request) (*http.Response, error) {
	if !g.open.Load() {
		return nil, reverseproxy.NewDialError(syscall.ECONNREFUSED)
	}
	if g.resets.Add(-1) >= 0 {
		return nil, syscall.ECONNRESET
	}
	time.Sleep(g.takes)
	return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}, nil
}

// serve has h serve a request as the loop does, over that transport, and returns the status, how often the request was
// tried and how long it took.
func (g *gate) serve(h *Handler, r *http.Request) (status, attempts int, took time.Duration) {
	start := time.Now()
	q := &request{h: h}
	defer q.end()
	for {
		if q.next(r, httptest.NewRecorder()) == nil {
			return http.StatusServiceUnavailable, q.attempts, time.Since(start)
		}
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
		h := newConfig(t).mustLoad(`{"name": "hold-` + strings.NewReplacer(" ", "-", ",", "").Replace(name) + `",` + settings + ` "upstreams": [{"dial": "a:1"}]}`)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
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

// However many backends there are, the request that finds all of them gone is not the one that pays for it; nor is its retry budget.
func TestHoldAfterAllRefused(t *testing.T) {
	for name, settings := range map[string]string{
		"default":    `"retry": {}`,
		"no budget":  `"retry": {"budget": {"ratio": 0, "per_second": 0}}`,
		"lb_retries": `"load_balancing": {"retries": 1, "try_interval": "1ms"}`,
	} {
		h := newConfig(t).mustLoad(`{"name": "hold-all-` + strings.ReplaceAll(name, " ", "-") + `", ` + settings + `,
			"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}, {"dial": "d:1"}]}`)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gated(t, h)
			time.AfterFunc(200*time.Millisecond, func() { g.open.Store(true) })
			status, attempts, _ := g.serve(h, newRequest(t))
			if status != http.StatusOK || attempts < 5 || attempts > 6 {
				t.Errorf("status %d after %d attempts, want 200 after one at each and one more", status, attempts)
			}
			if n := h.pool.Members()[0].InFlight(); n != 0 {
				t.Errorf("%d requests in flight in the end", n)
			}
		})
	}
}

// With retries off, only a request that found the last backend gone waits: that is no retry.
func TestHoldIsNoRetry(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-no-retry", "retry": {"disabled": true}, "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
	g := gated(t, h)
	if status, attempts, _ := g.serve(h, newRequest(t)); status != http.StatusBadGateway || attempts != 1 {
		t.Errorf("status %d after %d attempts, want 502 after one: there is another backend", status, attempts)
	}
}

// When the outage is older than hold, or may not be waited out, the answer is 503, at once; the first who found out has waited.
func TestHoldEnds(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-ends", "hold": "300ms", "upstreams": [{"dial": "a:1"}]}`)
	g := gated(t, h)
	if status, attempts, took := g.serve(h, newRequest(t)); status != http.StatusServiceUnavailable || attempts != 1 || took < 300*time.Millisecond {
		t.Errorf("status %d after %d attempts and %v, want 503 after one and 300 ms", status, attempts, took)
	}
	if h.refusal() == nil {
		t.Error("requests are let in when the outage is older than hold")
	}
	quickest := time.Hour
	for range 5 {
		status, _, took := g.serve(h, newRequest(t))
		if quickest = min(quickest, took); status != http.StatusServiceUnavailable {
			t.Errorf("status %d", status)
		}
	}
	if quickest > 10*time.Millisecond {
		t.Errorf("the quickest refusal took %v", quickest)
	}
	// The next outage is another one.
	g.open.Store(true)
	eventually(t, "the backend to be back", func() bool { status, _, _ := g.serve(h, newRequest(t)); return status == http.StatusOK })
	g.open.Store(false)
	if _, _, took := g.serve(h, newRequest(t)); took < 300*time.Millisecond {
		t.Errorf("in the next outage a request waited for %v, want 300 ms", took)
	}

	off := newConfig(t).mustLoad(`{"name": "hold-off", "hold": {"disabled": true}, "upstreams": [{"dial": "a:1"}]}`)
	g = gated(t, off)
	for n, want := range []int{502, 502, 502, 503, 503} { // two attempts each, of which five are enough
		if status, _, took := g.serve(off, newRequest(t)); status != want || took > 10*time.Second {
			t.Errorf("off: request %d: status %d after %v, want %d", n+1, status, took, want)
		}
	}
}

// Those who wait are bounded in number, and leave with their clients.
func TestHoldIsBounded(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-bounded", "hold": "1m", "upstreams": [{"dial": "a:1"}]}`)
	g := gated(t, h)
	r := newRequest(t)
	ctx, cancel := context.WithCancel(r.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		g.serve(h, r.WithContext(ctx))
	}()
	eventually(t, "it to wait", func() bool { return h.set().View().Member(0).Vitals().Dead })
	if err := h.refusal(); err != nil {
		t.Errorf("requests are refused before they could wait: %v", err)
	}
	for range maxHolding {
		h.pool.Hold(maxHolding)
	}
	if status, _, took := g.serve(h, newRequest(t)); status != http.StatusServiceUnavailable || took > 10*time.Second {
		t.Errorf("one too many: status %d after %v, want 503 at once", status, took)
	}
	for range maxHolding - 1 {
		h.pool.EndHold()
	}
	cancel()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("it waits although its client has left")
	}
}

// All who waited are let go together: those for whom there is no slot then wait for one, also where there is no queue.
func TestHoldThenFull(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-full", "backends": [{"address": "a:1", "max_requests": 1}]}`)
	g := gated(t, h)
	g.takes = 20 * time.Millisecond
	results := make(chan int)
	ask := func() {
		status, _, _ := g.serve(h, newRequest(t))
		results <- status
	}
	go ask()
	eventually(t, "it to find that the backend is gone", func() bool { return h.set().View().Member(0).Vitals().Dead })
	for range 9 {
		go ask()
	}
	eventually(t, "all to wait", func() bool {
		more := h.pool.Hold(10)
		if more {
			h.pool.EndHold()
		}
		return !more
	})
	g.open.Store(true)
	for range 10 {
		if status := <-results; status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
}

// Where nobody could be used anyway there is nothing to wait for.
func TestHoldIsForOutagesOnly(t *testing.T) {
	for name, backends := range map[string]string{
		"weight 0": `{"address": "a:1", "weight": 0}`,
		"full":     `{"address": "a:1", "max_requests": 1}`,
	} {
		h := newConfig(t).mustLoad(`{"name": "hold-` + strings.ReplaceAll(name, " ", "-") + `", "backends": [` + backends + `]}`)
		if l, ok := h.set().View().AcquireMember(0); ok {
			defer l.Release()
		}
		if status, _, took := new(gate).serve(h, newRequest(t)); status != http.StatusServiceUnavailable || took > time.Second {
			t.Errorf("%s: status %d after %v, want 503 at once", name, status, took)
		}
	}
}

// What was sent is not sent again because a backend is back: a connection that broke is not one that could not be made.
func TestHoldIsNotForWhatWasSent(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-sent", "upstreams": [{"dial": "a:1"}]}`)
	r := newRequest(t)
	r.Method = http.MethodPost
	q := &request{h: h}
	defer q.end()
	q.next(r, httptest.NewRecorder())
	if _, err := q.attempt(resets{}, r); err == nil || q.again || q.refused != nil {
		t.Errorf("%v, again: %v, refused: %v", err, q.again, q.refused)
	}
}

// An attempt that found no connection, so that its request had to wait, is none of those that it may make.
func TestHoldTakesNoAttempt(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-attempts", "upstreams": [{"dial": "a:1"}]}`)
	g := gated(t, h)
	g.resets.Store(1)
	time.AfterFunc(100*time.Millisecond, func() { g.open.Store(true) })
	if status, attempts, _ := g.serve(h, newRequest(t)); status != http.StatusOK || attempts != 3 {
		t.Errorf("status %d after %d attempts, want 200 after one that was not sent, one that was cut off and another", status, attempts)
	}
}

// A backend that is back within hold costs nothing, also where its turn to be tried would come later.
func TestHoldLooksBeforeItEnds(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "hold-looks", "upstreams": [{"dial": "a:1"}]}`)
	t.Parallel()
	g := gated(t, h)
	// It is tried after 1.2 s to 1.5 s, and then after 2 s at the earliest.
	time.AfterFunc(1550*time.Millisecond, func() { g.open.Store(true) })
	if status, _, took := g.serve(h, newRequest(t)); status != http.StatusOK {
		t.Errorf("status %d after %v", status, took)
	}
}

// resets is a transport whose connections break when the request has been sent.
type resets struct{}

func (resets) RoundTrip(*http.Request) (*http.Response, error) { return nil, syscall.ECONNRESET }

// What makes a backend dead is that no connection can be made: not a failed handshake, nor a socket whose backlog is full.
func TestIsUnreachable(t *testing.T) {
	if !outOfDescriptors(reverseproxy.NewDialError(&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)})) {
		t.Error("a transport without descriptors is not noticed")
	}
	for _, err := range []error{syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.ENOENT, context.DeadlineExceeded} {
		if !isUnreachable(reverseproxy.NewDialError(err)) {
			t.Errorf("%v: not called unreachable", err)
		}
	}
	for _, err := range []error{tls.AlertError(42), syscall.ECONNRESET, reverseproxy.NewDialError(syscall.EAGAIN),
		reverseproxy.NewDialError(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}),
	} {
		if isUnreachable(err) {
			t.Errorf("%v: called unreachable", err)
		}
	}
}

// While requests wait as lb_try_duration says, a dead backend is tried each lb_try_interval, as by reverse_proxy: it may be back only just
// before they give up.
func TestTryInterval(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "try-interval", "load_balancing": {"try_duration": "10s", "try_interval": "50ms"}, "upstreams": [{"dial": "a:1"}]}`)
	t.Parallel()
	g := gated(t, h)
	tried := make(chan int64, 1)
	time.AfterFunc(2*time.Second, func() {
		tried <- g.dialed.Load()
		g.open.Store(true)
	})
	if status, _, _ := g.serve(h, newRequest(t)); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	// By itself it would be tried five times in that time.
	if n := <-tried; n < 10 || n > 45 {
		t.Errorf("the backend was tried %d times in 2s, want about 40", n)
	}
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
		h := newConfig(t).mustLoad(`{"name": "try-end-` + test.interval + `", "load_balancing": {"try_duration": "1s", "try_interval": "` + test.interval + `"}, "upstreams": [{"dial": "a:1"}]}`)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gated(t, h)
			time.AfterFunc(test.back, func() { g.open.Store(true) })
			if status, _, took := g.serve(h, newRequest(t)); status != http.StatusOK || took > 1500*time.Millisecond {
				t.Errorf("status %d after %v", status, took)
			}
		})
	}
}

// A config that ends in the middle of an outage leaves those behind who wait: they are served when the backend is back.
func TestHoldOverReload(t *testing.T) {
	const settings = `{"name": "hold-reload", "upstreams": [{"dial": "a:1"}]}`
	before := newConfig(t)
	h := before.mustLoad(settings)
	g := new(gate)
	status := make(chan int)
	go func() {
		s, _, _ := g.serve(h, newRequest(t))
		status <- s
	}()
	eventually(t, "the request to wait", func() bool { return h.set().View().Member(0).Vitals().Dead })
	next := newConfig(t).mustLoad(settings)
	again := gated(t, next)
	before.cancel()
	again.open.Store(true)
	g.open.Store(true)
	if s := <-status; s != http.StatusOK {
		t.Errorf("status %d, want 200: the backend is back", s)
	}
}

// A request that finds the backend gone when its config has ended does not wait for longer than others.
func TestHoldAfterReload(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "hold-after-reload", "hold": "300ms", "upstreams": [{"dial": "a:1"}]}`)
	c.cancel()
	r := newRequest(t)
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	status, attempts, took := new(gate).serve(h, r.WithContext(ctx))
	if ctx.Err() != nil || status != http.StatusServiceUnavailable {
		t.Errorf("status %d after %d attempts and %v, want 503 after 300 ms", status, attempts, took)
	}
}

// Nor does it ask as fast as it can where lb_try_duration rules.
func TestTryDurationAfterReload(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "try-after-reload", "load_balancing": {"try_duration": "300ms", "try_interval": "20ms"}, "upstreams": [{"dial": "a:1"}]}`)
	c.cancel()
	if _, attempts, took := new(gate).serve(h, newRequest(t)); attempts > 20 {
		t.Errorf("%d attempts in %v, want one every 20 ms at most", attempts, took)
	}
}
