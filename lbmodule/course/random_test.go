package course

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestRandomCourses checks what is true of all courses, whatever the rules are and whatever happens.
func TestRandomCourses(t *testing.T) {
	const rounds = 3000
	seen := make(map[Do]int)
	for seed := range uint64(rounds) {
		w := newRandom(t, rand.New(rand.NewPCG(seed, 0)))
		w.run(seed, seen)
		if t.Failed() {
			return
		}
		for _, l := range w.lists {
			l.view.Close()
		}
	}
	for _, do := range []Do{Send, Wait, Queue, Give, Fail, Refuse} {
		if n := seen[do]; n < rounds/20 {
			t.Errorf("step %d was seen %d times in %d courses: they are not what they were made for", do, n, rounds)
		}
	}
}

// random is a world in which anything happens.
type random struct {
	*world
	r         *rand.Rand
	now       time.Time
	events    int // that are left
	notSent   int // attempts that found no connection
	overtaken int
}

// one has it be true in one of so many cases.
func (w *random) one(of int) bool { return w.r.IntN(of) == 0 }

// newRandom returns one with rules under which a course ends.
func newRandom(t *testing.T, r *rand.Rand) *random {
	w := &random{world: newWorld(t, 1+r.IntN(4)), r: r, events: 30}
	rules := &w.rules
	for i := range w.backends {
		b := &w.backends[i]
		b.MaxRequests, b.Backup, b.Unchecked = min(r.IntN(4), 2), r.IntN(4)/3, w.one(10)
		if w.one(8) {
			b.State = pool.State(r.IntN(4))
		}
	}
	if w.one(2) {
		w.settings.Breaker = consecutive(1 + r.IntN(3))
	}
	w.settings.DeadAfter, w.settings.ConnectionsOnly, w.settings.Checked = 1+r.IntN(3), w.one(5), w.one(5)
	rules.BreakerOff = w.settings.ConnectionsOnly
	rules.Hold = time.Duration(r.IntN(3)) * time.Second
	rules.Queue = QueueRules{On: w.one(2), Size: 2, Timeout: time.Second}
	rules.Retry.Attempts, rules.Retry.NonIdempotent = 1+r.IntN(4), w.one(2)
	rules.Retry.Base, rules.Retry.Max = 10*ms, 50*ms
	for i := range rules.Retry.On {
		rules.Retry.On[i] = !w.one(4)
	}
	if w.one(3) {
		noBudget(w.world)
	}
	switch r.IntN(8) {
	case 0:
		stays(r.IntN(len(w.backends)))(w.world)
	case 1:
		strictly(r.IntN(len(w.backends)))(w.world)
	case 2:
		rules.Foreign, w.settings.Policy = true, nil
		w.foreign = func(candidates []int) (int, Target) {
			if w.one(10) {
				return -1, target("own")
			}
			return candidates[r.IntN(len(candidates))], nil
		}
	case 3:
		rules.Breaker = &stockBreaker{opened: r.IntN(3), open: w.one(10)}
	}
	if w.one(3) {
		rules.Retry.Stock = &StockRetries{Duration: time.Duration(r.IntN(3)) * time.Second / 2, Interval: time.Duration(r.IntN(3)) * 50 * ms, Answers: w.one(2)}
		if rules.Retry.Waits() {
			rules.Hold = 0
			rules.Retry.Attempts = r.IntN(4)
		}
	}
	if w.one(3) && !rules.Foreign { // a policy that is not ours is not hedged
		hedged(w.world)
	}
	rules.UntilLastByte = w.one(3)
	rules.Passive = PassiveRules{On: w.one(3), Status: []int{5}}
	w.settings.Passive = pool.Passive{Span: 10 * time.Second, MaxFails: 2}
	w.quiet, w.notIdempotent, w.read, w.told = w.one(4), w.one(4), w.one(6), w.one(8)
	if w.one(6) {
		w.deadline = w.at(time.Duration(r.IntN(1000)) * ms)
	}
	w.start()
	w.now = w.began
	if w.one(3) {
		for _, b := range w.backends {
			for range b.MaxRequests {
				fills(b.Address)(w.world, w.now)
			}
		}
	}
	return w
}

