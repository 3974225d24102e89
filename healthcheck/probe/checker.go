package probe

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
)

// Prober makes one probe. It returns a code, 0 if there is none, and why the probe failed. It must return when ctx is done. It is used by
// one goroutine at a time; if it is an [io.Closer], it is closed after its last use.
type Prober interface {
	Probe(ctx context.Context) (code int, err error)
}

// Check says what to probe and how often.
type Check struct {
	// Key identifies the check: checks with equal keys probe the same backend in the same way, and are made once.
	Key string
	// Prober makes the probes. If several checks have one key, the latest Prober is used.
	Prober Prober

	Interval     time.Duration // from the start of one probe to the start of the next, while nothing changes
	FastInterval time.Duration // while a change is pending; at most Interval
	Timeout      time.Duration // of one probe
}

// Observer receives the results of a check and returns the resulting state. Equal observers of a check count as
// one. Observe is called by one goroutine at a time.
type Observer interface {
	Observe(healthcheck.Result) healthcheck.State
	// State is what Observe returned last.
	State() healthcheck.State
}

const (
	// jitter is the share of an interval by which probes are moved at random, so that checks that were set up together, here or on
	// another machine, drift apart.
	jitter = 0.1
	// growth is the factor by which the interval grows with every failed probe of a backend that is down, up to maxGrowth.
	growth    = 1.25
	maxGrowth = 6
	// firstGap is the minimum time between the first probes of new checks, so that a large pool does not start with a burst.
	firstGap = time.Millisecond
	// maxGrain bounds the time by which a probe is moved to be made together with others. A probe is moved by at most a fiftieth of its
	// interval.
	maxGrain = 20 * time.Millisecond
	// lateness is how late a timer may normally fire.
	lateness = 500 * time.Millisecond
	// golden spreads any number of checks evenly over their interval: the fractional parts of its multiples leave
	// no gap much larger than another (three-distance theorem).
	golden = 0.6180339887498949
)

// Checker makes checks, with one goroutine for each. The zero Checker is ready for use.
type Checker struct {
	mu        sync.Mutex
	targets   map[string]*target
	created   uint64    // number of targets created
	lastFirst time.Time // when the latest first probe is due
}

// target is a check that is being made.
type target struct {
	phase float64       // position of its probes in the interval, 0 to 1
	stop  func()        // ends run
	wake  chan struct{} // makes run compute anew when the next probe is due

	hurried atomic.Bool // the next probe is due now

	mu        sync.Mutex // guards the fields below
	check     Check
	observers map[Observer]int // with the number of calls of Watch
}

// Watch reports the results of c to o until the returned function is called; further calls of it do nothing. Probing starts at once if o
// has no state yet.
func (c *Checker) Watch(check Check, o Observer) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[check.Key]
	if t == nil {
		t = c.open(check)
	}
	t.mu.Lock()
	t.check = check
	if t.observers[o]++; t.observers[o] == 1 && o.State().Status == healthcheck.Unknown {
		t.reschedule()
	}
	t.mu.Unlock()
	return sync.OnceFunc(func() { c.unwatch(check.Key, t, o) })
}

// Hurry makes the probe of the check with this key at once, if there is such a check: there is other evidence that the backend's state
// has changed.
func (c *Checker) Hurry(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.targets[key]; t != nil {
		t.hurried.Store(true)
		t.reschedule()
	}
}

// reschedule wakes run, which computes anew when the next probe is due.
func (t *target) reschedule() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// open starts a target. The caller holds c.mu.
func (c *Checker) open(check Check) *target {
	ctx, cancel := context.WithCancel(context.Background())
	_, phase := math.Modf(float64(c.created) * golden)
	c.created++
	now := time.Now()
	first := c.lastFirst.Add(firstGap)
	if first.Before(now) {
		first = now
	}
	c.lastFirst = first
	t := &target{phase: phase, stop: cancel, wake: make(chan struct{}, 1), check: check, observers: make(map[Observer]int)}
	if c.targets == nil {
		c.targets = make(map[string]*target)
	}
	c.targets[check.Key] = t
	go t.run(ctx, first)
	return t
}

func (c *Checker) unwatch(key string, t *target, o Observer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.observers[o]--; t.observers[o] == 0 {
		delete(t.observers, o)
	}
	if len(t.observers) == 0 && c.targets[key] == t {
		delete(c.targets, key)
		t.stop()
	}
}

