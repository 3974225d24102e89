package pool

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

// guarded are settings with breakers that have the usual defaults, and no slow start.
func guarded() Settings {
	return Settings{
		Policy: balance.LeastConn{},
		Breaker: breaker.Settings{
			ConsecutiveFailures: 5, FailureRatio: 0.5, Window: 10 * time.Second, MinRequests: 20,
			Open: 5 * time.Second, MaxOpen: time.Minute, Probes: 3, ProbeTimeout: time.Minute,
		},
		MaxEjected: 0.5,
	}
}

// answer makes the member at position i answer n requests with that outcome.
func answer(t *testing.T, v *View, i, n int, verdict Verdict) {
	t.Helper()
	for range n {
		l, ok := v.AcquireMember(i)
		if !ok {
			t.Fatalf("no slot on member %d", i)
		}
		l.Judge(verdict, time.Now())
		l.Release()
	}
}

var (
	bad     = Verdict{Outcome: Failure}
	good    = Verdict{Outcome: Success}
	refused = Verdict{Outcome: Failure, Refused: true}
)

func TestEjectionLimits(t *testing.T) {
	tests := map[string]struct {
		members int
		share   float64
		verdict Verdict
		fail    []int
		want    []int // eligible afterwards
		panics  bool
	}{
		"one of three":              {3, 0.5, bad, []int{1}, []int{0, 2}, false},
		"half of three is one":      {3, 0.5, bad, []int{1, 2}, []int{0, 2}, false},
		"half of four is two":       {4, 0.5, bad, []int{0, 1, 2, 3}, []int{2, 3}, false},
		"a tenth of three is one":   {3, 0.1, bad, []int{0, 1, 2}, []int{1, 2}, false},
		"all but the last":          {3, 1, bad, []int{0, 1, 2}, []int{2}, false},
		"an only one":               {1, 1, bad, []int{0}, []int{0}, false},
		"the dead are not counted":  {3, 0.5, refused, []int{0, 1}, []int{2}, false},
		"all dead are all gone":     {3, 0.5, refused, []int{0, 1, 2}, nil, false},
		"an only one that is dead":  {1, 0.5, refused, []int{0}, nil, false},
		"overload is none of these": {3, 0.5, Verdict{}, []int{0, 1, 2}, []int{0, 1, 2}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := guarded()
			s.MaxEjected = test.share
			v := newPool().Open(backends(test.members), s)
			defer v.Close()
			for _, i := range test.fail {
				answer(t, v, i, 5, test.verdict)
			}
			eligible(t, v, test.want...)
			if got := v.Snapshot().Panicking(); got != test.panics {
				t.Errorf("panicking = %v", got)
			}
		})
	}
}

// A dead member stands outside the limit: when it dies after another was ejected, both are out; and one that may not be
// ejected at first is when the place is free.
func TestEjectionLimitIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(3), guarded())
		defer v.Close()
		answer(t, v, 0, 5, bad)
		answer(t, v, 1, 7, bad)
		eligible(t, v, 1, 2)
		if !v.Doubtful(1, time.Now()) || v.Doubtful(2, time.Now()) {
			t.Error("the one that fails is as good as the one that does not")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		recoverBy(t, v, 0)
		eligible(t, v, 0, 1, 2)
		answer(t, v, 1, 1, bad)
		eligible(t, v, 0, 2)
		answer(t, v, 2, 5, refused)
		eligible(t, v, 0)
	})
}

// recoverBy makes the half-open member at position i answer its probes.
func recoverBy(t *testing.T, v *View, i int) {
	t.Helper()
	for range v.settings.Breaker.Probes {
		l, err := v.Acquire(nil, true)
		if err != nil || l.Index() != i || !l.Probing() {
			t.Fatalf("acquired %d, %v, a probe: %v; want a probe of %d", l.Index(), err, l.Probing(), i)
		}
		other, err := v.Acquire(nil, true)
		if err == nil && other.Index() == i {
			t.Fatal("two probes at a time")
		}
		other.Abandon()
		l.Judge(good, time.Now())
		l.Release()
	}
}

