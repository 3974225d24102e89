package pool

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// TestBuckets compares the buckets with their definition: bucket i ends with 2^(i/8) seconds, that included.
func TestBuckets(t *testing.T) {
	slow := func(d time.Duration) int {
		bucket := math.Ceil(math.Log2(d.Seconds()) * perOctave)
		return int(min(max(bucket, FirstBucket), LastBucket)) - FirstBucket
	}
	for exponent := -16; exponent <= 7; exponent++ {
		end := time.Duration(math.Exp2(float64(exponent)) * float64(time.Second))
		if exponent >= -9 { // shorter ones are no whole nanoseconds
			if got, want := bucketOf(end), exponent*perOctave-FirstBucket; got != want {
				t.Errorf("%v is in bucket %d, want %d: it is the last of an octave", end, got, want)
			}
			if got, want := bucketOf(end+1), exponent*perOctave-FirstBucket+1; got != want {
				t.Errorf("%v is in bucket %d, want %d: it is the first of an octave", end+1, got, want)
			}
		}
	}
	for range 100_000 {
		d := time.Duration(math.Exp2(rand.Float64() * 40)) // up to 18 minutes
		if got, want := bucketOf(d), slow(d); got != want {
			t.Fatalf("%v is in bucket %d, want %d", d, got, want)
		}
	}
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1} {
		if got := bucketOf(d); got != 0 {
			t.Errorf("%v is in bucket %d, want the first", d, got)
		}
	}
	if got := bucketOf(math.MaxInt64); got != bucketCount-1 {
		t.Errorf("300 years are in bucket %d, want the last", got)
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, ms := range []int{1, 2, 125, 126, 500, 1000, 1001, 9000, 1_000_000} {
		h.Add(time.Duration(ms) * time.Millisecond)
	}
	d := h.Distribution()
	if d.Count != 9 || d.Sum != 1_011_755*time.Millisecond {
		t.Errorf("%d durations, %v in all", d.Count, d.Sum)
	}
	for exponent, want := range map[int]uint64{-10: 0, -9: 1, -3: 3, -2: 4, -1: 5, 0: 6, 1: 7, 3: 7, 4: 8, 7: 8} {
		if got := d.UpTo(exponent); got != want {
			t.Errorf("%d were not longer than 2^%d s, want %d", got, exponent, want)
		}
	}
}

func TestQuantilesOfFew(t *testing.T) {
	var l Latency
	now := time.Now()
	if got := l.Quantiles(now, 0.5); got != nil {
		t.Errorf("%v of nothing", got)
	}
	l.Add(100*time.Millisecond, now)
	for i, got := range l.Quantiles(now.Add(latencyStale), 0.5, 0.95, 0.99) {
		if got < 100*time.Millisecond || got > 110*time.Millisecond {
			t.Errorf("quantile %d is %v, want 100ms to 9%% more", i, got)
		}
	}
	if got := l.Quantiles(now.Add(latencyStale+latencySpan), 0.5); got != nil {
		t.Errorf("%v of a request that is more than a minute old", got)
	}
}

