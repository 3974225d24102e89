package exchange

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// timeout is a rule for the time that attempts may take.
func timeout(d time.Duration) func(*lab) { return func(l *lab) { l.plan.TryTimeout = d } }

// TestTryTimeout tries from when on and until when the time of an attempt counts.
func TestTryTimeout(t *testing.T) {
	const tooLate = "backend did not answer within try_timeout"
	goes(t, map[string]*way{
		"in time after a slow upload": {
			a: []script{says(40*ms, 200)}, rules: timeout(150 * ms), front: front{body: newBody(100*ms, nil, "a", "b", "c"), unsafe: true},
			seen: `200, "hello"`, took: 440 * ms, told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"too late after a slow upload": {
			a: []script{says(60*ms, 200)}, rules: timeout(150 * ms), front: front{body: newBody(100*ms, nil, "a", "b", "c"), unsafe: true},
			seen: "failed: " + tooLate, took: 450 * ms, told: "a:1 after 0: 0 " + tooLate, countA: onceFailed,
		},
		"with a body that has been collected": {
			a: []script{says(60*ms, 200)}, b: []script{echoes(0, 200)}, rules: timeout(50 * ms),
			front: front{body: newBody(0, nil, "hello"), whole: true}, seen: `200, "hello"`, took: 50 * ms,
			told: "a:1 after 0: 0 " + tooLate + "; b:1 after 1 for timeout: 200 <nil>", countA: failedAgain,
		},
		"while the upload goes on": {
			a: []script{fails(time.Second, 1, errReset)}, rules: timeout(50 * ms),
			front: front{body: newBody(100*ms, nil, "a", "b"), unsafe: true}, leave: 250 * ms,
			seen: "failed: context canceled", took: 250 * ms, told: "a:1 after 0: 0 context canceled", countA: onceIgnored,
		},
		"of a gRPC call there is none": {
			a: []script{says(200*ms, 200)}, rules: timeout(50 * ms), front: front{header: http.Header{"Content-Type": {"application/grpc"}}},
			seen: `200, "hello"`, took: 200 * ms, told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"answered when it was up": {
			a: []script{deaf(100*ms, 200)}, b: []script{says(0, 200)}, rules: timeout(50 * ms), seen: `200, "hello"`, took: 100 * ms,
			told: "a:1 after 0: 0 " + tooLate + "; b:1 after 1 for timeout: 200 <nil>", countA: failedAgain,
		},
		"the client leaves first": {
			a: []script{hangs()}, rules: timeout(50 * ms), leave: 40 * ms, seen: "failed: context canceled", took: 40 * ms,
			told: "a:1 after 0: 0 context canceled", countA: onceIgnored,
		},
		"an answer that takes long": {
			a: []script{streams(100*ms, 2, nil)}, rules: timeout(50 * ms), seen: `200, "part.part."`, took: 300 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
	})
}

// deaf answers in a while, whatever becomes of the attempt.
func deaf(d time.Duration, status int) script {
	return func(*http.Request) (*http.Response, error) {
		time.Sleep(d)
		return newAnswer(status, "late", nil), nil
	}
}

// reach has a check find that the backend at that position can be connected to, or not.
func (l *lab) reach(i int, err error) {
	v := l.current().View()
	pool.Observer{Member: v.Member(i)}.Observe(healthcheck.Result{Time: time.Now(), Err: err, Refused: err != nil})
}

// TestWaiting tries requests that wait for a backend.
func TestWaiting(t *testing.T) {
	const (
		refused  = "a:1 after 0: 0 connection refused; b:1 after 1 for connect: 0 connection refused"
		released = refused + "; a:1 after 2 for connect: 200 <nil>"
	)
	back := []script{refuses(ms), says(5*ms, 200)}
	goes(t, map[string]*way{
		"one is back in time": {
			a: back, b: []script{refuses(ms)},
			rules: func(l *lab) { time.AfterFunc(500*ms, func() { l.reach(0, nil) }) },
			seen:  `200, "hello"`, took: 505 * ms, told: released, countA: "0 ignored, 1 success, 1 failure, 1 again",
		},
		"one is back for the last look": {
			a: back, b: []script{refuses(ms)},
			rules: func(l *lab) { time.AfterFunc(1990*ms, func() { l.reach(0, nil) }) },
			seen:  `200, "hello"`, took: 1995 * ms, told: released, countA: "0 ignored, 1 success, 1 failure, 1 again",
		},
		"one is back too late": {
			a: back, b: []script{refuses(ms)},
			rules: func(l *lab) { time.AfterFunc(2010*ms, func() { l.reach(0, nil) }) },
			seen:  "refused: no backend is usable", took: 2002 * ms, told: refused, countA: failedAgain,
		},
		"the client leaves": {
			a: back, b: []script{refuses(ms)}, leave: 300 * ms,
			seen: "refused: no backend is usable", took: 300 * ms, told: refused, countA: failedAgain,
		},
		"another takes their place": {
			a: []script{refuses(ms)}, b: []script{refuses(ms)},
			rules: func(l *lab) {
				l.script("c:1", says(5*ms, 200))
				time.AfterFunc(300*ms, func() {
					l.mu.Lock()
					l.backends = []pool.Backend{l.backends[0], {Address: "c:1", Weight: 1}}
					l.mu.Unlock()
					l.open()
				})
			},
			seen: `200, "hello"`, took: 305 * ms, told: refused + "; c:1 after 2 for connect: 200 <nil>", countA: failedAgain,
		},
		"hold is off": {
			a: []script{refuses(ms)}, b: []script{refuses(ms)}, rules: func(l *lab) { l.rules.Hold = 0 },
			seen: "failed: connection refused", took: 2 * ms, told: refused, countA: failedAgain,
		},
		"the first checks have not ended": {
			b: []script{says(5*ms, 200)},
			rules: func(l *lab) {
				l.settings.Checked = true
				time.AfterFunc(300*ms, func() { l.reach(1, nil) })
			},
			seen: `200, "hello"`, took: 305 * ms, told: "b:1 after 0: 200 <nil>", countA: none,
		},
		"the first checks never end": {
			rules: func(l *lab) { l.settings.Checked = true },
			seen:  "refused: no backend has been checked yet", took: time.Second, countA: none,
		},
		"the client leaves before the first checks": {
			rules: func(l *lab) { l.settings.Checked = true }, leave: 300 * ms,
			seen: "refused: no backend has been checked yet", took: 300 * ms, countA: none,
		},
		"the words of reverse_proxy": {
			a: back, b: []script{refuses(ms)}, front: front{wanted: func(reason pool.RetryReason, _ *http.Response) bool { return reason == pool.RetryConnect }},
			rules: func(l *lab) {
				stockRules(time.Second, 250*ms)(l)
				time.AfterFunc(700*ms, func() { l.reach(0, nil) })
			},
			seen: `200, "hello"`, took: 705 * ms, told: released, countA: "0 ignored, 1 success, 1 failure, 1 again",
		},
	})
}

// client is one of several that ask at the same time.
type client struct {
	name  string
	at    time.Duration // when it asks
	leave time.Duration // when it leaves then; 0 if it does not
	seen  string
	took  time.Duration
}

// TestQueue tries requests that wait for the one slot that there is, for which each is served in 50 ms.
func TestQueue(t *testing.T) {
	const good = `200, "hello"`
	for name, test := range map[string]struct {
		size    int
		timeout time.Duration
		off     bool
		clients []client
		queued  uint64 // how many
	}{
		"in turn": {size: 9, timeout: time.Second, clients: []client{
			{at: 0, seen: good, took: 50 * ms}, {at: 1 * ms, seen: good, took: 99 * ms}, {at: 2 * ms, seen: good, took: 148 * ms},
		}, queued: 2},
		"one client after the other": {size: 9, timeout: time.Second, clients: []client{
			{at: 0, seen: good, took: 50 * ms}, {"x", 1 * ms, 0, good, 99 * ms}, {"x", 2 * ms, 0, good, 198 * ms}, {"y", 3 * ms, 0, good, 147 * ms},
		}, queued: 3},
		"the time is up": {size: 9, timeout: 30 * ms, clients: []client{
			{at: 0, seen: good, took: 50 * ms}, {at: 1 * ms, seen: "refused: " + pool.ErrQueueTimeout.Error(), took: 30 * ms},
			{at: 40 * ms, seen: good, took: 60 * ms},
		}, queued: 2},
		"it is full": {size: 1, timeout: time.Second, clients: []client{
			{at: 0, seen: good, took: 50 * ms}, {at: 1 * ms, seen: good, took: 99 * ms}, {at: 2 * ms, seen: "refused: " + pool.ErrQueueFull.Error()},
		}, queued: 2},
		"a client leaves": {size: 9, timeout: time.Second, clients: []client{
			{at: 0, seen: good, took: 50 * ms}, {at: 1 * ms, leave: 20 * ms, seen: "refused: context canceled", took: 20 * ms},
			{at: 2 * ms, seen: good, took: 98 * ms},
		}, queued: 2},
		"there is none": {off: true, clients: []client{
			{at: 0, seen: good, took: 50 * ms}, {at: 1 * ms, seen: "refused: " + pool.ErrFull.Error()},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 1)
				l.backends[0].MaxRequests = 1
				l.rules.Queue = course.QueueRules{On: !test.off, Size: test.size, Timeout: test.timeout}
				l.script("a:1", says(50*ms, 200))
				l.open()
				var all sync.WaitGroup
				for i, c := range test.clients {
					all.Go(func() {
						time.Sleep(c.at)
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						if c.leave > 0 {
							time.AfterFunc(c.leave, cancel)
						}
						f := &front{client: c.name}
						if o := l.run(ctx, f); f.seen() != c.seen || o.took != c.took {
							t.Errorf("client %d sees %s after %v; want %s after %v", i, f.seen(), o.took, c.seen, c.took)
						}
					})
				}
				all.Wait()
				if n := l.pool.Queued.Distribution().Count; n != test.queued {
					t.Errorf("%d requests have been in the queue, want %d", n, test.queued)
				}
				l.close()
			})
		})
	}
}

