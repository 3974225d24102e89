package balance

import (
	"testing"
	"time"
)

// dueTimes returns how many of n picks that avoid the member are trials.
func dueTimes(s *trials, l *Latency, cause Cause, n int, seconds float64) (due int) {
	for range n {
		if s.due(l, cause, tickOf(at(seconds))) {
			due++
		}
	}
	return due
}

func TestTrials(t *testing.T) {
	told := func(trials uint64) *Latency {
		l := new(Latency)
		l.Told(l.Asked(at(0)), true, at(0))
		l.trials.Store(trials)
		l.lastTrial.Store(tickOf(at(0)))
		return l
	}
	failing := func(n int) *Latency {
		l := told(1)
		for range n {
			l.Failed(ms, at(0.5))
		}
		return l
	}
	for name, test := range map[string]struct {
		latency *Latency
		cause   Cause
		picks   int
		seconds float64 // later
		want    int
	}{
		"too few choices":                             {told(1), Slow, slowTrial - 1, 5, 0},
		"enough":                                      {told(1), Slow, slowTrial, 5, 1},
		"of one that always fails, too few":           {failing(99), Failing, mostFailing - 1, 5, 0},
		"of one that always fails, enough":            {failing(99), Failing, mostFailing, 5, 1},
		"of one that has failed three times, too few": {failing(3), Failing, 8*firstFailing - 1, 0.5, 0},
		"of one that has failed three times, enough":  {failing(3), Failing, 8 * firstFailing, 0.5, 1},
		"too soon, however many":                      {told(1), Slow, 100 * slowTrial, 0.2, 0},
		"the first one, too few":                      {told(0), Slow, firstTrial - 1, 5, 0},
		"the first one, enough":                       {told(0), Slow, firstTrial, 5, 1},
		"the first one for more than a minute":        {told(1), Slow, firstTrial, 61, 1},
		"one of many at the same moment":              {told(1), Slow, slowTrial + 100, 5, 1},
	} {
		before := test.latency.Trials()
		got := dueTimes(new(trials), test.latency, test.cause, test.picks, test.seconds)
		if counted := int(test.latency.Trials() - before); got != test.want || counted != got {
			t.Errorf("%s: %d trials, %d counted, want %d", name, got, counted, test.want)
		}
	}
}

// The picks of a pool are counted together: two members that are avoided are tried half as often each.
func TestTrialsAreShared(t *testing.T) {
	s, a, b := new(trials), new(Latency), new(Latency)
	got, now := 0, 1.0
	a.Told(a.Asked(at(0)), true, at(0))
	b.Told(b.Asked(at(0)), true, at(0))
	for range 10 * slowTrial {
		now += 0.005 // eight seconds in all
		for _, l := range []*Latency{a, b} {
			if s.due(l, Slow, tickOf(at(now))) {
				got++
				l.Told(l.Asked(at(now)), true, at(now))
			}
		}
	}
	if got < 19 || got > 22 { // of which two are first ones
		t.Errorf("%d trials in %d choices, want one in %d", got, 20*slowTrial, slowTrial)
	}
}

// A trial that is not answered is the last one for ten seconds; one that goes well is followed by the next at once.
func TestTrialsFollow(t *testing.T) {
	l, s := new(Latency), new(trials)
	for range 100 {
		l.Answered(300*ms, at(0))
	}
	ticket := l.Asked(at(1))
	for _, test := range []struct {
		seconds float64
		want    int
	}{{2, 0}, {10.5, 0}, {12, 1}, {21, 0}, {23, 1}, {40, 1}, {57, 1}} {
		if got := dueTimes(s, l, Silent, 10_000, test.seconds); got != test.want {
			t.Errorf("while a request waits, after %v s: %d trials, want %d", test.seconds, got, test.want)
		}
	}
	// While it is slow, and answers, another request that waits does not put its trials off: only the last trial does.
	l.Told(l.Asked(at(63)), true, at(63.5))
	if got := dueTimes(s, l, Slow, 10_000, 64.2); got != 1 {
		t.Errorf("%d trials while a long poll waits, want one", got)
	}
	if got := dueTimes(s, l, Slow, 10_000, 65); got != 0 {
		t.Errorf("%d trials while the last one waits for its answer", got)
	}
	l.Told(ticket, true, at(66))
	if l.suspect.Load() {
		t.Error("avoided since its last answer, which has just come")
	}
	if got := dueTimes(s, l, Slow, 10, 66); got != 0 {
		t.Errorf("%d trials after an answer as slow as ever", got)
	}
	l.Answered(ms, at(66))
	if got := dueTimes(s, l, Slow, 10, 66); got != 1 {
		t.Errorf("%d trials after one that went well, want the next", got)
	}
	// One failure, and another, may be of a page that fails everywhere.
	for n := 1; n <= 4; n++ {
		l.Failed(ms, at(66))
		want := 0
		if n <= 2 {
			want = 1
		}
		if got := dueTimes(s, l, Failing, 10, 66); got != want {
			t.Errorf("%d trials after %d that failed, want %d", got, n, want)
		}
	}
}

