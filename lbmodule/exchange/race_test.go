package exchange

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// hedges has requests be copied that wait for longer than about ten milliseconds.
func (l *lab) hedges() time.Duration {
	l.rules.Hedge.On, l.rules.Hedge.Percentile, l.rules.Hedge.MaxExtra = true, 0.9, 1
	for range 200 {
		l.pool.CountRequest() // which earn copies
		l.pool.Latency.Add(10*ms, time.Now())
	}
	after, ok := l.pool.Latency.Quantile(l.rules.Hedge.Percentile, time.Now())
	if !ok || after < 10*ms || after > 12*ms {
		l.t.Fatalf("copies are sent after %v, %v", after, ok)
	}
	// The budget of copies is settled once before it earns.
	l.pool.SpendHedge(1, l.rules.Retry.Budget, time.Now())
	for range 200 {
		l.pool.CountRequest()
	}
	return after
}

// contest is one between a request and its copy.
type contest struct {
	a, b  []script
	rules func(l *lab)
	front front
	leave time.Duration

	seen   string
	took   time.Duration // until the request is over
	copied time.Duration // how much of that goes by from when the copy is sent; took does not count if it is set
	trail  string        // when it is over
	told   string        // to the observer, when the copy is over, too
	countA string        // of the attempts on the first backend; "" for any
	countB string        // on the second
	won    uint64        // by copies
}

const none = "0 ignored, 0 success, 0 failure, 0 again"

