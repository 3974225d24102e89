package breaker

import (
	"testing"
	"testing/quick"
	"time"
)

func TestWindow(t *testing.T) {
	const span = 10 * time.Second
	start := time.Now()
	check := func(gaps []uint16, fails []bool) bool {
		w := NewWindow(span, start)
		now := start
		var times []time.Time
		for i, gap := range gaps {
			now = now.Add(time.Duration(gap) * 100 * time.Microsecond)
			failed := i < len(fails) && fails[i]
			w.Add(failed, false, now)
			if failed {
				times = append(times, now)
			}
			within := func(d time.Duration) (n int) {
				for _, at := range times {
					if now.Sub(at) < d {
						n++
					}
				}
				return n
			}
			if got := w.Counts(now).Failures; got < within(span) || got > within(span+span/windowBuckets) {
				return false
			}
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 1000}); err != nil {
		t.Error(err)
	}
}

func TestWindowExpiry(t *testing.T) {
	start := time.Now()
	w := NewWindow(10*time.Second, start)
	if got := w.NextExpiry(start); !got.IsZero() {
		t.Errorf("an empty window expires at %v", got)
	}
	w.Add(true, true, start.Add(2500*time.Millisecond))
	w.Add(true, true, start.Add(5*time.Second))
	if got := w.NextExpiry(start.Add(6 * time.Second)).Sub(start); got != 13*time.Second {
		t.Errorf("expires after %v, want 13s", got)
	}
	if got := w.Counts(start.Add(13 * time.Second)).Failures; got != 1 {
		t.Errorf("%d failures are left at the time of expiry, want 1", got)
	}
	if got := w.Counts(start.Add(time.Hour)).Failures; got != 0 {
		t.Errorf("%d failures after an hour, want 0", got)
	}
	w.Add(true, true, start) // a time of before counts as now
	w = w.Resized(time.Second, start.Add(time.Hour))
	if got, want := w.Counts(start.Add(time.Hour)), (Counts{Requests: 1, Failures: 1, Slow: 1}); got != want || w.Span() != time.Second {
		t.Errorf("resized: %+v in %v, want %+v in 1s", got, w.Span(), want)
	}
	var none Window
	none.Add(true, true, start)
	if none.Counts(start) != (Counts{}) || none.Span() != 0 {
		t.Error("the zero window counts")
	}
}
