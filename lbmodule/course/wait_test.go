package course

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// checked has backends wait for their first probe.
func checked(w *world) { w.settings.Checked = true }

// passes has the probe of that backend end well, or not.
func passes(address string, ok bool) func(*world, time.Time) string {
	return act(func(w *world, now time.Time) {
		r := healthcheck.Result{Time: now}
		if !ok {
			r.Err = errors.New("not well")
		}
		pool.Observer{Member: w.member(address), Thresholds: healthcheck.Thresholds{Rise: 1, Fall: 1}}.Observe(r)
	})
}

func TestHeldUntilChecked(t *testing.T) {
	scripts(t, []script{
		{"for a second", checked, []move{{0, begin, "wait until 1s"}, {999 * ms, wakes, "asleep"}, {time.Second, resume(Elapsed), "refuse: " + noneChecked}}},
		{"until one is well", checked, []move{
			{0, begin, "wait until 1s"}, {5 * ms, passes("b", true), ""}, {5 * ms, wakes, "woken by 0"}, {5 * ms, resume(Signaled), "send b"},
		}},
		{"woken for nobody", checked, []move{
			{0, begin, "wait until 1s"}, {700 * ms, passes("b", false), ""}, {700 * ms, resume(Signaled), "wait until 1s"}, {time.Second, resume(Elapsed), "refuse: " + noneChecked},
		}},
		{"until its client leaves", checked, []move{{0, begin, "wait until 1s"}, {5 * ms, resume(Gone), "refuse: " + noneChecked}}},
		{"until there are others", checked, []move{
			{0, begin, "wait until 1s"}, {5 * ms, act(func(w *world, _ time.Time) { w.settings.Checked = false }), ""},
			{5 * ms, becomes("c"), ""}, {5 * ms, wakes, "woken by 1"}, {5 * ms, resume(Signaled), "send c"},
		}},
		{"as long as lb_try_duration if that is longer", func(w *world) { checked(w); stock(5*time.Second, 0)(w) }, []move{
			{0, begin, "wait until 250ms"}, {250 * ms, resume(Elapsed), "wait until 500ms"},
		}},
		{"no shorter than a second", func(w *world) { checked(w); stock(time.Second/2, 0)(w) }, []move{{0, begin, "wait until 1s"}}},
		{"also when lb_retries are over", func(w *world) { checked(w); stock(5*time.Second, 2)(w) }, []move{
			{0, begin, "wait until 250ms"}, {250 * ms, resume(Elapsed), "wait until 1s"}, {time.Second, resume(Elapsed), "refuse: " + noneChecked},
		}},
	})
}

