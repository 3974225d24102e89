package pool

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

var once = healthcheck.Thresholds{Rise: 1, Fall: 1}

func passes(v *View, positions ...int) {
	for _, i := range positions {
		Observer{Member: v.Member(i), Thresholds: once}.Observe(healthcheck.Result{Time: time.Now()})
	}
}

func fails(v *View, refused bool, positions ...int) {
	for _, i := range positions {
		Observer{Member: v.Member(i), Thresholds: once}.Observe(healthcheck.Result{Time: time.Now(), Err: errProbe, Refused: refused})
	}
}

// events returns the pool's events as they come.
func events(p *Pool) *[]string {
	var mu sync.Mutex
	var seen []string
	p.Notify(func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprint([]string{"down", "up", "panic", "calm"}[e.Kind], " ", e.Backend, e.Reason))
	})
	return &seen
}

func eligible(t *testing.T, v *View, want ...int) {
	t.Helper()
	if got := v.Snapshot().Eligible(); !slices.Equal(got, want) {
		t.Errorf("eligible = %v, want %v", got, want)
	}
}

func TestInitial(t *testing.T) {
	list := backends(2)
	for initial, want := range map[Initial]error{HoldUntilChecked: ErrHeld, StartUp: nil, StartDown: nil} {
		v := newPool().Open(list, Settings{Policy: balance.RoundRobin{}, Checked: true, Initial: initial})
		if l, err := v.Acquire(nil, true); !errors.Is(err, want) {
			t.Errorf("initial %d: %v, want %v", initial, err, want)
		} else {
			finish(&l, Success)
		}
		// If all members are down from the start, they are used: that is panic.
		if got := v.Snapshot().Panicking(); got != (initial == StartDown) {
			t.Errorf("initial %d: panicking = %v", initial, got)
		}
	}
}

func TestHeldMembersGetNothing(t *testing.T) {
	v := newPool().Open(backends(3), Settings{Policy: balance.RoundRobin{}, Checked: true})
	replaced := v.Snapshot().Replaced()
	passes(v, 1)
	select {
	case <-replaced:
	default:
		t.Error("the channel of the old snapshot is not closed")
	}
	eligible(t, v, 1)
	fails(v, false, 1)
	// It is not known that the others are unfit, so they do not count; the one that is down is all there is.
	eligible(t, v, 1)
	if !v.Snapshot().Panicking() {
		t.Error("not panicking with the only known member down")
	}
	fails(v, false, 0)
	passes(v, 2)
	eligible(t, v, 2)
}

func TestPanic(t *testing.T) {
	p := newPool()
	v := p.Open(backends(4), checked(balance.RoundRobin{}))
	seen := events(p)
	fails(v, false, 0, 1, 2)
	eligible(t, v, 3)
	fails(v, true, 3)
	eligible(t, v, 0, 1, 2) // not the one that is dead
	if usable, total := v.Snapshot().Usable(); usable != 0 || total != 4 {
		t.Errorf("usable %d of %d, want 0 of 4", usable, total)
	}
	for _, i := range []int{0, 1, 2} {
		fails(v, true, i)
	}
	eligible(t, v)
	if _, err := v.Acquire(nil, true); !errors.Is(err, ErrNone) {
		t.Errorf("all are dead: %v, want %v", err, ErrNone)
	}
	passes(v, 2)
	eligible(t, v, 2)
	want := []string{
		"down 10.0.0.0:80active check", "down 10.0.0.1:80active check", "down 10.0.0.2:80active check",
		"down 10.0.0.3:80active check", "panic ", "calm ", "up 10.0.0.2:80active check",
	}
	if !slices.Equal(*seen, want) {
		t.Errorf("events:\n%q\nwant\n%q", *seen, want)
	}
}

func TestPanicThreshold(t *testing.T) {
	settings := checked(balance.RoundRobin{})
	settings.PanicThreshold = 0.5
	v := newPool().Open(backends(4), settings)
	fails(v, false, 0, 1)
	eligible(t, v, 2, 3) // half of them is not less than half
	fails(v, false, 2)
	eligible(t, v, 0, 1, 2, 3)
	passes(v, 0)
	eligible(t, v, 0, 3)
}

