package pool

import (
	"testing"
	"testing/synctest"
	"time"
)

// endings records how a stream is ended.
type endings struct {
	n     int
	after time.Duration // of the last
	at    time.Time
}

func (e *endings) End(after time.Duration) { e.n, e.after, e.at = e.n+1, after, time.Now() }

// openStreamAt opens a stream at that address.
func openStreamAt(p *Pool, address string, owner any) (*LiveRequest, *endings) {
	r, e := new(LiveRequest), new(endings)
	p.Live.Add(r, nil, time.Now())
	r.At(address)
	p.OpenStream(r, e, owner)
	return r, e
}

func only(addresses ...string) func(string) bool {
	return func(address string) bool {
		for _, a := range addresses {
			if a == address {
				return true
			}
		}
		return false
	}
}

// Streams end the drain timeout after their backend was lost, by the clock of the first config that does not have it, and not if it comes back.
func TestSettleStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(Registry).Acquire("p")
		a, endA := openStreamAt(p, "a:1", 1)
		b, endB := openStreamAt(p, "b:1", 1)
		start := time.Now()
		p.SettleStreams(only("b:1"), 0, start)
		time.Sleep(time.Hour)
		if endA.n != 0 {
			t.Error("ended without a drain timeout")
		}
		p.SettleStreams(only("b:1"), 2*time.Hour, time.Now())
		time.Sleep(30 * time.Minute)
		p.KeepStreams(only("b:1"))
		p.SettleStreams(only("b:1"), 90*time.Minute, time.Now()) // due now
		synctest.Wait()
		if took := endA.at.Sub(start); endA.n != 1 || endA.after != 0 || took != 90*time.Minute {
			t.Errorf("ended %d times, after %v, want once after 90m", endA.n, took)
		}
		a.Done()
		p.SettleStreams(only(), time.Minute, time.Now())
		time.Sleep(time.Minute - 1)
		p.SettleStreams(only("b:1"), time.Minute, time.Now())
		p.SettleStreams(only(), time.Minute, time.Now())
		time.Sleep(time.Minute - 1)
		p.KeepStreams(only("b:1"))
		time.Sleep(time.Hour)
		if endB.n != 0 {
			t.Error("ended although its backend is back")
		}
		p.SettleStreams(only(), time.Minute, time.Now())
		b.Done()
		time.Sleep(time.Hour)
		if endA.n != 1 || endB.n != 0 || len(p.streams.at) != 0 {
			t.Errorf("ended %d and %d times after they were over; %d places are left", endA.n, endB.n, len(p.streams.at))
		}
	})
}

func TestEndStreams(t *testing.T) {
	var r Registry
	p, q := r.Acquire("p"), r.Acquire("q")
	one, endOne := openStreamAt(p, "a:1", 1)
	two, endTwo := openStreamAt(p, "a:1", 2)
	three, endThree := openStreamAt(q, "a:1", 1)
	p.EndStreamsOf(2, time.Minute)
	if endOne.n != 0 || endTwo.n != 1 || endTwo.after != time.Minute {
		t.Errorf("%+v, %+v; want the second to end in a minute", endOne, endTwo)
	}
	if n := p.Live.EndAt("b:1"); n != 0 || endOne.n != 0 {
		t.Errorf("%d ended at another backend", n)
	}
	if n := p.Live.EndAt("a:1"); n != 2 || endOne.n != 1 || endTwo.n != 2 || endThree.n != 0 {
		t.Errorf("%d ended, want the two of the pool", n)
	}
	if n := r.Streams(); n != 3 {
		t.Errorf("%d streams, want 3", n)
	}
	r.EndStreams()
	if endOne.n != 2 || endTwo.n != 3 || endThree.n != 1 {
		t.Errorf("%+v, %+v, %+v; want all to end", endOne, endTwo, endThree)
	}
	late, endLate := openStreamAt(q, "b:1", 1)
	if endLate.n != 1 {
		t.Error("a stream that begins later stays")
	}
	for _, r := range []*LiveRequest{one, two, three, late} {
		r.Done()
	}
	if n := r.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
	new(Pool).OpenStream(new(LiveRequest), endOne, nil) // never added
}

// A request that could not be ended when its backend was drained is ended when it becomes a stream.
func TestDrainedBeforeStream(t *testing.T) {
	p := new(Registry).Acquire("p")
	r, e := new(LiveRequest), new(endings)
	p.Live.Add(r, nil, time.Now())
	r.At("a:1")
	p.Live.EndAt("a:1")
	if p.OpenStream(r, e, nil); e.n != 1 {
		t.Error("the stream stays")
	}
}

// A stream keeps its pool, until it ends.
func TestStreamKeepsPool(t *testing.T) {
	var r Registry
	p := r.Acquire("p")
	v := p.Open([]Backend{{Address: "a:1", Weight: 1}}, Settings{})
	lease, _ := v.AcquireMember(0)
	stream, _ := openStreamAt(p, "a:1", nil)
	v.Close()
	r.Release(p)
	again := r.Acquire("p")
	if again != p || again.InFlight("a:1") != 1 {
		t.Errorf("%d in flight, the same pool: %v", again.InFlight("a:1"), again == p)
	}
	r.Release(again)
	lease.Release()
	stream.Done()
	if fresh := r.Acquire("p"); fresh == p {
		t.Error("the pool is kept after its last stream")
	}
	// One that begins after another pool got the name does not disturb that.
	late, end := openStreamAt(p, "a:1", nil)
	if late.Done(); end.n != 0 || len(r.all()) != 1 {
		t.Errorf("ended %d times, %d pools", end.n, len(r.all()))
	}
}