func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := guarded()
		s.SlowStart = 10 * time.Second
		var mu sync.Mutex
		var seen []string
		p := newPool()
		p.Notify(func(e Event) {
			if e.Kind == BreakerTurned {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, e.Breaker.To.String()+": "+e.Reason)
			}
		})
		v := p.Open(backends(3), s)
		defer v.Close()
		late := take(t, v) // of before
		answer(t, v, 0, 5, bad)
		eligible(t, v, 1, 2)
		if got := time.Until(v.Snapshot().reopens); got < 4*time.Second || got > 5*time.Second {
			t.Errorf("half-open in %v, want 4s to 5s", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		eligible(t, v, 1, 2)
		if l, err := v.Acquire([]int{1}, true); err != nil || l.Probing() {
			t.Errorf("a request that failed elsewhere is a probe (%v, %v)", l.Probing(), err)
		}
		// Its first probe fails: open for twice as long.
		probe, err := v.Acquire(nil, true)
		if err != nil || !probe.Probing() || probe.Index() != 0 {
			t.Fatalf("acquired %d, %v", probe.Index(), err)
		}
		probe.Judge(bad, time.Now())
		probe.Release()
		if got := time.Until(v.Snapshot().reopens); got < 8*time.Second || got > 10*time.Second {
			t.Errorf("half-open in %v, want 8s to 10s", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		// A probe whose client leaves says nothing, and its slot comes back.
		probe, _ = v.Acquire(nil, true)
		if !probe.Probing() {
			t.Fatal("no probe")
		}
		probe.Release()
		if late.Index() == 0 {
			late.Judge(bad, time.Now())
		}
		recoverBy(t, v, 0)
		eligible(t, v, 0, 1, 2)
		if got := v.Snapshot().Warmth(0); got > 0.2 {
			t.Errorf("warmth %v after recovery, want it ramped up", got)
		}
		mu.Lock()
		defer mu.Unlock()
		want := []string{
			"open: consecutive failures", "half_open: open time over", "open: probe failed", "half_open: open time over", "closed: recovered",
		}
		if !slices.Equal(seen, want) {
			t.Errorf("events:\n%q\nwant\n%q", seen, want)
		}
	})
}

// At first only requests that may be repeated are probes; later, or if there is no other member, any request is.
func TestSafeProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(2), guarded())
		defer v.Close()
		probes := func(safe bool) bool {
			t.Helper()
			l, err := v.Acquire(nil, safe)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Release()
			return l.Probing()
		}
		answer(t, v, 0, 5, bad)
		time.Sleep(time.Until(v.Snapshot().reopens))
		synctest.Wait()
		if unsafe, safe := probes(false), probes(true); unsafe || !safe {
			t.Errorf("half-open: unsafe requests probe: %v, safe ones %v; want false, true", unsafe, safe)
		}
		time.Sleep(safeProbes)
		if !probes(false) {
			t.Error("for want of others, unsafe requests must do")
		}
		answer(t, v, 1, 5, refused)
		if l, err := v.Acquire(nil, false); err != nil || l.Index() != 0 {
			t.Errorf("without other members, any request must do: %v", err)
		}
	})
}

// A request that has failed at all healthy members goes to a half-open one rather than back to those, if it may be repeated.
func TestProbeByRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(3), guarded())
		defer v.Close()
		answer(t, v, 0, 5, bad)
		time.Sleep(time.Until(v.Snapshot().reopens))
		synctest.Wait()
		for _, c := range []struct {
			tried []int
			safe  bool
			want  bool
		}{{[]int{1}, true, false}, {[]int{1, 2}, false, false}, {[]int{1, 2}, true, true}} {
			l, err := v.Acquire(c.tried, c.safe)
			if err != nil || l.Probing() != c.want {
				t.Errorf("been to %v, safe %v: acquired %d, %v, a probe: %v, want %v", c.tried, c.safe, l.Index(), err, l.Probing(), c.want)
			}
			if c.want {
				if other, err := v.Acquire(c.tried, c.safe); err != nil || other.Probing() {
					t.Errorf("beside the probe: acquired %d, %v, a probe: %v", other.Index(), err, other.Probing())
				}
			}
			l.Release()
		}
	})
}

// A breaker in dry run turns as others do, and its member is used as if it did not.
func TestDryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := guarded()
		s.DryRun = true
		v := newPool().Open(backends(1), s)
		defer v.Close()
		state := func() breaker.State { return v.Member(0).Vitals().Breaker }
		answer(t, v, 0, 5, bad)
		if eligible(t, v, 0); state() != breaker.Open {
			t.Fatalf("state %v, want open", state())
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if eligible(t, v, 0); state() != breaker.HalfOpen {
			t.Fatalf("state %v, want half-open", state())
		}
		answer(t, v, 0, 3, good)
		if eligible(t, v, 0); state() != breaker.Closed {
			t.Fatalf("state %v, want closed", state())
		}
	})
}

// Many requests fail on all members at once: never are more members out than allowed.
func TestEjectionLimitIsExact(t *testing.T) {
	v := newPool().Open(backends(10), guarded())
	defer v.Close()
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { answer(t, v, i, 200, bad) })
	}
	wg.Wait()
	if got := len(v.Snapshot().Eligible()); got != 5 {
		t.Errorf("%d of 10 are left, want 5", got)
	}
}

// When a large pool dies as a whole, it is not looked at as a whole for each member; and still no more are out than may
// be, at any moment.
func TestLargePoolDies(t *testing.T) {
	const n = 5000
	list := backends(n)
	for i := range list {
		list[i].Address = fmt.Sprint(i)
	}
	v := newPool().Open(list, guarded())
	defer v.Close()
	// One that fails while the view looks at all of them may be let stay for having been counted twice; it is taken out when
	// it fails again.
	left := func() int { return len(v.Snapshot().Eligible()) }
	for i := range n {
		answer(t, v, i, 5, bad)
	}
	v.Refresh(time.Now())
	for range 10 {
		if left() <= n/2 {
			break
		}
		for i := range n {
			answer(t, v, i, 1, bad)
		}
		v.Refresh(time.Now())
	}
	if got := left(); got != n/2 {
		t.Errorf("%d of %d are left, want half", got, n)
	}
	start := time.Now()
	for i := range n {
		answer(t, v, i, 5, refused)
	}
	// Looked at for each of them it takes more than ten times as long.
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v until all were dead", took)
	}
	v.Refresh(time.Now())
	if !v.Snapshot().Hopeless() {
		t.Error("some are left")
	}
}

