package pool

import (
	"testing"
	"time"
)

// TestSum has members come and go: what they have counted stays in the sum.
func TestSum(t *testing.T) {
	var r Registry
	p := r.Acquire("sum")
	defer r.Release(p)
	clock := time.Now()
	view := p.Open([]Backend{{Address: "b:1", Weight: 1}, {Address: "a:1", Weight: 1}}, Settings{})
	look := func() (s Sum, addresses string) {
		t.Helper()
		for _, m := range s.Look(p) {
			addresses += m.Address() + " "
		}
		return s, addresses
	}
	for _, m := range p.Members() {
		m.Traffic().Answered(time.Millisecond, clock)
		m.Traffic().Ended(Failure, 502, time.Millisecond)
		m.Traffic().Repeated()
		m.Traffic().CountIn(10)
		m.Traffic().CountOut(20)
	}
	p.Others().Answered(time.Second, clock)
	p.Others().CountIn(1)
	p.Others().CountOut(2)
	checkBytes := func(when string, s *Sum) {
		t.Helper()
		if a := p.Answered(); s.BytesIn != 21 || s.BytesOut != 42 || a.BytesIn != 21 || a.BytesOut != 42 {
			t.Errorf("%s: %d bytes in and %d out, %d and %d of the pool; want 21 and 42", when, s.BytesIn, s.BytesOut, a.BytesIn, a.BytesOut)
		}
	}
	p.Others().Ended(Success, 200, time.Second)
	lease, ok := view.AcquireMember(0)
	if !ok {
		t.Fatal("no slot")
	}
	s, addresses := look()
	if s.Failures != 2 || s.Retried != 2 || s.Answered.Count != 3 || s.Answered.Counts[Place(time.Millisecond)] != 2 || s.Answered.Counts[Place(time.Second)] != 1 ||
		s.Answered.Sum != 1002*time.Millisecond || s.InFlight != 1 || addresses != "a:1 b:1 " {
		t.Errorf("%d failures, %d retried, %d answered in %v, %d in flight, of %s", s.Failures, s.Retried, s.Answered.Count, s.Answered.Sum, s.InFlight, addresses)
	}
	checkBytes("at first", &s)
	lease.Release()
	view.Close()
	if s, addresses = look(); s.Failures != 2 || s.Answered.Count != 3 || s.InFlight != 0 || addresses != "" {
		t.Errorf("after they left: %d failures, %d answered, of %q", s.Failures, s.Answered.Count, addresses)
	}
	p.mu.Lock()
	p.sweep(clock.Add(2 * retention))
	gone := len(p.members)
	p.mu.Unlock()
	if s, _ = look(); gone != 0 || s.Failures != 2 || s.Retried != 2 || s.Answered.Count != 3 {
		t.Errorf("after %d were forgotten: %d failures, %d answered", gone, s.Failures, s.Answered.Count)
	}
	checkBytes("after they were forgotten", &s)
}