// A pool's only member is reported down, but used, unless it is dead.
func TestOnlyMember(t *testing.T) {
	v := newPool().Open(backends(1), checked(balance.LeastConn{}))
	fails(v, false, 0)
	if got := v.Member(0).Vitals(); got.Status != healthcheck.Down || got.Usable || !errors.Is(got.Last.Err, errProbe) {
		t.Errorf("vitals = %+v, want down", got)
	}
	eligible(t, v, 0)
	for range deadAfter {
		v.Member(0).connected(false, deadAfter, time.Now())
	}
	eligible(t, v)
	v.Member(0).connected(true, deadAfter, time.Now())
	eligible(t, v, 0)
}

func TestPassive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		v := p.Open(backends(2), Settings{Policy: balance.RoundRobin{}, Passive: Passive{Span: 10 * time.Second, MaxFails: 2}})
		defer v.Close()
		seen := events(p)
		v.ObservePassive(0, true, time.Now())
		time.Sleep(8 * time.Second)
		eligible(t, v, 0, 1)
		v.ObservePassive(0, true, time.Now())
		eligible(t, v, 1)
		time.Sleep(3100 * time.Millisecond) // the first failure is forgotten
		synctest.Wait()
		eligible(t, v, 0, 1)
		want := []string{"down 10.0.0.0:80passive check", "up 10.0.0.0:80passive check"}
		if !slices.Equal(*seen, want) {
			t.Errorf("events %q, want %q", *seen, want)
		}
	})
}

func TestPassiveRatio(t *testing.T) {
	v := newPool().Open(backends(2), Settings{Policy: balance.RoundRobin{}, Passive: Passive{Span: time.Minute, MaxRatio: 0.5, MinRequests: 10}})
	defer v.Close()
	now := time.Now()
	for k := range 9 {
		v.ObservePassive(0, k%2 == 0, now)
	}
	eligible(t, v, 0, 1) // 5 of 9 failed, but 9 are too few to tell
	v.ObservePassive(0, false, now)
	eligible(t, v, 1)
	v.ObservePassive(0, false, now)
	eligible(t, v, 0, 1)
}

// slowShares returns the shares of n requests, in percent, k of them always in flight.
func slowShares(t *testing.T, v *View, k, n int) []float64 {
	t.Helper()
	var inFlight []Lease
	counts := make([]float64, v.Len())
	for range n {
		l := take(t, v)
		counts[l.Index()] += 100 / float64(n)
		inFlight = append(inFlight, l)
		if len(inFlight) >= k {
			finish(&inFlight[0], Success)
			inFlight = inFlight[1:]
		}
	}
	for i := range inFlight {
		finish(&inFlight[i], Success)
	}
	return counts
}

// TestSlowStart lets a member recover: under every policy it begins with about a tenth of its share and has all of it at the end of the
// window.
func TestSlowStart(t *testing.T) {
	const requests, third = 6000, 100.0 / 3
	room := 100 * spread(requests, third/100) / requests
	for _, policy := range []balance.Policy{balance.RoundRobin{}, balance.Smooth{}, balance.LeastConn{}, balance.Random{}} {
		for _, busy := range []int{1, 2, 30} {
			t.Run(fmt.Sprintf("%T/%d in flight", policy, busy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					settings := checked(policy)
					settings.SlowStart = 10 * time.Second
					v := newPool().Open(backends(3), settings)
					defer v.Close()
					expect := func(when string, least, most float64) {
						t.Helper()
						if got := slowShares(t, v, busy, requests)[1]; got < least || got > most {
							t.Errorf("%s: it got %.1f %%, want %.1f to %.1f", when, got, least, most)
						}
					}
					expect("a new pool", third-room, third+room)
					fails(v, true, 1)
					expect("down", 0, 0)
					passes(v, 1)
					expect("just recovered", 1, 11)
					time.Sleep(5 * time.Second)
					synctest.Wait()
					expect("half way", 14, 35)
					time.Sleep(6 * time.Second)
					synctest.Wait()
					expect("warm", third-room, third+room)
				})
			})
		}
	}
}

