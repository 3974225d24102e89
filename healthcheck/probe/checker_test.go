package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
)

// backend is a Prober and an Observer: it answers as it is told and notes when it was asked.
type backend struct {
	thresholds healthcheck.Thresholds

	mu     sync.Mutex
	err    error
	takes  time.Duration
	state  healthcheck.State
	probes []time.Time
	flips  []time.Time
}

func (b *backend) Probe(ctx context.Context) (int, error) {
	b.mu.Lock()
	b.probes = append(b.probes, time.Now())
	err, takes := b.err, b.takes
	b.mu.Unlock()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(takes):
		return 200, err
	}
}

func (b *backend) Observe(r healthcheck.Result) healthcheck.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	after := b.state.After(r.OK(), b.thresholds)
	if after.Status != b.state.Status {
		b.flips = append(b.flips, time.Now())
	}
	b.state = after
	return after
}

func (b *backend) State() healthcheck.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// set changes how the backend answers from now on.
func (b *backend) set(err error, takes time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err, b.takes, b.probes, b.flips = err, takes, nil, nil
}

func (b *backend) seen() (probes, flips []time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.probes), slices.Clone(b.flips)
}

var errDown = errors.New("down")

func check(key string, p Prober) Check {
	return Check{Key: key, Prober: p, Interval: 5 * time.Second, FastInterval: time.Second, Timeout: 2 * time.Second}
}

func TestCadence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		b := &backend{thresholds: healthcheck.Thresholds{Rise: 2, Fall: 3}}
		start := time.Now()
		defer c.Watch(check("a", b), b)()
		synctest.Wait()
		if probes, _ := b.seen(); len(probes) != 1 || time.Since(start) > 0 {
			t.Fatalf("%d probes of a new backend at once, want 1", len(probes))
		}
		time.Sleep(100 * time.Second)
		probes, _ := b.seen()
		if n := len(probes); n < 20 || n > 22 {
			t.Errorf("%d probes in 100 s, want 21", n)
		}
		for i := 2; i < len(probes); i++ {
			if gap := probes[i].Sub(probes[i-1]); gap < 4500*time.Millisecond || gap > 5500*time.Millisecond {
				t.Errorf("gap of %v between probes, want 5s and a tenth at most", gap)
			}
		}
	})
}

// A backend that fails is out within 1.1 x interval + (fall-1) x max(fast_interval, timeout) + timeout, whether it
// refuses or hangs, and back within 6 intervals and (rise-1) fast ones.
func TestDetection(t *testing.T) {
	for name, takes := range map[string]time.Duration{"refuses": 0, "hangs": time.Hour} {
		t.Run(name, func(t *testing.T) {
			for round := range 50 {
				synctest.Test(t, func(t *testing.T) {
					var c Checker
					b := &backend{thresholds: healthcheck.Thresholds{Rise: 2, Fall: 3}}
					defer c.Watch(check("a", b), b)()
					time.Sleep(time.Minute + time.Duration(round)*100*time.Millisecond)
					b.set(errDown, takes)
					start := time.Now()
					time.Sleep(2 * time.Minute)
					probes, flips := b.seen()
					const bound = 5500*time.Millisecond + 2*2*time.Second + 2*time.Second
					if len(flips) != 1 || flips[0].Sub(start) > bound {
						t.Fatalf("flips after %v, want one within %v", flips, bound)
					}
					// 2 minutes at growing intervals: 5, 6.25, ... 30 s. Steady ones would be 24 probes, and 3 before.
					if n := len(probes); n < 8 || n > 14 {
						t.Errorf("%d probes in 2 minutes of a backend that is down", n)
					}
					b.set(nil, 0)
					start = time.Now()
					time.Sleep(2 * time.Minute)
					if _, flips = b.seen(); len(flips) != 1 || flips[0].Sub(start) > 31*time.Second {
						t.Errorf("back after %v, want one flip within 31s", flips)
					}
				})
			}
		})
	}
}

