package course

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// scripts runs each of these cases in a world of two backends.
func scripts(t *testing.T, cases []script) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 2)
			if c.given != nil {
				c.given(w)
			}
			w.play(c.moves...)
		})
	}
}

// script is a course: what is given, and what happens.
type script struct {
	name  string
	given func(w *world)
	moves []move
}

// caps gives all backends room for one request.
func caps(w *world) {
	for i := range w.backends {
		w.backends[i].MaxRequests = 1
	}
}

func queue(w *world) { w.rules.Queue = QueueRules{On: true, Size: 5, Timeout: time.Second} }

const (
	noneUsable  = "no backend is usable"
	noneChecked = "no backend has been checked yet"
	allFull     = "all usable backends are at max_requests"
	sessionGone = "the backend of the session is not usable"
	sessionFull = "the backend of the session is at max_requests"
)

func TestFirstChoice(t *testing.T) {
	scripts(t, []script{
		{"somebody is there", nil, []move{{0, begin, "send a"}, {5 * ms, ended(answer(200)), "give"}}},
		{"the source does not answer", func(w *world) { w.err = errSource }, []move{{0, begin, "refuse: source does not answer"}}},
		{"nobody is there", func(w *world) { w.backends = nil }, []move{{0, begin, "refuse: " + noneUsable}}},
		{"the breaker of all is open", func(w *world) { w.rules.Breaker = &stockBreaker{open: true} }, []move{{0, begin, "refuse: " + noneUsable}}},
		{"all are full", caps, []move{{0, fills("a", "b"), ""}, {0, begin, "refuse: " + allFull}}},
		{"one is full", caps, []move{{0, fills("a"), ""}, {0, begin, "send b"}, {0, ended(answer(200)), "give"}}},
		{"the queue takes it", func(w *world) { caps(w); queue(w) }, []move{
			{0, fills("a", "b"), ""},
			{0, begin, "queue of 5 for 1s"},
			{1 * ms, tries, allFull},
			{2 * ms, frees("b"), ""},
			{3 * ms, tries, "chose b"},
			{3 * ms, queuedWith(nil), "send b"},
			{9 * ms, ended(answer(200)), "give"},
		}},
		{"the queue is full", func(w *world) { caps(w); queue(w) }, []move{
			{0, fills("a", "b"), ""}, {0, begin, "queue of 5 for 1s"}, {0, queuedWith(pool.ErrQueueFull), "refuse: " + pool.ErrQueueFull.Error()},
		}},
		{"all die while it queues", func(w *world) { caps(w); queue(w) }, []move{
			{0, fills("a", "b"), ""},
			{0, begin, "queue of 5 for 1s"},
			{500 * ms, frees("a"), ""},
			{500 * ms, frees("b"), ""},
			{500 * ms, dies("a", "b"), ""},
			{500 * ms, tries, noneUsable},
			{500 * ms, queuedWith(pool.ErrNone), "wait until 2.4s"},
			{600 * ms, returns("b"), ""},
			{600 * ms, resume(Signaled), "send b"},
		}},
		{"somebody is back before it is out of the queue", func(w *world) { caps(w); queue(w) }, []move{
			{0, fills("a", "b"), ""}, {0, begin, "queue of 5 for 1s"}, {5 * ms, frees("a"), ""}, {5 * ms, queuedWith(pool.ErrNone), "send a"},
		}},
		{"the source fails while it queues", func(w *world) { caps(w); queue(w) }, []move{
			{0, fills("a", "b"), ""},
			{0, begin, "queue of 5 for 1s"},
			{1 * ms, act(func(w *world, _ time.Time) { w.err = errSource }), ""},
			{1 * ms, tries, "source does not answer"},
			{1 * ms, queuedWith(errSource), "refuse: source does not answer"},
		}},
	})
}

// TestNobodyOvertakes checks that a new request does not overtake the queue, even if there is a free slot.
func TestNobodyOvertakes(t *testing.T) {
	for _, c := range []struct {
		queue, strict bool
		want          string
	}{
		{true, false, "queue of 5 for 1s"},
		{true, true, "send a"},   // it has nothing to do with a queue for any backend
		{false, false, "send a"}, // the queued requests had to wait for a backend
	} {
		w := newWorld(t, 1)
		w.rules.Queue = QueueRules{On: c.queue, Size: 5, Timeout: time.Second}
		w.rules.Sessions, w.rules.BindSessions, w.rules.Strict = c.strict, c.strict, c.strict
		waits(t, w, func() { w.play(move{0, begin, c.want}) })
	}
}

