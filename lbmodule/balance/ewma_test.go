package balance

import (
	"math"
	"testing"
	"time"
)

// answering returns members that have answered that often, each in its own time.
func answering(weights []int, n int, took ...time.Duration) []Member {
	members := weighted(weights...)
	for i := range members {
		members[i].Latency = new(Latency)
		if took[i] > 0 {
			answers(members[i].Latency, n, took[i], at(0))
		}
	}
	return members
}

// counted returns how often each member is picked in n picks, each released at once.
func counted(t *testing.T, members []Member, n int, now time.Time) []int {
	t.Helper()
	p := PeakEWMA{}.Build(members, nil, nil).(Timed)
	counts := make([]int, len(members))
	for range n {
		i := p.PickAt(now, nil)
		if i < 0 {
			t.Fatal("no member picked")
		}
		counts[i]++
		release(p, members, i)
	}
	return counts
}

func TestPeakEWMAShares(t *testing.T) {
	// Alike, or unknown, it is a draw by weight.
	for _, weights := range [][]int{{1, 1, 1}, {5, 3, 2}, {0, 1, 0, 1000, 7}} {
		members := weighted(weights...)
		checkShares(t, PeakEWMA{}.Build(members, nil, nil), members, weights)
	}
	members := answering([]int{5, 3, 2}, 64, 10*ms, 12*ms, 9*ms)
	checkShares(t, PeakEWMA{}.Build(members, nil, nil), members, []int{5, 3, 2})
}

// Of all these picks one is a trial, as time stands still, and the next one when that has been answered.
func TestPeakEWMAAvoids(t *testing.T) {
	const picks = 10_000
	for name, test := range map[string]struct {
		weights []int
		spoil   func(l *Latency) // of the first member, which is as the others before
		after   float64          // seconds
		most    float64          // share of the first member
	}{
		"the slow":                    {same(5, 1), func(l *Latency) { answers(l, 99, 310*ms, at(0)) }, 0, 0.0001},
		"the slow, for a while":       {same(5, 1), func(l *Latency) { answers(l, 99, 310*ms, at(0)) }, 10, 0.0001},
		"one that is ten times slow":  {same(5, 1), func(l *Latency) { answers(l, 99, 100*ms, at(0)) }, 0, 0.0001},
		"one that fails":              {same(5, 1), func(l *Latency) { l.Failed(ms, at(0)); l.Failed(ms, at(0)) }, 0, 0.0001},
		"one that does not answer":    {same(5, 1), func(l *Latency) { left(l, 5, time.Second) }, 0, 0.0001},
		"the slow, with two":          {same(2, 1), func(l *Latency) { answers(l, 99, 310*ms, at(0)) }, 0, 0.0001},
		"the slow that is heavy":      {[]int{3, 1, 1}, func(l *Latency) { answers(l, 99, 310*ms, at(0)) }, 0, 0.02},
		"one that fails and is heavy": {[]int{3, 1, 1}, func(l *Latency) { l.Failed(ms, at(0)); l.Failed(ms, at(0)) }, 0, 0.02},
	} {
		members := answering(test.weights, 64, 10*ms, 10*ms, 11*ms, 10*ms, 9*ms)
		test.spoil(members[0].Latency)
		got := counted(t, members, picks, at(test.after))
		if share := float64(got[0]) / picks; share > test.most {
			t.Errorf("%s: a share of %.4f, want at most %.4f", name, share, test.most)
		}
	}
}

// Neither one slow answer nor a few that are slower than others make a member one to avoid.
func TestPeakEWMAIsFair(t *testing.T) {
	const picks = 10_000
	for name, happens := range map[string]func(l *Latency){
		"a slow page": func(l *Latency) { l.Answered(time.Second, at(0)) },
		"three, with others between": func(l *Latency) {
			l.Answered(time.Second, at(0))
			answers(l, 30, 10*ms, at(0))
			answers(l, 2, time.Second, at(0))
		},
		"a bit slower than others":     func(l *Latency) { answers(l, 99, 14*ms, at(0)) },
		"a client that has had enough": func(l *Latency) { l.Unanswered(10*time.Second, at(0)) },
	} {
		members := answering(same(5, 1), 64, 10*ms, 10*ms, 11*ms, 10*ms, 9*ms)
		happens(members[0].Latency)
		if got := counted(t, members, picks, at(0)); got[0] < picks*18/100 || got[0] > picks*22/100 {
			t.Errorf("%s: picked %v of %d", name, got, picks)
		}
	}
}

