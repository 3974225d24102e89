package shadow

import (
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// sampleCount is how many of a member's last answers are kept.
const sampleCount = 64

// Samples are how long a member's last answers took. They are safe for concurrent use. The zero Samples are none.
type Samples struct {
	took  [sampleCount]atomic.Int64
	count atomic.Uint64
}

// Add adds an answer that took so long.
func (s *Samples) Add(took time.Duration) {
	at := s.count.Add(1) - 1
	s.took[at%sampleCount].Store(int64(max(took, 1)))
}

// Draw returns how long another answer might take: what one of the last took, drawn at random, so that the durations are spread as they were.
// They are those under the load that the member had. To draw one that was given under a load like that of the shadow policy predicts no better,
// and what a load does that there has not been is not known. ok is false without any.
func (s *Samples) Draw(dice *balance.Dice) (took time.Duration, ok bool) {
	n := min(s.count.Load(), sampleCount)
	if n == 0 {
		return 0, false
	}
	took = time.Duration(s.took[dice.Uint64N(n)].Load())
	return took, took > 0 // one that is just being added may not be there yet
}

// Forget drops all of them: the member has been away.
func (s *Samples) Forget() { s.count.Store(0) }