// TestTraffic: attempts are counted by member, or together for members without their own counters.
func TestTraffic(t *testing.T) {
	p := newPool()
	v := p.Open(backends(2), Settings{Policy: balance.First{}})
	defer v.Close()
	now := time.Now()
	lease, err := v.Acquire(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	traffic := lease.Traffic()
	traffic.Connected(time.Millisecond)
	traffic.Answered(10*time.Millisecond, now)
	traffic.Ended(Success, 200, 20*time.Millisecond)
	traffic.Ended(Failure, 0, 20*time.Millisecond)
	traffic.Ended(Ignored, 999, 20*time.Millisecond)
	traffic.Repeated()
	m := v.Member(lease.Index())
	want := TrafficCounts{Ended: [Outcomes]uint64{1, 1, 1}, Answers: [Classes]uint64{0: 1, 2: 1}, Retried: 1}
	if got := m.Traffic().Counts(); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	for phase, n := range [Phases]uint64{1, 1, 3} {
		if got := m.Traffic().Duration(Phase(phase)).Count; got != n {
			t.Errorf("%d durations of %v, want %d", got, Phase(phase), n)
		}
	}
	// After a reset SinceReset starts at 0, and Counts continues.
	m.Traffic().begin()
	m.Traffic().Repeated()
	if got, all := m.Traffic().SinceReset(), m.Traffic().Counts(); got != (TrafficCounts{Retried: 1}) || all.Retried != 2 || all.Ended != want.Ended {
		t.Errorf("after a reset: %+v, in all %+v", got, all)
	}
	lease.Release()
	if lease.Traffic() != nil {
		t.Error("a lease that holds nothing counts")
	}
	if p.TrafficOf("unknown") != p.Others() || p.TrafficOf(m.Address()) != m.Traffic() {
		t.Error("an unknown address does not count with the others")
	}
}

// TestNamedAreBounded: a thousand members have their own counters, and a place becomes free when a member is deleted.
func TestNamedAreBounded(t *testing.T) {
	p := newPool()
	many := make([]Backend, maxNamed+10)
	for i := range many {
		many[i] = Backend{Address: fmt.Sprint("many:", i), Weight: 1}
	}
	timed := func(v *View) (n int) {
		for i := range v.Len() {
			if v.Member(i).Timed() {
				n++
			}
		}
		return n
	}
	named := func(v *View) (n int) {
		for i := range v.Len() {
			if v.Member(i).Named() {
				n++
			}
		}
		return n
	}
	v := p.Open(many, Settings{})
	if n := named(v); n != maxNamed {
		t.Errorf("%d of %d have their own counters, want %d", n, len(many), maxNamed)
	}
	if n := timed(v); n != maxTimed {
		t.Errorf("%d of %d have histograms of their own, want %d", n, len(many), maxTimed)
	}
	for _, at := range []int{maxTimed - 1, maxTimed, maxNamed} {
		v.Member(at).Traffic().Answered(time.Second, time.Now())
	}
	own, others := v.Member(maxTimed-1).Traffic(), p.Others()
	if n, m := own.Duration(FirstByte).Count, others.Duration(FirstByte).Count; n != 1 || m != 2 {
		t.Errorf("one has %d durations and the others have %d, want 1 and 2", n, m)
	}
	if v.Member(maxTimed).Traffic().Quantiles(time.Now(), 0.5) == nil {
		t.Error("a member without histograms of its own does not know how long it recently took")
	}
	v.Member(maxNamed).Traffic().Repeated()
	if n := p.Others().Counts().Retried; n != 1 {
		t.Errorf("the others have counted %d, want 1", n)
	}
	unnamed := p.Open([]Backend{{Address: "depends:1", Weight: 1}}, Settings{Unnamed: true})
	if named(unnamed) != 0 {
		t.Error("a member whose address depends on the request has its own counters")
	}
	unnamed.Close()
	v.Close()
	p.mu.Lock()
	p.sweep(time.Now().Add(2 * retention))
	p.mu.Unlock()
	fresh := p.Open([]Backend{{Address: "fresh:1", Weight: 1}}, Settings{})
	defer fresh.Close()
	if named(fresh) != 1 || timed(fresh) != 1 {
		t.Error("no place became free when all had been forgotten")
	}
}

func TestAnswers(t *testing.T) {
	p := newPool()
	for _, status := range []int{200, 200, 503, 100, 599, 99, 600, 0, -1} {
		p.CountAnswer(status)
	}
	got := make(map[int]uint64)
	for status, n := range p.Answers {
		got[status] = n
	}
	if fmt.Sprint(got) != "map[0:4 100:1 200:2 503:1 599:1]" {
		t.Errorf("answers %v", got)
	}
}

// TestTrend: averages over a minute follow fast, those over a quarter of an hour slowly, however often Look is called.
func TestTrend(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second} {
		var tr trend
		now := time.Now()
		seen, bad := uint64(1000), uint64(0)
		run := func(d time.Duration, failing uint64) {
			for end := now.Add(d); now.Before(end); {
				now = now.Add(interval)
				seen += uint64(100 * interval / time.Second)
				bad += failing * uint64(interval/time.Second)
				tr.look(seen, bad, now)
			}
		}
		tr.look(seen, bad, now)
		if tr.ratio(0) != 0 {
			t.Error("failures before there were requests")
		}
		run(time.Hour, 0)
		run(time.Minute, 50)
		for i, want := range []float64{0.316, 0.091, 0.032} { // half of 1-e^-1, 1-e^-(1/5), 1-e^-(1/15)
			if got := tr.ratio(i); math.Abs(got-want) > 0.005 {
				t.Errorf("looked at each %v: %.3f over %v, want %.3f", interval, got, TrendWindows[i], want)
			}
		}
		// Counts that begin anew are no reason to believe in many.
		tr.look(0, 0, now.Add(interval))
		if r := tr.ratio(0); r < 0 || r > 1 {
			t.Errorf("ratio %v after a reset", r)
		}
	}
}