// happens has a few things happen.
func (w *random) happens() {
	for w.events > 0 && w.one(2) {
		w.events--
		a := w.current.addresses[w.r.IntN(len(w.current.addresses))]
		member := w.current.view.Backend(w.current.Find(a))
		full := member.MaxRequests > 0 && w.pool.InFlight(a) >= int64(member.MaxRequests)
		switch w.r.IntN(9) {
		case 0:
			if !full {
				dies(a)(w.world, w.now)
			}
		case 1:
			if !full {
				returns(a)(w.world, w.now)
			}
		case 2:
			if !full {
				fills(a)(w.world, w.now)
			}
		case 3, 4:
			frees(a)(w.world, w.now)
		case 5:
			if !full {
				fails(a, 1)(w.world, w.now)
			}
		case 6:
			w.current.view.Refresh(w.now)
		case 7:
			w.err = nil
			if w.one(8) {
				w.err = errSource
			}
		case 8:
			w.r.Shuffle(len(w.backends), func(i, k int) { w.backends[i], w.backends[k] = w.backends[k], w.backends[i] })
			if len(w.backends) > 1 && w.one(2) {
				w.backends = w.backends[1:]
			} else {
				w.backends = append(slices.Clone(w.backends), pool.Backend{Address: "new" + string(rune('A'+w.events)), Weight: 1})
			}
			w.session = func() (int, bool, bool) { return w.r.IntN(len(w.current.addresses)), w.one(2), true }
			w.open()
		}
	}
}

// facts are how an attempt ends.
func (w *random) facts() Facts {
	f := Facts{
		Kind: Kind(w.r.IntN(4)), Took: time.Duration(10+w.r.IntN(50)) * ms, Gone: w.one(20), BodyFailed: w.one(20), ClientFault: w.one(20),
		Stream: w.one(4), Body: w.one(2), Known: !w.one(4),
	}
	if f.Known {
		f.Answered = f.Took
	}
	switch f.Kind {
	case Answered:
		f.Status = []int{200, 200, 404, 429, 500, 503}[w.r.IntN(6)]
		f.RetryAfter = w.one(5)
		if f.Status == 200 && w.one(3) {
			f.Call = NewCall(Message{Is: true, Timeout: "50m"}, &Message{Is: true, Status: []string{"", "0", "4", "14"}[w.r.IntN(4)]}, 200, f.Body, w.now.Sub(w.began))
		}
	case NotConnected:
		f.Unreachable = !w.one(4)
		f.NoDescriptors = w.one(10)
	default:
		f.Excused = f.Gone || w.one(10)
		f.Call.Excused = w.one(10)
	}
	w.now = w.now.Add(f.Took)
	return f
}

// next carries a step out and returns the one that follows.
func (w *random) next(s Step) Step {
	w.happens()
	switch s.Do {
	case Send:
		if copied, _, ok := w.course.Copy(w.now); ok && w.one(2) {
			w.copy(&copied)
		}
		f := w.facts()
		s = w.course.Ended(&f, w.now)
		if w.course.Lost() {
			w.notSent++
		}
		return s
	case Wait:
		switch wakes(w.world, w.now) {
		case "asleep":
			w.mustSleep()
			if w.one(20) {
				return w.course.Resume(Gone, w.now)
			}
			w.now = s.Until
			return w.course.Resume(Elapsed, w.now)
		default:
			return w.course.Resume(Signaled, w.now)
		}
	default:
		for range w.r.IntN(4) {
			w.happens()
			w.now = w.now.Add(ms)
			if err := w.course.Try(w.now); !errors.Is(err, pool.ErrFull) {
				return w.course.Queued(err, w.now)
			}
		}
		return w.course.Queued([]error{pool.ErrQueueFull, pool.ErrQueueTimeout, context.Canceled}[w.r.IntN(3)], w.now)
	}
}

