package canary

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latencies are counted in buckets whose bounds grow by an eighth of a power of two of microseconds, so that each bound is at most 12.5 %
// above the previous one.
const (
	perOctave = 8
	octaves   = 28 // up to half an hour
	buckets   = octaves * perOctave
)

// Counts counts the outcomes of the requests of a side. Counting takes one atomic operation. The zero Counts is ready for use.
type Counts struct {
	failed   atomic.Uint64
	answered [buckets]atomic.Uint64
}

// Answered counts a request with a good answer, after that time. If the answer is aborted later, [Counts.Failed] is called as well.
func (c *Counts) Answered(took time.Duration) { c.answered[bucketOf(took)].Add(1) }

// Failed counts a request that failed.
func (c *Counts) Failed() { c.failed.Add(1) }

// bucketOf returns the bucket of a latency.
func bucketOf(took time.Duration) int {
	us := uint64(max(took.Microseconds(), 0))
	if us < perOctave {
		return int(us)
	}
	octave := bits.Len64(us) - 3 // 1 for 8 to 15
	return min((octave-1)*perOctave+int(us>>(octave-1)), buckets-1)
}

// boundOf returns the smallest latency above the bucket.
func boundOf(bucket int) time.Duration {
	next := bucket + 1
	if next < 2*perOctave {
		return time.Duration(next) * time.Microsecond
	}
	octave := next / perOctave
	return time.Duration(next%perOctave+perOctave) << (octave - 1) * time.Microsecond
}

// tally has the values of a Counts, or the difference of two.
type tally struct {
	failed   uint64
	answered [buckets]uint64
}

func (c *Counts) read(into *tally) {
	into.failed = c.failed.Load()
	for i := range c.answered {
		into.answered[i] = c.answered[i].Load()
	}
}

// since returns t minus before.
func (t *tally) since(before *tally) (d tally) {
	d.failed = t.failed - before.failed
	for i := range t.answered {
		d.answered[i] = t.answered[i] - before.answered[i]
	}
	return d
}

func (t *tally) add(more *tally) {
	t.failed += more.failed
	for i := range t.answered {
		t.answered[i] += more.answered[i]
	}
}

// good returns the number of good answers.
func (t *tally) good() (n uint64) {
	for _, k := range t.answered {
		n += k
	}
	return n
}

// total returns the number of requests.
func (t *tally) total() uint64 { return t.failed + t.good() }

// above returns the number of good answers above the bucket.
func (t *tally) above(bucket int) (n uint64) {
	for _, k := range t.answered[bucket+1:] {
		n += k
	}
	return n
}

// recent is a tally of recent requests: the weight of older counts decreases.
type recent struct {
	failed, total float64
	answered      [buckets]float64
	good          float64
}

// fade is the factor by which each block reduces earlier counts.
const fade = 0.98

func (r *recent) add(t *tally) {
	r.failed = r.failed*fade + float64(t.failed)
	r.total = r.total*fade + float64(t.total())
	r.good = r.good*fade + float64(t.good())
	for i := range r.answered {
		r.answered[i] = r.answered[i]*fade + float64(t.answered[i])
	}
}

// quantile returns the first bucket that is not below that share of the good answers, and the share above it; -1 if there are none.
func (r *recent) quantile(share float64) (bucket int, above float64) {
	if r.good < 1 {
		return -1, 0
	}
	sum := 0.0
	for i, k := range r.answered {
		if sum += k; sum >= share*r.good {
			return i, max(r.good-sum, 0) / r.good
		}
	}
	return buckets - 1, 0
}
