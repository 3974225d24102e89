package lbmodule

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
)

// TestSizeOfIdleBackends has ten thousand backends in a pool, and no request. In a running Caddy each may hold 2 KB of heap, of which Caddy
// itself takes 450 bytes for the config. A scrape may have 5 MB, of which Caddy's own gauge of backends takes 0.7. Every family that a pool
// of one backend has must be in it.
func TestSizeOfIdleBackends(t *testing.T) {
	const (
		backends = 10_000
		mostHeap = 2<<10 - 450
		mostText = 5<<20 - 700_000
	)
	upstreams := make([]string, backends)
	for i := range upstreams {
		upstreams[i] = fmt.Sprintf(`{"dial": "10.9.%d.%d:8080"}`, i>>8, i&0xff)
	}
	one, many := newConfig(t), newConfig(t)
	one.mustLoad(`{"name": "one", "upstreams": [{"dial": "10.8.0.1:8080"}]}`)

	before := heapInUse()
	h := many.mustLoad(`{"name": "many", "upstreams": [` + strings.Join(upstreams, ",") + `]}`)
	if got := (heapInUse() - before) / backends; got > mostHeap {
		t.Errorf("%d bytes for each backend, want at most %d", got, mostHeap)
	}
	runtime.KeepAlive(h)

	few, text := one.scraped(), many.scraped()
	if len(text) > mostText {
		t.Errorf("metrics of %d bytes, want at most %d", len(text), mostText)
	}
	families := 0
	for line := range strings.Lines(few) {
		if strings.HasPrefix(line, "# TYPE ") {
			families++
			if !strings.Contains(text, line) {
				t.Errorf("metrics without %s", line)
			}
		}
	}
	if families < 30 {
		t.Errorf("a pool of one backend has %d families of metrics", families)
	}
}

// scraped are Ballast's metrics of a config as text.
func (c *harness) scraped() string {
	c.t.Helper()
	families, err := c.ctx.GetMetricsRegistry().Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "caddy_load_balancer_") {
			continue
		}
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			c.t.Fatal(err)
		}
	}
	return text.String()
}

// heapInUse is how much the objects on the heap hold after a collection, in bytes.
func heapInUse() int {
	runtime.GC()
	runtime.GC() // what has a finalizer, or is in a pool, is kept by the first one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