// TestHold checks how requests wait when all backends are dead, for two seconds at most.
func TestHold(t *testing.T) {
	quiet := func(w *world) { w.quiet = true }
	all := dies("a", "b")
	scripts(t, []script{
		{"to the end", nil, []move{
			{-300 * ms, all, ""},
			{0, begin, "wait until 1.6s"},
			{0, holds, "1 held, 1 stay"},
			{1600 * ms, resume(Elapsed), "wait until 1.7s"},
			{1600 * ms, holds, "1 held, 1 stay"},
			{1700 * ms, resume(Elapsed), "refuse: " + noneUsable},
			{1700 * ms, holds, "0 held, 1 stay"},
		}},
		{"until one is back", nil, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {0, wakes, "asleep"}, {50 * ms, returns("b"), ""}, {50 * ms, wakes, "woken by 0"},
			{60 * ms, resume(Signaled), "send b"}, {60 * ms, waited, "60ms"}, {60 * ms, holds, "0 held, 1 stay"}, {70 * ms, ended(answer(200)), "give"},
			{70 * ms, holds, "0 held, 0 stay"},
		}},
		{"until one is back at the last look", nil, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {1900 * ms, resume(Elapsed), "wait until 2s"}, {1950 * ms, returns("a"), ""},
			{1950 * ms, wakes, "woken by 0"}, {1950 * ms, resume(Signaled), "send a"},
		}},
		{"until its client leaves", nil, []move{{0, all, ""}, {0, begin, "wait until 1.9s"}, {time.Second, resume(Gone), "refuse: " + noneUsable}}},
		{"until its client leaves at the last look", nil, []move{
			{-1950 * ms, all, ""}, {0, begin, "wait until 50ms"}, {10 * ms, resume(Gone), "refuse: " + noneUsable},
		}},
		{"who comes when it is nearly over", nil, []move{
			{-1900 * ms, all, ""}, {0, begin, "wait until 100ms"}, {100 * ms, resume(Elapsed), "refuse: " + noneUsable},
		}},
		{"who comes when it is over", nil, []move{{-2000 * ms, all, ""}, {0, begin, "refuse: " + noneUsable}, {0, holds, "0 held, 0 stay"}}},
		{"not where it is off", func(w *world) { w.rules.Hold = 0 }, []move{{0, all, ""}, {0, begin, "refuse: " + noneUsable}}},
		{"not if there is nobody to be back", func(w *world) { w.backends[0].Weight = 0; w.backends[1].State = pool.Drained }, []move{{0, begin, "refuse: " + noneUsable}}},
		{"not if one is out for another reason", func(w *world) {
			w.settings.Checked, w.settings.PanicThreshold = true, 0
		}, []move{{-5 * ms, passes("a", false), ""}, {-5 * ms, passes("b", true), ""}, {0, dies("b"), ""}, {0, begin, "send a"}}}, // in a panic
		{"until there are others", nil, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {5 * ms, becomes("c"), ""}, {5 * ms, wakes, "woken by 1"}, {5 * ms, resume(Signaled), "send c"},
		}},
		{"until the source names others", nil, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {5 * ms, act(func(w *world, _ time.Time) { close(w.current.second) }), ""}, {5 * ms, wakes, "woken by 2"},
		}},
		{"others that are dead as well", nil, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {0, holds, "1 held, 1 stay"}, {500 * ms, becomes("c"), ""}, {500 * ms, dies("c"), ""},
			{500 * ms, resume(Signaled), "wait until 2.4s"}, {500 * ms, holds, "1 held, 1 stay"},
		}},
		{"the source may name others without a word", quiet, []move{
			{0, all, ""}, {0, begin, "wait until 1s"}, {0, holds, "1 held, 1 stay"}, {time.Second, resume(Elapsed), "wait until 1.9s"},
			{1900 * ms, resume(Elapsed), "wait until 2s"}, {2 * time.Second, resume(Elapsed), "refuse: " + noneUsable},
		}},
		{"the source has named others without a word", quiet, []move{
			{0, all, ""}, {0, begin, "wait until 1s"}, {time.Second, becomes("c"), ""}, {time.Second, resume(Elapsed), "send c"},
		}},
		{"its client leaves while the source is asked again", quiet, []move{{0, all, ""}, {0, begin, "wait until 1s"}, {5 * ms, resume(Gone), "refuse: " + noneUsable}}},
		{"the source does not answer any more", nil, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {5 * ms, act(func(w *world, _ time.Time) { w.err = errSource }), ""}, {5 * ms, resume(Signaled), "refuse: source does not answer"},
		}},
		{"then for a slot", caps, []move{ // all held requests are released together
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {500 * ms, returns("a"), ""}, {500 * ms, fills("a"), ""},
			{500 * ms, resume(Signaled), "queue of 10000 for 2s"}, {900 * ms, frees("a"), ""}, {900 * ms, tries, "chose a"}, {900 * ms, queuedWith(nil), "send a"},
			{900 * ms, waited, "900ms"},
		}},
		{"then for a slot in the queue", func(w *world) { caps(w); w.rules.Queue = QueueRules{On: true, Size: 20_000, Timeout: time.Second} }, []move{
			{0, all, ""}, {0, begin, "wait until 1.9s"}, {500 * ms, returns("a"), ""}, {500 * ms, fills("a"), ""}, {500 * ms, resume(Signaled), "queue of 20000 for 2s"},
		}},
		{"the breaker of all was open for a moment", func(w *world) { w.rules.Breaker = &stockBreaker{opened: 1} }, []move{{0, begin, "send a"}}},
	})
}

// waited is how long the request has waited for a backend.
func waited(w *world, _ time.Time) string { return w.course.Waited().String() }