// The predicted time of the next trial is right.
func TestTrialsNext(t *testing.T) {
	for name, test := range map[string]struct {
		rate  float64 // picks per second that avoid it
		cause Cause
	}{
		"often":   {1000, Slow},
		"less":    {100, Slow},
		"seldom":  {5, Slow},
		"failing": {100, Failing},
	} {
		l, s := new(Latency), new(trials)
		l.Told(l.Asked(at(0)), true, at(0))
		l.trials.Store(1)
		l.lastTrial.Store(tickOf(at(0)))
		told := 0.0
		for k := 1; k < 100_000; k++ {
			now := float64(k) / test.rate
			if s.due(l, test.cause, tickOf(at(now))) {
				if told == 0 || now < told*0.9-0.1 || now > told*1.1+0.1 {
					t.Errorf("%s: tried after %v s, and a bit before that was to be after %v s", name, now, told)
				}
				break
			}
			if k == firstTrial/2 {
				told = now + s.next(l, test.cause, tickOf(at(now)))
			}
		}
	}
	// The rate is that of the choices that avoid a member, not that since the last trial or the start.
	l, s := new(Latency), new(trials)
	dueTimes(s, l, Slow, 1, 90_000)
	dueTimes(s, l, Slow, 1, 90_001)
	if got := s.next(l, Slow, tickOf(at(90_001))); got != 0 {
		t.Errorf("one that has not answered for a day is tried in %v s, want at once: nothing is known of it any more", got)
	}
	l.Told(l.Asked(at(90_001)), true, at(90_001))
	if got := s.next(l, Slow, tickOf(at(90_001))); got < 13 || got > 15 {
		t.Errorf("after two choices in a second the next trial is in %v s, want %d more choices", got, firstTrial-2)
	}
	if got := s.next(l, Slow, tickOf(at(93_000))); got > 30 {
		t.Errorf("after two choices in an hour the next trial is in %v s, and what is known fades in half a minute", got)
	}
	// Right after a trial the choices before it say nothing.
	l, s = new(Latency), new(trials)
	l.Told(l.Asked(at(0)), true, at(0))
	dueTimes(s, l, Slow, firstTrial-1, 1)
	if dueTimes(s, l, Slow, 1, 20) != 1 {
		t.Fatal("no trial")
	}
	if got := s.next(l, Slow, tickOf(at(20.01))); got > 3 {
		t.Errorf("right after a trial the next one is in %v s", got)
	}
	l, s = new(Latency), new(trials)
	l.Answered(ms, at(0))
	if got := s.next(l, Slow, tickOf(at(0))); got != 0 {
		t.Errorf("the next trial of one with hope is in %v s", got)
	}
	l.Asked(at(0))
	if got := s.next(l, Silent, tickOf(at(4))); got < 5.9 || got > 6.1 {
		t.Errorf("the next trial of one that has been silent for four seconds is in %v s, want 6", got)
	}
}

func TestAvoided(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(l *Latency)
		want  Avoidance
	}{
		"none":                      {func(*Latency) {}, Avoidance{}},
		"slow":                      {func(l *Latency) { answers(l, 99, 400*ms, at(0)) }, Avoidance{Cause: Slow, Takes: 400 * ms, Others: 10 * ms}},
		"failing":                   {func(l *Latency) { failures(l, 9) }, Avoidance{Cause: Failing, Takes: 10 * ms, Others: 10 * ms}},
		"silent for a moment":       {func(l *Latency) { l.Asked(at(4.5)); l.Asked(at(4.5)) }, Avoidance{}},
		"silent, and faster before": {func(l *Latency) { l.Forget(); answers(l, 99, ms, at(0)); l.Asked(at(1)); l.Asked(at(1)) }, Avoidance{Cause: Silent, Takes: 4 * time.Second, Others: 10 * ms}},
		"silent":                    {func(l *Latency) { l.Asked(at(1)); l.Asked(at(1)) }, Avoidance{Cause: Silent, Takes: 4 * time.Second, Others: 10 * ms}},
		"unknown":                   {func(l *Latency) { l.Forget() }, Avoidance{}},
		"unknown, and fails":        {func(l *Latency) { l.Forget(); failures(l, 9) }, Avoidance{Cause: Failing, Others: 10 * ms}},
	} {
		// Between members without a weight, which are in no draw.
		members := answering([]int{0, 1, 1, 1, 0}, 64, 0, 10*ms, 10*ms, 10*ms, 0)
		test.spoil(members[2].Latency)
		if name == "slow, and another one fails" {
			members[1].Latency.Failed(ms, at(5))
			members[3].Latency.Failed(ms, at(5))
		}
		p := PeakEWMA{}.Build(members, nil, nil).(Avoiding)
		const rounding = 5 * ms
		for i, got := range p.Avoided(at(5)) {
			want := Avoidance{}
			if i == 2 {
				want = test.want
			}
			if got.Cause != want.Cause || got.Takes-want.Takes > rounding || want.Takes-got.Takes > rounding || got.Others-want.Others > rounding || want.Others-got.Others > rounding || got.Again < 0 {
				t.Errorf("%s: member %d: %+v, want %+v", name, i, got, want)
			}
		}
	}
	// Even if most are slow, the slow ones are avoided.
	members := answering(same(5, 1), 64, 400*ms, 10*ms, 400*ms, 400*ms, 10*ms)
	for i, got := range (PeakEWMA{}).Build(members, nil, nil).(Avoiding).Avoided(at(0)) {
		if want := members[i].Latency.Estimate() > 100*ms; (got.Cause == Slow) != want {
			t.Errorf("member %d: %+v", i, got)
		}
	}
	// If no member is known, none is avoided.
	if got := (PeakEWMA{}).Build(weighted(1, 1), nil, nil).(Avoiding).Avoided(at(0)); got[0] != (Avoidance{}) || got[1] != (Avoidance{}) {
		t.Errorf("no member is known: %+v", got)
	}
}