// A member of less weight may be slower in proportion, and is not avoided for that; one that is being ramped up may not.
func TestPeakEWMASlowerByWeight(t *testing.T) {
	members := answering([]int{5, 3, 2}, 64, 60*ms, 100*ms, 150*ms)
	checkShares(t, PeakEWMA{}.Build(members, nil, nil), members, []int{5, 3, 2})
	for i := range members {
		if n := members[i].Latency.Avoided(); n > 0 {
			t.Errorf("member %d: avoided %d times for being as slow as its weight says", i, n)
		}
	}
	members = answering(same(3, 5), 64, 60*ms, 60*ms, 150*ms)
	members[2].Weight, members[2].Warmth = 1, 0.2
	if got := counted(t, members, 10_000, at(0)); got[2] > 1 {
		t.Errorf("picked %v of 10000, want the last one's trial only", got)
	}
}

// In a pool that is mostly slow, the fast members get the requests.
func TestPeakEWMADrawsMore(t *testing.T) {
	const picks = 10_000
	members := answering(same(6, 1), 64, 310*ms, 310*ms, 10*ms, 310*ms, 310*ms, 10*ms)
	counted(t, members, 100, at(0)) // which find out
	got := counted(t, members, picks, at(0))
	if fast := got[2] + got[5]; fast < picks*85/100 {
		t.Errorf("picked %v, want the third and the last for the most part", got)
	}
}

// A choice counts once, however many are drawn for it.
func TestPeakEWMACounts(t *testing.T) {
	const picks = 1000
	for _, n := range []int{2, 6} {
		took := make([]time.Duration, n)
		for i := range took {
			took[i] = 310 * ms
		}
		took[0] = 10 * ms
		members := answering(same(n, 1), 64, took...)
		counted(t, members, picks, at(0))
		// The fast one is left out: now the others are all that there is.
		for i := 1; i < n/2; i++ {
			answers(members[i].Latency, 64, 80*ms, at(0))
		}
		p := PeakEWMA{}.Build(members, nil, nil).(Timed)
		for _, m := range members {
			m.Latency.avoided.Store(0)
		}
		for range picks {
			release(p, members, p.PickAt(at(0), []int{0}))
		}
		total := uint64(0)
		for i := range members {
			total += members[i].Latency.Avoided()
		}
		if total > picks {
			t.Errorf("%d members: avoided %d times in %d choices", n, total, picks)
		}
	}
}

// However many are drawn for it, a choice brings the next trial nearer by one.
func TestPeakEWMACountsForTrialsOnce(t *testing.T) {
	members := answering(same(8, 1), 64, 10*ms, 80*ms, 310*ms, 310*ms, 310*ms, 310*ms, 310*ms, 310*ms)
	counted(t, members, 100, at(0)) // which find out
	for _, m := range members {
		m.Latency.Told(m.Latency.Asked(at(1)), true, at(1)) // so that none has a trial at that time
		m.Latency.suspect.Store(true)
	}
	p := PeakEWMA{}.Build(members, nil, nil).(*peakEWMA)
	const picks = 500
	for range picks {
		release(p, members, p.PickAt(at(1), []int{0}))
	}
	if got := p.trials.avoiding.Load(); got > picks {
		t.Errorf("%d choices that avoided a member, of %d", got, picks)
	}
}

// Slow pages do not count as load, unless they are what there is to do, or are far more than the other's.
func TestPeakEWMALoads(t *testing.T) {
	const picks = 1000
	for name, test := range map[string]struct {
		own, other  float64 // tails
		least, most int     // times of 1000 that the member with the slow page counts as one that has nothing to do
	}{
		"rare on both":          {0.02, 0.02, picks, picks},
		"rare, and not seen":    {0, 0, picks, picks},
		"twice as many":         {0.02, 0.01, picks, picks},
		"many more":             {0.02, 0, 100, 200},
		"what there is to do":   {0.2, 0.2, 0, 0},
		"the other's are rarer": {0.01, 0.02, picks, picks},
	} {
		members := answering(same(2, 1), 64, ms, ms)
		p := PeakEWMA{}.Build(members, nil, nil).(*peakEWMA)
		for i, tail := range []float64{test.own, test.other} {
			members[i].Latency.tail.Store(math.Float32bits(float32(tail)))
		}
		w := &members[0].Latency.waiting
		members[0].Latency.Asked(at(0))
		w.overtook.Store(tickOf(at(1)))
		members[0].Load.Store(1)
		idle := 0
		for range picks {
			if a, _ := p.loads(0, 1, &clock{tickOf(at(1)), true}); a == 0 {
				idle++
			}
		}
		if idle < test.least || idle > test.most {
			t.Errorf("%s: idle %d times of %d, want %d to %d", name, idle, picks, test.least, test.most)
		}
	}
}

