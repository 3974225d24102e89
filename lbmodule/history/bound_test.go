package history

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// round samples so many pools of so many backends each.
func round(t testing.TB, h *History, now time.Time, pools, backends int) {
	t.Helper()
	r := h.Begin(now)
	if r == nil {
		t.Fatal("no sample")
	}
	c := Counts{Answered: new(pool.Distribution)}
	for p := range pools {
		r.Pool(fmt.Sprint("pool-", p), &c)
	}
	for p := range pools {
		for b := range backends {
			r.Backend(fmt.Sprint("pool-", p), fmt.Sprintf("10.0.%d.%d:8080", p, b), &c)
		}
	}
	r.End()
}

// count is how many pools and backends are remembered.
func (h *History) count() (pools, backends int) {
	for _, p := range h.pools {
		backends += len(p.backends)
	}
	return len(h.pools), backends
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestBound measures the memory of what is remembered, of few and of many pools: it is as much as is said, and never more than it may be.
func TestBound(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tt := range []struct{ pools, backends int }{{1, 2000}, {20, 100}, {1000, 1}, {150, 40}} {
		before := heap()
		h := New(Most)
		for i := range 2 {
			round(t, h, now.Add(time.Duration(i)*Step), tt.pools, tt.backends)
		}
		pools, backends := h.count()
		took := int(heap() - before)
		t.Logf("%d pools of %d backends: %d and %d are remembered in %d bytes", tt.pools, tt.backends, pools, backends, took)
		if took > Most {
			t.Errorf("%d pools of %d backends take %d bytes, want %d at most", tt.pools, tt.backends, took, Most)
		}
		if took < Most*9/10 {
			t.Errorf("%d pools of %d backends take %d bytes only, with %d accounted", tt.pools, tt.backends, took, h.used)
		}
		if !h.Full() || pools < min(tt.pools, 290) {
			t.Errorf("%d pools and %d backends are remembered, full: %v", pools, backends, h.Full())
		}
		if h.used != pools*poolBytes+backends*backendBytes {
			t.Errorf("%d bytes are accounted for %d pools and %d backends", h.used, pools, backends)
		}
		runtime.KeepAlive(h)
	}
}

// TestRoom fills the room, and has others come for it.
func TestRoom(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	h := New(2*poolBytes + 3*backendBytes)
	next := func(pools, backends int) (int, int, bool) {
		now = now.Add(Step)
		round(t, h, now, pools, backends)
		p, b := h.count()
		if h.used > h.most || h.used != p*poolBytes+b*backendBytes {
			t.Errorf("%d of %d bytes for %d pools and %d backends", h.used, h.most, p, b)
		}
		return p, b, h.Full()
	}
	for i, tt := range []struct {
		pools, backends         int // that there are
		keptPools, keptBackends int
		full                    bool
	}{
		{1, 9, 1, 5, true},  // a second pool's memory has room for two more backends
		{1, 5, 1, 5, false}, // all that there are
		{2, 1, 2, 3, true},  // backends make room for a pool, the last ones first; the new pool's backend finds no room yet
		{2, 1, 2, 3, false}, // now those that are gone make room for it
		{3, 0, 3, 0, true},  // all backends make room for a pool
		{3, 0, 3, 0, false},
		{4, 0, 3, 0, true},  // one pool too many
		{1, 1, 3, 0, true},  // pools that were there a moment ago make no room for a backend
		{1, 1, 2, 1, false}, // now one does
	} {
		if pools, backends, full := next(tt.pools, tt.backends); full != tt.full || pools != tt.keptPools || backends != tt.keptBackends {
			t.Errorf("%d: of %d pools of %d, %d pools and %d backends are remembered, full: %v; want %d, %d, %v",
				i, tt.pools, tt.backends, pools, backends, full, tt.keptPools, tt.keptBackends, tt.full)
		}
	}
}

// BenchmarkSample samples ten pools with a thousand backends in all, of which some have no room.
func BenchmarkSample(b *testing.B) {
	h := New(Most)
	now := time.Unix(1_800_000_000, 0)
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("10.0.0.%d:8080", i)
	}
	c := Counts{Answered: new(pool.Distribution)}
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(Step)
		c.Counters[Code2xx] += 1000
		for place := 60; place < 100; place++ {
			c.Answered.Counts[place] += 25
		}
		r := h.Begin(now)
		for p := range 10 {
			r.Pool(names[p], &c)
		}
		for i, name := range names {
			r.Backend(names[i%10], name, &c)
		}
		r.End()
	}
}
