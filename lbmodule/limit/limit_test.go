package limit

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// server is a backend with workers and a queue in front of them, that is given as many requests as the limit admits.
type server struct {
	limit    *Limit
	random   *rand.Rand
	workers  int
	service  time.Duration
	sigma    float64
	wanted   int // how many requests there are at most; 0 for any number
	now      time.Duration
	inFlight int64
	busy     ends
	waiting  []time.Duration // when each arrived
	answered int
	longest  time.Duration
	other    func(took time.Duration) // of another algorithm, which then sets the room
}

type end struct{ at, began time.Duration }

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, k int) bool { return e[i].at < e[k].at }
func (e ends) Swap(i, k int)      { e[i], e[k] = e[k], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newServer(workers int, service time.Duration, sigma float64) *server {
	return &server{limit: New(), random: rand.New(rand.NewPCG(1, 2)), workers: workers, service: service, sigma: sigma}
}

func (s *server) fill() {
	for s.inFlight < s.limit.Room().Load() && (s.wanted == 0 || s.inFlight < int64(s.wanted)) {
		s.inFlight++
		s.waiting = append(s.waiting, s.now)
	}
	for len(s.busy) < s.workers && len(s.waiting) > 0 {
		took := time.Duration(float64(s.service) * math.Exp(s.sigma*s.random.NormFloat64()))
		heap.Push(&s.busy, end{s.now + took, s.waiting[0]})
		s.waiting = s.waiting[1:]
	}
}

// run lets the server work for a time.
func (s *server) run(t *testing.T, d time.Duration) {
	t.Helper()
	epoch := time.Unix(1e9, 0)
	s.answered, s.longest = 0, 0
	for until := s.now + d; s.now < until; {
		s.fill()
		e := heap.Pop(&s.busy).(end)
		s.now = e.at
		s.answered++
		s.longest = max(s.longest, s.now-e.began)
		s.inFlight--
		if s.other != nil {
			s.other(s.now - e.began)
			continue
		}
		s.limit.Answered(s.now-e.began, s.inFlight+1, s.wanted == 0, epoch.Add(s.now))
		s.check(t)
	}
}

// check holds what is always true.
func (s *server) check(t *testing.T) {
	t.Helper()
	l := s.limit
	if room := l.Room().Load(); room < Least || room > Most {
		t.Fatalf("room %d", room)
	}
	for _, x := range []float64{l.center, l.base, l.lean, l.usual} {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			t.Fatalf("not a number: center %v, base %v, lean %v, usual %v", l.center, l.base, l.lean, l.usual)
		}
	}
	if n := l.Current(); n < Least || n > Most {
		t.Fatalf("limit %d", n)
	}
}

// TestFindsTheWorkers: the limit is next to the number of workers, whatever that is.
func TestFindsTheWorkers(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 5, 10, 40, 200, 1000} {
		for _, sigma := range []float64{0, 0.5} {
			s := newServer(workers, 20*time.Millisecond, sigma)
			s.run(t, 20*time.Second)
			s.run(t, 10*time.Second)
			share := float64(s.answered) / (10 / (0.02 * math.Exp(sigma*sigma/2)) * float64(workers))
			if n := float64(s.limit.Current()); n < 0.85*float64(workers) || n > 1.6*float64(workers)+3 || share < 0.9 {
				t.Errorf("%d workers, sigma %v: limit %v, %.2f of their throughput", workers, sigma, n, share)
			}
		}
	}
}

// gradient2 is Gradient2 of Netflix's concurrency-limits with its defaults, for comparison: the limit follows the ratio of a long average of the
// latency to that of the last second.
type gradient2 struct {
	limit, long, sum float64
	windows, n       int
	ends             time.Duration
}

