package pool

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// autoView returns a view of n members with adaptive limits.
func autoView(p *Pool, n int, policy balance.Policy) *View {
	list := backends(n)
	for i := range list {
		list[i].MaxRequests = Auto
	}
	return p.Open(list, Settings{Policy: policy, ConnectionsOnly: true})
}

// fill takes all slots.
func fill(t *testing.T, v *View) (all []Lease) {
	t.Helper()
	for {
		l, err := v.Acquire(nil, true)
		if errors.Is(err, ErrFull) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, l); len(all) > 1000 {
			t.Fatal("there is no limit")
		}
	}
}

// TestLimitIsACap: every policy gives a member as many requests as its limit says, and notices when that is another.
func TestLimitIsACap(t *testing.T) {
	for _, policy := range []balance.Policy{balance.LeastConn{}, balance.RoundRobin{}, balance.Random{}, balance.First{}, balance.Smooth{}, balance.PeakEWMA{}, balance.Choices{N: 2}, nil} {
		v := autoView(newPool(), 2, policy)
		if policy == nil {
			for i := range v.Len() {
				for range v.Limit(i) {
					if _, ok := v.AcquireMember(i); !ok {
						t.Fatal("full below the limit")
					}
				}
				if _, ok := v.AcquireMember(i); ok || !v.Full(i) {
					t.Error("AcquireMember gives more than the limit")
				}
			}
			continue
		}
		held := fill(t, v)
		if want := v.Limit(0) + v.Limit(1); len(held) != want {
			t.Errorf("%T: %d requests, limits %d in all", policy, len(held), want)
		}
		// Streams take no room.
		held[0].Stream()
		if got := fill(t, v); len(got) != 1 {
			t.Errorf("%T: %d more requests beside a stream, want 1", policy, len(got))
		}
		held[0].Release()
		if got := fill(t, v); len(got) != 0 {
			t.Errorf("%T: %d more requests when it has ended, want none: the room was its own", policy, len(got))
		}
	}
}

// TestLimitRises: answers that take as long as ever, while requests wait, raise the limit, and those that wait get the room at once.
func TestLimitRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := autoView(newPool(), 1, balance.LeastConn{})
		before := v.Limit(0)
		var mu sync.Mutex
		most := 0
		done := make(chan struct{})
		var clients sync.WaitGroup
		for range 200 {
			clients.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					var l Lease
					err := v.Pool().Wait(t.Context(), "c", 1000, time.Second, func() (err error) {
						l, err = v.Acquire(nil, true)
						return err
					})
					if err != nil {
						continue
					}
					mu.Lock()
					most = max(most, int(v.Member(0).InFlight()))
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
					l.Answered(20*time.Millisecond, time.Now())
					l.Release()
				}
			})
		}
		time.Sleep(10 * time.Second)
		close(done)
		clients.Wait()
		if after := v.Limit(0); after < 190 || most < 190 {
			t.Errorf("limit %d, then %d; %d requests at a time of 200", before, after, most)
		}
		if n := v.Member(0).InFlight(); n != 0 {
			t.Errorf("%d in flight at the end", n)
		}
	})
}

// TestLimitIsShared: two configs of a pool share a member's limit, and it is forgotten with the rest when the member is reset.
func TestLimitIsShared(t *testing.T) {
	p := newPool()
	before := autoView(p, 1, balance.LeastConn{})
	held := fill(t, before)
	after := autoView(p, 1, balance.LeastConn{})
	if _, err := after.Acquire(nil, true); !errors.Is(err, ErrFull) {
		t.Errorf("another config gives it more: %v", err)
	}
	fixed := backends(1)
	fixed[0].MaxRequests = len(held) + 1
	exact := p.Open(fixed, Settings{Policy: balance.LeastConn{}, ConnectionsOnly: true})
	if more := fill(t, exact); len(more) != 1 || exact.Limit(0) != 0 || exact.Auto() || !after.Auto() {
		t.Errorf("with a cap of one more it gets %d more", len(more))
	}
	// Below the load, the limit admits no request until the load has fallen.
	m, now := after.Member(0), time.Now()
	for range 20_000 {
		now = now.Add(10 * time.Millisecond)
		held[0].Overloaded(now)
	}
	low := after.Limit(0)
	if low >= len(held) {
		t.Fatalf("limit %d after nothing but overload", low)
	}
	for i := range held {
		if _, err := after.Acquire(nil, true); int(m.InFlight()) >= low && err == nil {
			t.Fatalf("a request more with %d in flight, of %d", m.InFlight(), low)
		} else if err == nil {
			break
		}
		held[i].Release()
	}
	m.Reset(now)
	if n := after.Limit(0); n <= low {
		t.Errorf("limit %d after a reset, %d before", n, low)
	}
}