// waits has another request wait in the queue while f runs.
func waits(t *testing.T, w *world, f func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() { _ = w.pool.Wait(ctx, "other", 5, time.Minute, func() error { return pool.ErrFull }) })
	for deadline := time.Now().Add(time.Minute); w.pool.QueueLength() == 0 && time.Now().Before(deadline); {
		time.Sleep(ms)
	}
	f()
	cancel()
	others.Wait()
}

// stays is a session that is bound to the backend at that position.
func stays(at int) func(*world) {
	return func(w *world) {
		w.rules.Sessions, w.rules.BindSessions = true, true
		w.session = func() (int, bool, bool) { return at, true, true }
	}
}

func strictly(at int) func(*world) {
	return func(w *world) {
		stays(at)(w)
		w.rules.Strict = true
	}
}

// drains has that backend get no new requests.
func drains(at int, w *world) { w.backends[at].State = pool.Draining }

// rebinds returns what the client is informed of about its session.
func rebinds(w *world, _ time.Time) string {
	at, renew, ok := w.course.Rebind()
	return fmt.Sprint(at, " renew ", renew, " ", ok, " ", w.pool.Rebound())
}

func TestSessions(t *testing.T) {
	scripts(t, []script{
		{"there is none", func(w *world) { w.rules.Sessions, w.rules.BindSessions = true, true }, []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "0 renew false true 0"},
		}},
		{"it is bound", stays(1), []move{{0, begin, "send b"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "1 renew true true 0"}}},
		{"the policy keeps none", func(w *world) { stays(1)(w); w.rules.Sessions, w.rules.BindSessions = false, false }, []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "0 renew false false 0"},
		}},
		{"its backend drains", func(w *world) { stays(1)(w); drains(1, w) }, []move{{0, begin, "send b"}}},
		{"its backend is full", func(w *world) { stays(1)(w); caps(w) }, []move{
			{0, fills("b"), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "0 renew false false 0"},
		}},
		{"its backend is dead", stays(1), []move{
			{0, dies("b"), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "0 renew false true 1"},
		}},
		{"its backend is not in the list", func(w *world) { stays(0)(w); w.session = func() (int, bool, bool) { return 0, false, true } }, []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "0 renew false true 1"},
		}},
		{"its backend fails", stays(1), []move{
			{0, begin, "send b"}, {1 * ms, ended(answer(503)), "send a again for status"}, {2 * ms, ended(answer(200)), "give"}, {2 * ms, rebinds, "0 renew false true 1"},
		}},
		{"its backend is taken out meanwhile", func(w *world) {
			stays(1)(w)
			find := w.session
			w.session = func() (int, bool, bool) {
				_, known, signed := find()
				return w.current.Find("b"), known && w.current.Find("b") >= 0, signed
			}
		}, []move{
			{0, begin, "send b"},
			{1 * ms, becomes("c"), ""},
			{1 * ms, dies("c"), ""},
			{1 * ms, ended(answer(503)), "give"},
			{1 * ms, rebinds, "0 renew false false 0"},
		}},
		{"strict", strictly(1), []move{{0, begin, "send b"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, rebinds, "1 renew true true 0"}}},
		{"strict and new", func(w *world) { w.rules.Sessions, w.rules.BindSessions, w.rules.Strict = true, true, true }, []move{{0, begin, "send a"}}},
		{"strict and full", func(w *world) { strictly(1)(w); caps(w); queue(w) }, []move{{0, fills("b"), ""}, {0, begin, "refuse: " + sessionFull}}},
		{"strict and not in the list", func(w *world) {
			strictly(1)(w)
			w.session = func() (int, bool, bool) { return 0, false, true }
		}, []move{{0, begin, "refuse: " + sessionGone}}},
		{"strict and drained", func(w *world) { strictly(1)(w); w.backends[1].State = pool.Drained }, []move{{0, begin, "refuse: " + sessionGone}}},
		{"strict and dead", strictly(1), []move{
			{-1000 * ms, dies("b"), ""},
			{0, begin, "wait until 900ms"},
			{0, holds, "1 held, 1 stay"},
			{100 * ms, returns("b"), ""},
			{100 * ms, wakes, "woken by 0"},
			{100 * ms, resume(Signaled), "send b"},
		}},
		{"strict and dead for long", strictly(1), []move{{-2000 * ms, dies("b"), ""}, {0, begin, "refuse: " + sessionGone}}},
		{"strict and fails", strictly(1), []move{{0, begin, "send b"}, {1 * ms, ended(failure(Broken)), "send b again for reset"}}},
		{"strict and cannot be reached", strictly(1), []move{{0, begin, "send b"}, {1 * ms, ended(refusal()), "wait until 1.901s"}}},
	})
}