// A probe that outlasts the interval neither overlaps with the next nor is it followed by a burst.
func TestSlowProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		var running, most atomic.Int32
		b := &backend{thresholds: healthcheck.Thresholds{Rise: 1, Fall: 100}}
		slow := proberFunc(func(ctx context.Context) (int, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			return b.Probe(ctx)
		})
		b.set(nil, 12*time.Second)
		ck := check("a", slow)
		ck.Timeout = 20 * time.Second
		defer c.Watch(ck, b)()
		time.Sleep(5 * time.Minute)
		probes, _ := b.seen()
		if most.Load() != 1 {
			t.Errorf("%d probes at a time", most.Load())
		}
		for i := 1; i < len(probes); i++ {
			if gap := probes[i].Sub(probes[i-1]); gap < 12*time.Second {
				t.Errorf("gap of %v", gap)
			}
		}
		if n := len(probes); n > 5*60/12+1 {
			t.Errorf("%d probes in 5 minutes", n)
		}
	})
}

type proberFunc func(ctx context.Context) (int, error)

func (f proberFunc) Probe(ctx context.Context) (int, error) { return f(ctx) }

func TestPanickingProber(t *testing.T) {
	r := makeProbe(t.Context(), Check{Timeout: time.Second, Prober: proberFunc(func(context.Context) (int, error) { panic("oh") })})
	if r.OK() || r.Refused {
		t.Errorf("got %+v, want a failure", r)
	}
}

// TestSpread has 2,000 checks at an interval of two seconds: no 200 ms get more than 1.3 times the mean, from the
// first interval on. Where each probe is in its tenth of the interval is random: that is eight standard deviations.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, interval, span = 2000, 2 * time.Second, 200 * time.Millisecond
		var c Checker
		var mu sync.Mutex
		var slots [200]int
		start := time.Now()
		counting := proberFunc(func(context.Context) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if slot := int(time.Since(start) / span); slot < len(slots) {
				slots[slot]++
			}
			return 200, nil
		})
		before := runtime.NumGoroutine()
		var stops []func()
		for i := range n {
			ck := Check{Key: fmt.Sprint(i), Prober: counting, Interval: interval, FastInterval: interval, Timeout: time.Second}
			stops = append(stops, c.Watch(ck, &backend{}))
		}
		if got := runtime.NumGoroutine() - before; got > n {
			t.Errorf("%d goroutines for %d checks", got, n)
		}
		time.Sleep(21 * interval)
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for _, count := range slots {
			total += count
		}
		mean := float64(total) / float64(len(slots))
		if mean < 190 || mean > 220 {
			t.Errorf("%.1f probes in %v, want 200", mean, span)
		}
		// In the interval when the first probes are still coming, the first of them have their second one.
		for i, count := range slots[10:] {
			if float64(count) > 1.3*mean {
				t.Errorf("%d probes in the %v from %v on, mean %.1f", count, span, interval+time.Duration(i)*span, mean)
			}
		}
		t.Logf("mean %.1f, least %d, most %d", mean, slices.Min(slots[10:]), slices.Max(slots[10:]))
		for _, stop := range stops {
			stop()
		}
		if checks(&c) != 0 {
			t.Errorf("%d checks after all have stopped", checks(&c))
		}
	})
}

// Equal checks are made once, and each observer is told each result once, however often it watches.
func TestSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		b, other := &backend{}, &backend{}
		stop := []func(){c.Watch(check("a", b), b), c.Watch(check("a", b), b), c.Watch(check("a", b), other)}
		time.Sleep(time.Minute)
		if checks(&c) != 1 {
			t.Errorf("%d checks, want 1", checks(&c))
		}
		if probes, _ := b.seen(); len(probes) > 14 {
			t.Errorf("%d probes in a minute, want 13", len(probes))
		}
		if b.State().Status != healthcheck.Up || other.State().Status != healthcheck.Up {
			t.Errorf("states %v and %v, want both up", b.State(), other.State())
		}
		stop[0]()
		stop[0]()
		time.Sleep(time.Minute)
		if probes, _ := b.seen(); len(probes) < 20 {
			t.Error("probes ended while somebody watches")
		}
		stop[1]()
		stop[2]()
		probes, _ := b.seen()
		time.Sleep(time.Minute)
		if after, _ := b.seen(); len(after) != len(probes) {
			t.Errorf("%d probes after everybody stopped", len(after)-len(probes))
		}
	})
}

