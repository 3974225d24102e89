package pool

import (
	"testing"
	"time"
)

// Outages are counted when they begin, and last up to now; a clock that is set back makes none shorter than nothing.
func TestOutages(t *testing.T) {
	start := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var o outages
	for _, step := range []struct {
		second int
		down   bool
		count  uint64
		total  time.Duration
	}{
		{0, false, 0, 0},
		{10, true, 1, 0},
		{15, true, 1, 5 * time.Second},
		{20, false, 1, 10 * time.Second},
		{99, false, 1, 10 * time.Second},
		{100, true, 2, 10 * time.Second},
		{90, true, 2, 10 * time.Second},
		{80, false, 2, 10 * time.Second},
		{81, true, 3, 10 * time.Second},
		{84, true, 3, 13 * time.Second},
	} {
		o.look(step.down, at(step.second))
		if got := o.total(at(step.second)); o.count != step.count || got != step.total {
			t.Errorf("at second %d: %d outages, %v in all, want %d and %v", step.second, o.count, got, step.count, step.total)
		}
	}
}

// Administrative states are not outages, and a reset forgets past ones.
func TestOutagesOfMember(t *testing.T) {
	p := new(Registry).Acquire("outages")
	v := p.Open([]Backend{{Address: "a:1", Weight: 1}, {Address: "b:1", Weight: 1}}, Settings{DeadAfter: 2})
	defer v.Close()
	m := v.Member(0)
	fail := func() {
		for range 2 {
			l, _ := v.AcquireMember(0)
			l.Judge(Verdict{Outcome: Failure, Refused: true}, time.Now())
			l.Release()
		}
	}
	if got := m.Vitals(); got.Downs != 0 || got.DownFor != 0 {
		t.Errorf("at first: %+v", got)
	}
	fail()
	if got := m.Vitals(); !got.Dead || got.Downs != 1 || got.DownFor <= 0 {
		t.Errorf("dead: %+v", got)
	}
	m.Reset(time.Now())
	if got := m.Vitals(); got.Downs != 0 || got.DownFor != 0 {
		t.Errorf("after a reset: %+v", got)
	}
	drained := p.Open([]Backend{{Address: "a:1", Weight: 1, State: Drained}, {Address: "b:1", Weight: 1}}, Settings{DeadAfter: 2})
	defer drained.Close()
	if got := m.Vitals(); got.Downs != 0 || got.DownFor != 0 {
		t.Errorf("taken out by hand: %+v", got)
	}
}