func (g *gradient2) sample(took, now time.Duration) {
	const window, warmUp, slots, smoothing, tolerance = 600, 10, 4, 0.2, 1.5
	g.sum += took.Seconds()
	g.n++
	if now < g.ends {
		return
	}
	g.ends = now + time.Second
	short := g.sum / float64(g.n)
	g.sum, g.n = 0, 0
	if g.windows++; g.windows <= warmUp {
		g.long += (short - g.long) / float64(g.windows)
	} else {
		g.long += (short - g.long) * 2 / (window + 1)
	}
	if g.long > 2*short {
		g.long *= 0.95
	}
	next := g.limit*max(0.5, min(1, tolerance*g.long/short)) + slots
	g.limit = min(max(g.limit*(1-smoothing)+next*smoothing, 20), 10_000)
}

// TestNoDrift: in an overload that lasts an hour, the limit stays where it is. That of an algorithm that compares with an average does not.
func TestNoDrift(t *testing.T) {
	ours := newServer(10, 20*time.Millisecond, 0.5)
	ours.run(t, time.Hour)
	theirs := newServer(10, 20*time.Millisecond, 0.5)
	g := &gradient2{limit: Initial}
	theirs.other = func(took time.Duration) {
		g.sample(took, theirs.now)
		theirs.limit.room.Store(int64(g.limit))
	}
	theirs.run(t, 10*time.Minute)
	early := g.limit
	theirs.run(t, 50*time.Minute)
	t.Logf("ten workers, an hour of overload: limit %d; with Gradient2 %.0f after ten minutes, %.0f after an hour", ours.limit.Current(), early, g.limit)
	if n := ours.limit.Current(); n > 20 {
		t.Errorf("limit %d", n)
	}
	if g.limit < 2*early {
		t.Errorf("with Gradient2 %v, then %v: the comparison shows nothing", early, g.limit)
	}
}

// TestFollows: from one capacity to any other within ten seconds.
func TestFollows(t *testing.T) {
	for _, from := range []int{3, 10, 50} {
		for _, to := range []int{3, 10, 50} {
			s := newServer(from, 20*time.Millisecond, 0)
			s.run(t, 20*time.Second)
			s.workers = to
			s.run(t, 10*time.Second)
			s.run(t, 5*time.Second)
			if n, share := s.limit.Current(), float64(s.answered)/(5/0.02*float64(to)); n > to*8/5+3 || share < 0.9 {
				t.Errorf("from %d to %d workers: limit %d, %.2f of their throughput", from, to, n, share)
			}
		}
	}
}

// TestSlowerIsNotFuller: answers that take five times as long as before, with any limit, are no queue.
func TestSlowerIsNotFuller(t *testing.T) {
	s := newServer(10, 20*time.Millisecond, 0)
	s.run(t, 20*time.Second)
	s.service = 100 * time.Millisecond
	s.run(t, 10*time.Second)
	s.run(t, 10*time.Second)
	if n, share := s.limit.Current(), float64(s.answered)/(10/0.1*10); n < 9 || n > 19 || share < 0.9 {
		t.Errorf("limit %d, %.2f of the throughput", n, share)
	}
}

// TestIdleSaysNothing: where few requests come, the limit stays where it was.
func TestIdleSaysNothing(t *testing.T) {
	s := newServer(10, 20*time.Millisecond, 0.5)
	s.wanted = 4
	s.run(t, time.Minute)
	if n := s.limit.Current(); n != 23 {
		t.Errorf("limit %d, want that of the beginning", n)
	}
	s.wanted = 0
	s.run(t, 20*time.Second)
	found := s.limit.center
	s.wanted = 4
	s.run(t, time.Minute)
	if math.Abs(s.limit.center-found) > 0.5*found {
		t.Errorf("limit %v, then %v", found, s.limit.center)
	}
}

// TestNoKnee: a backend that never queues gets as much as there is.
func TestNoKnee(t *testing.T) {
	s := newServer(1<<20, 20*time.Millisecond, 0)
	s.wanted = 3000
	s.run(t, 20*time.Second)
	if n := s.limit.Current(); n < 3000 {
		t.Errorf("limit %d, want room for 3000 requests", n)
	}
}

