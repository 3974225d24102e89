package exchange

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// chance is where a round takes its random numbers from, on any goroutine.
type chance struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func (c *chance) n(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.IntN(n)
}

func (c *chance) one(in int) bool { return c.n(in) == 0 }

func (c *chance) upTo(d time.Duration) time.Duration { return time.Duration(c.n(int(d))) }

func pick[T any](c *chance, from ...T) T { return from[c.n(len(from))] }

// TestRandom lets clients of all kinds ask backends that do all kinds of things, under all kinds of rules. Whatever happens: each client
// gets one result of its request, and a true one; no backend exceeds its max_requests; all counts add up; and nothing is left in the end.
func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	for round := range uint64(2000) {
		synctest.Test(t, func(t *testing.T) {
			c := &chance{rnd: rand.New(rand.NewPCG(seed, round))}
			defer func() {
				if t.Failed() {
					t.Fatalf("seed %d, round %d", seed, round)
				}
			}()
			playRound(t, c)
		})
	}
}

func playRound(t *testing.T, c *chance) {
	l := newLab(t, 1+c.n(4))
	lateReads := c.one(2) // then no body is slow: a read that waits for another reader would stop virtual time
	l.randomRules(c)
	for i := range l.backends {
		l.backends[i].MaxRequests = c.n(4)
		l.script(l.backends[i].Address, l.randomScript(c, lateReads))
	}
	l.open()
	var stops []func()
	for _, m := range l.pool.Members() {
		if c.one(2) {
			dial := pool.Dialer(func(context.Context, string) error { return pick(c, nil, errRefused) })
			m.Redial(&dial, false)
			stops = append(stops, func() { m.EndRedial(&dial) })
		}
	}
	if l.rules.Hedge.On = c.one(2); l.rules.Hedge.On {
		l.hedges()
	}
	for range c.n(3) {
		time.AfterFunc(c.upTo(300*ms), func() {
			l.mu.Lock()
			c.mu.Lock()
			l.backends = slices.Clone(l.backends)
			c.rnd.Shuffle(len(l.backends), func(i, j int) { l.backends[i], l.backends[j] = l.backends[j], l.backends[i] })
			c.mu.Unlock()
			l.mu.Unlock()
			l.open()
		})
	}
	if c.one(4) {
		time.AfterFunc(c.upTo(300*ms), func() { l.pool.Live.EndAt("a:1") })
	}
	var all sync.WaitGroup
	var panicked sync.Map // of *front
	fronts := make([]*front, 1+c.n(8))
	ended := make([]outcome, len(fronts))
	for i := range fronts {
		f := l.randomFront(c, lateReads)
		fronts[i] = f
		all.Go(func() {
			time.Sleep(c.upTo(200 * ms))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.one(4) {
				time.AfterFunc(c.upTo(300*ms), cancel)
			}
			o := l.run(ctx, f)
			if o.panicked != nil {
				panicked.Store(f, true)
				if err, isErr := o.panicked.(error); o.panicked != "crash" && (!isErr || !errors.Is(err, http.ErrAbortHandler)) {
					t.Errorf("panic: %v", o.panicked)
				}
			}
			ended[i] = o
		})
	}
	all.Wait()
	time.Sleep(time.Minute)
	synctest.Wait()
	for _, stop := range stops {
		stop()
	}
	for i, f := range fronts {
		_, crashed := panicked.Load(f)
		f.check(t, crashed)
		if a := ended[i].x.Current(); a != nil && !a.ended {
			t.Errorf("the attempt at %s has not ended", a.Address)
		}
	}
	l.checkSums(ended)
	l.close()
}

// checkSums checks that each attempt, and each copy, was counted once.
func (l *lab) checkSums(ended []outcome) {
	counted := uint64(0)
	for _, m := range l.pool.Members() {
		for _, n := range m.Traffic().Counts().Ended {
			counted += n
		}
	}
	crashed := 0 // which no copy that does so is
	for _, s := range l.spans {
		if errors.Is(s.err, ErrCopyPanicked) {
			crashed++
		}
	}
	if want := len(l.spans) - crashed; counted != uint64(want) {
		l.t.Errorf("%d attempts are counted, of %d", counted, want)
	}
	if len(l.panics) != crashed {
		l.t.Errorf("%d copies crashed, %d were told of", crashed, len(l.panics))
	}
	retried, again := uint64(0), uint64(0)
	for _, m := range l.pool.Members() {
		retried += m.Traffic().Counts().Retried
	}
	for i := range ended {
		for _, a := range ended[i].x.Trail() {
			if a.Reason != pool.RetryHedge {
				again++
			}
		}
		if len(ended[i].x.Trail()) > 0 {
			again-- // the first
		}
	}
	if retried < again {
		l.t.Errorf("%d attempts were made again, %d of them counted", again, retried)
	}
}