// TestSessions tries when the client is told which backend its session is bound to: with the answer, and only then.
func TestSessions(t *testing.T) {
	sessions := func(l *lab) { l.rules.Sessions, l.rules.BindSessions = true, true }
	bound := func(course.Members) (int, bool, bool) { return 1, true, true }
	free := func(course.Members) (int, bool, bool) { return 0, false, false }
	goes(t, map[string]*way{
		"a new one": {
			a: []script{says(ms, 200)}, rules: sessions, front: front{session: free},
			seen: `bound to a:1, renewed false, 200, "hello"`, took: ms, told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"an old one": {
			b: []script{says(ms, 200)}, rules: sessions, front: front{session: bound},
			seen: `bound to b:1, renewed true, 200, "hello"`, took: ms, told: "b:1 after 0: 200 <nil>", countA: none,
		},
		"after another attempt": {
			a: []script{says(ms, 200)}, b: []script{refuses(ms)}, rules: sessions, front: front{session: bound},
			seen: `bound to a:1, renewed false, 200, "hello"`, took: 2 * ms,
			told: "b:1 after 0: 0 connection refused; a:1 after 1 for connect: 200 <nil>", countA: onceGood,
		},
		"there is no answer": {
			a: []script{resets(ms)}, rules: sessions, front: front{session: free, unsafe: true},
			seen: "failed: connection reset", took: ms, told: "a:1 after 0: 0 connection reset", countA: onceFailed,
		},
	})
}

// TestOwnTarget tries a backend that is no member: a policy of others has come up with it.
func TestOwnTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.settings.Policy, l.rules.Foreign = nil, true
		l.script("own:1", says(ms, 200))
		f := &front{foreign: true}
		o := l.run(t.Context(), f)
		if got := o.trail(); got != "own:1 200 success" || f.seen() != `200, "hello"` {
			t.Errorf("attempts: %s; the client sees %s", got, f.seen())
		}
		if got := l.counted("own:1"); got != onceGood {
			t.Errorf("counted for members without their own counters: %s", got)
		}
		l.close()
	})
}

