package pool

import (
	"testing"
	"time"
)

// The last seconds are those since a mark that is at least a second and at most 15 seconds old, however often Look is called.
func TestLately(t *testing.T) {
	start := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	p := new(Registry).Acquire("lately")
	if l := p.Lately(start); l.Span != 0 || l.PerSecond(7) != 0 {
		t.Errorf("before the first look: %+v", l)
	}
	p.CountAnswer(200)
	p.Look(start)
	for range 40 {
		p.CountAnswer(503)
		p.CountRefusal(RefusedQueueFull)
	}
	p.CountAnswer(StatusCanceled)
	if l := p.Lately(at(0.9)); l.Span != 0 {
		t.Errorf("after less than a second: %+v", l)
	}
	l := p.Lately(at(10))
	if l.Span != 10*time.Second || l.Classes[2] != 0 || l.Classes[5] != 40 || l.Canceled != 1 || l.Refused[RefusedQueueFull] != 40 || l.Requests() != 41 {
		t.Errorf("after 10 s: %+v", l)
	}
	if got := l.PerSecond(l.Refused[RefusedQueueFull]); got != 4 {
		t.Errorf("%v refused per second, want 4", got)
	}
	if l := p.Lately(at(16)); l.Span != 0 {
		t.Errorf("a mark of 16 s ago is used: %+v", l)
	}
	for s := 10.0; s < 60; s += 0.1 {
		p.Look(at(s))
	}
	if n := len(p.lately.marks); n > 16 {
		t.Errorf("%d marks are kept of 15 s", n)
	}
	if l := p.Lately(at(60)); l.Span < 14*time.Second || l.Span > 15*time.Second || l.Requests() != 0 {
		t.Errorf("50 s later: %+v", l)
	}
	a := p.Answered()
	if a.Classes[2] != 1 || a.Classes[4] != 0 || a.Classes[5] != 40 || a.Requests() != 42 {
		t.Errorf("in all: %+v", a)
	}
}

// The quantiles and shares of a view are of all its members, those without counters of their own included once.
func TestViewTogether(t *testing.T) {
	p := new(Registry).Acquire("together")
	many := make([]Backend, maxNamed+3)
	for i := range many {
		many[i] = Backend{Address: string(rune('a'+i%26)) + ":" + string(rune('0'+i/26)), Weight: 1}
	}
	v := p.Open(many, Settings{})
	defer v.Close()
	now := time.Now()
	if got := v.Quantiles(now, 0.5); got != nil {
		t.Errorf("%v of nothing", got)
	}
	if shares := v.Shares(); shares != nil {
		t.Errorf("shares of nothing: %v", shares)
	}
	for range 3 {
		v.Member(0).Traffic().Answered(10*time.Millisecond, now)
	}
	v.Member(maxNamed).Traffic().Answered(time.Second, now)
	v.Member(maxNamed+1).Traffic().Answered(time.Second, now) // the same counters
	q := v.Quantiles(now, 0.5, 0.7)
	if q == nil || q[0] > 11*time.Millisecond || q[1] < time.Second {
		t.Errorf("quantiles of three answers in 10 ms and two in 1 s: %v", q)
	}
	p.Look(now)
	v.Member(0).requests.Add(30)
	v.Member(1).requests.Add(10)
	p.Look(now.Add(time.Second))
	if shares := v.Shares(); shares[0] != 0.75 || shares[1] != 0.25 || shares[2] != 0 {
		t.Errorf("shares %v", shares[:3])
	}
}