// TestRaces tries which attempt wins, in virtual time. Nothing is in flight afterwards, whatever happened.
func TestRaces(t *testing.T) {
	answer := func(d time.Duration, status int) []script { return []script{saysBody(d, status, "", nil)} }
	const overtaken = "a copy of the request was answered first"
	const lost = "the request was answered before its copy"
	for name, test := range map[string]*contest{
		"answered before there is a copy": {
			a: answer(5*ms, 200), seen: `200, ""`, took: 5 * ms,
			trail: "a:1 200 success", told: "a:1 after 0: 200 <nil>", countB: none,
		},
		"the copy is first": {
			a: answer(500*ms, 200), b: answer(5*ms, 200), seen: `overtaken by b:1, 200, ""`, copied: 5 * ms,
			trail: "a:1 0 ignored " + overtaken + "; b:1 200 success",
			told:  "a:1 after 0: 0 " + overtaken + "; b:1 after 1 for hedge: 200 <nil>", countB: onceGood, won: 1,
		},
		"the copy is first, as the transport says": {
			a: []script{func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			}},
			b: answer(5*ms, 200), seen: `overtaken by b:1, 200, ""`, copied: 5 * ms,
			trail:  "a:1 0 ignored " + overtaken + "; b:1 200 success",
			told:   "a:1 after 0: 0 " + overtaken + "; b:1 after 1 for hedge: 200 <nil>",
			countA: onceIgnored, countB: onceGood, won: 1,
		},
		"the copy is later": {
			a: answer(50*ms, 200), b: answer(500*ms, 200), seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 0 ignored " + lost,
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 0 context canceled", countB: onceIgnored,
		},
		"the copy is reset": {
			a: answer(50*ms, 200), b: []script{resets(ms)}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 0 ignored connection reset",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 0 connection reset", countB: onceFailed,
		},
		"the copy is refused": {
			a: answer(50*ms, 200), b: []script{refuses(ms)}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 0 ignored connection refused",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 0 connection refused", countB: onceFailed,
		},
		"the copy is a 503": {
			a: answer(50*ms, 200), b: answer(5*ms, 503), seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 503 ignored",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 503 <nil>", countB: onceFailed,
		},
		"the copy is a 429": {
			a: answer(50*ms, 200), b: answer(5*ms, 429), seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 429 ignored",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 429 <nil>", countB: onceIgnored,
		},
		"the copy says when to come back": {
			a: answer(50*ms, 200), b: []script{header(says(5*ms, 404), "Retry-After", "1")}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 404 ignored",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 404 <nil>", countB: onceGood,
		},
		"the copy is a 500": {
			a: answer(50*ms, 200), b: answer(5*ms, 500), seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 500 ignored",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 500 <nil>", countB: onceGood,
		},
		"the first is a 429": {
			a: answer(20*ms, 429), b: answer(50*ms, 200), seen: `overtaken by b:1, 200, ""`, copied: 50 * ms,
			trail: "a:1 429 ignored; b:1 200 success",
			told:  "a:1 after 0: 429 <nil>; b:1 after 1 for hedge: 200 <nil>", countB: onceGood, won: 1,
		},
		"both are 429": {
			a: answer(20*ms, 429), b: answer(50*ms, 429), seen: `429, ""`, copied: 50 * ms,
			trail: "a:1 429 ignored; b:1 429 ignored",
			told:  "a:1 after 0: 429 <nil>; b:1 after 1 for hedge: 429 <nil>", countB: onceIgnored,
		},
		"the copy crashes": {
			a: answer(50*ms, 200), b: []script{crashes(ms)}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success; b:1 0 ignored copy of the request panicked",
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 0 copy of the request panicked", countB: none,
		},
		"the first fails meanwhile": {
			a: []script{resets(20 * ms)}, b: answer(50*ms, 200), seen: `overtaken by b:1, 200, ""`, copied: 50 * ms,
			trail: "a:1 0 failure connection reset; b:1 200 success",
			told:  "a:1 after 0: 0 connection reset; b:1 after 1 for hedge: 200 <nil>", countB: onceGood, won: 1,
		},
		"both fail, and another attempt follows": {
			a: []script{saysBody(20*ms, 503, "", nil)}, b: []script{saysBody(50*ms, 502, "", nil), saysBody(ms, 200, "", nil)},
			seen: `200, ""`, copied: 51 * ms,
			trail:  "a:1 503 failure; b:1 502 ignored; b:1 200 success",
			told:   "a:1 after 0: 503 <nil>; b:1 after 1 for hedge: 502 <nil>; b:1 after 2 for status: 200 <nil>",
			countB: "0 ignored, 1 success, 1 failure, 0 again",
		},
		"the first fails at once": {
			a: answer(5*ms, 500), seen: `500, ""`, took: 5 * ms,
			trail: "a:1 500 success", told: "a:1 after 0: 500 <nil>", countB: none,
		},
		"the first informs before there is a copy": {
			a: []script{informs(5*ms, 103, says(45*ms, 200))}, seen: `103 of attempt 1, 200, "hello"`, took: 50 * ms,
			trail: "a:1 200 success", told: "a:1 after 0: 200 <nil>", countB: none,
		},
		"the first informs while there is a copy": {
			a: []script{informs(15*ms, 103, says(35*ms, 200))}, b: answer(500*ms, 200), seen: `200, "hello"`, took: 50 * ms,
			trail: "a:1 200 success; b:1 0 ignored " + lost,
			told:  "a:1 after 0: 200 <nil>; b:1 after 1 for hedge: 0 context canceled", countB: onceIgnored,
		},
		"the copy informs": {
			a: answer(50*ms, 200), b: []script{informs(ms, 102, saysBody(5*ms, 200, "", nil))}, seen: `overtaken by b:1, 200, ""`, copied: 6 * ms,
			trail: "a:1 0 ignored " + overtaken + "; b:1 200 success",
			told:  "a:1 after 0: 0 " + overtaken + "; b:1 after 1 for hedge: 200 <nil>", countB: onceGood, won: 1,
		},
		"both inform, and the copy is first": {
			a: []script{informs(15*ms, 103, says(35*ms, 200))}, b: []script{informs(ms, 102, saysBody(5*ms, 200, "", nil))},
			seen: `overtaken by b:1, 200, ""`, copied: 6 * ms,
			trail: "a:1 0 ignored " + overtaken + "; b:1 200 success",
			told:  "a:1 after 0: 0 " + overtaken + "; b:1 after 1 for hedge: 200 <nil>", countB: onceGood, won: 1,
		},
		"the client leaves": {
			a: []script{hangs()}, b: []script{hangs()}, leave: 50 * ms, seen: "failed: context canceled", took: 50 * ms,
			trail: "a:1 0 ignored context canceled; b:1 0 ignored " + lost,
			told:  "a:1 after 0: 0 context canceled; b:1 after 1 for hedge: 0 context canceled", countB: onceIgnored,
		},
		"both take too long": {
			a: []script{hangs()}, b: []script{hangs()}, seen: "failed: " + ErrTryTimeout.Error(), took: 40 * ms,
			rules: func(l *lab) { l.plan.TryTimeout, l.rules.Retry.Attempts = 40*ms, 1 },
			trail: "a:1 0 failure " + ErrTryTimeout.Error() + "; b:1 0 ignored " + lost,
			told:  "a:1 after 0: 0 " + ErrTryTimeout.Error() + "; b:1 after 1 for hedge: 0 context canceled", countB: onceIgnored,
		},
		"there can be no copy": {
			a: answer(50*ms, 200), front: front{alone: true}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success", told: "a:1 after 0: 200 <nil>", countB: none,
		},
		"there is a body": {
			a: answer(50*ms, 200), front: front{body: newBody(0, nil, "hello")}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success", told: "a:1 after 0: 200 <nil>", countB: none,
		},
		"the members are others by then": {
			a: answer(50*ms, 200), rules: func(l *lab) {
				l.open()
				time.AfterFunc(5*ms, func() { l.open() })
			}, seen: `200, ""`, took: 50 * ms,
			trail: "a:1 200 success", told: "a:1 after 0: 200 <nil>", countB: none,
		},
		"the second attempt has none": {
			a: []script{resets(ms)}, b: answer(50*ms, 200), seen: `200, ""`, took: 51 * ms,
			trail: "a:1 0 failure connection reset; b:1 200 success",
			told:  "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countB: onceGood,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test.race(t) })
		})
	}
}

