package breaker

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var standard = Settings{
	ConsecutiveFailures: 5, FailureRatio: 0.5, Window: 10 * time.Second, MinRequests: 20,
	Open: 5 * time.Second, MaxOpen: time.Minute, Probes: 3, ProbeTimeout: time.Minute,
}

// record books a request of the breaker's present life and opens it if that is due.
func record(b *Breaker, s *Settings, failed, slow bool, now time.Time) Transition {
	if t := b.Record(s, b.Generation(), failed, slow, now, 0); t.Happened() {
		return t
	}
	if cause := b.Due(s, now); (failed || slow) && cause != 0 {
		return b.Trip(s, cause, now, 0)
	}
	return Transition{}
}

func TestConsecutiveFailures(t *testing.T) {
	var b Breaker
	for range 100 { // never five in a row
		for i := range 5 {
			if tr := record(&b, &standard, i < 4, false, start); tr.Happened() && tr.Cause == ConsecutiveFailures {
				t.Fatalf("opened after %d in a row", i+1)
			}
		}
		b.window = nil // the ratio is another test's
	}
	for i := range 5 {
		tr := record(&b, &standard, true, false, start)
		if tr.Happened() != (i == 4) {
			t.Fatalf("failure %d: %+v", i+1, tr)
		}
	}
	if b.State() != Open {
		t.Errorf("state %v, want open", b.State())
	}
}

func TestRatios(t *testing.T) {
	tests := map[string]struct {
		settings     Settings
		failed, slow func(i int) bool
		want         int // the request that opens it; 0 for none
		cause        Cause
	}{
		"half fail":              {standard, every(2), never, 20, FailureRatio},
		"a third fails":          {standard, every(3), never, 0, 0},
		"half are slow":          {slowSettings(), never, every(2), 20, SlowRatio},
		"slow, but no one minds": {standard, never, every(1), 0, 0},
		"no ratio":               {Settings{ConsecutiveFailures: 5, Open: time.Second, MaxOpen: time.Second}, every(2), never, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var b Breaker
			for i := 1; i <= 1000; i++ {
				tr := record(&b, &test.settings, test.failed(i), test.slow(i), start.Add(time.Duration(i)*100*time.Millisecond))
				if !tr.Happened() {
					continue
				}
				if i != test.want || tr.Cause != test.cause {
					t.Errorf("request %d opened it (%v), want %d (%v)", i, tr.Cause, test.want, test.cause)
				}
				return
			}
			if test.want != 0 {
				t.Errorf("it did not open, want request %d to", test.want)
			}
		})
	}
}

func slowSettings() Settings {
	s := standard
	s.SlowRatio = 0.5
	return s
}

func every(n int) func(int) bool { return func(i int) bool { return i%n == 0 } }

func never(int) bool { return false }

// TestOpenTime follows a backend that never works, then one that works for a while.
func TestOpenTime(t *testing.T) {
	var b Breaker
	now := start
	trip := func(jitter float64) time.Duration {
		t.Helper()
		tr := b.Trip(&standard, ConsecutiveFailures, now, jitter)
		if b.state != Open {
			t.Fatalf("did not open: %+v", tr)
		}
		return tr.OpenFor
	}
	reopen := func() time.Duration {
		t.Helper()
		now = b.Until()
		if tr := b.Tick(now.Add(-1)); tr.Happened() {
			t.Fatalf("half-open before its time")
		}
		if tr := b.Tick(now); tr.To != HalfOpen {
			t.Fatalf("not half-open in time: %+v", tr)
		}
		tr := b.Record(&standard, b.Generation(), true, false, now, 0)
		if tr.Cause != ProbeFailed {
			t.Fatalf("a failed probe: %+v", tr)
		}
		return tr.OpenFor
	}
	if got := trip(0); got != 5*time.Second {
		t.Errorf("first open for %v, want 5s", got)
	}
	for i, want := range []time.Duration{10, 20, 40, 60, 60, 60} {
		if got := reopen(); got != want*time.Second {
			t.Errorf("reopened %d times: open for %v, want %vs", i+1, got, int(want))
		}
	}
	mend := func() {
		t.Helper()
		now = b.Until()
		b.Tick(now)
		for i := range standard.Probes {
			if tr := b.Record(&standard, b.Generation(), false, false, now, 0); tr.Happened() != (i == standard.Probes-1) {
				t.Fatalf("success %d of a probe: %+v", i+1, tr)
			}
		}
		if b.State() != Closed {
			t.Fatalf("state %v after all probes succeeded, want closed", b.State())
		}
	}
	mend()
	now = now.Add(30 * time.Second) // not long enough to be forgiven
	if got := trip(0); got != time.Minute {
		t.Errorf("after 30s of good behaviour: open for %v, want 1m", got)
	}
	mend()
	now = now.Add(time.Hour)
	if got := trip(0.999999); got < 4*time.Second || got > 4001*time.Millisecond {
		t.Errorf("after an hour of good behaviour, most jitter: open for %v, want 4s", got)
	}
}

