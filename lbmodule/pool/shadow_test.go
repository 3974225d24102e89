package pool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// virtual is a clock that a test moves.
type virtual struct{ at time.Time }

func (c *virtual) Now() time.Time                        { return c.at }
func (c *virtual) AfterFunc(time.Duration, func()) Timer { return never{} }
func (c *virtual) pass(d time.Duration)                  { c.at = c.at.Add(d) }
func newVirtual(seed uint64) (*virtual, *Pool) {
	c := &virtual{time.Unix(1e9, 0)}
	return c, NewRegistry(c, seed).Acquire("test")
}

type never struct{}

func (never) Stop() bool               { return true }
func (never) Reset(time.Duration) bool { return true }

// shadowed is a request with the decision of the shadow policy.
type shadowed struct {
	lease Lease
	d     Shadowed
}

func ask(t testing.TB, v *View, now time.Time) *shadowed {
	t.Helper()
	l, err := v.AcquireFor(Key{Now: now}, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	r := &shadowed{lease: l}
	r.lease.Shadow(&r.d, Key{Now: now}, now)
	return r
}

func (r *shadowed) answer(o Outcome, now time.Time) {
	r.lease.Judge(Verdict{Outcome: o}, now)
	r.lease.Release()
}

// supposedLoads returns the numbers of requests that the members would be serving.
func supposedLoads(v *View) (loads []int64) {
	for i := range v.Len() {
		loads = append(loads, v.shadow.Share(v.Member(i)).InFlight)
	}
	return loads
}

// TestShadowEnds: a request that the shadow policy has at the same member ends with the real one. One at another member ends after what that
// member's answers took, whatever the real one does; and where nothing is known of the member, with the real one.
func TestShadowEnds(t *testing.T) {
	c, p := newVirtual(1)
	v := p.Open(backends(2), Settings{Policy: balance.First{}, Shadow: balance.LeastConn{}})
	first := ask(t, v, c.at)
	second := ask(t, v, c.at) // least connections has it at the other member, which has not answered anything yet
	if got := fmt.Sprint(supposedLoads(v)); got != "[1 1]" {
		t.Fatalf("loads %s, want one each", got)
	}
	c.pass(time.Second)
	v.shadow.Look(c.at)
	second.answer(Success, c.at)
	first.answer(Success, c.at)
	if got := fmt.Sprint(supposedLoads(v)); got != "[0 0]" {
		t.Fatalf("loads %s, want none", got)
	}
	// Now let it be known that the second takes 100 ms.
	for range 64 {
		v.shades[1].samples.Add(100 * time.Millisecond)
	}
	var all []*shadowed
	for range 10 {
		all = append(all, ask(t, v, c.at))
	}
	if got := fmt.Sprint(supposedLoads(v)); got != "[5 5]" {
		t.Fatalf("loads %s, want [5 5]", got)
	}
	c.pass(99 * time.Millisecond)
	v.shadow.Look(c.at)
	if got := fmt.Sprint(supposedLoads(v)); got != "[5 5]" {
		t.Fatalf("loads %s before their time", got)
	}
	c.pass(time.Millisecond)
	v.shadow.Look(c.at)
	if got := fmt.Sprint(supposedLoads(v)); got != "[5 0]" {
		t.Fatalf("loads %s, want [5 0]", got)
	}
	for _, r := range all {
		r.answer(Failure, c.at)
	}
	if got := fmt.Sprint(supposedLoads(v)); got != "[0 0]" {
		t.Errorf("loads %s, want none", got)
	}
	expected, took := v.shadow.Durations()
	if expected.Count != 2 || took.Count != 2 {
		t.Errorf("%d and %d durations, want 2: of the requests that were served", expected.Count, took.Count)
	}
}

// TestShadowFollowsMembers: what is counted goes with the member from view to view, and away with it. With another policy it begins anew; one
// that is refused leaves what there is.
func TestShadowFollowsMembers(t *testing.T) {
	c, p := newVirtual(2)
	settings := Settings{Policy: balance.RoundRobin{}, Shadow: balance.First{}}
	v := p.Open(backends(3), settings)
	for range 30 {
		ask(t, v, c.at).answer(Success, c.at)
	}
	kept := v.shadow
	c.pass(time.Millisecond)
	kept.Look(c.at)
	next := p.Open(backends(2), settings)
	v.Close()
	if next.shadow != kept || kept.Share(next.Member(0)) != (ShadowShare{30, 10, 0}) {
		t.Errorf("%+v after the list has changed", kept.Share(next.Member(0)))
	}
	refused := p.Open(backends(2), Settings{Policy: balance.RoundRobin{}, Shadow: balance.Random{}})
	refused.Close()
	if n := next.shadow.Decisions(ShadowAgreed); n != 10 || kept.Share(next.Member(0)).Chosen != 30 {
		t.Errorf("%d decisions after another config was refused", n)
	}
	// Many lists, with new members each time.
	for i := range 2000 {
		list := []Backend{{Address: fmt.Sprintf("10.1.%d.%d:80", i>>8, i&0xff), Weight: 1}, {Address: "10.0.0.0:80", Weight: 1}}
		before := next
		next = p.Open(list, settings)
		before.Close()
		ask(t, next, c.at).answer(Success, c.at)
		c.pass(time.Second)
	}
	if len(p.members) > 100 || len(p.shadows) > 2 {
		t.Errorf("%d members and %d shadow policies are kept", len(p.members), len(p.shadows))
	}
	other := p.Open(backends(2), Settings{Policy: balance.RoundRobin{}, Shadow: balance.Random{}})
	next.Close()
	again := p.Open(backends(2), Settings{Policy: balance.RoundRobin{}, Shadow: balance.Choices{N: 2}})
	if other.shadow == kept || other.shadow.Decisions(ShadowAgreed) != 0 || len(p.shadows) != 2 {
		t.Errorf("%d shadow policies, and %d decisions of a new one", len(p.shadows), other.shadow.Decisions(ShadowAgreed))
	}
	if n := len(listOf(p.members["10.0.0.0:80"])); n != 2 {
		t.Errorf("a member is known to %d shadow policies", n)
	}
	again.Close()
	other.Close()
	events := other.Reopen()
	p.Report(events)
	ask(t, other, c.at).answer(Success, c.at)
	if other.shadow.Share(other.Member(0)).Chosen+other.shadow.Share(other.Member(1)).Chosen != 1 {
		t.Error("a view that was opened again does not count")
	}
}

func listOf(m *Member) (all []*shade) {
	for s := range m.shades.Load().all {
		all = append(all, s)
	}
	return all
}

// TestShadowIsFull: max_requests holds for what the shadow policy supposes, too, and another view of the member is told when a slot is free.
func TestShadowIsFull(t *testing.T) {
	c, p := newVirtual(3)
	list := backends(2)
	list[1].MaxRequests = 2
	list[0].Backup = 1
	settings := Settings{Policy: balance.First{}, Shadow: balance.LeastConn{}}
	v, other := p.Open(list, settings), p.Open(list, settings)
	shade := v.shades[1]
	a, b := ask(t, v, c.at), ask(t, v, c.at)
	a.lease.Abandon() // the real one has a slot, the shadow policy none: one request of it goes on elsewhere
	shade.load.Add(1)
	shade.changed(nil)
	r := ask(t, other, c.at)
	if n := v.shadow.Decisions(ShadowFull); n != 1 || shade.load.Load() != 2 {
		t.Fatalf("%d decisions found all full, load %d", n, shade.load.Load())
	}
	r.answer(Success, c.at)
	b.answer(Success, c.at)
	ask(t, other, c.at).answer(Success, c.at)
	if n := v.shadow.Decisions(ShadowFull); n != 1 {
		t.Errorf("full %d times: the view was not notified of the free slot", n)
	}
}

// TestShadowIsShared: the supposed loads of one view count in other views of the members.
func TestShadowIsShared(t *testing.T) {
	c, p := newVirtual(6)
	settings := Settings{Policy: balance.First{}, Shadow: balance.LeastConn{}}
	v, other := p.Open(backends(2), settings), p.Open(backends(2), settings)
	for range 10 {
		ask(t, v, c.at)
		ask(t, other, c.at)
		if loads := supposedLoads(v); loads[0] != loads[1] {
			t.Fatalf("loads %v, want equal ones", loads)
		}
	}
}

// TestShadowPicksEligible: whatever the shadow policy, it picks among the members that the policy in force picks among, by weight.
func TestShadowPicksEligible(t *testing.T) {
	c, p := newVirtual(4)
	list := backends(6)
	list[0].State = Drained
	list[1].Backup = 1
	list[2].Weight = 0
	list[4].Weight = 3
	for _, shadow := range []balance.Policy{balance.Random{}, balance.LeastConn{}, balance.RoundRobin{}, balance.PeakEWMA{}, balance.Hash{}, balance.Choices{N: 2}} {
		v := p.Open(list, Settings{Policy: balance.Random{}, Shadow: shadow})
		for range 1000 {
			ask(t, v, c.at).answer(Success, c.at)
			c.pass(time.Millisecond)
		}
		for i, want := range []float64{0, 0, 0, 200, 600, 200} {
			if got := float64(v.shadow.Share(v.Member(i)).Chosen); got < want*0.8 || got > want*1.2 {
				t.Errorf("%T: member %d was chosen %v times, want %v", shadow, i, got, want)
			}
		}
		v.Close()
	}
}

// TestShadowForgets: what was known of a member that has been away is forgotten.
func TestShadowForgets(t *testing.T) {
	c, p := newVirtual(5)
	v := p.Open(backends(1), Settings{Policy: balance.First{}, Shadow: balance.PeakEWMA{}})
	r := ask(t, v, c.at)
	c.pass(300 * time.Millisecond)
	r.lease.Answered(300*time.Millisecond, c.at)
	r.answer(Success, c.at)
	shade := v.shades[0]
	if _, ok := shade.samples.Draw(nil); !ok || shade.latency.Estimate() != v.Member(0).latency.Estimate() {
		t.Fatalf("takes %v, but it is known that it takes %v", shade.latency.Estimate(), v.Member(0).latency.Estimate())
	}
	v.Member(0).Reset(c.at)
	if _, ok := shade.samples.Draw(nil); ok || shade.latency.Estimate() != 0 {
		t.Error("not forgotten")
	}
}

// TestShadowLoads: with requests that come and go at random on many goroutines, while lists change, the loads that are supposed are never below
// zero, and zero in the end.
func TestShadowLoads(t *testing.T) {
	var r Registry
	p := r.Acquire("test")
	settings := Settings{Policy: balance.Choices{N: 2}, Shadow: balance.LeastConn{}}
	var current atomic.Pointer[View]
	current.Store(p.Open(backends(5), settings))
	var wg sync.WaitGroup
	var stop atomic.Bool
	for g := range 4 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 2))
			var held []*shadowed
			for range 5000 {
				if v := current.Load(); len(held) < 20 && random.IntN(2) == 0 {
					held = append(held, ask(t, v, time.Now()))
				} else if len(held) > 0 {
					k := random.IntN(len(held))
					held[k].answer(Outcome(random.IntN(int(Outcomes))), time.Now())
					held[k] = held[len(held)-1]
					held = held[:len(held)-1]
				}
				for _, n := range supposedLoads(current.Load()) {
					if n < 0 {
						t.Errorf("a load of %d", n)
						return
					}
				}
			}
			for _, l := range held {
				l.lease.Abandon()
			}
		})
	}
	changes := sync.WaitGroup{}
	changes.Go(func() {
		for i := 0; !stop.Load(); i++ {
			before := current.Swap(p.Open(backends(5+i%3), settings))
			before.Close()
		}
	})
	wg.Wait()
	stop.Store(true)
	changes.Wait()
	v := current.Load()
	v.shadow.Look(time.Now().Add(time.Hour))
	for _, m := range p.Members() {
		if n := v.shadow.Share(m).InFlight; n != 0 {
			t.Errorf("%s: a load of %d is left", m.Address(), n)
		}
	}
	if n := v.shadow.Decisions(ShadowDiffered); n == 0 {
		t.Error("there were no other decisions: the test shows nothing")
	}
}