// check checks what a client has seen.
func (f *front) check(t *testing.T, crashed bool) {
	finals, informed := 0, 0
	for _, line := range f.log {
		switch {
		case strings.HasPrefix(line, "failed"), strings.HasPrefix(line, "refused"), len(line) == len("200") && line[0] != '"':
			finals++
		case strings.Contains(line, "of attempt"):
			informed = int(line[len(line)-1] - '0')
		}
	}
	if finals > 1 || finals == 0 && !crashed {
		t.Errorf("the client got %d results of its request: %v", finals, f.log)
	}
	if informed != 0 && f.attempts > informed {
		t.Errorf("the client was informed by attempt %d of %d: %v", informed, f.attempts, f.log)
	}
	if f.body != nil && f.body.closed > 0 {
		t.Error("the client's body was closed")
	}
	if f.body != nil && !f.reads.leaves && !f.reads.panics && !crashed {
		for _, line := range f.log {
			if got, isEcho := strings.CutPrefix(line, `"echo:`); isEcho && got != f.text+`"` {
				t.Errorf("a backend has got the body %s, not %s", got, f.text)
			}
		}
	}
}

func (l *lab) randomRules(c *chance) {
	l.settings.Policy = pick[balance.Policy](c, balance.First{}, balance.RoundRobin{}, balance.LeastConn{}, balance.PeakEWMA{})
	l.rules.Hold = pick(c, 0, 100*ms, time.Second)
	l.rules.Retry.Attempts = 1 + c.n(3)
	l.rules.Retry.Base, l.rules.Retry.Max = 5*ms, 50*ms
	l.rules.UntilLastByte = c.one(2)
	l.rules.Slow = pick(c, 0, 20*ms)
	l.rules.BreakerOff = c.one(4)
	l.settings.ConnectionsOnly = l.rules.BreakerOff
	if c.one(3) {
		l.rules.Queue = course.QueueRules{On: true, Size: c.n(4), Timeout: c.upTo(200 * ms)}
	}
	if c.one(3) {
		stockRules(c.upTo(500*ms), c.upTo(100*ms))(l)
	}
	l.plan.TryTimeout = pick(c, 0, 0, 50*ms)
	l.plan.BodyLimit, l.plan.SmallBody = int64(c.n(20)), int64(c.n(20))
	l.settings.Breaker = breaker.Settings{ConsecutiveFailures: 1 + c.n(3), Open: c.upTo(100*ms) + ms, MaxOpen: 200 * ms, Probes: 1 + c.n(2), ProbeTimeout: time.Second}
	l.settings.MaxEjected = 1
	l.settings.DeadAfter = 1 + c.n(3)
}

func (l *lab) randomFront(c *chance, lateReads bool) *front {
	f := &front{client: pick(c, "x", "y", "z"), unsafe: c.one(4), upgrade: c.one(10), alone: c.one(8)}
	f.wanted = func(pool.RetryReason, *http.Response) bool { return c.one(2) }
	if c.one(4) {
		f.header = http.Header{"Content-Type": {"application/grpc"}, "Grpc-Timeout": {"100m"}}
	}
	if c.one(3) {
		text := strings.Repeat("body ", c.n(5))
		parts := []string{text[:len(text)/2], text[len(text)/2:]}
		f.body = newBody(0, pick(c, nil, nil, nil, errReset), slices.DeleteFunc(parts, func(p string) bool { return p == "" })...)
		if f.body.err == nil && f.body.length == 0 || c.one(3) {
			f.body.length = -1
		}
		if !lateReads {
			f.body.pause = c.upTo(30 * ms)
		}
		f.whole = f.body.err == nil && f.body.length > 0 && c.one(4)
		f.text = text
	}
	if c.one(3) {
		f.reads = reading{leaves: c.one(2), panics: c.one(2), after: c.n(10)}
	}
	if c.one(20) {
		f.fails = map[int]error{1 + c.n(2): errBroken}
	}
	return f
}

// randomScript does something else each time.
func (l *lab) randomScript(c *chance, lateReads bool) script {
	return func(r *http.Request) (*http.Response, error) {
		l.checkLoad(r.URL.Host)
		if lateReads && r.Body != nil && c.one(3) {
			defer func() { time.AfterFunc(c.upTo(100*ms), func() { _ = upload(r) }) }() // when the round trip is over
		}
		d := c.upTo(40 * ms)
		if c.one(5) {
			return pick(c, refuses(d), refuses(0), fails(d, 0, errDescriptors))(r)
		}
		then := pick(c, says(d, pick(c, 200, 200, 200, 404, 429, 500, 503)), echo(d), streams(d, c.n(4), pick(c, nil, nil, errBroken)), hangs(),
			resets(d), fails(d, c.n(10), errReset), crashes(d), deaf(d, 200))
		if c.one(3) {
			then = call(then, pick(c, "", "0", "4", "14"))
		}
		if c.one(5) {
			then = header(then, "Retry-After", "1")
		}
		if c.one(5) {
			then = informs(c.upTo(30*ms), 103, then)
		}
		return then(r)
	}
}

// checkLoad checks that a backend has no more requests than it may.
func (l *lab) checkLoad(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.backends {
		if n := l.pool.InFlight(address); b.Address == address && b.MaxRequests > 0 && n > int64(b.MaxRequests) {
			l.t.Errorf("%s has %d requests, of %d", address, n, b.MaxRequests)
		}
	}
}

// echo is echoes with a mark.
func echo(d time.Duration) script {
	return func(r *http.Request) (*http.Response, error) {
		if r.Body == nil {
			return says(d, 200)(r)
		}
		return with(echoes(d, 200), func(res *http.Response) {
			body := res.Body.(*answerText)
			body.parts[0] = "echo:" + body.parts[0]
		})(r)
	}
}
