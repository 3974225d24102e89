package pool

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
)

// drained are three backends, of which one is in that state.
func drained(state State) []Backend {
	return []Backend{{Address: "a:1", Weight: 1, State: state}, {Address: "b:1", Weight: 1}, {Address: "c:1", Weight: 1}}
}

// A member that was taken out by an administrator gets nothing, whatever happens to the others, and does not count.
func TestDrained(t *testing.T) {
	for _, state := range []State{Draining, Drained, Maintenance} {
		var r Registry
		p := r.Acquire("p")
		v := p.Open(drained(state), guarded())
		if got := v.Snapshot().Eligible(); !slices.Equal(got, []int{1, 2}) {
			t.Errorf("state %d: eligible %v", state, got)
		}
		if usable, total := v.Snapshot().Usable(); usable != 2 || total != 2 {
			t.Errorf("state %d: %d of %d usable, want 2 of 2", state, usable, total)
		}
		// Half of the two that are left is one.
		answer(t, v, 1, 5, bad)
		answer(t, v, 2, 5, bad)
		if got := v.Snapshot().Eligible(); !slices.Equal(got, []int{2}) {
			t.Errorf("state %d: eligible %v after the others failed", state, got)
		}
		// If there is no other member, no panic makes it usable.
		answer(t, v, 1, 5, refused)
		answer(t, v, 2, 5, refused)
		if _, err := v.Acquire(nil, true); !errors.Is(err, ErrNone) || v.Snapshot().Panicking() {
			t.Errorf("state %d: %v with all others dead, panic %v", state, err, v.Snapshot().Panicking())
		}
		v.Close()
	}
}

// A backend that is back is ramped up, and one that was in maintenance is checked first.
func TestUndrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Registry
		p := r.Acquire("p")
		settings := guarded()
		settings.SlowStart = 10 * time.Second
		v := p.Open(drained(Ready), settings)
		time.Sleep(time.Minute)
		reopen := func(state State, s Settings) {
			next := p.Open(drained(state), s)
			v.Close()
			v = next
		}
		reopen(Drained, settings)
		time.Sleep(time.Second)
		reopen(Ready, settings)
		if got := v.Snapshot().Warmth(0); got > 0.11 {
			t.Errorf("warmth %v on return, want a tenth", got)
		}
		if got := v.Snapshot().Warmth(1); got != 1 {
			t.Errorf("warmth %v of one that was not away", got)
		}
		time.Sleep(11 * time.Second)
		if got := v.Snapshot().Warmth(0); got != 1 {
			t.Errorf("warmth %v in the end", got)
		}

		settings.Checked = true
		reopen(Ready, settings)
		passes := func(i int) {
			Observer{Member: v.Member(i), Thresholds: healthcheck.Thresholds{Rise: 2, Fall: 3}}.Observe(healthcheck.Result{Time: time.Now()})
		}
		for i := range 3 {
			passes(i)
		}
		if got := v.Snapshot().Eligible(); !slices.Equal(got, []int{0, 1, 2}) {
			t.Fatalf("eligible %v", got)
		}
		for state, held := range map[State]bool{Drained: false, Maintenance: true} {
			reopen(state, settings)
			reopen(Ready, settings)
			if v.Snapshot().Held() != held {
				t.Errorf("back from state %d: held %v, want %v", state, !held, held)
			}
			passes(0)
			if got := v.Snapshot().Eligible(); !slices.Equal(got, []int{0, 1, 2}) {
				t.Errorf("back from state %d and checked: eligible %v", state, got)
			}
		}
		v.Close()
	})
}

// Failures in a closed view are judged by its successor: where there were enough other members, this may now be the
// last one.
func TestClosedViewEjectsNoMore(t *testing.T) {
	var r Registry
	p := r.Acquire("p")
	old := p.Open(drained(Ready), guarded())
	var leases []Lease
	for range 5 {
		l, ok := old.AcquireMember(0)
		if !ok {
			t.Fatal("no slot")
		}
		leases = append(leases, l)
	}
	backends := drained(Ready)
	backends[1].State, backends[2].State = Drained, Maintenance
	v := p.Open(backends, guarded())
	defer v.Close()
	old.Close()
	for i := range leases {
		leases[i].Judge(bad, time.Now())
		leases[i].Release()
	}
	if got := v.Snapshot().Eligible(); !slices.Equal(got, []int{0}) || v.Member(0).Vitals().Breaker != breaker.Closed {
		t.Errorf("eligible %v, breaker %v: the last usable one stays", got, v.Member(0).Vitals().Breaker)
	}
}

func TestMemberReset(t *testing.T) {
	var r Registry
	p := r.Acquire("p")
	v := p.Open(drained(Ready), guarded())
	defer v.Close()
	answer(t, v, 0, 5, bad)
	m := v.Member(0)
	if m.Vitals().Breaker != breaker.Open {
		t.Fatal("the breaker is not open")
	}
	var told []Event
	defer p.Notify(func(e Event) { told = append(told, e) })()
	m.Reset(time.Now())
	if m.Vitals().Breaker != breaker.Closed || m.Counts() != (Counts{}) || !v.Snapshot().Has(0) {
		t.Errorf("after the reset: %+v, %+v", m.Vitals(), m.Counts())
	}
	if len(told) != 1 || told[0].Breaker.Cause != breaker.WasReset {
		t.Errorf("told %+v", told)
	}
	// A dead one may be used again, too.
	answer(t, v, 0, 5, refused)
	if !m.Vitals().Dead {
		t.Fatal("not dead")
	}
	if m.Reset(time.Now()); m.Vitals().Dead || !v.Snapshot().Has(0) {
		t.Errorf("after the reset: %+v", m.Vitals())
	}
}

// Waiters of the queue see slots of a backend that comes in another view.
func TestQueueSeesAnotherView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Registry
		p := r.Acquire("p")
		backends := []Backend{{Address: "a:1", Weight: 1, MaxRequests: 1}}
		v := p.Open(backends, guarded())
		first, err := v.Acquire(nil, true)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		var current atomic.Pointer[View]
		current.Store(v)
		go func() {
			got <- p.Wait(t.Context(), "client", 10, time.Minute, func() error {
				l, err := current.Load().Acquire(nil, true)
				if err == nil {
					l.Release()
				}
				return err
			})
		}()
		synctest.Wait()
		next := p.Open(append(backends, Backend{Address: "b:1", Weight: 1}), guarded())
		current.Store(next)
		p.Wake()
		synctest.Wait()
		select {
		case err := <-got:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Fatal("the waiter sleeps while there is a slot")
		}
		first.Release()
		v.Close()
		next.Close()
	})
}
