package lbmodule

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
)

// TestSizeOfIdleBackends has ten thousand backends in a pool, and no request. In a running Caddy each may hold 2 KB of heap, of which Caddy
// itself takes 450 bytes for the config. A scrape may have 5.3 MB, of which Caddy's own gauge of backends takes 0.7. Every family that a pool
// of one backend has must be in it.
func TestSizeOfIdleBackends(t *testing.T) {
	const (
		backends = 10_000
		mostHeap = 2<<10 - 450
		mostText = 4_600_000
		ours     = "caddy_load_balancer_"
	)
	upstreams := make([]string, backends)
	for i := range upstreams {
		upstreams[i] = fmt.Sprintf(`{"dial": "10.9.%d.%d:8080"}`, i>>8, i&0xff)
	}
	one, many := newConfig(t), newConfig(t)
	one.mustLoad(`{"name": "one", "upstreams": [{"dial": "10.8.0.1:8080"}]}`)
	settings := `"upstreams": [` + strings.Join(upstreams, ",") + `]}`
	// What only the first load of a process needs is not counted. Caddy shares its state of an address, so the addresses are others.
	newConfig(t).mustLoad(`{"name": "first", ` + strings.ReplaceAll(settings, `"10.9.`, `"10.7.`))

	before := heapInUse()
	h := many.mustLoad(`{"name": "many", ` + settings)
	if got := (heapInUse() - before) / backends; got > mostHeap {
		t.Errorf("%d bytes for each backend, want at most %d", got, mostHeap)
	}
	runtime.KeepAlive(h)

	// Caddy's gauge is left out, because it is filled in the background.
	few, all := one.gathered(), many.gathered()
	for name := range few {
		if strings.HasPrefix(few[name].GetName(), ours) && all[name] == nil {
			t.Errorf("no metrics of the family %s", name)
		}
	}
	size := 0
	for _, f := range all {
		if !strings.HasPrefix(f.GetName(), ours) {
			continue
		}
		n, err := expfmt.MetricFamilyToText(io.Discard, f)
		if err != nil {
			t.Fatal(err)
		}
		size += n
	}
	if size > mostText {
		t.Errorf("metrics of %d bytes, want at most %d", size, mostText)
	}
}

// heapInUse is how much the objects on the heap hold after a collection, in bytes.
func heapInUse() int {
	runtime.GC()
	runtime.GC() // what has a finalizer, or is in a pool, is kept by the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