// TestFairness: Jain's index of the requests by weight.
func TestFairness(t *testing.T) {
	p := newPool()
	v := p.Open([]Backend{{Address: "a:1", Weight: 3}, {Address: "b:1", Weight: 1}, {Address: "c:1", Weight: 0}}, Settings{})
	defer v.Close()
	now := time.Now()
	spread := func(shares ...uint64) float64 {
		for i, n := range shares {
			v.Member(i).requests.Add(n)
		}
		now = now.Add(time.Hour) // what was before is forgotten
		p.Look(now)
		return v.Fairness()
	}
	if got := spread(); got != 1 {
		t.Errorf("%v of nothing, want 1", got)
	}
	for _, test := range []struct {
		a, b uint64
		want float64
	}{
		{300_000, 100_000, 1}, {300_000, 0, 0.5}, {0, 50_000, 0.5}, {100_000, 100_000, 0.8},
	} {
		if got := spread(test.a, test.b); math.Abs(got-test.want) > 1e-6 {
			t.Errorf("%d and %d requests by weights 3 and 1: %v, want %v", test.a, test.b, got, test.want)
		}
	}
}

func TestUtilization(t *testing.T) {
	v := newPool().Open([]Backend{{Address: "a:1", Weight: 1, MaxRequests: 4}, {Address: "b:1", Weight: 1}}, Settings{})
	defer v.Close()
	if got := v.Utilization(); got != 0 {
		t.Errorf("%v with nothing in flight", got)
	}
	for range 3 {
		v.AcquireMember(0)
		v.AcquireMember(1)
	}
	if got := v.Utilization(); got != 0.75 {
		t.Errorf("%v with 3 of 4 slots taken, want 0.75: what has no bound does not count", got)
	}
}

// TestEjectionsAreCounted: ejections that a breaker calls for, and those that take place.
func TestEjectionsAreCounted(t *testing.T) {
	for name, test := range map[string]struct {
		dryRun             bool
		failing            int // of three
		detected, enforced uint64
	}{
		"one":          {false, 1, 1, 1},
		"more than 50": {false, 2, 2, 1},
		"dry run":      {true, 2, 2, 0},
	} {
		settings := guarded()
		settings.DryRun = test.dryRun
		v := newPool().Open(backends(3), settings)
		now := time.Now()
		for i := range test.failing {
			for range 20 {
				l, _ := v.AcquireMember(i)
				l.Judge(bad, now)
				l.Release()
			}
		}
		detected, enforced := uint64(0), uint64(0)
		for i := range v.Len() {
			counts := v.Member(i).Traffic().Counts()
			detected += counts.Ejections[EjectionDetected]
			enforced += counts.Ejections[EjectionEnforced]
		}
		if detected != test.detected || enforced != test.enforced {
			t.Errorf("%s: %d detected, %d enforced; want %d and %d", name, detected, enforced, test.detected, test.enforced)
		}
		v.Close()
	}
}

// BenchmarkTraffic measures the cost of counting an attempt.
func BenchmarkTraffic(b *testing.B) {
	p := newPool()
	traffic := newTraffic()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		traffic.Answered(1234567, now)
		traffic.Ended(Success, 200, 2345678)
		p.CountAnswer(200)
	}
}
