package mirror

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// sample selects the requests to copy. After n requests the number of copies differs from n times the share by a few at most. It advances
// by the golden ratio around a circle, and copies the requests that fall into an arc as long as the share. A counter would copy each
// twentieth request, for example, and if clients take turns always those of the same client; this sequence is as even in each nth request
// as in all of them. (It is the additive recurrence of Knuth, The Art of Computer Programming, 6.4, theorem S.)
type sample struct {
	at    atomic.Uint64 // position on the circle, whose length is 2^64
	arc   uint64
	whole bool // all requests are copied
}

// golden is the step on the circle: the golden ratio's fraction of its length.
const golden = 0x9E3779B97F4A7C15

func (s *sample) init(share float64) {
	s.whole = share >= 1
	if !s.whole {
		s.arc = uint64(math.Ldexp(max(share, 0), 64))
	}
	s.at.Store(rand.Uint64()) // random, so that the balancers of a fleet do not copy in step
}

// next reports whether the next request is copied.
func (s *sample) next() bool { return s.whole || s.at.Add(golden) < s.arc }