// TestLive tries what is known of a request while it is served.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		var seen []string
		look := func(then script) script {
			return func(r *http.Request) (*http.Response, error) {
				for _, v := range l.pool.Live.List(10, "") {
					seen = append(seen, fmt.Sprintf("%d: %s after %v", v.Attempts, v.Address, v.Tried))
				}
				return then(r)
			}
		}
		l.script("a:1", look(refuses(ms)))
		l.script("b:1", look(says(ms, 200)))
		o := l.run(t.Context(), &front{})
		want := []string{"1: a:1 after []", "2: b:1 after [a:1]"}
		if !slices.Equal(seen, want) || !slices.Equal(l.chosen, []string{"a:1", "b:1"}) || !slices.Equal(l.sent, l.chosen) {
			t.Errorf("%q, chosen %v, sent to %v; want %q", seen, l.chosen, l.sent, want)
		}
		if p := o.x.Passed(); p != http.StatusOK || o.x.Course().Attempts() != 2 {
			t.Errorf("passed %d after %d attempts", p, o.x.Course().Attempts())
		}
		l.close()
	})
}

// TestDrained ends a request at a backend whose time to drain is over.
func TestDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.script("a:1", hangs())
		time.AfterFunc(20*ms, func() { l.pool.Live.EndAt("a:1") })
		o := l.run(t.Context(), &front{})
		if cause := context.Cause(l.context()); !errors.Is(cause, pool.ErrDrained) || o.took != 20*ms || o.trail() != "a:1 0 ignored context canceled" {
			t.Errorf("%v after %v, attempts: %s", cause, o.took, o.trail())
		}
		l.close()
	})
}