func TestBudget(t *testing.T) {
	settings := BudgetSettings{Ratio: 0.2, PerSecond: 10}
	now := time.Now()
	p := newPool()
	spend := func() (n int) {
		for p.SpendRetry(settings, RetryConnect, now) {
			n++
		}
		return n
	}
	if got := spend(); got != 100 {
		t.Errorf("a new pool can spend %d, want 100", got)
	}
	now = now.Add(time.Second)
	for range 1000 {
		p.CountRequest()
	}
	if got := spend(); got < 195 || got > 210 {
		t.Errorf("after a second with 1,000 requests it can spend %d, want about 200", got)
	}
	// What is not spent is kept for ten seconds: with steady income that is the income of ten seconds.
	for range 600 {
		now = now.Add(100 * time.Millisecond)
		for range 100 {
			p.CountRequest()
		}
		p.RetryBudget(settings, now)
	}
	if got, want := p.RetryBudget(settings, now), 10*(10+0.2*1000); math.Abs(got-want) > want/50 {
		t.Errorf("steady income keeps %v, want %v", got, want)
	}
	now = now.Add(time.Minute)
	if got := p.RetryBudget(settings, now); got < 100 || got > 110 {
		t.Errorf("after a minute of silence %v are left, want about 100", got)
	}
	// Over any time, no more is spent than the level at the start plus the income, whatever the pattern.
	before, spent := p.RetryBudget(settings, now), 0
	for range 10_000 {
		now = now.Add(3 * time.Millisecond)
		p.CountRequest()
		if p.SpendRetry(settings, RetryConnect, now) {
			spent++
		}
	}
	if most := before + 0.2*10_000 + 10*30; float64(spent) > most || float64(spent) < most*0.9 {
		t.Errorf("spent %d, want at most %v and not much less", spent, most)
	}
	now = now.Add(-time.Hour) // clocks may do that
	if p.SpendRetry(BudgetSettings{}, RetryConnect, now) {
		t.Error("the clock went back and gave something")
	}
}

func TestHedgeBudget(t *testing.T) {
	settings := BudgetSettings{Ratio: 0.2, PerSecond: 10}
	now := time.Now()
	p := newPool()
	spent := 0
	for range 10_000 {
		now = now.Add(time.Millisecond)
		p.CountRequest()
		if p.SpendHedge(0.02, settings, now) {
			spent++
		}
	}
	if spent < 170 || spent > 200 {
		t.Errorf("%d copies of 10,000 requests, want 2 %% at most and not much less", spent)
	}
	if got := p.Retries(RetryHedge); got != uint64(spent) {
		t.Errorf("%d counted, want %d", got, spent)
	}
	now = now.Add(time.Second)
	for p.SpendRetry(settings, RetryStatus, now) {
	}
	for range 1000 {
		p.CountRequest()
	}
	for range 3 {
		p.SpendRetry(BudgetSettings{}, RetryStatus, now)
	}
	if p.SpendHedge(0.02, BudgetSettings{}, now) {
		t.Error("copies are sent when there is nothing left for retries")
	}
}

func TestLatency(t *testing.T) {
	var l Latency
	now := time.Now()
	for i := range 99 {
		l.Add(time.Duration(i+1)*time.Millisecond, now)
	}
	if got, ok := l.Quantile(0.95, now); ok {
		t.Errorf("%v after 99 requests", got)
	}
	now = now.Add(time.Second)
	for i := range 901 {
		l.Add(time.Duration(i%100+1)*time.Millisecond, now)
	}
	for _, q := range []float64{0.05, 0.5, 0.95, 0.99} {
		now = now.Add(time.Second)
		got, ok := l.Quantile(q, now)
		if want := time.Duration(q*100) * time.Millisecond; !ok || got < want || got > want*9/8+2*time.Millisecond {
			t.Errorf("quantile %v is %v, %v; want %v to an eighth more", q, got, ok, want)
		}
	}
	// What was slow long ago is forgotten.
	now = now.Add(time.Minute)
	for range 200 {
		l.Add(3*time.Microsecond, now)
	}
	if got, ok := l.Quantile(0.99, now); !ok || got > 10*time.Microsecond {
		t.Errorf("quantile %v, %v; want a few microseconds", got, ok)
	}
	for _, d := range []time.Duration{-1, 0, time.Hour, 1 << 62} {
		l.Add(d, now)
	}
}

// BenchmarkJudge is what a successful request costs beyond its slot.
func BenchmarkJudge(b *testing.B) {
	v := newPool().Open(backends(100), guarded())
	defer v.Close()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		l, _ := v.AcquireMember(0)
		l.Judge(good, now)
		l.Release()
	}
}
