package exchange

import (
	"context"
	"errors"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// brittle is a back that can be broken off, as the real ones can.
type brittle struct {
	lab       *lab
	connects  time.Duration // for how long an attempt has no connection
	unwilling bool          // it answers all the same

	mu     sync.Mutex // guards what follows
	armed  bool
	waits  bool
	cancel context.CancelFunc
}

func (b *brittle) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	if err := pause(r, b.connects); err != nil {
		cancel()
		return nil, err
	}
	b.mu.Lock()
	b.waits, b.cancel = b.armed, cancel
	b.mu.Unlock()
	return b.lab.RoundTrip(r.WithContext(ctx))
}

func (b *brittle) Arm(bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = true
}

func (b *brittle) Waits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waits
}

func (b *brittle) BreakOff(error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.armed {
		b.lab.t.Error("broken off, but not armed")
	}
	if !b.unwilling {
		b.cancel()
	}
}

// TestMove has a backend go, after 20 ms, at which a request waits for its answer.
func TestMove(t *testing.T) {
	const gone = "a:1 after 0: 0 backend was found to be gone before it answered"
	const ignoredAgain = "1 ignored, 0 success, 0 failure, 1 again"
	moved := &way{
		seen: `200, "hello"`, took: 25 * ms, told: gone + "; b:1 after 1 for timeout: 200 <nil>", countA: ignoredAgain,
	}
	stays := &way{seen: `200, "hello"`, took: time.Hour, told: "a:1 after 0: 200 <nil>", countA: onceGood}
	timeout := func(l *lab) { l.rules.Retry.On[pool.RetryTimeout] = false }
	for name, c := range map[string]struct {
		want  *way
		rules func(*lab)
		front *front
		back  *brittle
		a     script
		probe healthcheck.Result // of a; the zero Result for one that is not answered in time
		also  func(*pool.View)   // happens while a is probed
		leave time.Duration
	}{
		"no answer to probes":      {want: moved},
		"all are down":             {want: stays, also: down(1)},
		"it answers others":        {want: stays, also: answersOthers},
		"no connection for probes": {want: moved, probe: healthcheck.Result{Err: os.ErrDeadlineExceeded, Refused: true}},
		"no route":                 {want: moved, probe: healthcheck.Result{Err: syscall.EHOSTUNREACH, Refused: true}},
		"refused":                  {want: stays, probe: healthcheck.Result{Err: syscall.ECONNREFUSED, Refused: true}},
		"reset":                    {want: stays, probe: healthcheck.Result{Err: errReset}},
		"said to be ill":           {want: stays, probe: healthcheck.Result{Err: os.ErrDeadlineExceeded, Code: 503}},
		"a POST":                   {want: stays, front: &front{unsafe: true}},
		"an upgrade":               {want: stays, front: &front{upgrade: true}},
		"retry off":                {want: stays, rules: func(l *lab) { l.rules.Retry.Attempts = 1 }},
		"not for timeout":          {want: stays, rules: timeout},
		"lb_retries":               {want: stays, rules: func(l *lab) { l.rules.Retry.Stock = newStock(0, 0) }},
		"no budget":                {want: stays, rules: func(l *lab) { l.rules.Retry.Budget = pool.BudgetSettings{} }},
		"nowhere to go":            {want: stays, rules: func(l *lab) { l.backends[1].State = pool.Drained }},
		"others are full":          {want: stays, rules: func(l *lab) { l.backends[1].MaxRequests = 1 }},
		"the client has a 1xx": {want: &way{
			seen: `103 of attempt 1, 200, "hello"`, took: time.Hour + 10*ms, told: stays.told, countA: onceGood,
		}, a: informs(10*ms, 103, hangs())},
		"it has begun to answer": {
			want: &way{seen: `200, "part.part."`, took: 150 * ms, told: stays.told, countA: onceGood}, a: streams(50*ms, 2, nil),
		},
		"it answers at that moment":  {want: &way{seen: moved.seen, took: 35 * ms, told: moved.told, countA: ignoredAgain}, a: deaf(30*ms, 200), back: &brittle{unwilling: true}},
		"there is no connection yet": {want: &way{seen: stays.seen, took: time.Hour + 30*ms, told: stays.told, countA: onceGood}, back: &brittle{connects: 30 * ms}},
		"the client left": {
			want: &way{seen: "failed: context canceled", took: 30 * ms, told: "a:1 after 0: 0 context canceled", countA: onceIgnored},
			a:    deaf(30*ms, 200), back: &brittle{unwilling: true}, leave: 25 * ms,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				if c.rules != nil {
					c.rules(l)
				}
				l.settings.Checked, l.settings.Initial = true, pool.StartUp
				l.script("a:1", hangs())
				if c.a != nil {
					l.script("a:1", c.a)
				}
				l.script("b:1", says(5*ms, 200))
				view := l.open().view
				if name == "others are full" {
					lease, _ := view.AcquireMember(1)
					defer lease.Release()
				}
				time.AfterFunc(20*ms, func() {
					probe := c.probe
					if probe.Err == nil {
						probe.Err = context.DeadlineExceeded
					}
					probe.Time, probe.Took = time.Now().Add(-10*ms), 10*ms
					if c.also != nil {
						c.also(view)
					}
					pool.Observer{Member: view.Member(0), Thresholds: healthcheck.Thresholds{Rise: 1, Fall: 1}}.Observe(probe)
				})
				f := c.front
				if f == nil {
					f = new(front)
				}
				back := c.back
				if back == nil {
					back = new(brittle)
				}
				back.lab, f.back = l, back
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.leave > 0 {
					time.AfterFunc(c.leave, cancel)
				}
				o := l.run(ctx, f)
				if got := f.seen(); got != c.want.seen {
					t.Errorf("the client sees %s; want %s", got, c.want.seen)
				}
				if o.took != c.want.took {
					t.Errorf("all was over after %v, want %v", o.took, c.want.took)
				}
				if got := l.told(); got != c.want.told {
					t.Errorf("the observer is told %s; want %s", got, c.want.told)
				}
				if got := l.counted("a:1"); got != c.want.countA {
					t.Errorf("counted of a:1: %s; want %s", got, c.want.countA)
				}
				if name != "others are full" {
					l.close()
				}
			})
		})
	}
}

