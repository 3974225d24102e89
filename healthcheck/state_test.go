package healthcheck

import (
	"testing"
	"testing/quick"
	"time"
)

func TestState(t *testing.T) {
	two := Thresholds{Rise: 2, Fall: 3}
	for name, test := range map[string]struct {
		from    State
		results string // + passed, - failed
		want    State
	}{
		"first failure decides":          {State{}, "-", State{Status: Down}},
		"first success decides":          {State{}, "+", State{Status: Up}},
		"one failure":                    {State{Status: Up}, "-", State{Up, 1}},
		"two failures":                   {State{Status: Up}, "--", State{Up, 2}},
		"three failures":                 {State{Status: Up}, "---", State{Status: Down}},
		"a success in between":           {State{Status: Up}, "--+--", State{Up, 2}},
		"one success":                    {State{Status: Down}, "+", State{Down, 1}},
		"two successes":                  {State{Status: Down}, "++", State{Status: Up}},
		"a failure in between":           {State{Status: Down}, "+-+", State{Down, 1}},
		"every tenth of thirty":          {State{Status: Up}, "+++++++++-+++++++++-+++++++++-", State{Up, 1}},
		"alternating never turns over":   {State{Status: Up}, "-+-+-+-+-+-+-+-+-+-+", State{Status: Up}},
		"alternating, down, stays so":    {State{Status: Down}, "+-+-+-+-+-+-+-+-", State{Status: Down}},
		"a run that was longer than now": {State{Up, 7}, "-", State{Status: Down}},
	} {
		got := test.from
		for _, r := range test.results {
			got = got.After(r == '+', two)
		}
		if got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	if got := (State{Status: Up}).After(false, Thresholds{}); got.Status != Down {
		t.Errorf("thresholds of zero: %v, want down at once", got)
	}
}

// The status turns over when, and only when, that many results in a row spoke against it.
func TestStateTurnsOverOnRuns(t *testing.T) {
	check := func(results []bool, rise, fall uint8) bool {
		limits := Thresholds{Rise: int(rise%5) + 1, Fall: int(fall%5) + 1}
		s := State{Status: Up}
		run := 0
		for _, ok := range results {
			before := s
			s = s.After(ok, limits)
			if ok == (before.Status == Up) {
				run = 0
			} else {
				run++
			}
			limit := limits.Fall
			if before.Status == Down {
				limit = limits.Rise
			}
			if turned := s.Status != before.Status; turned != (run == limit) {
				return false
			} else if turned {
				run = 0
			}
			if s.Pending() != (run > 0) {
				return false
			}
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

// A failure is remembered for the span, and for no more than a tenth longer.
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
			w.Add(failed, now)
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
			if _, got := w.Counts(now); got < within(span) || got > within(span+span/windowBuckets) {
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
	w.Add(true, start.Add(2500*time.Millisecond))
	w.Add(true, start.Add(5*time.Second))
	if got := w.NextExpiry(start.Add(6 * time.Second)).Sub(start); got != 13*time.Second {
		t.Errorf("expires after %v, want 13s", got)
	}
	if _, got := w.Counts(start.Add(13 * time.Second)); got != 1 {
		t.Errorf("%d failures are left at the time of expiry, want 1", got)
	}
	if _, got := w.Counts(start.Add(time.Hour)); got != 0 {
		t.Errorf("%d failures after an hour, want 0", got)
	}
	w.Add(true, start) // a time of before counts as now
	w = w.Resized(time.Second, start.Add(time.Hour))
	if requests, failures := w.Counts(start.Add(time.Hour)); requests != 1 || failures != 1 || w.Span() != time.Second {
		t.Errorf("resized: %d requests, %d failures in %v, want 1, 1 in 1s", requests, failures, w.Span())
	}
	var none Window
	none.Add(true, start)
	if requests, _ := none.Counts(start); requests != 0 || none.Span() != 0 {
		t.Error("the zero window counts")
	}
}
