package exchange

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// outcome is what became of a request.
type outcome struct {
	x        *Exchange
	err      error
	panicked any
	took     time.Duration
}

// run carries a request through its course, whose client leaves when ctx is done.
func (l *lab) run(ctx context.Context, f *front) (o outcome) {
	f.lab = l
	l.mu.Lock()
	first := len(l.lists) == 0
	l.mu.Unlock()
	if first {
		l.open()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	l.ctx = ctx
	l.mu.Unlock()
	f.reads.cancel = func() { cancel(context.Canceled) }
	o.x = new(Exchange)
	o.x.Init(&l.plan, l, f, new(Record))
	l.pool.Live.Add(&o.x.Live, cancel, time.Now())
	start := time.Now()
	defer func() {
		o.took = time.Since(start)
		o.panicked = recover()
	}()
	o.err = o.x.Run(ctx, start)
	return o
}

// trail is what there is to tell of the attempts of a request.
func (o *outcome) trail() string {
	var all []string
	for _, a := range o.x.Trail() {
		text := fmt.Sprintf("%s %d %v", a.Address, a.Status, a.outcome)
		if a.Call != 0 {
			text += " " + a.Call.String()
		}
		if a.Err != nil {
			text += " " + a.Err.Error()
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// counted is what was counted of the attempts on a backend: those that ended in each way, and how many were made again.
func (l *lab) counted(address string) string {
	c := l.pool.TrafficOf(address).Counts()
	return fmt.Sprintf("%d ignored, %d success, %d failure, %d again", c.Ended[pool.Ignored], c.Ended[pool.Success], c.Ended[pool.Failure], c.Retried)
}

// way is one way that a request goes.
type way struct {
	a, b  []script // what the backends do
	rules func(l *lab)
	front front
	leave time.Duration // when the client leaves; 0 if it does not

	seen   string        // by the client
	took   time.Duration // until all was over; less than 0 if chance has a say
	told   string        // to the observer
	countA string        // of the attempts on the first backend
	bytesA *[2]uint64    // of the bodies of requests and answers there; nil if any
}

const (
	onceGood    = "0 ignored, 1 success, 0 failure, 0 again"
	onceIgnored = "1 ignored, 0 success, 0 failure, 0 again"
	onceFailed  = "0 ignored, 0 success, 1 failure, 0 again"
	failedAgain = "0 ignored, 0 success, 1 failure, 1 again"
)

// goes tries each way in virtual time.
func goes(t *testing.T, ways map[string]*way) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.script("a:1", way.a...)
				l.script("b:1", way.b...)
				if way.rules != nil {
					way.rules(l)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if way.leave > 0 {
					time.AfterFunc(way.leave, cancel)
				}
				f := &way.front
				o := l.run(ctx, f)
				if got := f.seen(); got != way.seen {
					t.Errorf("the client sees %s; want %s", got, way.seen)
				}
				if o.took != way.took && way.took >= 0 {
					t.Errorf("all was over after %v, want %v", o.took, way.took)
				}
				synctest.Wait()
				if got := l.told(); got != way.told {
					t.Errorf("the observer is told %s; want %s", got, way.told)
				}
				if got := l.counted("a:1"); got != way.countA {
					t.Errorf("counted of a:1: %s; want %s", got, way.countA)
				}
				counts := l.pool.TrafficOf("a:1").Counts()
				if got := [2]uint64{counts.BytesIn, counts.BytesOut}; way.bytesA != nil && got != *way.bytesA {
					t.Errorf("bytes in and out of a:1: %v; want %v", got, *way.bytesA)
				}
				if o.panicked != nil && !way.front.reads.panics {
					t.Errorf("panic: %v", o.panicked)
				}
				l.close()
			})
		})
	}
}