// TestMostHeld checks that a bounded number of requests is held.
func TestMostHeld(t *testing.T) {
	for most, want := range map[int]string{maxHolding - 1: "wait until 1.9s", maxHolding: "refuse: " + noneUsable} {
		w := newWorld(t, 1)
		for range most {
			w.pool.Hold(math.MaxInt)
		}
		w.start()
		dies("a")(w, w.began)
		if got := begin(w, w.began); got != want {
			t.Errorf("with %d others: got %q, want %q", most, got, want)
		}
		for range most {
			w.pool.EndHold()
		}
		w.end(Ending{}, w.began)
	}
}

// TestMostReleases checks that a request is refused after it has repeatedly found a recovered backend dead again.
func TestMostReleases(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	got := begin(w, w.began)
	for k := 1; k <= maxReleases+1; k++ {
		now := w.at(time.Duration(k) * time.Second)
		if got != "send a" && got != "send a again for connect" {
			t.Fatalf("release %d: got %q", k, got)
		}
		f := refusal()
		if got, want := w.show(w.course.Ended(&f, now)), fmt.Sprint("wait until ", time.Duration(k)*time.Second+1900*ms); got != want {
			t.Fatalf("release %d: got %q, want %q", k, got, want)
		}
		returns("a")(w, now)
		got = w.show(w.course.Resume(Signaled, now))
	}
	if want := "refuse: " + noneUsable; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(w.course.Refused(), pool.ErrNone) || w.course.Attempts() != maxReleases+1 {
		t.Errorf("got %v after %d attempts", w.course.Refused(), w.course.Attempts())
	}
	w.end(Ending{}, w.at(time.Minute))
}

// stock has the words of reverse_proxy rule: lb_try_duration, an lb_try_interval of 250ms, and so many attempts in all, 0 for any.
func stock(duration time.Duration, attempts int) func(*world) {
	return func(w *world) {
		w.rules.Retry.Stock = &StockRetries{Duration: duration, Interval: 250 * ms}
		w.rules.Retry.Attempts, w.rules.Retry.Statuses = attempts, Statuses{}
		if duration > 0 {
			w.rules.Hold = 0
		}
	}
}

// TestStockWaits checks how requests wait by lb_try_duration and lb_try_interval.
func TestStockWaits(t *testing.T) {
	all := dies("a", "b")
	scripts(t, []script{
		{"to the end", stock(time.Second, 0), []move{
			{-time.Hour, all, ""}, // the age of the outage does not matter
			{0, begin, "wait until 250ms"},
			{0, holds, "1 held, 1 stay"},
			{250 * ms, resume(Elapsed), "wait until 500ms"},
			{500 * ms, resume(Elapsed), "wait until 750ms"},
			{750 * ms, resume(Elapsed), "wait until 1s"},
			{time.Second, resume(Elapsed), "wait until 1.1s"}, // the dead are tried once more
			{time.Second, holds, "1 held, 1 stay"},
			{1100 * ms, resume(Elapsed), "refuse: " + noneUsable},
		}},
		{"until one is back", stock(time.Second, 0), []move{
			{0, all, ""}, {0, begin, "wait until 250ms"}, {9 * ms, returns("a"), ""}, {9 * ms, wakes, "woken by 0"}, {9 * ms, resume(Signaled), "send a"}, {9 * ms, waited, "9ms"},
		}},
		{"until its client leaves", stock(time.Second, 0), []move{{0, all, ""}, {0, begin, "wait until 250ms"}, {9 * ms, resume(Gone), "refuse: " + noneUsable}}},
		{"an interval is not longer than what is left", func(w *world) { stock(time.Second, 0)(w); w.rules.Retry.Stock.Interval = time.Minute }, []move{
			{0, all, ""}, {0, begin, "wait until 1s"},
		}},
		{"an interval that has begun is not cut short", stock(time.Second, 0), []move{{0, all, ""}, {0, begin, "wait until 250ms"}, {900 * ms, resume(Elapsed), "wait until 1.15s"}}},
		{"no interval is very short", func(w *world) { stock(time.Second, 0)(w); w.rules.Retry.Stock.Interval = 0 }, []move{{0, all, ""}, {0, begin, "wait until 10ms"}}},
		{"a look is one of lb_retries", stock(time.Minute, 3), []move{
			{0, all, ""}, {0, begin, "wait until 250ms"}, {250 * ms, resume(Elapsed), "wait until 500ms"}, {500 * ms, resume(Elapsed), "refuse: " + noneUsable},
		}},
		{"being woken is none", stock(time.Minute, 2), []move{
			{0, all, ""}, {0, begin, "wait until 250ms"}, {100 * ms, resume(Signaled), "wait until 350ms"}, {350 * ms, resume(Elapsed), "refuse: " + noneUsable},
		}},
		{"for a slot, too", func(w *world) { caps(w); stock(time.Second, 0)(w) }, []move{
			{0, fills("a", "b"), ""}, {0, begin, "wait until 250ms"}, {0, holds, "0 held, 1 stay"}, {100 * ms, frees("b"), ""}, {250 * ms, resume(Elapsed), "send b"},
		}},
		{"not without lb_try_duration", stock(0, 3), []move{{-2000 * ms, all, ""}, {0, begin, "refuse: " + noneUsable}}},
		{"as others do without lb_try_duration", stock(0, 3), []move{{-1000 * ms, all, ""}, {0, begin, "wait until 900ms"}}},
	})
}