// TestShadowCostsNoMemory: a decision allocates nothing.
func TestShadowCostsNoMemory(t *testing.T) {
	var r Registry
	v := r.Acquire("test").Open(backends(10), Settings{Policy: balance.LeastConn{}, Shadow: balance.PeakEWMA{}})
	now, d := time.Now(), new(Shadowed)
	if n := testing.AllocsPerRun(1000, func() {
		l, err := v.AcquireFor(Key{Now: now}, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		l.Shadow(d, Key{Now: now}, now)
		l.Answered(time.Millisecond, now)
		l.Judge(Verdict{Outcome: Success}, now)
		l.Release()
		now = now.Add(time.Millisecond)
	}); n > 0.01 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkShadow takes the time of a request without a shadow policy and with one, by turns: the median of each, per request.
func BenchmarkShadow(b *testing.B) {
	const requests = 200
	for _, shadow := range []balance.Policy{balance.Random{}, balance.LeastConn{}, balance.PeakEWMA{}, balance.RoundRobin{}} {
		b.Run(fmt.Sprintf("%T", shadow), func(b *testing.B) {
			var r Registry
			views := [2]*View{
				r.Acquire("without").Open(backends(10), Settings{Policy: balance.LeastConn{}}),
				r.Acquire("with").Open(backends(10), Settings{Policy: balance.LeastConn{}, Shadow: shadow}),
			}
			var took [2][]time.Duration
			d := new(Shadowed)
			b.ReportAllocs()
			for range b.N {
				for i, v := range views {
					began := time.Now()
					for range requests {
						now := time.Now()
						l, err := v.AcquireFor(Key{Now: now}, nil, true)
						if err != nil {
							b.Fatal(err)
						}
						if v.Shadow() != nil {
							l.Shadow(d, Key{Now: now}, now)
						}
						l.Answered(time.Millisecond, now)
						l.Judge(Verdict{Outcome: Success}, now)
						l.Release()
					}
					took[i] = append(took[i], time.Since(began)/requests)
				}
			}
			for i, unit := range [2]string{"ns-without", "ns-with"} {
				slices.Sort(took[i])
				b.ReportMetric(float64(took[i][len(took[i])/2]), unit)
			}
		})
	}
}
