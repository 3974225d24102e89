//go:build unix

package engine

import (
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestBounds(t *testing.T) {
	b := newBackend(t, answering(okay))
	c := b.client()
	c.MaxIdleConnsPerHost, c.MaxIdleConns, c.IdleConnTimeout = 2, 3, time.Minute
	hold := func(hosts ...string) (open []*http.Response) {
		for _, host := range hosts {
			res, err := c.RoundTrip(request(t.Context(), http.MethodGet, "http://"+host+"/"))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, res)
		}
		return open
	}
	for _, res := range hold("a", "a", "a", "b", "b") {
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.idleConns(); got != 3 {
		t.Errorf("%d connections kept, want 2 of a and 1 of b", got)
	}
	c.idle.reaper.Stop() // as if it had fired
	c.idle.reap(c.IdleConnTimeout, time.Now().Add(30*time.Second))
	if got := c.idleConns(); got != 3 {
		t.Errorf("%d connections kept after half their time", got)
	}
	if !c.idle.reaper.Reset(reapEvery) {
		t.Error("the reaper does not run again")
	}
	c.idle.reap(c.IdleConnTimeout, time.Now().Add(2*time.Minute))
	if got := c.idleConns(); got != 0 {
		t.Errorf("%d connections kept after their time", got)
	}
	c.CloseIdleConnections()
	if _, err := io.Copy(io.Discard, hold("a")[0].Body); err != nil {
		t.Fatal(err)
	}
	if got := c.idleConns(); got != 0 {
		t.Errorf("%d connections kept after all were closed", got)
	}
}

// Connections beyond what a host may keep are kept for a moment, because they are likely to be needed again.
func TestSurplus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{MaxIdleConnsPerHost: 2}
		put := func(n int, host string) (kept []*conn) {
			for range n {
				ours, theirs := net.Pipe()
				t.Cleanup(func() { theirs.Close() })
				kept = append(kept, newConn(c, host, ours))
				c.idle.put(kept[len(kept)-1], time.Now())
			}
			return kept
		}
		check := func(when string, want int, open ...*conn) {
			t.Helper()
			synctest.Wait()
			if got := c.idleConns(); got != want {
				t.Errorf("%s: %d connections kept, want %d", when, got, want)
			}
			for n, kept := range open {
				if kept.closed.Load() {
					t.Errorf("%s: connection %d is closed", when, n)
				}
			}
		}
		put(5, "a")
		other := put(1, "b")
		check("at first", 6)
		time.Sleep(surplusFor / 2)
		later := put(4, "a")
		check("after half the time", 10)
		time.Sleep(surplusFor / 2)
		check("after the time of the first ones", 5, append(later, other...)...)
		time.Sleep(surplusFor)
		check("after the time of the later ones", 3, later[2], later[3], other[0])

		put(3, "b")
		c.MaxIdleConns = c.idleConns()
		if over := put(1, "b"); !over[0].closed.Load() {
			t.Error("a surplus connection is kept beyond the maximum number of all hosts")
		}
		check("with as many in all as may be", 6)
		c.MaxIdleConnsPerHost, c.MaxIdleConns = -1, 0
		if over := put(1, "c"); !over[0].closed.Load() {
			t.Error("a connection is kept though none may be")
		}
		c.CloseIdleConnections()
		time.Sleep(2 * surplusFor)
		check("when all were closed", 0)
	})
}

// A connection is not used for longer than it may be idle, whenever they are looked at: that time is chosen so that the backend, which
// has one of its own, is not the first to close it.
func TestIdleForTooLong(t *testing.T) {
	b := newBackend(t, answering(okay))
	c := b.client()
	c.IdleConnTimeout = time.Minute
	mustGet(t, c)
	age := func(by time.Duration) {
		c.idle.mu.Lock()
		defer c.idle.mu.Unlock()
		for _, kept := range c.idle.hosts["backend"] {
			kept.since = kept.since.Add(-by)
		}
	}
	age(30 * time.Second)
	mustGet(t, c)
	if got := b.dials(); got != 1 {
		t.Errorf("%d connections after half the time", got)
	}
	age(2 * time.Minute)
	mustGet(t, c)
	if got := b.dials(); got != 2 {
		t.Errorf("%d connections after the time, want a new one", got)
	}
	if got := c.idleConns(); got != 1 {
		t.Errorf("%d connections kept", got)
	}
}

// At the maximum number of connections, the one that has been idle for longest is closed, because it may be to a host that is no longer
// used.
func TestOldestGivesWay(t *testing.T) {
	b := newBackend(t, answering(okay))
	c := b.client()
	c.MaxIdleConns = 2
	ask := func(host string) {
		t.Helper()
		res, err := c.RoundTrip(request(t.Context(), http.MethodGet, "http://"+host+"/"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Error(err)
		}
	}
	for i, step := range []struct {
		host  string
		dials int // so far
	}{{"a", 1}, {"b", 2}, {"a", 2}, {"c", 3}, {"c", 3}, {"a", 3}, {"b", 4}} {
		ask(step.host)
		if got := b.dials(); got != step.dials {
			t.Errorf("step %d, to %s: %d connections made, want %d", i, step.host, got, step.dials)
		}
	}
	if got := c.idleConns(); got != 2 {
		t.Errorf("%d connections kept", got)
	}
}

// Connections that the backend closed do not stay half open for as long as idle ones are kept.
func TestReapingTheDead(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) {
		p.head()
		p.say(okay)
	})
	c := b.client()
	mustGet(t, c)
	eventually(t, "dead connections are closed", func() bool {
		c.idle.reap(0, time.Now())
		return c.idleConns() == 0
	})
}
