// Package headroom makes the garbage collector run less often in a small heap. The program that imports it need not
// call anything.
//
// By itself, the collector runs when as much was allocated as the last collection left alive (GOGC=100). A proxy has
// little alive and allocates a lot, so it collects several times a second. With this package, the collector waits until
// a fixed number of bytes more was allocated. The process takes that much more memory, however large the heap is, while
// a higher GOGC takes more the larger the heap is.
//
// It does nothing if the environment sets GOGC. A memory limit, from GOMEMLIMIT or from Caddy, still applies. If other code sets the
// percentage at run time, that setting is kept.
//
// The plugin does not import it, because a library must not change the settings of the process. Programs import it.
package headroom

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	room = 6 << 20 // bytes

	// usual is the runtime's own percentage, and the least that is set here.
	usual = 100

	// smallest is the size that a smaller heap is assumed to have. The runtime never collects below 4 MB times the percentage, so a
	// percentage computed from the real size would give a smaller heap too much room.
	smallest = 4 << 20

	// near is how much the heap's room may differ from room before the percentage is set again, which stops the program
	// for some microseconds.
	near = room / 4
)

func init() {
	if os.Getenv("GOGC") == "" { // the runtime also takes an empty one for unset
		newTuner().follow()
	}
}

// tuner sets the percentage after each collection.
type tuner struct {
	samples []metrics.Sample
	set     int // the percentage that the tuner set last
}

func newTuner() *tuner {
	return &tuner{
		samples: []metrics.Sample{
			{Name: "/gc/gogc:percent"},
			{Name: "/gc/heap/live:bytes"},
			{Name: "/gc/scan/stack:bytes"},
			{Name: "/gc/scan/globals:bytes"},
		},
		set: usual,
	}
}

// follow adjusts now and after each collection, until other code has set the percentage.
func (t *tuner) follow() {
	if !t.adjust() {
		return
	}
	// Nothing refers to the mark, so the next collection frees it, which calls follow again. The pointer in it keeps the
	// runtime from allocating it together with other small objects.
	type mark struct{ _ *tuner }
	runtime.AddCleanup(new(mark), (*tuner).follow, t)
}

// adjust sets the percentage for the current heap. It returns false if other code has set the percentage.
func (t *tuner) adjust() bool {
	metrics.Read(t.samples)
	if t.samples[0].Value.Uint64() != uint64(t.set) {
		return false
	}
	var alive uint64
	for _, s := range t.samples[1:] {
		alive += s.Value.Uint64()
	}
	if wanted := percentage(alive, t.set); wanted != t.set {
		if before := debug.SetGCPercent(wanted); before != t.set { // other code set it between the two calls
			debug.SetGCPercent(before)
			return false
		}
		t.set = wanted
	}
	return true
}

// percentage returns the percentage that gives a heap with this many live bytes its room. It returns the present one if that is near
// enough.
func percentage(alive uint64, present int) int {
	size := max(float64(alive), smallest)
	extra := size * float64(present-usual) / 100
	if math.Abs(extra-room) < near {
		return present
	}
	return usual + int(room*100/size)
}