// mustSleep checks that there is nothing that should have woken the request.
func (w *random) mustSleep() {
	p := w.course.phase
	if p != awaitingProbes && p != awaitingSource && p != holding && p != lookingLast {
		return
	}
	if w.course.members != w.current {
		w.t.Error("it sleeps though there is another list")
	}
	if w.rules.Breaker == nil && !w.rules.Strict && len(w.current.view.Snapshot().Eligible()) > 0 {
		w.t.Error("it sleeps although there is a backend to choose")
	}
}

// copy sends a copy.
func (w *random) copy(copied *Copy) {
	choice, ok := copied.Choose(w.now)
	if !ok {
		return
	}
	f := w.facts()
	switch w.r.IntN(3) {
	case 0:
		copied.Lost(&choice, &f, w.now)
		return
	case 1:
		w.course.CopyWon(nil, choice, f.Took, w.now)
	default:
		w.course.CopyWon(&f, choice, f.Took, w.now)
	}
	w.overtaken++
}

// run has a course go its way.
func (w *random) run(seed uint64, seen map[Do]int) {
	const most = 300 // steps
	s := w.course.Begin(w.now)
	for n := 1; ; n++ {
		w.step = s
		seen[s.Do]++
		if w.check(s); w.t.Failed() || n == most {
			w.t.Fatalf("seed %d, step %d: %+v; rules %+v", seed, n, s, w.rules)
		}
		if s.Do >= Give {
			break
		}
		s = w.next(s)
	}
	w.course.Rebind()
	if w.course.Call().Pending && w.one(2) {
		w.course.Streams(w.now)
	}
	e := Ending{Known: w.one(2)}
	if s.Do == Give {
		e.Broken = w.one(4)
		e.Complete = !e.Broken && w.one(2)
		e.Status = GRPC(w.r.IntN(int(OtherGRPC) + 1))
	}
	if w.end(e, w.now); w.t.Failed() {
		w.t.Fatalf("seed %d: %+v", seed, w.rules)
	}
}

// check checks what is true after each step.
func (w *random) check(s Step) {
	if ends := s.Do >= Give; ends != (w.course.phase == over) {
		w.t.Errorf("the course is in phase %d", w.course.phase)
	}
	if bound := w.rules.Retry.Attempts; bound > 0 && w.course.Attempts() > bound+w.notSent+w.overtaken {
		w.t.Errorf("there are %d attempts, of which %d were not sent", w.course.Attempts(), w.notSent)
	}
	if s.Do == Wait && !s.Until.After(w.now) {
		w.t.Errorf("waiting ends at %v, which is over", s.Until.Sub(w.now))
	}
	if (s.Do == Refuse) != (w.course.Refused() != nil) || (s.Do == Refuse) != (s.Err != nil) {
		w.t.Errorf("it is refused for %v and %v", s.Err, w.course.Refused())
	}
	if s.Do == Send && w.course.Choice().Target == nil || s.Do == Fail && w.course.Attempts() == 0 {
		w.t.Error("there is no attempt")
	}
	if most := map[Do]int{Wait: 1}[s.Do]; w.pool.Holding() > most {
		w.t.Errorf("%d requests are held", w.pool.Holding())
	}
	stay := 0
	for _, l := range w.lists {
		stay += l.stays
	}
	if stay < 0 || stay > 1 || s.Do == Give && stay > 0 {
		w.t.Errorf("lists are kept alive %d times", stay)
	}
	want, got := 0, int64(0)
	if w.course.Choice().Lease.Held() {
		want++
	}
	for _, leases := range w.held {
		want += len(leases)
	}
	for _, address := range w.addresses() {
		got += w.pool.InFlight(address)
	}
	if got != int64(want) {
		w.t.Errorf("there are %d requests in flight, want %d", got, want)
	}
	if now := w.course.Waited(); now < 0 || now > w.now.Sub(w.began) {
		w.t.Errorf("it has waited for %v of %v", now, w.now.Sub(w.began))
	}
	for _, i := range w.course.Tried() {
		if i < 0 || i >= w.course.Members().View().Len() {
			w.t.Errorf("tried is %v of %d members", w.course.Tried(), w.course.Members().View().Len())
		}
	}
}