// A picker continues the trials of its predecessor: pickers are replaced all the time while a member is ramped up.
func TestPeakEWMAKeepsTrials(t *testing.T) {
	members := answering(same(2, 1), 64, 10*ms, 310*ms)
	l := members[1].Latency
	l.Told(l.Asked(at(0)), true, at(0))
	p := Picker(nil)
	for range firstTrial {
		p = PeakEWMA{}.Build(members, p, []int{0, 1})
		release(p, members, p.(Timed).PickAt(at(1), nil))
	}
	if got := l.Trials(); got != 1 {
		t.Errorf("%d trials in %d choices of as many pickers, want one", got, firstTrial)
	}
}

// A member that was avoided is tried again, and gets its share back after a few trials that go well.
func TestPeakEWMATriesAgain(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(l *Latency)
		trials int
	}{
		"slow":    {func(l *Latency) { answers(l, 99, 310*ms, at(0)) }, 5},
		"failing": {func(l *Latency) { answers(l, 99, 10*ms, at(0)); failures(l, 99) }, 5},
		"hanging": {func(l *Latency) { answers(l, 99, 10*ms, at(0)); left(l, 5, 10*time.Second) }, 5},
	} {
		members := answering(same(5, 1), 64, 10*ms, 10*ms, 10*ms, 10*ms, 10*ms)
		l := members[0].Latency
		test.spoil(l)
		l.Told(l.Asked(at(0)), true, at(0))
		p := PeakEWMA{}.Build(members, nil, nil).(Timed)
		// pick returns how many picks it took until the first one was picked.
		pick := func(seconds float64) int {
			for n := 1; n < 10_000; n++ {
				i := p.PickAt(at(seconds), nil)
				release(p, members, i)
				if i == 0 {
					return n
				}
			}
			return 0
		}
		const now = 1
		if n := pick(now); n < firstTrial {
			t.Errorf("%s: tried after %d picks, want %d at least", name, n, firstTrial)
		}
		for trial := 1; trial < test.trials; trial++ {
			ticket := l.Asked(at(now))
			for range 1000 {
				i := p.PickAt(at(now), nil)
				if release(p, members, i); i == 0 {
					t.Fatalf("%s: given a request while it is tried", name)
				}
			}
			l.Told(ticket, true, at(now))
			l.Answered(10*ms, at(now))
			if n := pick(now); n == 0 || n > 50 {
				t.Fatalf("%s: after %d trials that went well the next one is %d picks later", name, trial, n)
			}
		}
		l.Answered(10*ms, at(now))
		if got := counted(t, members, 10_000, at(now)); got[0] < 1500 {
			t.Errorf("%s: fine again, and has %v of 10000", name, got)
		}
	}
}

func failures(l *Latency, n int) {
	for range n {
		l.Failed(ms, at(0))
	}
}

// A member that answers every request at once with a failure is under 10 % of the traffic of five, from the first request on and
// with requests in flight at the others.
func TestPeakEWMAFailingFast(t *testing.T) {
	members := answering(same(5, 1), 1, 0, 0, 0, 0, 0)
	p := PeakEWMA{}.Build(members, nil, nil).(Timed)
	failed, busy := 0, make(map[int][]int) // by the millisecond in which they end
	const requests = 20_000                // one each millisecond, 10 ms each: two or three in flight at each good member
	for k := range requests {
		now := at(float64(k) / 1000)
		for _, i := range busy[k] {
			members[i].Latency.Answered(10*ms, now)
			release(p, members, i)
		}
		delete(busy, k)
		if i := p.PickAt(now, nil); i == 0 {
			failed++
			members[0].Latency.Failed(0, now)
			release(p, members, 0)
		} else {
			busy[k+10] = append(busy[k+10], i)
		}
	}
	if failed > requests/50 {
		t.Errorf("%d of %d requests went to the one that fails", failed, requests)
	}
}

// A member that has not answered yet has one request at a time until it has. Streams that have begun before do not count.
func TestPeakEWMAFirst(t *testing.T) {
	members := answering(same(3, 1), 64, 0, 10*ms, 10*ms)
	members[0].Load.Store(1)
	p := PeakEWMA{}.Build(members, nil, nil).(Timed)
	picked := func(n int, seconds float64) (first int) {
		for range n {
			i := p.PickAt(at(seconds), nil)
			if release(p, members, i); i == 0 {
				first++
			}
		}
		return first
	}
	// It has a stream and no answer yet; the others have the same load.
	members[1].Load.Store(1)
	members[2].Load.Store(1)
	if got := picked(1000, 0); got < 200 {
		t.Errorf("picked %d times of 1000 while it has only a stream", got)
	}
	members[0].Latency.Asked(at(0))
	if got := picked(1000, 0.005); got != 0 {
		t.Errorf("picked %d times while it has just been asked for the first time", got)
	}
	if got := picked(1000, 1); got != 0 {
		t.Errorf("picked %d times while it is to answer its first request", got)
	}
	// Others are busy: still no second one.
	members[1].Load.Store(50)
	members[2].Load.Store(50)
	if got := picked(1000, 2); got != 0 {
		t.Errorf("picked %d times while it is to answer its first request and the others are busy", got)
	}
	if got := picked(1000, 40); got != 1 {
		t.Errorf("picked %d times after it has not answered for ten seconds and more, want once", got)
	}
	// It is picked nevertheless if there is no other member.
	if got := p.PickAt(at(41), []int{1, 2}); got != 0 {
		t.Errorf("picked %d, want the only one left", got)
	}
	// Among unknown members, those without requests come first, then those with fewer.
	members = answering(same(2, 1), 1, 0, 0)
	p = PeakEWMA{}.Build(members, nil, nil).(Timed)
	for n := range 100 {
		p.PickAt(at(0), nil)
		if a, b := members[0].Load.Load(), members[1].Load.Load(); max(a, b)-min(a, b) != int64(1-n%2) {
			t.Fatalf("of the first %d requests %d and %d at two unknown members", n+1, a, b)
		}
	}
}