// A member that was away for a short time is ramped up for as long as that, but not for less than the shortest ramp, nor for more than the
// longest one. One that has never worked has the longest.
func TestSlowStartAfterTimeAway(t *testing.T) {
	for _, c := range []struct{ shortest, away, want time.Duration }{
		{0, time.Second, 10 * time.Second},
		{5 * time.Second, time.Second, 5 * time.Second},
		{5 * time.Second, 8 * time.Second, 8 * time.Second},
		{5 * time.Second, time.Minute, 10 * time.Second},
		{5 * time.Second, 0, 10 * time.Second}, // it joins
	} {
		t.Run(fmt.Sprint(c.shortest, c.away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool()
				settings := checked(balance.Random{})
				settings.Initial, settings.SlowStart, settings.ShortestRamp = StartUp, 10*time.Second, c.shortest
				if c.away == 0 {
					defer p.Open(backends(3)[:2], settings).Close()
				}
				v := p.Open(backends(3), settings)
				defer v.Close()
				if c.away > 0 {
					fails(v, true, 2)
					time.Sleep(c.away)
					passes(v, 2)
				}
				time.Sleep(c.want / 2)
				synctest.Wait()
				if got := v.Snapshot().Warmth(2); got < 0.45 || got > 0.6 {
					t.Errorf("half way its warmth is %.2f, want 0.5 or so", got)
				}
				time.Sleep(c.want/2 + time.Millisecond)
				synctest.Wait()
				if got := v.Snapshot().Warmth(2); got < 1 {
					t.Errorf("in the end its warmth is %.2f, want 1", got)
				}
			})
		})
	}
}

// A member that joins a pool is ramped up, also by `first`, which would give it everything.
func TestSlowStartOfNewcomer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		settings := Settings{Policy: balance.First{}, SlowStart: 10 * time.Second}
		list := backends(3)
		old := p.Open(list[1:], settings)
		defer old.Close()
		v := p.Open(list, settings)
		defer v.Close()
		const requests = 10_000
		room := 100 * spread(requests, 0.1) / requests
		if got := slowShares(t, v, 1, requests)[0]; got < 10-room || got > 10+room {
			t.Errorf("a newcomer got %.1f %%, want about 10", got)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := slowShares(t, v, 1, 1000)[0]; got < 99.9 {
			t.Errorf("once warm it got %.1f %%, want all", got)
		}
	})
}

// A member that no config names for less than a minute keeps its state.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		settings := checked(balance.RoundRobin{})
		v := p.Open(backends(2), settings)
		fails(v, true, 1)
		only := p.Open(backends(1), settings)
		v.Close()
		time.Sleep(50 * time.Second)
		v = p.Open(backends(2), settings)
		eligible(t, v, 0)
		v.Close()
		time.Sleep(70 * time.Second)
		v = p.Open(backends(2), settings)
		eligible(t, v, 0, 1)
		v.Close()
		only.Close()
	})
}

// What checks find does not apply to an address that stands for several backends.
func TestUnchecked(t *testing.T) {
	list := backends(2)
	list[0].Unchecked = true
	v := newPool().Open(list, Settings{Policy: balance.RoundRobin{}, Checked: true})
	eligible(t, v, 0)
	passes(v, 1)
	eligible(t, v, 0, 1)
	fails(v, false, 1)
	eligible(t, v, 0)
}

// A reload keeps what is known, with the new settings applied to it from then on.
func TestHealthSurvivesReload(t *testing.T) {
	p := newPool()
	before := p.Open(backends(3), checked(balance.RoundRobin{}))
	fails(before, true, 2)
	after := p.Open(backends(3), Settings{Policy: balance.RoundRobin{}, Checked: true})
	before.Close()
	eligible(t, after) // two were never probed, and one is dead
	passes(after, 0, 1)
	eligible(t, after, 0, 1)
	after.Close()
}

func TestFullAndDownTogether(t *testing.T) {
	list := backends(2)
	list[0].MaxRequests = 1
	v := newPool().Open(list, checked(balance.LeastConn{}))
	fails(v, true, 1)
	l := take(t, v)
	if _, err := v.Acquire(nil, true); !errors.Is(err, ErrFull) {
		t.Errorf("%v, want %v", err, ErrFull)
	}
	finish(&l, Success)
}

// What a picker goes by may stay as it is while something else changes: then it is kept, as some are costly to build.
func TestPickersAreKept(t *testing.T) {
	list := backends(4)
	list[3].Backup = 1
	v := newPool().Open(list, Settings{Policy: balance.Hash{}, Checked: true, Initial: StartUp})
	before := v.Snapshot()
	fails(v, false, 3)
	after := v.Snapshot()
	if after == before || after.tiers[0].picker != before.tiers[0].picker {
		t.Error("the primaries have another picker because the backup is down")
	}
	fails(v, false, 0)
	if last := v.Snapshot(); last.tiers[0].picker == before.tiers[0].picker {
		t.Error("the picker stays although a primary is down")
	}
	eligible(t, v, 1, 2)
}
