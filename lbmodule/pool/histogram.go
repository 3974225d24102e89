package pool

import (
	"math"
	"sync/atomic"
	"time"
)

// The buckets are those of Prometheus's native histograms of schema 3: eight between a duration and its double, so that a quantile read
// from them is at most 9 % too large. Bucket i ends with 2^(i/8) seconds.
const (
	// BucketSchema is the schema.
	BucketSchema = 3
	perOctave    = 1 << BucketSchema
	// FirstBucket ends with 8 microseconds and holds all shorter durations. LastBucket holds those longer than 128 seconds.
	FirstBucket = -17 * perOctave
	LastBucket  = 7*perOctave + 1
	bucketCount = LastBucket - FirstBucket + 1
	octaves     = (bucketCount + perOctave - 1) / perOctave
)

const mantissaBits = 52

// octave holds the mantissas of 2^(i/8) for i from 0 to 8. The last is a sentinel that is larger than any mantissa.
var octave = func() (m [perOctave + 1]uint64) {
	for i := range perOctave {
		m[i] = math.Float64bits(math.Exp2(float64(i)/perOctave)) & (1<<mantissaBits - 1)
	}
	m[perOctave] = 1 << mantissaBits
	return m
}()

// bucketOf returns the place of d among the buckets, the first being at 0. It needs no logarithm: the exponent of the floating-point number
// gives the octave, and the first three bits of its mantissa the eighth of it, which contains the end of one bucket.
func bucketOf(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	bits := math.Float64bits(float64(d) / float64(time.Second))
	exponent := int(bits>>mantissaBits) - 1023
	mantissa := bits & (1<<mantissaBits - 1)
	step := int(mantissa >> (mantissaBits - BucketSchema))
	bucket := exponent*perOctave + step
	if mantissa > 0 {
		bucket++
	}
	if mantissa > octave[step+1] {
		bucket++
	}
	return min(max(bucket-FirstBucket, 0), bucketCount-1)
}

// bucketEnd returns the longest duration of the bucket at that place.
func bucketEnd(place int) time.Duration {
	return time.Duration(math.Exp2(float64(place+FirstBucket)/perOctave) * float64(time.Second))
}

// sparse holds a T for each bucket, by octaves. Durations of one kind fall into few octaves, so the memory for an octave is allocated on
// first use. It is safe for concurrent use. The zero sparse holds zeros.
type sparse[T any] [octaves]atomic.Pointer[[perOctave]T]

// at returns the T of the bucket at that place.
func (s *sparse[T]) at(place int) *T {
	octave := &s[place/perOctave]
	held := octave.Load()
	if held == nil {
		octave.CompareAndSwap(nil, new([perOctave]T))
		held = octave.Load()
	}
	return &held[place%perOctave]
}

// all yields the Ts of the octaves in use and their places.
func (s *sparse[T]) all(yield func(place int, of *T) bool) {
	for i := range s {
		held := s[i].Load()
		if held == nil {
			continue
		}
		for k := range min(perOctave, bucketCount-i*perOctave) {
			if !yield(i*perOctave+k, &held[k]) {
				return
			}
		}
	}
}

// Histogram counts durations. Its counts never decrease. It is safe for concurrent use. The zero Histogram is empty.
type Histogram struct {
	counts sparse[atomic.Uint64]
	sum    atomic.Int64
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	h.counts.at(bucketOf(d)).Add(1)
	h.sum.Add(int64(d))
}

// Distribution holds the counts of a Histogram.
type Distribution struct {
	Counts [bucketCount]uint64 // by bucket, from FirstBucket on
	Count  uint64
	Sum    time.Duration
}

// Distribution returns the counts of h.
func (h *Histogram) Distribution() *Distribution {
	d := &Distribution{Sum: time.Duration(h.sum.Load())}
	for place, count := range h.counts.all {
		d.Counts[place] = count.Load()
		d.Count += d.Counts[place]
	}
	return d
}

// UpTo returns how many durations were not longer than 2^exponent seconds.
func (d *Distribution) UpTo(exponent int) uint64 {
	n := uint64(0)
	for _, count := range d.Counts[:exponent*perOctave-FirstBucket+1] {
		n += count
	}
	return n
}
