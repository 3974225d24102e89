package pool

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// latencySteps is how many buckets there are between a duration and its double: what is read from them is too large
	// by an eighth at most.
	latencySteps = 8
	// latencyOctaves are the doublings that are told apart, from a microsecond on.
	latencyOctaves = 28
	// latencySpan is what a histogram spans; what is asked is answered from the last two.
	latencySpan = 10 * time.Second
	// latencyMin is how many requests a quantile must be of to mean anything.
	latencyMin = 100
)

// Latency knows how long requests take: a histogram with logarithmic buckets. It is safe for concurrent use. The zero
// Latency has seen no requests.
type Latency struct {
	turn    atomic.Int64 // number of the span that counts are taken in
	buckets [2][latencyOctaves * latencySteps]atomic.Uint32

	known   atomic.Int64 // the quantile asked for last
	knownAt atomic.Int64 // when that was found out, in Unix nanoseconds
}

// latencyRefresh is how old an answer may be.
const latencyRefresh = 100 * time.Millisecond

// Add counts a request that took d.
func (l *Latency) Add(d time.Duration, now time.Time) {
	turn := now.UnixNano() / int64(latencySpan)
	if last := l.turn.Load(); turn != last && l.turn.CompareAndSwap(last, turn) {
		for i := range l.buckets[turn&1] {
			l.buckets[turn&1][i].Store(0)
		}
		if turn != last+1 {
			for i := range l.buckets[0] {
				l.buckets[(turn+1)&1][i].Store(0)
			}
		}
	}
	l.buckets[turn&1][latencyBucket(d)].Add(1)
}

// latencyBucket is the bucket of d: its highest bit and the three that follow.
func latencyBucket(d time.Duration) int {
	us := uint64(max(d/time.Microsecond, latencySteps))
	octave := bits.Len64(us) - 4 // us has at least four bits
	bucket := octave*latencySteps + int(us>>octave)&(latencySteps-1)
	return min(bucket, latencyOctaves*latencySteps-1)
}

// latencyBound is what the durations of a bucket are below.
func latencyBound(bucket int) time.Duration {
	octave, step := bucket/latencySteps, bucket%latencySteps
	return time.Duration(latencySteps+step+1) << octave * time.Microsecond
}

// Quantile returns what a share of q of the recent requests did not exceed, and whether there were enough to tell. The
// same q is to be asked for at all times.
func (l *Latency) Quantile(q float64, now time.Time) (time.Duration, bool) {
	if at := l.knownAt.Load(); now.UnixNano()-at < int64(latencyRefresh) {
		known := time.Duration(l.known.Load())
		return known, known > 0
	}
	var counts [latencyOctaves * latencySteps]uint64
	total := uint64(0)
	for i := range counts {
		counts[i] = uint64(l.buckets[0][i].Load()) + uint64(l.buckets[1][i].Load())
		total += counts[i]
	}
	found := time.Duration(0)
	if total >= latencyMin {
		left := uint64(q * float64(total))
		for i, n := range counts {
			if n > left {
				found = latencyBound(i)
				break
			}
			left -= n
		}
	}
	l.known.Store(int64(found))
	l.knownAt.Store(now.UnixNano())
	return found, found > 0
}
