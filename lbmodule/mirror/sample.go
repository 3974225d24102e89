package mirror

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// sample decides which requests are copied, so that after n requests the number of copies differs from n times the share by a few at most.
// It goes around a circle by the golden ratio, and copies what falls into an arc as long as the share. An ordinary counter would copy each
// twentieth request, and of clients that take turns always the same one's; this sequence is as even in each nth request as in all of them.
// (It is the additive recurrence of Knuth, The Art of Computer Programming, 6.4, theorem S.)
type sample struct {
	at    atomic.Uint64 // place on the circle, whose length is 2^64
	arc   uint64
	whole bool // everything is copied
}

// golden is the golden ratio's part of the circle.
const golden = 0x9E3779B97F4A7C15

func (s *sample) init(share float64) {
	s.whole = share >= 1
	if !s.whole {
		s.arc = uint64(math.Ldexp(max(share, 0), 64))
	}
	s.at.Store(rand.Uint64()) // the balancers of a fleet do not copy in step
}

// next reports whether the next request is copied.
func (s *sample) next() bool { return s.whole || s.at.Add(golden) < s.arc }
