package lbmodule

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// ends has the config end as Caddy has it: the app stops before the handler is cleaned up.
func (c *harness) ends(h *Handler) {
	h.service.Stop()
	c.cancel()
}

// A set lives for those who wait with it, and no longer: neither when they are given up, nor when they have their answer, which may
// take long to end.
func TestLifetime(t *testing.T) {
	t.Run("given up", func(t *testing.T) {
		c := newConfig(t)
		h := c.mustLoad(`{"name": "lifetime-up", "hold": "300ms", "upstreams": [{"dial": "a:1"}]}`)
		status := make(chan int)
		go func() {
			s, _, _ := new(gate).serve(h, newRequest(t))
			status <- s
		}()
		eventually(t, "it to wait", func() bool { return h.pool.Holding() == 1 })
		c.ends(h)
		if n := len(h.pool.Members()); n != 1 {
			t.Errorf("while a request waits: %d members", n)
		}
		if s := <-status; s != http.StatusServiceUnavailable {
			t.Errorf("status %d", s)
		}
		expectOver(t, h)
	})
	t.Run("served", func(t *testing.T) {
		c := newConfig(t)
		h := c.mustLoad(`{"name": "lifetime-served", "hold": "1m", "upstreams": [{"dial": "a:1"}]}`)
		g := gated(t, h)
		done, over := make(chan int), make(chan struct{})
		go func() {
			r := newRequest(t)
			q := &request{h: h}
			status := 0
			for more := true; more; more = q.again {
				if q.next(r, httptest.NewRecorder()) == nil {
					break
				}
				if res, err := q.attempt(g, r); err == nil {
					status = res.StatusCode
				}
			}
			done <- status // its answer has begun
			<-over
			q.end()
		}()
		eventually(t, "it to wait", func() bool { return h.pool.Holding() == 1 })
		c.ends(h)
		g.open.Store(true)
		if s := <-done; s != http.StatusOK {
			t.Errorf("status %d", s)
		}
		if n := len(h.pool.Members()); n != 0 {
			t.Errorf("%d members are held by a request that has its answer", n)
		}
		close(over)
	})
}

// expectOver expects that nobody holds the members of the handler's pool, nor tries them: they may be alive.
func expectOver(t *testing.T, h *Handler) {
	t.Helper()
	if n := len(h.pool.Members()); n != 0 {
		t.Errorf("%d members are held by nobody", n)
	}
	v := h.pool.Open([]pool.Backend{{Address: "a:1", Weight: 1}}, pool.Settings{Policy: balance.RoundRobin{}})
	defer v.Close()
	if len(v.Snapshot().Eligible()) != 1 {
		t.Error("a backend that nobody should try any more is taken for dead")
	}
}

// The time at which a request came is the time now only while it has not waited.
func TestJustCame(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "just-came", "upstreams": [{"dial": "a:1"}]}`)
	for _, test := range []struct {
		attempts int
		queued   time.Duration
		came     bool
	}{{0, 0, true}, {1, 0, false}, {0, time.Second, false}} {
		q := &request{h: h, attempts: test.attempts, queued: test.queued}
		h.pool.Live.Add(&q.live, nil)
		want := q.live.Started()
		if !test.came {
			want = time.Time{}
		}
		if got := q.justCame(); !got.Equal(want) {
			t.Errorf("%d attempts, waited for %v: %v, want %v", test.attempts, test.queued, got, want)
		}
		q.live.Done()
	}
}
