package shadow

import (
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// sampleCount is the number of a member's last answers that are kept.
const sampleCount = 64

// Samples holds how long a member's last answers took. It is safe for concurrent use. The zero Samples is empty.
type Samples struct {
	took  [sampleCount]atomic.Int64
	count atomic.Uint64
}

// Add adds the duration of an answer.
func (s *Samples) Add(took time.Duration) {
	at := s.count.Add(1) - 1
	s.took[at%sampleCount].Store(int64(max(took, 1)))
}

// Draw returns how long another answer might take: the duration of one of the last answers, drawn at random, so that the distribution is
// the same. The durations are those under the member's real load. Drawing only answers that were given under a load like that of the shadow
// policy would not predict better, and the effect of a load that has not occurred is unknown. ok is false if there are none.
func (s *Samples) Draw(dice *balance.Dice) (took time.Duration, ok bool) {
	n := min(s.count.Load(), sampleCount)
	if n == 0 {
		return 0, false
	}
	took = time.Duration(s.took[dice.Uint64N(n)].Load())
	return took, took > 0 // 0 while a concurrent Add has counted the answer but not stored it
}

// Forget drops all samples. Callers use it when the member comes back after having been down.
func (s *Samples) Forget() { s.count.Store(0) }
