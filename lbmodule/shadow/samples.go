package shadow

import (
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

const (
	// sampleCount is how many of a member's last answers are kept.
	sampleCount = 64
	// drawn is how many of them are looked at for one that was given under a load like the one in question.
	drawn = 4

	loadBits = 16
	maxLoad  = 1<<loadBits - 1
	longest  = time.Duration(1<<(63-loadBits) - 1)
)

// Samples are how long a member's last answers took, and with how many requests in flight each began. They are safe for concurrent use. The
// zero Samples are none.
type Samples struct {
	taken [sampleCount]atomic.Uint64 // duration in the upper bits, load in the others
	count atomic.Uint64
}

// Add adds an answer that took so long, to a request that was one of so many in flight.
func (s *Samples) Add(took time.Duration, load int64) {
	took, load = min(max(took, 1), longest), min(max(load, 0), maxLoad)
	at := s.count.Add(1) - 1
	s.taken[at%sampleCount].Store(uint64(took)<<loadBits | uint64(load))
}

// Draw returns how long an answer to a request might take that is one of so many in flight: what one of the last answers took. Of a few that
// are drawn at random it is the one whose load was the most like this. So the durations are spread as they were, and depend on the load as far
// as there have been different ones. What a load does that there has not been is not known, and not made up. ok is false without any.
func (s *Samples) Draw(load int64, dice *balance.Dice) (took time.Duration, ok bool) {
	n := min(s.count.Load(), sampleCount)
	if n == 0 {
		return 0, false
	}
	nearest := int64(-1)
	for range drawn {
		sample := s.taken[dice.Uint64N(n)].Load()
		off := int64(sample&maxLoad) - min(load, maxLoad)
		if off < 0 {
			off = -off
		}
		if sample > 0 && (nearest < 0 || off < nearest) {
			nearest, took = off, time.Duration(sample>>loadBits)
		}
	}
	return took, took > 0
}

// Forget drops all of them: the member has been away.
func (s *Samples) Forget() { s.count.Store(0) }
