//go:build unix

package engine

import (
	"io"
	"net/http"
	"testing"
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
	c.idle.reap(c.IdleConnTimeout, time.Now().Add(30*time.Second))
	if got := c.idleConns(); got != 3 {
		t.Errorf("%d connections kept after half their time", got)
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
