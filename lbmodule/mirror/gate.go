package mirror

import (
	"sync/atomic"
	"time"
)

const (
	// patience is how many copies in a row an upstream may leave without an answer.
	patience = 5
	// pause is how long an upstream that does not answer gets no copies. Then one tries.
	pause = time.Second
)

// gate keeps copies from an upstream that does not answer, which would do nothing but take the places of others. The zero gate is open.
type gate struct {
	failures atomic.Int32 // in a row
	until    atomic.Int64 // when the next copy may try, in Unix nanoseconds; 0 while the gate is open
}

// admits reports whether a copy may be sent. While the gate is closed that is one for each pause.
func (g *gate) admits(now time.Time) bool {
	until := g.until.Load()
	switch {
	case until == 0:
		return true
	case now.UnixNano() < until:
		return false
	}
	return g.until.CompareAndSwap(until, now.Add(pause).UnixNano())
}

// failed notes a copy without an answer. It reports whether that has closed the gate.
func (g *gate) failed(now time.Time) bool {
	if g.until.Load() != 0 || g.failures.Add(1) < patience {
		return false
	}
	return g.until.CompareAndSwap(0, now.Add(pause).UnixNano())
}

// answered notes a copy with an answer. It reports whether that has opened the gate.
func (g *gate) answered() bool {
	if g.failures.Load() == 0 {
		return false
	}
	g.failures.Store(0)
	return g.until.Swap(0) != 0
}
