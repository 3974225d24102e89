package healthcheck

import (
	"testing"
	"testing/quick"
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