// TestProbeSlot: there is one, it comes back, and what is late does not count.
func TestProbeSlot(t *testing.T) {
	var b Breaker
	if _, ok := b.Admit(&standard, start); ok {
		t.Fatal("a closed breaker admits probes")
	}
	early := b.Generation()
	b.Trip(&standard, ConsecutiveFailures, start, 0)
	if _, ok := b.Admit(&standard, start); ok {
		t.Fatal("an open breaker admits probes")
	}
	now := start.Add(5 * time.Second)
	b.Tick(now)
	for range standard.Probes + 1 {
		if tr := b.Record(&standard, early, false, false, now, 0); tr.Happened() {
			t.Fatalf("answers from before it opened closed it: %+v", tr)
		}
	}
	first, ok := b.Admit(&standard, now)
	if _, second := b.Admit(&standard, now.Add(59*time.Second)); !ok || second {
		t.Fatalf("admitted %v, and while that is on its way %v; want true, false", ok, second)
	}
	if b.Busy() != now.Add(time.Minute) {
		t.Errorf("busy until %v", b.Busy())
	}
	second, ok := b.Admit(&standard, now.Add(time.Minute))
	if !ok {
		t.Fatal("the slot of a lost probe did not come back")
	}
	b.Done(first)
	if _, ok := b.Admit(&standard, now.Add(time.Minute)); ok {
		t.Error("a lost probe that turned up gave away the slot of another")
	}
	b.Done(second)
	if _, ok := b.Admit(&standard, now.Add(time.Minute)); !ok {
		t.Error("the slot did not come back")
	}
}

// TestLose: out of reach, a breaker is open for as long as that is so and for no other reason; then it is as new, and what it did
// before is not counted twice.
func TestLose(t *testing.T) {
	var b Breaker
	if tr := b.Reach(start); tr.Happened() {
		t.Errorf("a closed breaker changed: %+v", tr)
	}
	b.Record(&standard, b.Generation(), true, false, start, 0)
	early := b.Generation()
	if tr := b.Lose(start); tr != (Transition{From: Closed, To: Open, Cause: Unreachable}) || !b.Until().IsZero() {
		t.Errorf("lost: %+v until %v", tr, b.Until())
	}
	if tr := b.Tick(start.Add(time.Hour)); tr.Happened() {
		t.Errorf("time alone: %+v", tr)
	}
	if tr := b.Reach(start.Add(time.Hour)); tr != (Transition{From: Open, To: Closed, Cause: Reached}) || b.Run() != 0 || b.Generation() == early {
		t.Errorf("reached: %+v, %d failures in a row", tr, b.Run())
	}
	// One that is open for another reason stays so, and has the open time that it would have had.
	now := start.Add(2 * time.Hour)
	if tr := b.Trip(&standard, FailureRatio, now, 0); tr.OpenFor != standard.Open {
		t.Errorf("open for %v after it was out of reach, want %v", tr.OpenFor, standard.Open)
	}
	if lost, reached := b.Lose(now), b.Reach(now); lost.Happened() || reached.Happened() || b.Cause() != FailureRatio {
		t.Errorf("open for another reason: %+v, %+v", lost, reached)
	}
	if tr := b.Tick(now.Add(standard.Open)); tr.To != HalfOpen {
		t.Errorf("after its time: %+v", tr)
	}
	if tr := b.Lose(now.Add(standard.Open)); tr.Happened() {
		t.Errorf("half-open: %+v", tr)
	}
}

