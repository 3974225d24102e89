package pool

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Clock tells the time, and calls functions at a later time.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f after d, but not before AfterFunc has returned.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is what [Clock.AfterFunc] returns: see [time.Timer].
type Timer interface {
	Stop() bool
	Reset(d time.Duration) bool
}

// now returns the time.
func (p *Pool) now() time.Time {
	if c := p.registry.clock; c != nil {
		return c.Now()
	}
	return time.Now()
}

// afterFunc calls f after d, on a goroutine of its own unless the registry has a clock.
func (p *Pool) afterFunc(d time.Duration, f func()) Timer {
	if c := p.registry.clock; c != nil {
		return c.AfterFunc(d, f)
	}
	return time.AfterFunc(d, f)
}

// Dice returns the dice of the pool's registry, which may be nil.
func (p *Pool) Dice() *balance.Dice { return p.registry.dice }
