package mirror

import (
	"sync/atomic"
	"time"
)

const (
	// patience is the number of consecutive copies that an upstream may leave unanswered.
	patience = 5
	// pause is how long an upstream that does not answer gets no copies. Then one copy tests it.
	pause = time.Second
)

// gate is a circuit breaker: it keeps copies from an upstream that does not answer, which would only use up the limit. The zero gate lets
// copies pass.
type gate struct {
	failures atomic.Int32 // consecutive ones
	until    atomic.Int64 // time of the next test copy, in Unix nanoseconds; 0 while copies pass
}

// admits reports whether a copy may be sent. After failures that is one copy for each pause.
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

// failed records a copy without an answer. It reports whether that has stopped further copies.
func (g *gate) failed(now time.Time) bool {
	if g.until.Load() != 0 || g.failures.Add(1) < patience {
		return false
	}
	return g.until.CompareAndSwap(0, now.Add(pause).UnixNano())
}

// answered records a copy with an answer. It reports whether that has ended a stop.
func (g *gate) answered() bool {
	if g.failures.Load() == 0 {
		return false
	}
	g.failures.Store(0)
	return g.until.Swap(0) != 0
}
