package pool

import (
	"maps"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// TestWays: of all attempts, also those in flight and those on members that are gone, what is not counted took the ordinary way.
func TestWays(t *testing.T) {
	p := newPool()
	v := p.Open(backends(2), Settings{Policy: balance.First{}})
	check := func(ordinary uint64, detours map[string]uint64) {
		t.Helper()
		if n, others := p.Ways(); n != ordinary || !maps.Equal(others, detours) {
			t.Errorf("%d ordinary, others %v; want %d, %v", n, others, ordinary, detours)
		}
	}
	check(0, nil)
	lease := take(t, v)
	p.Detoured("upgrade") // and lasts
	check(0, map[string]uint64{"upgrade": 1})
	for range 5 {
		ended := take(t, v)
		ended.Traffic().Ended(Success, 200, time.Millisecond)
		ended.Release()
	}
	p.Detoured("http2")
	p.Detoured("http2")
	p.Others().Ended(Failure, 0, time.Millisecond)
	check(4, map[string]uint64{"upgrade": 1, "http2": 2})
	lease.Traffic().Ended(Ignored, 101, time.Millisecond)
	lease.Release()
	v.Close()
	p.mu.Lock()
	p.sweep(time.Now().Add(2 * retention))
	p.mu.Unlock()
	check(4, map[string]uint64{"upgrade": 1, "http2": 2})
	for range 9 {
		p.Detoured("http2") // has begun, and is not in flight any more, and has not ended
	}
	check(0, map[string]uint64{"upgrade": 1, "http2": 11})
}