func (c *contest) race(t *testing.T) {
	l := newLab(t, 2)
	after := l.hedges()
	l.script("a:1", c.a...)
	l.script("b:1", c.b...)
	if c.rules != nil {
		c.rules(l)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if c.leave > 0 {
		time.AfterFunc(c.leave, cancel)
	}
	o := l.run(ctx, &c.front)
	if got := c.front.seen(); got != c.seen || o.panicked != nil {
		t.Errorf("the client sees %s; want %s (panic: %v)", got, c.seen, o.panicked)
	}
	took := c.took
	if c.copied > 0 {
		took = after + c.copied
	}
	if o.took != took {
		t.Errorf("over after %v, want %v", o.took, took)
	}
	if got := o.trail(); got != c.trail {
		t.Errorf("attempts: %s; want %s", got, c.trail)
	}
	synctest.Wait()
	if got := l.told(); got != c.told {
		t.Errorf("the observer is told %s; want %s", got, c.told)
	}
	if got := l.counted("a:1"); c.countA != "" && got != c.countA {
		t.Errorf("counted of a:1: %s; want %s", got, c.countA)
	}
	if got := l.counted("b:1"); got != c.countB {
		t.Errorf("counted of b:1: %s; want %s", got, c.countB)
	}
	if won := l.pool.HedgesWon(); won != c.won {
		t.Errorf("%d copies have won, want %d", won, c.won)
	}
	time.Sleep(time.Second)
	l.close()
}

// TestRaceEndsAtOnce lets the first attempt win with an answer that takes long: the copy ends without waiting for that.
func TestRaceEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.hedges()
		start := time.Now()
		var ended time.Duration
		l.script("a:1", func(r *http.Request) (*http.Response, error) {
			if err := pause(r, 50*ms); err != nil {
				return nil, err
			}
			return streams(100*ms, 10, nil)(r)
		})
		l.script("b:1", func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			ended = time.Since(start)
			return nil, r.Context().Err()
		})
		o := l.run(t.Context(), &front{})
		synctest.Wait()
		if o.took < time.Second || ended != 50*ms {
			t.Errorf("the request was over after %v, its copy after %v", o.took, ended)
		}
		l.close()
	})
}

// TestRacePanics makes the transport of the first attempt panic, while a copy is in flight, and before. The copy is abandoned.
func TestRacePanics(t *testing.T) {
	for name, test := range map[string]struct {
		first, second script
		told          string
	}{
		"with a copy": {crashes(20 * ms), says(50*ms, 200), "a:1 after 0: 0 <nil>; b:1 after 1 for hedge: 0 context canceled"},
		"with a copy that does not hear": {crashes(20 * ms), func(r *http.Request) (*http.Response, error) {
			time.Sleep(50 * ms)
			return newAnswer(200, "", nil), nil
		}, "a:1 after 0: 0 <nil>; b:1 after 1 for hedge: 200 the request was answered before its copy"},
		"with a copy that has won": {crashes(20 * ms), says(5*ms, 200), "a:1 after 0: 0 <nil>; b:1 after 1 for hedge: 200 the request was answered before its copy"},
		"before there is one":      {crashes(5 * ms), nil, "a:1 after 0: 0 <nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.hedges()
				l.script("a:1", test.first)
				l.script("b:1", test.second)
				if o := l.run(t.Context(), &front{}); o.panicked != "crash" {
					t.Errorf("panic: %v", o.panicked)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if got := l.told(); got != test.told {
					t.Errorf("the observer is told %s; want %s", got, test.told)
				}
				l.close()
			})
		})
	}
}

// TestRaceDrained drains one of the two backends of a race.
func TestRaceDrained(t *testing.T) {
	for name, test := range map[string]struct {
		address string
		ended   int
		seen    string
	}{
		"of the copy":     {"b:1", 1, `200, "hello"`},
		"of the first":    {"a:1", 1, "failed: " + pool.ErrDrained.Error()},
		"of neither":      {"c:1", 0, `200, "hello"`},
		"of the overtook": {"a:1", 0, `overtaken by b:1, 200, "hello"`},
		"of the winner":   {"b:1", 1, `overtaken by b:1, 200, ""`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.hedges()
				l.script("a:1", says(50*ms, 200))
				l.script("b:1", hangs())
				if strings.HasPrefix(test.seen, "overtaken") {
					l.script("a:1", hangs())
					l.script("b:1", with(says(5*ms, 200), func(res *http.Response) {
						body := res.Body.(*answerText)
						body.pause, body.ctx = 20*ms, l.context()
					}))
				}
				ended := 0
				time.AfterFunc(25*ms, func() { ended = l.pool.Live.EndAt(test.address) })
				f := &front{}
				o := l.run(t.Context(), f)
				synctest.Wait()
				if got := f.seen(); got != test.seen || ended != test.ended {
					t.Errorf("the client sees %s, %d ended; want %s, %d", got, ended, test.seen, test.ended)
				}
				if o.x.Current().Address == "b:1" && o.x.Current().Reason != pool.RetryHedge {
					t.Errorf("the copy was made for %v", o.x.Current().Reason)
				}
				time.Sleep(time.Second)
				l.close()
			})
		})
	}
}