// TestExplain: a breaker that opened because no connection can be made is open for as long as that is so, and no longer the next time.
func TestExplain(t *testing.T) {
	var b Breaker
	b.Trip(&standard, ConsecutiveFailures, start, 0)
	opened := b.Generation()
	if b.Explain(opened - 1) {
		t.Error("explained by what was found out before it opened")
	}
	if !b.Explain(opened) || b.Cause() != Unreachable || !b.Until().IsZero() {
		t.Errorf("explained: %v until %v", b.Cause(), b.Until())
	}
	if tr := b.Tick(start.Add(time.Hour)); tr.Happened() {
		t.Errorf("time alone: %+v", tr)
	}
	now := start.Add(time.Second)
	if tr := b.Reach(now); tr != (Transition{From: Open, To: Closed, Cause: Reached}) || b.Explain(b.Generation()) {
		t.Errorf("reached: %+v", tr)
	}
	if tr := b.Trip(&standard, FailureRatio, now, 0); tr.OpenFor != standard.Open {
		t.Errorf("open for %v the next time, want %v", tr.OpenFor, standard.Open)
	}
}

// model is a breaker that keeps all that happened and looks through it.
type model struct {
	s       *Settings
	state   State
	since   time.Time
	events  []event // since it closed
	good    int
	trips   int
	lastFor time.Duration
}

type event struct {
	at           time.Time
	failed, slow bool
}

func (m *model) step(e event) {
	if m.state == Open && !e.at.Before(m.since.Add(m.lastFor)) {
		m.state, m.since, m.good = HalfOpen, e.at, 0
	}
	switch m.state {
	case HalfOpen:
		if e.failed || e.slow && m.s.SlowRatio > 0 {
			m.open(e.at)
		} else if m.good++; m.good == m.s.Probes {
			m.state, m.since, m.events = Closed, e.at, nil
		}
	case Closed:
		m.events = append(m.events, e)
		run, all, failed, slow := 0, 0, 0, 0
		bucket := func(t time.Time) int { return int(t.Sub(m.events[0].at) / (m.s.Window / 10)) }
		for _, old := range m.events {
			if run++; !old.failed {
				run = 0
			}
			if bucket(e.at)-bucket(old.at) > 10 {
				continue
			}
			all++
			if old.failed {
				failed++
			}
			if old.slow {
				slow++
			}
		}
		ratios := all >= m.s.MinRequests && (2*failed >= all || m.s.SlowRatio > 0 && 2*slow >= all)
		if (e.failed || e.slow) && (run >= m.s.ConsecutiveFailures || ratios) {
			for m.trips > 0 && e.at.Sub(m.since) >= m.lastFor {
				m.trips--
				m.since = m.since.Add(m.lastFor)
			}
			m.open(e.at)
		}
	}
}

func (m *model) open(now time.Time) {
	m.lastFor = min(m.s.Open<<min(m.trips, 10), m.s.MaxOpen)
	m.trips++
	m.state, m.since = Open, now
}

// TestModel compares the breaker with the model over random sequences of requests.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	visited := map[State]int{}
	for n := range uint64(300) {
		compareWithModel(t, seed, n, visited)
	}
	for state := range States {
		if visited[state] < 200 {
			t.Errorf("the runs were in state %v %d times only: they test little", state, visited[state])
		}
	}
}

func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, seed, n uint64) { compareWithModel(t, seed, n, map[State]int{}) })
}

// compareWithModel sends one sequence of requests, which the numbers determine, and counts the states it was in.
func compareWithModel(t *testing.T, seed, n uint64, visited map[State]int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, n))
	s := slowSettings()
	if n%2 == 0 {
		s.SlowRatio = 0
	}
	var b Breaker
	m := model{s: &s}
	now := start
	bad := rnd.Float64()
	for i := range 500 {
		if i%100 == 0 {
			bad = rnd.Float64()
		}
		now = now.Add(time.Duration(rnd.Int64N(int64(700 * time.Millisecond))))
		e := event{at: now, failed: rnd.Float64() < bad, slow: rnd.Float64() < bad/2}
		b.Tick(now)
		record(&b, &s, e.failed, e.slow, now)
		m.step(e)
		visited[b.State()]++
		if b.State() != m.state {
			t.Fatalf("seed %d, run %d, request %d: %v, want %v", seed, n, i, b.State(), m.state)
		}
	}
}
