package lbmodule

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"

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
		synctest.Test(t, func(t *testing.T) {
			c := newQuietConfig(t)
			h := c.mustLoad(`{"name": "lifetime-up", "hold": "300ms", "upstreams": [{"dial": "` + goneSocket + `"}]}`)
			new(gate).carries(h)
			status := statuses(t, h, 1)
			synctest.Wait()
			c.ends(h)
			if n := len(h.plan.Pool.Members()); n != 1 {
				t.Errorf("while a request waits: %d members", n)
			}
			all(t, status, 1, http.StatusServiceUnavailable)
			expectOver(t, h)
		})
	})
	t.Run("served", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newQuietConfig(t)
			h := c.mustLoad(`{"name": "lifetime-served", "hold": "1m", "upstreams": [{"dial": "a:1"}]}`)
			g := gated(t, h)
			r, w := io.Pipe()
			g.body = r
			status := statuses(t, h, 1)
			synctest.Wait()
			if n := h.plan.Pool.Holding(); n != 1 {
				t.Fatalf("%d requests wait, want 1", n)
			}
			c.ends(h)
			g.open.Store(true)
			if _, err := io.WriteString(w, "it has begun"); err != nil { // which is when it is read
				t.Fatal(err)
			}
			synctest.Wait()
			if n := len(h.plan.Pool.Members()); n != 0 {
				t.Errorf("%d members are held by a request that has its answer", n)
			}
			w.Close()
			all(t, status, 1, http.StatusOK)
		})
	})
}

// expectOver checks that no view holds the members of the handler's pool, and that none is still being tried, so that its address does not
// count as dead.
func expectOver(t *testing.T, h *Handler) {
	t.Helper()
	if n := len(h.plan.Pool.Members()); n != 0 {
		t.Errorf("%d members are held by nobody", n)
	}
	v := h.plan.Pool.Open([]pool.Backend{{Address: goneSocket, Weight: 1}}, pool.Settings{Policy: balance.RoundRobin{}})
	defer v.Close()
	if len(v.Snapshot().Eligible()) != 1 {
		t.Error("a backend that nobody should try any more is taken for dead")
	}
}