// TestLooks checks that dead members are redialed as reverse_proxy's settings say, and by a request that is about to give up.
func TestLooks(t *testing.T) {
	for _, c := range []struct {
		name  string
		given func(*world)
		want  []time.Duration // when
	}{
		{"hold", func(*world) {}, []time.Duration{1900 * ms}},
		{"stock", stock(300*ms, 0), []time.Duration{0, 250 * ms, 500 * ms}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			c.given(w)
			w.start()
			dialed := map[time.Duration]bool{}
			dies("a")(w, w.began)
			dial := pool.Dialer(func(context.Context, string) error { dialed[time.Since(w.began)] = true; return errSource })
			w.member("a").Redial(&dial, false)
			for step := w.course.Begin(w.began); step.Do == Wait; step = w.course.Resume(Elapsed, time.Now()) {
				time.Sleep(time.Until(step.Until))
				synctest.Wait()
			}
			w.member("a").EndRedial(&dial)
			for _, at := range c.want {
				if !dialed[at] {
					t.Errorf("%s: the dead were tried at %v, and not at %v", c.name, dialed, at)
				}
			}
			w.end(Ending{}, time.Now())
		})
	}
}

// TestOldSnapshot checks that a request which has had no connection is not sent to a backend that is known to be dead, though the
// snapshot of a large pool does not show that yet.
func TestOldSnapshot(t *testing.T) {
	for _, c := range []struct {
		shown bool // there is another snapshot
		why   Woken
		after time.Duration
		want  string
	}{
		{true, Signaled, 10 * ms, "wait until 1.9s"},
		{true, Elapsed, 10 * ms, "wait until 1.9s"},
		{false, Elapsed, 10 * ms, "wait until 20ms"},
		{false, Elapsed, 1999 * ms, "wait until 2.009s"},
		{false, Elapsed, 2000 * ms, "refuse: " + noneUsable},
		{false, Gone, 10 * ms, "refuse: " + noneUsable},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 2)
			w.rules.Retry.Budget = pool.BudgetSettings{}
			w.start()
			if got := begin(w, w.began); got != "send a" {
				t.Fatalf("got %q", got)
			}
			w.current.view.Close() // whose snapshot is the last one until it is reopened
			dies("b")(w, w.began)
			if got := ended(refusal())(w, w.began); got != "wait until 10ms" {
				t.Fatalf("got %q", got)
			}
			if got := wakes(w, w.began); got != "asleep" {
				t.Fatalf("got %q", got)
			}
			if c.shown {
				w.pool.Report(w.current.view.Reopen())
				if got := wakes(w, w.began); got != "woken by 0" {
					t.Error("the next snapshot has not woken the request")
				}
			}
			if got := resume(c.why)(w, w.at(c.after)); got != c.want {
				t.Errorf("woken for %d after %v: got %q, want %q", c.why, c.after, got, c.want)
			}
			w.end(Ending{}, time.Now())
		})
	}
}
