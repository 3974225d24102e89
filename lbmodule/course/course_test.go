package course

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const ms = time.Millisecond

var errSource = errors.New("source does not answer")

// target is the address of a backend, which is all that there is of it here.
type target string

func (t target) Address() string { return string(t) }

// list is a list of members over a view.
type list struct {
	view      *pool.View
	addresses []string
	first     chan struct{} // closed when another list is there
	second    chan struct{}
	stays     int
}

func (l *list) View() *pool.View                            { return l.view }
func (l *list) Target(position int) Target                  { return target(l.addresses[position]) }
func (l *list) Find(address string) int                     { return slices.Index(l.addresses, address) }
func (l *list) Superseded() (first, second <-chan struct{}) { return l.first, l.second }
func (l *list) Stay()                                       { l.stays++ }
func (l *list) Leave()                                      { l.stays-- }
func (w *world) Members(retry bool) (Members, error) {
	w.asked = append(w.asked, retry)
	return w.current, w.err
}
func (w *world) Quiet() bool                                    { return w.quiet }
func (w *world) ShadowKey() pool.Key                            { return w.key }
func (w *world) Key() pool.Key                                  { w.keys++; return w.key }
func (w *world) Session(Members) (position int, known, ok bool) { return w.session() }
func (w *world) Origin() pool.Origin                            { return pool.Origin{Client: 1, Target: 2} }
func (w *world) Client() string                                 { return "client" }
func (w *world) Idempotent() bool                               { return !w.notIdempotent }
func (w *world) Upgrade() bool                                  { return w.upgrade }
func (w *world) Rewindable() bool                               { return !w.read }
func (w *world) Rewind() bool                                   { return !w.read && !w.readOn }
func (w *world) EndInforming() bool                             { w.untold++; return !w.told }
func (w *world) Wanted(reason pool.RetryReason) bool            { return !slices.Contains(w.unwanted, reason) }
func (w *world) Deadline() (deadline time.Time, ok bool)        { return w.deadline, !w.deadline.IsZero() }
func (w *world) Foreign(_ Members, candidates []int) (int, Target) {
	w.offered = append(w.offered, slices.Clone(candidates))
	return w.foreign(candidates)
}

// world is what a course is in: the pool, and in one the [Source] and the [Request].
type world struct {
	t        testing.TB
	rules    Rules
	settings pool.Settings
	backends []pool.Backend

	pool    *pool.Pool
	lists   []*list // that there have been
	current *list   // that the source names
	err     error   // of the source
	quiet   bool
	asked   []bool // what the source was asked with

	key           pool.Key
	keys          int
	session       func() (position int, known, signed bool)
	notIdempotent bool
	upgrade       bool
	read          bool // the body cannot be sent once more
	readOn        bool // that is so only after it was asked
	told          bool // the client has been given a 1xx
	untold        int  // how often that was asked
	unwanted      []pool.RetryReason
	deadline      time.Time
	foreign       func(candidates []int) (int, Target)
	offered       [][]int

	began  time.Time
	course Course
	step   Step // the last one
	held   map[string][]pool.Lease

	copied     Copy
	copyChoice Choice
}

// newWorld returns one of backends a, b and so on, which are picked in that order, under rules that are the defaults of a load
// balancer.
func newWorld(t testing.TB, backends int) *world {
	w := &world{t: t, pool: new(pool.Registry).Acquire("pool"), held: make(map[string][]pool.Lease), began: time.Now()}
	for i := range backends {
		w.backends = append(w.backends, pool.Backend{Address: string(rune('a' + i)), Weight: 1})
	}
	w.settings = pool.Settings{Policy: balance.First{}}
	w.rules = Rules{Hold: 2 * time.Second, Retry: RetryRules{Attempts: 2, Budget: pool.BudgetSettings{Ratio: 0.2, PerSecond: 10}}}
	for _, reason := range []pool.RetryReason{pool.RetryConnect, pool.RetryReset, pool.RetryTimeout, pool.RetryStatus} {
		w.rules.Retry.On[reason] = true
	}
	for _, status := range []string{"502", "503", "504", "grpc:unavailable"} {
		w.rules.Retry.Statuses.Add(status)
		w.rules.Failures.Add(status)
	}
	w.session = func() (int, bool, bool) { return 0, false, false }
	return w
}