// A config that takes over from another, as in a reload, continues the checks: no storm, no growth.
func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		b := &backend{}
		stop := c.Watch(check("a", b), b)
		time.Sleep(time.Minute)
		b.set(nil, 0)
		before := runtime.NumGoroutine()
		for range 20 {
			next := c.Watch(check("a", b), b)
			stop()
			stop = next
			time.Sleep(500 * time.Millisecond)
		}
		if probes, _ := b.seen(); len(probes) > 3 {
			t.Errorf("%d probes in 10 s of reloads, want 2", len(probes))
		}
		if got := runtime.NumGoroutine(); got > before {
			t.Errorf("%d goroutines, before %d", got, before)
		}
		stop()
		// Other settings are another check; what is known is kept, so there is no need for a probe at once.
		b.set(nil, 0)
		changed := check("b", b)
		changed.Interval = time.Minute
		stop = c.Watch(changed, b)
		synctest.Wait()
		if probes, _ := b.seen(); len(probes) != 0 {
			t.Error("a check with other settings began with a probe, though the backend's state is known")
		}
		stop()
	})
}

// A process that was stopped for a while has no burst of probes when it goes on.
func TestWakingUp(t *testing.T) {
	late := Check{Key: "a", Interval: 5 * time.Second, FastInterval: time.Second, Timeout: time.Second}
	var p pacer
	start := time.Now()
	due := p.next(late, start, []healthcheck.State{{Status: healthcheck.Up}}, 0)
	woke := start.Add(time.Hour)
	next := p.next(late, woke, nil, 0)
	// A turn, the jitter after it, and the moment that is shared with others.
	longest := late.Interval + time.Duration(jitter*float64(late.Interval)) + maxGrain
	if next.Before(woke) || next.After(woke.Add(longest)) {
		t.Errorf("due %v after waking up, want within %v", next.Sub(woke), longest)
	}
	if due.Sub(start) > longest {
		t.Errorf("first due after %v, want within %v", due.Sub(start), longest)
	}
	// Fifty that wake together are spread over the interval: each has its turn where it had it before the sleep.
	for i := range 50 {
		p := pacer{phase: float64(i) / 50}
		p.next(late, start, []healthcheck.State{{Status: healthcheck.Up}}, 0)
		turn := time.Duration(p.phase * float64(late.Interval))
		if i == 0 {
			turn = late.Interval // the turn at the moment of waking up is the one that this probe has had
		}
		after := p.next(late, woke, nil, 0).Sub(woke) - turn
		if after < -time.Microsecond || after > longest-late.Interval+time.Microsecond {
			t.Errorf("probe %d of 50 is due %v after its turn, want at most %v", i, after, longest-late.Interval)
		}
	}
}

// Who is told that a backend is another than it was looks at once, however rare its probes have become.
func TestHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Checker
		b := &backend{thresholds: healthcheck.Thresholds{Rise: 2, Fall: 3}}
		b.set(errDown, 0)
		stop := c.Watch(check("a", b), b)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		before, _ := b.seen()
		time.Sleep(time.Until(before[len(before)-1].Add(time.Second))) // the next is due in half a minute
		b.set(nil, 0)
		c.Hurry("a")
		c.Hurry("b") // which nobody watches
		synctest.Wait()
		if probes, _ := b.seen(); len(probes) != 1 {
			t.Errorf("%d probes at once, want one", len(probes))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if b.State().Status != healthcheck.Up {
			t.Errorf("state %+v soon after, want up", b.State())
		}
		stop()
	})
}

// checks is the number of checks being made.
func checks(c *Checker) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.targets)
}