// TestWays tries the courses of a request: answered, retried, failed.
func TestWays(t *testing.T) {
	good := []script{says(5*ms, 200)}
	goes(t, map[string]*way{
		"answered": {
			a: good, seen: `200, "hello"`, took: 5 * ms, told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"answered without a body": {
			a:    []script{with(says(5*ms, 204), func(res *http.Response) { res.Body = http.NoBody })},
			seen: `204, ""`, took: 5 * ms, told: "a:1 after 0: 204 <nil>", countA: onceGood,
		},
		"refused, then answered": {
			a: []script{refuses(ms)}, b: good, seen: `200, "hello"`, took: 6 * ms,
			told: "a:1 after 0: 0 connection refused; b:1 after 1 for connect: 200 <nil>", countA: failedAgain,
		},
		"reset, then answered": {
			a: []script{resets(ms)}, b: good, seen: `200, "hello"`, took: 6 * ms,
			told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
		},
		"reset, and not to be made again": {
			a: []script{resets(ms)}, front: front{unsafe: true}, seen: "failed: connection reset", took: ms,
			told: "a:1 after 0: 0 connection reset", countA: onceFailed,
		},
		"refused, and not idempotent": {
			a: []script{refuses(ms)}, b: good, front: front{unsafe: true}, seen: `200, "hello"`, took: 6 * ms,
			told: "a:1 after 0: 0 connection refused; b:1 after 1 for connect: 200 <nil>", countA: failedAgain,
		},
		"out of descriptors": {
			a: []script{fails(ms, 0, errDescriptors)}, seen: "failed: too many open files", took: ms,
			told: "a:1 after 0: 0 too many open files", countA: onceIgnored,
		},
		"out of a body that another attempt has": {
			a: []script{fails(ms, 0, fmt.Errorf("write: %w", ErrBodyTaken))}, front: front{unsafe: true}, seen: "failed: write: request body belongs to another attempt", took: ms,
			told: "a:1 after 0: 0 write: request body belongs to another attempt", countA: onceIgnored,
		},
		"too slow, then answered": {
			a: []script{hangs()}, b: good, rules: func(l *lab) { l.plan.TryTimeout = 100 * ms }, seen: `200, "hello"`, took: 105 * ms,
			told: "a:1 after 0: 0 backend did not answer within try_timeout; b:1 after 1 for timeout: 200 <nil>", countA: failedAgain,
		},
		"a status, then answered": {
			a: []script{says(ms, 503)}, b: good, seen: `200, "hello"`, took: 6 * ms,
			told: "a:1 after 0: 503 <nil>; b:1 after 1 for status: 200 <nil>", countA: failedAgain,
		},
		"a status twice": {
			a: []script{says(ms, 503)}, b: []script{saysBody(5*ms, 502, "bad", nil)}, seen: `502, "bad"`, took: 6 * ms,
			told: "a:1 after 0: 503 <nil>; b:1 after 1 for status: 502 <nil>", countA: failedAgain,
		},
		"a status that the budget does not allow to repeat": {
			a: []script{says(ms, 503)}, rules: func(l *lab) { l.rules.Retry.Budget = pool.BudgetSettings{} }, seen: `503, "hello"`, took: ms,
			told: "a:1 after 0: 503 <nil>", countA: onceFailed,
		},
		"overload": {
			a: []script{header(says(ms, 503), "Retry-After", "1")}, b: good, seen: `200, "hello"`, took: 6 * ms,
			told: "a:1 after 0: 503 <nil>; b:1 after 1 for status: 200 <nil>", countA: "1 ignored, 0 success, 0 failure, 1 again",
		},
		"a status, and overload": {
			a: []script{says(ms, 503)}, b: []script{header(says(5*ms, 503), "Retry-After", "1")}, seen: `503, "hello"`, took: 6 * ms,
			told: "a:1 after 0: 503 <nil>; b:1 after 1 for status: 503 <nil>", countA: failedAgain,
		},
		"as the words of reverse_proxy say": {
			a: []script{says(ms, 404)}, b: good, rules: stockRules(time.Second, 250*ms), seen: `200, "hello"`, took: 256 * ms,
			front: front{wanted: wantsStatus(404)},
			told:  "a:1 after 0: 404 <nil>; b:1 after 1 for status: 200 <nil>", countA: "0 ignored, 1 success, 0 failure, 1 again",
		},
		"the source names nobody": {
			rules: func(l *lab) { l.failure = errReset }, seen: "refused: connection reset", countA: none,
		},
		"the front cannot make the request": {
			front: front{fails: map[int]error{1: errBroken}}, seen: "failed: unexpected end", countA: "0 ignored, 0 success, 0 failure, 0 again",
		},
		"the front cannot make the second": {
			a: []script{refuses(ms)}, front: front{fails: map[int]error{2: errBroken}}, seen: "failed: unexpected end", took: ms,
			told: "a:1 after 0: 0 connection refused", countA: failedAgain,
		},
	})
}

// TestDropped looks at the answer that is dropped while the next attempt is made.
func TestDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.script("a:1", says(ms, 503))
		l.script("b:1", func(r *http.Request) (*http.Response, error) {
			if n := l.pool.InFlight("a:1"); n != 0 || l.answers[0].closed != 1 {
				t.Errorf("the first backend has %d requests, its answer was closed %d times", n, l.answers[0].closed)
			}
			return says(ms, 200)(r)
		})
		l.run(t.Context(), &front{})
		l.close()
	})
}