// TestSlowerIsNeverMore: of two backends that differ only in how much longer answers take with the upper limit than with the lower, the one with
// the larger difference has no larger limit.
func TestSlowerIsNeverMore(t *testing.T) {
	before := math.Inf(1)
	for _, slope := range []float64{0, 0.2, 0.4, 0.6, 0.8, 1, 1.2} {
		l := New()
		l.base, l.based, l.seeks, l.dips = math.Log(20e6), true, 0, math.MaxInt64
		down, up := bounds(l.center)
		low := measurement{latency: l.base, mean: 20e6}
		l.high = measurement{latency: l.base + slope*math.Log(float64(up)/float64(down)), mean: 20e6}
		l.compare(&low, 1)
		if l.center > before {
			t.Errorf("with a slope of %v the limit is %v, with less it was %v", slope, l.center, before)
		}
		before = l.center
	}
}

// TestLosses: a backend that refuses what it has no room for gets less, and one that refuses some requests anyway does not.
func TestLosses(t *testing.T) {
	epoch := time.Unix(1e9, 0)
	ask := func(l *Limit, lost func(room int64) bool) (average float64) {
		const steps = 40000
		for i := range steps {
			now := epoch.Add(time.Duration(i) * time.Millisecond)
			if room := l.Room().Load(); lost(room) {
				l.Lost(now)
			} else {
				l.Answered(20*time.Millisecond, room, true, now)
			}
			if i >= steps/2 {
				average += float64(l.Room().Load()) / (steps / 2)
			}
		}
		return average
	}
	random := rand.New(rand.NewPCG(3, 4))
	if n := ask(New(), func(room int64) bool { return random.Float64() < 1-12/float64(room) }); n > 20 {
		t.Errorf("limit %v for a backend that refuses all but 12", n)
	}
	if n := ask(New(), func(int64) bool { return random.Float64() < 0.3 }); n < 20 {
		t.Errorf("limit %v because of errors that do not depend on it", n)
	}
}

// TestStreams: they take no room from others, and are no reason to find the limit exercised.
func TestStreams(t *testing.T) {
	l := New()
	before := l.Room().Load()
	for range 100 {
		l.Begin()
	}
	if got := l.Room().Load(); got != before+100 {
		t.Errorf("room %d, want %d", got, before+100)
	}
	l.Forget()
	for range 100 {
		l.End()
	}
	if got := l.Room().Load(); got != before {
		t.Errorf("room %d after them, want %d", got, before)
	}
}

// TestOddSamples: nothing that a clock or a client can do breaks it.
func TestOddSamples(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		s := newServer(1, time.Millisecond, 0)
		now := time.Unix(1e9, 0)
		for range 2000 {
			took := time.Duration(math.Exp(random.Float64()*45)) - time.Microsecond
			now = now.Add(time.Duration(random.NormFloat64() * float64(time.Second)))
			switch random.IntN(12) {
			case 0:
				s.limit.Lost(now)
			case 1:
				if random.IntN(50) == 0 {
					s.limit.Forget()
				}
			default:
				s.limit.Answered(took, random.Int64N(100)-5, random.IntN(2) == 0, now)
			}
			s.check(t)
		}
	}
}

// TestCountingIsFree: counting an answer allocates nothing.
func TestCountingIsFree(t *testing.T) {
	l := New()
	now := time.Unix(1e9, 0)
	if n := testing.AllocsPerRun(10000, func() {
		now = now.Add(time.Millisecond)
		l.Answered(20*time.Millisecond, 20, true, now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAnswered(b *testing.B) {
	l := New()
	now := time.Now()
	for b.Loop() {
		now = now.Add(10 * time.Microsecond)
		l.Answered(20*time.Millisecond, 20, true, now)
	}
}
