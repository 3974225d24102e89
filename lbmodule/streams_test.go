package lbmodule

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// fakeStream is a stream that records when it is ended.
type fakeStream struct {
	opened, end time.Time // end is zero before
}

func (s *fakeStream) End(after time.Duration) { s.end = time.Now().Add(after) }

// open opens a stream of h at that address, for the rest of the test.
func (h *Handler) open(t *testing.T, address string) *fakeStream {
	s, r := &fakeStream{opened: time.Now()}, new(pool.LiveRequest)
	h.plan.Pool.Live.Add(r, nil, time.Now())
	r.At(address)
	h.opened(r, s)
	t.Cleanup(r.Done)
	return s
}

// took returns how long the stream lasted; -1 if it lasts.
func (s *fakeStream) took() time.Duration {
	synctest.Wait()
	if s.end.IsZero() {
		return -1
	}
	return s.end.Sub(s.opened)
}

const drains = `{"name": "web", "drain_timeout": 1000000000, "upstreams": [{"dial": "a:1"}]}`

// Streams to a backend that is gone are drained once the config without it has come into force, not when it is tried.
func TestStreamsOfRejectedConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newQuietConfig(t)
		h := first.serve(withB)
		a, b := h.open(t, "a:1"), h.open(t, "b:1")
		rejected := newQuietConfig(t)
		rejected.serve(drains)
		time.Sleep(time.Minute)
		if b.took() >= 0 {
			t.Error("drained while the config is tried")
		}
		rejected.giveUp()
		time.Sleep(time.Minute)
		if b.took() >= 0 {
			t.Error("drained after the config was given up")
		}
		second := newQuietConfig(t)
		second.serve(drains)
		first.cancel()
		time.Sleep(time.Minute)
		if took := b.took(); took != 2*time.Minute+time.Second {
			t.Errorf("drained after %v, want 2m1s", took)
		}
		if a.took() >= 0 {
			t.Error("the stream to the backend that is left is drained, too")
		}
		second.cancel()
	})
}

// A request of a config that has ended may still become a stream. It is treated as if it had been one before.
func TestLateStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newQuietConfig(t)
		h := first.serve(withB)
		delayed := first.mustLoad(`{"name": "delayed", "stream_close_delay": 5000000000, "upstreams": [{"dial": "a:1"}]}`)
		second := newQuietConfig(t)
		second.serve(drains)
		first.cancel()
		time.Sleep(2 * time.Second)
		a, b, c := h.open(t, "a:1"), h.open(t, "b:1"), delayed.open(t, "a:1")
		if took := c.took(); took != 3*time.Second {
			t.Errorf("ended after %v, want the rest of stream_close_delay, 3s", took)
		}
		time.Sleep(time.Minute)
		if took := b.took(); took != time.Second {
			t.Errorf("drained after %v, want 1s", took)
		}
		if a.took() >= 0 {
			t.Error("the stream to the backend that is left is drained, too")
		}
		second.cancel()
	})
}