// down has a check find that member down.
func down(i int) func(*pool.View) {
	return func(v *pool.View) {
		pool.Observer{Member: v.Member(i), Thresholds: healthcheck.Thresholds{Rise: 1, Fall: 1}}.Observe(
			healthcheck.Result{Time: time.Now(), Err: context.DeadlineExceeded})
	}
}

// answersOthers has the first member answer a request.
func answersOthers(v *pool.View) {
	l, now := v.Member(0).Latency(), time.Now()
	ticket := l.Asked(now)
	l.Answered(5*ms, now)
	l.Told(ticket, true, now)
}

// TestMoveOnce: a request is moved at most as often as it may be tried.
func TestMoveOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3)
		for _, address := range []string{"a:1", "b:1", "c:1"} {
			l.script(address, says(time.Minute, 200))
		}
		l.settings.Checked, l.settings.Initial = true, pool.StartUp
		view := l.open().view
		for i := range 2 {
			time.AfterFunc(time.Duration(i+1)*time.Second, func() { down(i)(view) })
		}
		f := front{back: &brittle{lab: l}}
		if o := l.run(t.Context(), &f); o.err != nil || o.took != time.Minute+time.Second || o.trail() != "a:1 0 ignored backend was found to be gone before it answered; b:1 200 success" {
			t.Errorf("%v after %v: %s", o.err, o.took, o.trail())
		}
		if !errors.As(ErrGone, new(interface{ Timeout() bool })) {
			t.Error("it does not count as a timeout")
		}
		l.close()
	})
}