// Requests in flight count in relation to the weight, and with how long they take.
func TestPeakEWMALoad(t *testing.T) {
	for _, test := range []struct {
		weights, loads []int
		took           []time.Duration
		want           int
	}{
		{[]int{1, 1}, []int{3, 2}, []time.Duration{10 * ms, 10 * ms}, 1},
		{[]int{1, 1}, []int{1, 0}, []time.Duration{10 * ms, 13 * ms}, 1},
		{[]int{1, 1}, []int{3, 0}, []time.Duration{10 * ms, 100 * ms}, 0},
		{[]int{1, 1}, []int{30, 0}, []time.Duration{10 * ms, 100 * ms}, 1},
		{[]int{1, 1}, []int{5, 0}, []time.Duration{10 * ms, time.Minute}, 0},
		{[]int{1, 1}, []int{30, 0}, []time.Duration{10 * ms, time.Minute}, 1}, // eight times as expensive at most
		{[]int{2, 1}, []int{3, 2}, []time.Duration{10 * ms, 10 * ms}, 0},
	} {
		members := answering(test.weights, 64, test.took...)
		for i, load := range test.loads {
			members[i].Load.Store(int64(load))
		}
		got := counted(t, members, 1000, at(0))
		if n := members[1-test.want].Latency.Avoided(); n > 0 && test.took[1-test.want] <= test.took[test.want] {
			t.Errorf("loads %v, %v: one that is no slower was avoided %d times", test.loads, test.took, n)
		}
		// With equal weights both are drawn each time, and one pick may be a trial; a heavy one may be drawn twice.
		if got[test.want] < 999 && test.weights[0] == test.weights[1] || got[test.want] < 500 {
			t.Errorf("weights %v, loads %v, %v: picked %v, want %d", test.weights, test.loads, test.took, got, test.want)
		}
	}
}

// A member that has not answered its requests for far longer than its answers took gets no more while others answer.
func TestPeakEWMASilence(t *testing.T) {
	const picks = 1000
	for name, test := range map[string]struct {
		asked   float64 // when its request began to wait
		longest time.Duration
		told    float64 // when it answered another one; 0 for never
		load    int64   // of the others
		alone   bool    // there is only one member
		picked  bool
	}{
		"for long":                             {1, 0, 0, 20, false, false},
		"for as long as its answers":           {9.98, 0, 0, 20, false, true},
		"for no longer than some answer":       {9, 800 * ms, 0, 20, false, true},
		"for much longer":                      {1, 800 * ms, 0, 20, false, false},
		"but answers others":                   {1, 0, 9.99, 20, false, true},
		"and the others have their hands full": {1, 0, 0, 200, false, true},
		"for ten seconds":                      {-21, 0, 0, 20, false, true},
		"but it may be a long poll":            {1, 0, 0, 20, true, true},
	} {
		members := answering(same(3, 1), 64, 10*ms, 10*ms, 10*ms)
		hung := members[0].Latency
		if test.longest > 0 {
			hung.Answered(test.longest, at(0))
		}
		p := PeakEWMA{}.Build(members, nil, nil).(Timed)
		hung.Asked(at(test.asked))
		if !test.alone {
			hung.Asked(at(test.asked))
		}
		members[0].Load.Store(1)
		if test.told > 0 {
			hung.Told(hung.Asked(at(test.told)), true, at(test.told))
		}
		for i := range members {
			answers(members[i].Latency, 64*min(i, 1), 10*ms, at(10)) // the others go on
		}
		members[1].Load.Store(test.load)
		members[2].Load.Store(test.load)
		picked := false
		for range picks {
			i := p.PickAt(at(10), nil)
			picked = picked || i == 0
			release(p, members, i)
		}
		if picked != test.picked {
			t.Errorf("%s: picked %v, want %v", name, picked, test.picked)
		}
	}
}