// run makes the probes: the first one at the given time or, if all observers know the backend's state already, at its regular time.
func (t *target) run(ctx context.Context, first time.Time) {
	p := pacer{phase: t.phase}
	due := first
	if t.known() {
		due = p.next(t.current(), first, t.observed(), 0)
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	var open io.Closer // the last prober, if it must be closed
	defer func() {
		if open != nil {
			open.Close()
		}
	}()
	failures := 0 // in a row
	overslept := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
			if hurried := t.hurried.Swap(false); t.known() && !hurried || time.Until(due) <= 0 {
				continue
			}
			if now := time.Now(); first.After(now) {
				due = first
			} else {
				due = now
			}
			timer.Reset(time.Until(due))
			continue
		case <-timer.C:
		}
		check := t.current()
		// After a process was suspended, all its timers are due. Each check then waits for its next turn; if it is late again, the
		// machine is overloaded, and it does not wait.
		if late := time.Since(due); !overslept && late > time.Duration(jitter*float64(check.Interval)) && late > lateness {
			overslept = true
			due = p.next(check, time.Now(), nil, 0)
			timer.Reset(time.Until(due))
			continue
		}
		overslept = false
		if latest, _ := check.Prober.(io.Closer); open != latest {
			if open != nil {
				open.Close()
			}
			open = latest
		}
		r := makeProbe(ctx, check)
		if ctx.Err() != nil {
			return
		}
		failures++
		if r.OK() {
			failures = 0
		}
		due = p.next(check, r.Time, t.tell(r), failures)
		if now := time.Now(); due.Before(now) {
			due = now // the probe took longer than the interval
		}
		timer.Reset(time.Until(due))
	}
}

// makeProbe makes one probe. A panic of the prober counts as a failure.
func makeProbe(ctx context.Context, c Check) (r healthcheck.Result) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var conn connecting
	ctx = httptrace.WithClientTrace(ctx, conn.trace())
	r.Time = time.Now()
	defer func() {
		if p := recover(); p != nil {
			r.Err = fmt.Errorf("probe panicked: %v", p)
		}
		r.Took = time.Since(r.Time)
		r.Refused = r.Err != nil && conn.failed()
	}()
	r.Code, r.Err = c.Prober.Probe(ctx)
	return r
}

// connecting tracks whether a probe could connect. Errors do not show that: a timeout while connecting looks like one while waiting for
// the answer. Goroutines that outlive the probe may write to it.
type connecting struct{ tried, done atomic.Bool }

func (c *connecting) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { c.tried.Store(true) },
		ConnectStart: func(_, _ string) { c.tried.Store(true) },
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				c.done.Store(true)
			}
		},
		GotConn: func(httptrace.GotConnInfo) { c.done.Store(true) },
	}
}

// failed reports whether there was an attempt to connect but no connection.
func (c *connecting) failed() bool { return c.tried.Load() && !c.done.Load() }

func (t *target) current() Check {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.check
}

func (t *target) watchers() []Observer {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Observer, 0, len(t.observers))
	for o := range t.observers {
		all = append(all, o)
	}
	return all
}

// tell passes r to all observers, with no lock held, and returns their states.
func (t *target) tell(r healthcheck.Result) []healthcheck.State {
	var states []healthcheck.State
	for _, o := range t.watchers() {
		states = append(states, o.Observe(r))
	}
	return states
}

func (t *target) observed() []healthcheck.State {
	var states []healthcheck.State
	for _, o := range t.watchers() {
		states = append(states, o.State())
	}
	return states
}

// known reports whether all observers have had a first result.
func (t *target) known() bool {
	for _, s := range t.observed() {
		if s.Status == healthcheck.Unknown {
			return false
		}
	}
	return true
}

// pacer computes when probes are due.
type pacer struct {
	phase float64
	grid  time.Time // the last turn on the grid of the regular interval
}

// next returns when the probe after the one that began at start is due. It is sooner if a change is pending for any observer, and later
// the longer a backend is down for all of them.
func (p *pacer) next(c Check, start time.Time, states []healthcheck.State, failures int) time.Time {
	down := len(states) > 0
	for _, s := range states {
		if s.Pending() {
			return start.Add(shorten(c.FastInterval))
		}
		down = down && s.Status == healthcheck.Down
	}
	if down && failures > 0 {
		factor := min(math.Pow(growth, float64(failures-1)), maxGrowth)
		return start.Add(shorten(time.Duration(float64(c.Interval) * factor)))
	}
	// The turns of a check have fixed distances, and each probe comes shortly after its turn. So the number of probes equals the number
	// of intervals, and checks that are spread stay spread. Missed turns are skipped: a machine that wakes up does not catch up.
	if p.grid.IsZero() {
		p.grid = start.Add(-time.Duration((1 - p.phase) * float64(c.Interval)))
	}
	missed := start.Sub(p.grid) / c.Interval
	p.grid = p.grid.Add((missed + 1) * c.Interval)
	return together(p.grid.Add(time.Duration(rand.Float64()*jitter*float64(c.Interval))), c.Interval)
}

// started is the common origin of the times to which probes are moved.
var started = time.Now()

// together moves due forward to a moment that other checks move to as well: a wake-up costs more than a probe, and ten probes that are
// made together need only one or two wake-ups.
func together(due time.Time, interval time.Duration) time.Time {
	grain := min(interval/50, maxGrain)
	if grain <= 0 {
		return due
	}
	return due.Add(grain - due.Sub(started)%grain)
}

// shorten takes up to a tenth off d, at random.
func shorten(d time.Duration) time.Duration {
	return d - time.Duration(rand.Float64()*jitter*float64(d))
}
