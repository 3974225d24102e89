package pool

import (
	"sync/atomic"
	"time"
)

const (
	// latencySpan is the length of a histogram's span. Quantiles are computed from the last two spans.
	latencySpan = 10 * time.Second
	// latencyStale is the age at which the last spans are no longer shown.
	latencyStale = time.Minute
	// latencyMin is the minimum number of requests for a meaningful quantile.
	latencyMin = 100
)

// Latency is a histogram of recent request durations. It is safe for concurrent use. The zero Latency is empty.
type Latency struct {
	turn    atomic.Int64 // number of the current span
	buckets sparse[spans]

	known   atomic.Int64 // the last computed quantile
	knownAt atomic.Int64 // when it was computed, in Unix nanoseconds
}

// spans are the counts of a bucket in two spans, the current one and the one before.
type spans [2]atomic.Uint32

// latencyRefresh is the maximum age of a computed quantile.
const latencyRefresh = 100 * time.Millisecond

// Add counts a request that took d.
func (l *Latency) Add(d time.Duration, now time.Time) {
	turn := now.UnixNano() / int64(latencySpan)
	if last := l.turn.Load(); turn != last && l.turn.CompareAndSwap(last, turn) {
		for _, b := range l.buckets.all {
			b[turn&1].Store(0)
			if turn != last+1 {
				b[(turn+1)&1].Store(0)
			}
		}
	}
	l.buckets.at(bucketOf(d))[turn&1].Add(1)
}

// Quantile returns the duration that a share of q of the recent requests did not exceed, and whether there were enough requests. Every
// call must use the same q.
func (l *Latency) Quantile(q float64, now time.Time) (time.Duration, bool) {
	if at := l.knownAt.Load(); now.UnixNano()-at < int64(latencyRefresh) {
		known := time.Duration(l.known.Load())
		return known, known > 0
	}
	found := time.Duration(0)
	var counts [bucketCount]uint64
	if total := l.count(&counts); total >= latencyMin {
		found = quantile(&counts, total, q)
	}
	l.known.Store(int64(found))
	l.knownAt.Store(now.UnixNano())
	return found, found > 0
}

// Quantiles returns the durations that these shares of the recent requests did not exceed, however few requests there were; nil if there
// were none in the last minute. Recent are the last ten to twenty seconds with requests.
func (l *Latency) Quantiles(now time.Time, shares ...float64) []time.Duration {
	var counts [bucketCount]uint64
	if l.isStale(now) {
		return nil
	}
	return quantiles(&counts, l.count(&counts), shares)
}

// isStale reports whether the last request is so old that it says nothing about now.
func (l *Latency) isStale(now time.Time) bool {
	return now.UnixNano()/int64(latencySpan)-l.turn.Load() > int64(latencyStale/latencySpan)
}

// quantiles returns the durations that these shares of the counted requests did not exceed; nil if there are none.
func quantiles(counts *[bucketCount]uint64, total uint64, shares []float64) []time.Duration {
	if total == 0 {
		return nil
	}
	found := make([]time.Duration, len(shares))
	for i, q := range shares {
		found[i] = quantile(counts, total, q)
	}
	return found
}

// count adds both spans to counts, and returns how many requests there were in them.
func (l *Latency) count(counts *[bucketCount]uint64) (total uint64) {
	for place, b := range l.buckets.all {
		n := uint64(b[0].Load()) + uint64(b[1].Load())
		counts[place] += n
		total += n
	}
	return total
}

// quantile returns the duration that a share of q of the counted requests did not exceed.
func quantile(counts *[bucketCount]uint64, total uint64, q float64) time.Duration {
	left := uint64(q * float64(total))
	for i, n := range counts {
		if n > left {
			return bucketEnd(i)
		}
		left -= n
	}
	return bucketEnd(bucketCount - 1)
}
