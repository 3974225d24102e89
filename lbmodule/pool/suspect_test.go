package pool

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
)

// dialing are settings of a pool with breakers, in which members are dialed as requests are.
func dialing() Settings {
	s := guarded()
	s.Dials = true
	return s
}

// TestNotSuspected: where requests are not sent over connections like the dialer's, one that fails says nothing of the member, and a breaker that
// is to take no member out must not have it found dead.
func TestNotSuspected(t *testing.T) {
	dry := dialing()
	dry.DryRun = true
	for name, settings := range map[string]Settings{"others dial": guarded(), "dry run": dry} {
		synctest.Test(t, func(t *testing.T) {
			v := newPool().Open(backends(3), settings)
			defer v.Close()
			var d dials
			defer v.Member(0).redials(d.dial, false)()
			for range 5 {
				answer(t, v, 0, 1, Verdict{Outcome: Failure})
			}
			synctest.Wait()
			if got := v.Member(0).Vitals(); got.Dead || got.Breaker != breaker.Open || len(d.times()) != 0 {
				t.Errorf("%s: %d connections, %+v", name, len(d.times()), got)
			}
		})
	}
}

// A backend that is killed breaks some connections and refuses others, so that its breaker opens before enough are refused in a row to
// make it dead. It is found dead all the same, and is usable as soon as it is back.
func TestKilledByBrokenConnections(t *testing.T) {
	for name, verdicts := range map[string][]Verdict{
		"broken first":  {bad, bad, bad, refused, refused},
		"refused first": {refused, refused, refused, bad, bad},
		"broken only":   {bad, bad, bad, bad, bad},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newPool().Open(backends(3), dialing())
				defer v.Close()
				var d dials
				defer v.Member(0).redials(d.dial, false)()
				for _, verdict := range verdicts {
					answer(t, v, 0, 1, verdict)
				}
				synctest.Wait()
				if got := v.Member(0).Vitals(); !got.Dead || got.Breaker != breaker.Open || got.Cause != breaker.Unreachable {
					t.Errorf("killed: %+v, want it dead", got)
				}
				time.Sleep(8 * time.Second)
				d.set(true)
				time.Sleep(maxRedial)
				synctest.Wait()
				eligible(t, v, 0, 1, 2)
				// Its death does not count against it.
				answer(t, v, 0, 5, bad)
				if got := time.Until(v.Snapshot().reopens); got < 4*time.Second || got > 5*time.Second {
					t.Errorf("half-open in %v, want 4s to 5s", got)
				}
			})
		})
	}
}

// A backend that was out for another reason and is gone when it is probed is dead, too.
func TestKilledBeforeProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(3), dialing())
		defer v.Close()
		d := dials{up: true}
		defer v.Member(0).redials(d.dial, false)()
		answer(t, v, 0, 5, bad)
		synctest.Wait()
		if got := v.Member(0).Vitals(); got.Dead || got.Cause != breaker.ConsecutiveFailures {
			t.Fatalf("it accepts connections: %+v, want it open for its failures", got)
		}
		d.set(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		probe, ok := v.AcquireProbe(nil, true)
		if !ok {
			t.Fatal("no probe")
		}
		probe.Judge(refused, time.Now())
		probe.Release()
		synctest.Wait()
		if !v.Member(0).Vitals().Dead {
			t.Fatal("gone at its probe, but not dead")
		}
		d.set(true)
		time.Sleep(2 * firstRedial)
		synctest.Wait()
		eligible(t, v, 0, 1, 2)
	})
}

// A connection that was not tried says nothing about the member.
func TestNotTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(3), dialing())
		defer v.Close()
		defer v.Member(0).redials(func(context.Context, string) error { return ErrNotTried }, false)()
		answer(t, v, 0, 5, bad)
		synctest.Wait()
		if got := v.Member(0).Vitals(); got.Dead || got.Cause != breaker.ConsecutiveFailures {
			t.Errorf("%+v, want it open for its failures", got)
		}
	})
}

// mover is a request that waits.
type mover struct{ moved atomic.Int32 }

func (m *mover) MoveAway(time.Time) bool {
	m.moved.Add(1)
	return true
}

// What waits at a member is moved when the member is dead and nothing answers there. A host that refuses is alive, and its process may only
// have stopped listening.
func TestMoveFromTheDead(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		moves bool
	}{
		"refused":  {syscall.ECONNREFUSED, false},
		"reset":    {syscall.ECONNRESET, false},
		"no route": {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, true},
		"silent":   {&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newPool().Open(backends(3), dialing())
				defer v.Close()
				defer v.Member(0).redials(func(context.Context, string) error { return c.err }, false)()
				lease, _ := v.AcquireMember(0)
				defer lease.Release()
				var here, there mover
				requests := [2]LiveRequest{{Mover: &here}, {Mover: &there}}
				for i := range requests {
					v.pool.Live.Add(&requests[i], nil, time.Now())
					requests[i].At(v.Backend(i).Address)
					defer requests[i].Done()
				}
				kill(t, v, 0)
				if here.moved.Load() > 0 {
					t.Error("moved before anything is known but that connections failed")
				}
				time.Sleep(firstRedial)
				synctest.Wait()
				if moved := here.moved.Load() > 0; moved != c.moves || there.moved.Load() > 0 {
					t.Errorf("moved: %v, want %v; at the other member: %v", moved, c.moves, there.moved.Load() > 0)
				}
			})
		})
	}
}