// open has the source name another list, of the backends as they are now.
func (w *world) open() *list {
	l := &list{view: w.pool.Open(w.backends, w.settings), first: make(chan struct{}), second: make(chan struct{})}
	for _, b := range w.backends {
		l.addresses = append(l.addresses, b.Address)
	}
	if w.current != nil {
		close(w.current.first)
	}
	w.lists = append(w.lists, l)
	w.current = l
	w.t.Cleanup(l.view.Close)
	return l
}

// start makes the course, unless there is one.
func (w *world) start() {
	if w.current == nil {
		w.open()
	}
	if w.course.rules == nil {
		w.course = Course{}
		w.course.Init(&w.rules, w.pool, w, w)
	}
}

func (w *world) at(offset time.Duration) time.Time { return w.began.Add(offset) }

// addresses are those of all backends that there have been.
func (w *world) addresses() (all []string) {
	for _, l := range w.lists {
		all = append(all, l.addresses...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// member is the member of that address.
func (w *world) member(address string) *pool.Member { return w.pool.Member(address) }

// lease takes a slot on that backend for another request.
func (w *world) lease(address string) pool.Lease {
	w.t.Helper()
	l, ok := w.current.view.AcquireMember(w.current.Find(address))
	if !ok {
		w.t.Fatalf("%s is full", address)
	}
	return l
}

// move is something that happens so long after the request came, and what is to follow.
type move struct {
	at   time.Duration
	do   func(w *world, now time.Time) string
	want string
}

// play has a course go through these moves, and ends it.
func (w *world) play(moves ...move) {
	w.t.Helper()
	w.start()
	last := time.Duration(0)
	for i, m := range moves {
		if got := m.do(w, w.at(m.at)); got != m.want {
			w.t.Fatalf("move %d at %v: got %q, want %q", i, m.at, got, m.want)
		}
		last = m.at
	}
	w.end(Ending{Complete: true}, w.at(last))
}

// end ends the course and checks that nothing is left of it.
func (w *world) end(e Ending, now time.Time) Result {
	w.t.Helper()
	result := w.course.End(e, now)
	for _, leases := range w.held {
		for i := range leases {
			leases[i].Release()
		}
	}
	clear(w.held)
	for _, address := range w.addresses() {
		if n := w.pool.InFlight(address); n != 0 {
			w.t.Errorf("%s has %d requests when the course has ended", address, n)
		}
	}
	if n := w.pool.Holding(); n != 0 {
		w.t.Errorf("%d requests are held when the course has ended", n)
	}
	for i, l := range w.lists {
		if l.stays != 0 {
			w.t.Errorf("list %d is kept alive %d times when the course has ended", i, l.stays)
		}
	}
	return result
}

// show returns a step as the tests write it.
func (w *world) show(s Step) string {
	w.step = s
	switch s.Do {
	case Send:
		text := "send " + w.course.Choice().Target.Address()
		if s.Again {
			text += " again for " + s.Reason.String()
		}
		return text
	case Wait:
		word := "wait"
		if s.Wake == [3]<-chan struct{}{} {
			word = "pause"
		}
		return fmt.Sprint(word, " until ", s.Until.Sub(w.began))
	case Queue:
		return fmt.Sprint("queue of ", s.Size, " for ", s.Timeout)
	case Give:
		return "give"
	case Fail:
		return "fail"
	default:
		return "refuse: " + s.Err.Error()
	}
}

func begin(w *world, now time.Time) string { return w.show(w.course.Begin(now)) }

func ended(f Facts) func(*world, time.Time) string {
	return func(w *world, now time.Time) string { return w.show(w.course.Ended(&f, now)) }
}

func resume(why Woken) func(*world, time.Time) string {
	return func(w *world, now time.Time) string { return w.show(w.course.Resume(why, now)) }
}

func queuedWith(err error) func(*world, time.Time) string {
	return func(w *world, now time.Time) string { return w.show(w.course.Queued(err, now)) }
}

// tries is that the request's turn has come in the queue.
func tries(w *world, now time.Time) string {
	if err := w.course.Try(now); err != nil {
		return err.Error()
	}
	return "chose " + w.course.Choice().Target.Address()
}

// wakes reports whether what was waited for has happened.
func wakes(w *world, _ time.Time) string {
	for i, wake := range w.step.Wake {
		select {
		case <-wake:
			return fmt.Sprint("woken by ", i)
		default:
		}
	}
	return "asleep"
}

// act is something that happens elsewhere.
func act(f func(w *world, now time.Time)) func(*world, time.Time) string {
	return func(w *world, now time.Time) string {
		f(w, now)
		return ""
	}
}

// dies has no connection be made any more to these backends.
func dies(addresses ...string) func(*world, time.Time) string {
	return act(func(w *world, now time.Time) {
		for _, a := range addresses {
			l := w.lease(a)
			l.Judge(pool.Verdict{Outcome: pool.Failure, Refused: true}, now)
			l.Release()
			w.current.view.Lose([]int{w.current.Find(a)}, now)
		}
	})
}

// returns has connections be made again.
func returns(address string) func(*world, time.Time) string {
	return act(func(w *world, now time.Time) {
		l := w.lease(address)
		l.Judge(pool.Verdict{Outcome: pool.Success}, now)
		l.Release()
	})
}

// fills takes a slot on these backends.
func fills(addresses ...string) func(*world, time.Time) string {
	return act(func(w *world, _ time.Time) {
		for _, a := range addresses {
			w.held[a] = append(w.held[a], w.lease(a))
		}
	})
}

// frees gives all of them back.
func frees(address string) func(*world, time.Time) string {
	return act(func(w *world, _ time.Time) {
		for i := range w.held[address] {
			w.held[address][i].Release()
		}
		delete(w.held, address)
	})
}

// becomes has the source name another list, of these backends.
func becomes(addresses ...string) func(*world, time.Time) string {
	return act(func(w *world, _ time.Time) {
		w.backends = nil
		for _, a := range addresses {
			w.backends = append(w.backends, pool.Backend{Address: a, Weight: 1})
		}
		w.open()
	})
}

// holds is how many requests wait for a dead backend, and for how many the current list is kept alive.
func holds(w *world, _ time.Time) string {
	return fmt.Sprint(w.pool.Holding(), " held, ", w.current.stays, " stay")
}

// Facts of attempts.

func answer(status int) Facts {
	return Facts{Kind: Answered, Status: status, Took: 10 * ms, Answered: 10 * ms, Known: true}
}

func failure(kind Kind) Facts {
	return Facts{Kind: kind, Took: 10 * ms, Answered: 10 * ms, Known: true}
}

func refusal() Facts {
	return Facts{Kind: NotConnected, Unreachable: true, Took: ms, Answered: ms, Known: true}
}

// with returns the facts changed.
func (f Facts) with(change func(f *Facts)) Facts {
	change(&f)
	return f
}

// stockBreaker is a circuit breaker of reverse_proxy.
type stockBreaker struct {
	open     bool
	opened   int // how often it still says that it is open
	statuses []int
}

func (b *stockBreaker) OK() bool {
	b.opened--
	return !b.open && b.opened < 0
}

func (b *stockBreaker) RecordMetric(status int, _ time.Duration) {
	b.statuses = append(b.statuses, status)
}

// consecutive are the settings of a breaker that opens after so many failures.
func consecutive(n int) breaker.Settings {
	return breaker.Settings{ConsecutiveFailures: n, Open: time.Minute, MaxOpen: time.Minute, Probes: 1, ProbeTimeout: time.Minute}
}