func TestForeignPolicy(t *testing.T) {
	last := func(candidates []int) (int, Target) { return candidates[len(candidates)-1], nil }
	foreign := func(choose func([]int) (int, Target)) func(*world) {
		return func(w *world) {
			w.settings.Policy, w.rules.Foreign, w.foreign = nil, true, choose
		}
	}
	offered := func(w *world, _ time.Time) string { return fmt.Sprint(w.offered) }
	scripts(t, []script{
		{"it chooses", foreign(last), []move{{0, begin, "send b"}, {0, offered, "[[0 1]]"}}},
		{"it passes over the full", func(w *world) { foreign(last)(w); caps(w) }, []move{{0, fills("b"), ""}, {0, begin, "send a"}, {0, offered, "[[0 1] [0]]"}}},
		{"all are full", func(w *world) { foreign(last)(w); caps(w) }, []move{{0, fills("a", "b"), ""}, {0, begin, "refuse: " + allFull}}},
		{"it chooses none", foreign(func([]int) (int, Target) { return -1, nil }), []move{{0, begin, "refuse: " + allFull}}},
		{"it has a backend of its own", foreign(func([]int) (int, Target) { return -1, target("own") }), []move{
			{0, begin, "send own"},
			{1 * ms, ended(refusal()), "send own again for connect"}, // the policy may choose it again
			{2 * ms, ended(refusal()), "fail"},
		}},
		{"it is asked about others first", foreign(last), []move{
			{0, begin, "send b"}, {1 * ms, ended(failure(Broken)), "send a again for reset"}, {1 * ms, offered, "[[0 1] [0]]"},
		}},
		{"it is asked about those that failed if there are no others", all(foreign(last), alone), []move{{0, begin, "send a"}, {1 * ms, ended(failure(Broken)), "send a again for reset"}}},
		{"it insists on one that is full", func(w *world) { foreign(func([]int) (int, Target) { return 1, nil })(w); caps(w) }, []move{
			{0, fills("b"), ""}, {0, begin, "refuse: " + allFull},
		}},
		{"all are dead", func(w *world) { foreign(last)(w); w.rules.Hold = 0 }, []move{{0, dies("a", "b"), ""}, {0, begin, "refuse: " + noneUsable}, {0, offered, "[]"}}},
		{"none is checked", func(w *world) { foreign(last)(w); w.settings.Checked = true }, []move{{0, begin, "wait until 1s"}}},
	})
}

// TestTriedMoves checks that the backends that a request has been to are still known when there is another list.
func TestTriedMoves(t *testing.T) {
	tried := func(w *world, _ time.Time) string { return fmt.Sprint(w.course.Tried()) }
	w := newWorld(t, 3)
	w.rules.Retry.Attempts = 0
	w.play(
		move{0, begin, "send a"},
		move{1 * ms, ended(failure(Broken)), "send b again for reset"},
		move{1 * ms, tried, "[0]"},
		move{2 * ms, becomes("d", "b", "a"), ""},
		move{3 * ms, ended(failure(Broken)), "send d again for reset"},
		move{3 * ms, tried, "[2 1]"},
		move{3 * ms, becomes("a", "e"), ""},
		move{4 * ms, ended(failure(Broken)), "send e again for reset"},
		move{4 * ms, tried, "[0]"},
	)
	if want := []bool{false, true, true, true}; !slices.Equal(w.asked, want) {
		t.Errorf("source was asked with %v, want %v", w.asked, want)
	}
}

// TestKey checks that the request is asked for its key once, and only where the policy goes by one.
func TestKey(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		w := newWorld(t, 2)
		w.rules.Keyed = keyed
		w.key = pool.Key{Hash: 1, Known: true}
		w.play(move{0, begin, "send a"}, move{1 * ms, ended(failure(Broken)), "send b again for reset"})
		if want := map[bool]int{true: 1}[keyed]; w.keys != want {
			t.Errorf("keyed %v: request was asked for its key %d times, want %d", keyed, w.keys, want)
		}
	}
}

func TestRefusalOf(t *testing.T) {
	for err, want := range map[error]pool.Refusal{
		pool.ErrNone: pool.RefusedNoBackend, pool.ErrHeld: pool.RefusedNoBackend, pool.ErrFull: pool.RefusedLimit,
		pool.ErrQueueFull: pool.RefusedQueueFull, pool.ErrQueueTimeout: pool.RefusedQueueTimeout,
		ErrSessionGone: pool.RefusedSession, ErrSessionFull: pool.RefusedSession, pool.ErrDrained: pool.RefusedDrained,
		pool.ErrDismissed: pool.RefusedShutdown, errors.New("no such host"): pool.RefusedSource,
	} {
		if got := RefusalOf(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v is counted as %v, want %v", err, got, want)
		}
	}
}
