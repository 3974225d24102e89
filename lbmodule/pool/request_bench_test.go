package pool

import (
	"testing"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

// oneRequest makes the calls that an ordinary request with one attempt makes.
func oneRequest(v *View, now time.Time) {
	p := v.Pool()
	p.CountRequest()
	l, err := v.AcquireFor(Key{Now: now}, nil, true)
	if err != nil {
		panic(err)
	}
	ticket := l.Ticket()
	ticket.Ask(now)
	ticket.Told(true, now)
	l.Latency().Answered(time.Millisecond, now)
	l.Traffic().Answered(time.Millisecond, now)
	l.Judge(Verdict{Outcome: Success, Origin: Origin{Client: 1, Target: 2}}, now)
	l.Traffic().Ended(Success, 200, time.Millisecond)
	l.Release()
	p.CountAnswer(200)
}

func TestRequestAllocatesNothing(t *testing.T) {
	v := newPool().Open(backends(3), guarded())
	defer v.Close()
	if n := testing.AllocsPerRun(1000, func() { oneRequest(v, time.Now()) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// BenchmarkRequest measures the cost of the pool for an ordinary request, with and without everything that can be turned off. Run it with
// -cpu 1,2.
func BenchmarkRequest(b *testing.B) {
	bare := Settings{Policy: balance.RoundRobin{}, ConnectionsOnly: true}
	full := Settings{Policy: balance.PeakEWMA{}, Breaker: breaker.Settings{
		ConsecutiveFailures: 5, FailureRatio: 0.5, SlowRatio: 0.5, Window: 10 * time.Second, MinRequests: 20, Open: 5 * time.Second, MaxOpen: time.Minute, Probes: 3,
	}, MaxEjected: 0.5}
	for name, s := range map[string]Settings{"bare": bare, "full": full} {
		b.Run(name, func(b *testing.B) {
			v := newPool().Open([]Backend{{Address: "a:1", Weight: 1}, {Address: "b:1", Weight: 1}, {Address: "c:1", Weight: 1}}, s)
			defer v.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					oneRequest(v, time.Now())
				}
			})
		})
	}
}
