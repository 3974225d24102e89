package breaker

import "time"

// windowBuckets is the number of buckets of a Window, which forgets one bucket at a time.
const windowBuckets = 10

// Window counts requests, and those of them that failed or were slow, over the last while. It forgets by tenths of its span, so a
// failure is remembered for the span and up to a tenth longer. The zero Window has no span and counts nothing. It
// is not safe for concurrent use.
type Window struct {
	width  time.Duration // of one bucket
	origin time.Time
	newest int64 // number of the newest bucket, counted from origin

	// buckets is nil until the first request: most backends of a large pool have had none.
	buckets *[windowBuckets + 1]windowBucket
}

type windowBucket struct{ requests, failures, slow uint32 }

// Counts are the numbers of requests in a Window.
type Counts struct{ Requests, Failures, Slow int }

// NewWindow returns a window that spans the last d, at least a microsecond, as of now.
func NewWindow(d time.Duration, now time.Time) Window {
	return Window{width: max(d, time.Microsecond) / windowBuckets, origin: now}
}

// Span returns the time that the window covers.
func (w *Window) Span() time.Duration { return w.width * windowBuckets }

// spanOf returns the Span of a window of d.
func spanOf(d time.Duration) time.Duration {
	return max(d, time.Microsecond) / windowBuckets * windowBuckets
}

// Add records a request that ended now.
func (w *Window) Add(failed, slow bool, now time.Time) {
	if w.width == 0 {
		return
	}
	w.advance(now)
	if w.buckets == nil {
		w.buckets = new([windowBuckets + 1]windowBucket)
	}
	b := &w.buckets[w.newest%int64(len(w.buckets))]
	b.requests++
	if failed {
		b.failures++
	}
	if slow {
		b.slow++
	}
}

// Counts returns the counts of the window.
func (w *Window) Counts(now time.Time) (c Counts) {
	if w.buckets == nil {
		return c
	}
	w.advance(now)
	for _, b := range w.buckets {
		c.Requests += int(b.requests)
		c.Failures += int(b.failures)
		c.Slow += int(b.slow)
	}
	return c
}

// NextExpiry returns when the oldest bucket with requests expires, the zero time if the window is empty.
func (w *Window) NextExpiry(now time.Time) time.Time {
	if w.buckets == nil {
		return time.Time{}
	}
	w.advance(now)
	for n := max(w.newest-windowBuckets, 0); n <= w.newest; n++ {
		if w.buckets[n%int64(len(w.buckets))].requests > 0 {
			return w.origin.Add(time.Duration(n+int64(len(w.buckets))) * w.width)
		}
	}
	return time.Time{}
}

// advance clears expired buckets. A time before the newest bucket's counts as that bucket's.
func (w *Window) advance(now time.Time) {
	n := int64(now.Sub(w.origin) / w.width)
	if n <= w.newest {
		return
	}
	if w.buckets != nil {
		// Bound: no bucket is cleared twice.
		for i := range min(n-w.newest, int64(len(w.buckets))) {
			w.buckets[(n-i)%int64(len(w.buckets))] = windowBucket{}
		}
	}
	w.newest = n
}

// Resized returns a window of another span with the same counts, as if they had been recorded just now.
func (w *Window) Resized(d time.Duration, now time.Time) Window {
	next := NewWindow(d, now)
	if c := w.Counts(now); c.Requests > 0 {
		next.buckets = &[windowBuckets + 1]windowBucket{{uint32(c.Requests), uint32(c.Failures), uint32(c.Slow)}}
	}
	return next
}