// stockRules are those of lb_try_duration and lb_try_interval.
func stockRules(duration, interval time.Duration) func(*lab) {
	return func(l *lab) {
		l.rules.Hold = 0
		l.rules.Retry.Attempts = 0
		l.rules.Retry.Stock = newStock(duration, interval)
	}
}

// TestClientLeaves tries what is recorded of a request whose client leaves, at each stage.
func TestClientLeaves(t *testing.T) {
	goes(t, map[string]*way{
		"while the backend thinks": {
			a: []script{hangs()}, leave: 20 * ms, seen: "failed: context canceled", took: 20 * ms,
			told: "a:1 after 0: 0 context canceled", countA: onceIgnored,
		},
		"and the transport tells of something else": {
			a: []script{func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, errReset
			}}, leave: 20 * ms, seen: "failed: connection reset", took: 20 * ms,
			told: "a:1 after 0: 0 connection reset", countA: onceIgnored,
		},
		"while the answer comes": {
			a: []script{streams(10*ms, 5, nil)}, leave: 25 * ms, seen: `200, "part.part."`, took: 25 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"in the middle of an answer": {
			a: []script{streams(10*ms, 5, nil)}, front: front{reads: reading{leaves: true, after: 5}}, seen: `200, "part."`, took: 10 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"while another attempt waits": {
			a: []script{says(5*ms, 503)}, b: []script{says(5*ms, 503)}, leave: 10 * ms, seen: `503, "hello"`, took: 10 * ms,
			rules: stockRules(time.Second, 250*ms), front: front{wanted: func(pool.RetryReason, *http.Response) bool { return true }},
			told: "a:1 after 0: 503 <nil>", countA: onceFailed,
		},
		"while another attempt is made": {
			a: []script{says(5*ms, 503)}, b: []script{hangs()}, leave: 10 * ms, seen: "failed: context canceled", took: 10 * ms,
			told: "a:1 after 0: 503 <nil>; b:1 after 1 for status: 0 context canceled", countA: failedAgain,
		},
	})
}

// TestClientIsLate tries a request with a deadline of its client: an attempt that takes longer has failed.
func TestClientIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		l.script("a:1", hangs())
		ctx, cancel := context.WithTimeout(t.Context(), 20*ms)
		defer cancel()
		f := &front{}
		if o := l.run(ctx, f); f.seen() != "failed: context deadline exceeded" || o.took != 20*ms {
			t.Errorf("the client sees %s after %v", f.seen(), o.took)
		}
		if got := l.counted("a:1"); got != onceFailed {
			t.Errorf("counted of a:1: %s; want %s", got, onceFailed)
		}
		l.close()
	})
}

// TestPanics tries what panics: the back, and the front as its answer breaks off.
func TestPanics(t *testing.T) {
	for name, test := range map[string]struct {
		script script
		reads  reading
		want   any
		trail  string
	}{
		"the back":                 {crashes(ms), reading{}, "crash", "a:1 0 ignored"},
		"the front":                {says(ms, 200), reading{panics: true}, http.ErrAbortHandler, "a:1 200 success"},
		"the front, at a bad body": {saysBody(ms, 200, "he", errBroken), reading{panics: true, after: 5}, http.ErrAbortHandler, "a:1 200 failure answer broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.script("a:1", test.script)
				o := l.run(t.Context(), &front{reads: test.reads})
				if o.panicked != test.want {
					t.Errorf("panic: %v, want %v", o.panicked, test.want)
				}
				if got := o.trail(); got != test.trail {
					t.Errorf("attempts: %s; want %s", got, test.trail)
				}
				synctest.Wait()
				l.close()
			})
		})
	}
}
