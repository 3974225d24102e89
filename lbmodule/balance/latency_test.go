package balance

import (
	"math"
	"sync"
	"testing"
	"time"
)

// noon is when the tests of latencies begin: shortly after the start of the program, from which ticks are counted.
var noon = start.Add(time.Hour)

const ms = time.Millisecond

// seconds after noon.
func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// answers records n answers in l, all at that time.
func answers(l *Latency, n int, took time.Duration, now time.Time) {
	for range n {
		l.Answered(took, now)
	}
}

func TestLatency(t *testing.T) {
	for name, test := range map[string]struct {
		happens     func(l *Latency)
		least, most time.Duration
	}{
		"nothing is known":                  {func(*Latency) {}, 0, 0},
		"the first answer":                  {func(l *Latency) { l.Answered(10*ms, at(0)) }, 10 * ms, 10 * ms},
		"one slow answer of many":           {func(l *Latency) { answers(l, 99, ms, at(0)); l.Answered(time.Second, at(0)) }, ms, 2 * ms},
		"slow answers in a row":             {func(l *Latency) { answers(l, 99, ms, at(0)); answers(l, 5, time.Second, at(0)) }, time.Second, time.Second},
		"what is slow stays slow":           {func(l *Latency) { answers(l, 200, 300*ms, at(0)) }, 300 * ms, 300 * ms},
		"an old estimate weighs little":     {func(l *Latency) { answers(l, 300, 40*ms, at(0)); l.Answered(10*ms, at(60)) }, 10 * ms, 14 * ms},
		"the client left late":              {func(l *Latency) { answers(l, 9, 10*ms, at(0)); l.Unanswered(time.Second, at(0)) }, 11 * ms, 13 * ms},
		"five clients left late":            {func(l *Latency) { answers(l, 9, 10*ms, at(0)); left(l, 5, time.Second) }, time.Second, time.Second},
		"the client left soon":              {func(l *Latency) { answers(l, 9, 10*ms, at(0)); left(l, 9, 0) }, 10 * ms, 10 * ms},
		"the client of an unknown one left": {func(l *Latency) { l.Unanswered(ms, at(0)) }, 0, 0},
		"and that of another, but late":     {func(l *Latency) { l.Unanswered(time.Second, at(0)) }, time.Second, time.Second},
		"failing fast is not fast":          {func(l *Latency) { answers(l, 9, 10*ms, at(0)); failures(l, 9) }, 10 * ms, 10 * ms},
		"failing late is slow":              {func(l *Latency) { answers(l, 9, 10*ms, at(0)); l.Failed(time.Minute, at(0)) }, 11 * ms, 13 * ms},
		"it has been away":                  {func(l *Latency) { answers(l, 99, time.Second, at(0)); l.Failed(0, at(0)); l.Forget() }, 0, 0},
		"time stands still or goes back":    {func(l *Latency) { answers(l, 9, 10*ms, at(5)); answers(l, 9, 10*ms, at(0)) }, 10 * ms, 10 * ms},
	} {
		l := new(Latency)
		test.happens(l)
		const rounding = time.Microsecond
		if got := l.Estimate(); got < test.least-rounding || got > test.most+rounding {
			t.Errorf("%s: expected in %v, want %v to %v", name, got, test.least, test.most)
		}
	}
}

// left records in l that n clients left after that time.
func left(l *Latency, n int, took time.Duration) {
	for range n {
		l.Unanswered(took, at(0))
	}
}

// The tail is the share of answers that took far longer than the others.
func TestTail(t *testing.T) {
	l := new(Latency)
	answers(l, 5000, ms, at(0))
	if got := l.tailShare(); got != 0 {
		t.Errorf("nothing was slow: a tail of %v", got)
	}
	for range 100 {
		answers(l, 49, ms, at(0))
		l.Answered(400*ms, at(0))
	}
	if got := l.tailShare(); got < 0.015 || got > 0.025 {
		t.Errorf("one answer of fifty is slow: a tail of %v", got)
	}
	if l.Forget(); l.tailShare() != 0 {
		t.Error("a member that was away has a tail")
	}
}

func TestBlame(t *testing.T) {
	factor := func(l *Latency, seconds float64) float64 { return l.Penalty(at(seconds)) }
	l := new(Latency)
	if got := factor(l, 0); got != 1 {
		t.Errorf("nothing happened: %v times as expensive", got)
	}
	for n := 1; n <= 20; n++ {
		l.Failed(0, at(0))
		if got, want := factor(l, 0), math.Exp2(float64(min(n, mostBlame))); got != want {
			t.Errorf("%d failures: %v times as expensive, want %v", n, got, want)
		}
	}
	if got := factor(l, 20); got < math.Exp2(3.5) || got > math.Exp2(4) {
		t.Errorf("after 20 s %v times as expensive, want e times fewer doublings than ten", got)
	}
	if got := factor(l, 50); got > 2 {
		t.Errorf("after 50 s still %v times as expensive: it would not be tried", got)
	}
	answers(l, 10, ms, at(0))
	if got := factor(l, 0); got != 1 {
		t.Errorf("ten successes: still %v times as expensive", got)
	}
	// Every second one fails: three times as expensive, not a thousand times.
	for range 100 {
		l.Failed(0, at(0))
		l.Answered(ms, at(0))
	}
	if got := factor(l, 0); got < 1.9 || got > 4 {
		t.Errorf("half of them fail: %v times as expensive", got)
	}
}

// Concurrent records leave an estimate that is one of the recorded values, or lies between them.
func TestLatencyConcurrently(t *testing.T) {
	l := new(Latency)
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for k := range 2000 {
				now := at(float64(k) / 1000)
				switch (worker + k) % 10 {
				case 0:
					l.Failed(ms, now)
				case 1:
					l.Unanswered(ms, now)
				default:
					l.Answered(time.Duration(10+worker)*ms, now)
				}
				if got := l.Estimate(); got != 0 && got < 9*ms || got > 18*ms {
					t.Errorf("expected in %v", got)
				}
			}
		})
	}
	group.Wait()
}

func TestFade(t *testing.T) {
	last := 1.0
	for x := 0.0; x < 70; x += 0.01 {
		got := fade(x)
		if want := math.Exp2(-x); got > last || got < want*0.999 && want > 1e-18 || got > want*1.07 && got > 1e-18 {
			t.Fatalf("fade(%v) = %v, want %v, and not more than before, %v", x, got, want, last)
		}
		last = got
	}
	if last != 0 {
		t.Errorf("something is left in the end: %v", last)
	}
}
