package course

import (
	"fmt"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// hedged has copies be sent after what all of many requests took, 50ms.
func hedged(w *world) {
	w.rules.Hedge = HedgeRules{On: true, Percentile: 0.5, MaxExtra: 1}
	for range 100 {
		w.pool.Latency.Add(50*ms, w.began)
		w.pool.CountRequest()
	}
}

func TestWhetherCopy(t *testing.T) {
	for _, c := range []struct {
		name  string
		given func(*world)
		want  bool
	}{
		{"yes", nil, true},
		{"off", func(w *world) { w.rules.Hedge.On = false }, false},
		{"upgrade", func(w *world) { w.upgrade = true }, false},
		{"not idempotent", func(w *world) { w.notIdempotent = true }, false},
		{"not idempotent, and asked for", func(w *world) { w.notIdempotent, w.rules.Retry.NonIdempotent = true, true }, false},
		{"sessions", func(w *world) { w.rules.Sessions, w.rules.BindSessions = true, true }, false},
		{"a backend of a policy's own", func(w *world) {
			w.rules.Foreign, w.settings.Policy = true, nil
			w.foreign = func([]int) (int, Target) { return -1, target("own") }
		}, false},
	} {
		w := newWorld(t, 2)
		hedged(w)
		if c.given != nil {
			c.given(w)
		}
		w.start()
		begin(w, w.began)
		_, after, ok := w.course.Copy(w.began)
		if ok != c.want || ok && (after < 50*ms || after > 60*ms) {
			t.Errorf("%s: got %v after %v, want %v", c.name, ok, after, c.want)
		}
		w.end(Ending{}, w.began)
	}

	w := newWorld(t, 2)
	w.rules.Hedge = HedgeRules{On: true, Percentile: 0.5, MaxExtra: 1}
	w.start()
	begin(w, w.began)
	if _, _, ok := w.course.Copy(w.began); ok {
		t.Error("there is a copy although it is not known how long requests take")
	}
	hedged(w)
	ended(failure(Broken))(w, w.began)
	if _, _, ok := w.course.Copy(w.began.Add(time.Second)); ok {
		t.Error("there is a copy of the second attempt")
	}
	w.end(Ending{}, w.began)
}

// timed is a policy that records the time that it was given; the zero time if it was given none.
type timed struct{ told *[]time.Time }

func (p timed) Build(members []balance.Member, prev balance.Picker, prevIndex []int) balance.Picker {
	return timedPicker{p, balance.First{}.Build(members, prev, prevIndex)}
}

type timedPicker struct {
	policy timed
	balance.Picker
}

func (p timedPicker) Pick(tried []int) int { return p.PickAt(time.Time{}, tried) }

func (p timedPicker) PickAt(now time.Time, tried []int) int {
	*p.policy.told = append(*p.policy.told, now)
	return p.Picker.Pick(tried)
}

// TestTime checks that policies are given the time, and need not read the clock. It is the time of the choice: the request may have come
// long before.
func TestTime(t *testing.T) {
	copied := func(w *world, now time.Time) string {
		at := copies(w, now)
		w.copyChoice.Lease.Release()
		return at
	}
	for name, moves := range map[string][]move{
		"a copy, and again": {{0, begin, "send a"}, {30 * ms, copied, "b"}, {40 * ms, ended(failure(Broken)), "send b again for reset"}},
		"after an outage":   {{0, dies("a", "b", "c"), ""}, {0, begin, "wait until 1.9s"}, {50 * ms, returns("b"), ""}, {60 * ms, resume(Signaled), "send b"}},
		"out of the queue":  {{0, fills("a", "b", "c"), ""}, {0, begin, "queue of 5 for 1s"}, {50 * ms, frees("b"), ""}, {60 * ms, tries, "chose b"}},
	} {
		w := newWorld(t, 3)
		hedged(w)
		caps(w)
		queue(w)
		var told []time.Time
		w.settings.Policy = timed{&told}
		for i, m := range moves {
			moves[i].do = func(w *world, now time.Time) string {
				before := len(told)
				got := m.do(w, now)
				for _, at := range told[before:] {
					if !at.Equal(now) {
						t.Errorf("%s, move %d: the policy was told %v, want %v", name, i, at, now)
					}
				}
				return got
			}
		}
		w.play(moves...)
		if len(told) == 0 {
			t.Errorf("%s: the policy was told nothing", name)
		}
	}
}

// copies has a copy be sent, and tells where.
func copies(w *world, now time.Time) string {
	copied, _, ok := w.course.Copy(w.began)
	if !ok {
		return "no copy"
	}
	choice, ok := copied.Choose(now)
	if !ok {
		return "nobody"
	}
	w.copied, w.copyChoice = copied, choice
	return choice.Target.Address()
}

// loses has the copy not be the answer.
func loses(f Facts) func(*world, time.Time) string {
	return func(w *world, now time.Time) string { return w.copied.Lost(&w.copyChoice, &f, now).String() }
}

// overtakes has the copy be the answer; f tells how the first attempt ended, if it did.
func overtakes(f *Facts) func(*world, time.Time) string {
	return func(w *world, now time.Time) string {
		w.course.CopyWon(f, w.copyChoice, 60*ms, now)
		return fmt.Sprint(w.course.Choice().Target.Address(), " attempt ", w.course.Attempts())
	}
}

func TestCopies(t *testing.T) {
	broken, bad, good := failure(Broken), answer(503), answer(200)
	nobody := func(given func(*world)) func(*world) {
		return func(w *world) {
			hedged(w)
			w.rules.Retry.Budget = pool.BudgetSettings{Ratio: 1}
			given(w)
		}
	}
	retried := func(w *world, now time.Time) string {
		return fmt.Sprintf("%d copies, %.0f left", w.pool.Retries(pool.RetryHedge), w.pool.RetryBudget(pool.BudgetSettings{Ratio: 1}, now))
	}
	scripts(t, []script{
		{"to another", hedged, []move{{0, begin, "send a"}, {60 * ms, copies, "b"}, {60 * ms, serves, "a1 b1 "}, {60 * ms, loses(good), "ignored"}, {60 * ms, serves, "a1 b0 "}}},
		{"it is taken from the budget", nobody(func(*world) {}), []move{{0, begin, "send a"}, {0, copies, "b"}, {0, loses(good), "ignored"}, {0, retried, "1 copies, 100 left"}}},
		{"there is nobody else", nobody(alone), []move{{0, begin, "send a"}, {0, copies, "nobody"}, {0, serves, "a1 "}, {0, retried, "0 copies, 101 left"}}},
		{"the others are full", nobody(caps), []move{{0, fills("b"), ""}, {0, begin, "send a"}, {0, copies, "nobody"}}},
		{"no budget for copies", nobody(func(w *world) { w.rules.Hedge.MaxExtra = 0 }), []move{{0, begin, "send a"}, {0, copies, "nobody"}, {0, serves, "a1 b0 "}}},
		{"no budget for retries", nobody(noBudget), []move{{0, begin, "send a"}, {0, copies, "nobody"}}},
		{"there is another list", hedged, []move{{0, begin, "send a"}, {0, becomes("a", "b"), ""}, {0, copies, "nobody"}}},
		{"the source has another list", hedged, []move{{0, begin, "send a"}, {0, act(func(w *world, _ time.Time) { close(w.current.second) }), ""}, {0, copies, "nobody"}}},
		{"whose address depends on the request", nobody(func(w *world) { w.backends[1].Unchecked = true }), []move{
			{0, begin, "send a"}, {0, copies, "nobody"}, {0, serves, "a1 b0 "}, {0, retried, "0 copies, 101 left"},
		}},

		{"it failed", hedged, []move{{0, begin, "send a"}, {0, copies, "b"}, {0, loses(broken), "failure"}, {0, of("b"), "1 failures, told unanswered 0s, 2"}}},
		{"it was answered badly", hedged, []move{{0, begin, "send a"}, {0, copies, "b"}, {0, loses(bad), "failure"}, {0, of("b"), "1 failures, told unanswered 0s, 2"}}},
		{"it was refused", hedged, []move{{0, begin, "send a"}, {0, copies, "b"}, {0, loses(answer(429)), "ignored"}, {0, of("b"), "0 failures, told unanswered 0s, 2"}}},
		{"it was canceled", hedged, []move{
			{0, begin, "send a"}, {0, copies, "b"}, {0, loses(failure(Broken).with(func(f *Facts) { f.Excused, f.Took = true, time.Second })), "ignored"}, {0, of("b"), "0 failures, told unanswered 1s, 1"},
		}},
		{"it found no connection", func(w *world) { hedged(w); w.settings.DeadAfter = 1 }, []move{
			{0, begin, "send a"}, {0, copies, "b"}, {0, loses(refusal()), "failure"}, {0, dead, "b"},
		}},

		{"it overtakes", hedged, []move{
			{0, begin, "send a"}, {0, copies, "b"}, {0, overtakes(nil), "b attempt 2"}, {0, serves, "a0 b1 "}, {0, of("a"), "0 failures, told unanswered 0s, 1"},
			{9 * ms, ended(good), "give"}, {9 * ms, ends(Ending{Complete: true}), `success "" false`}, {9 * ms, of("a"), "0 failures, told unanswered 0s, 1"},
		}},
		{"it overtakes a failure", hedged, []move{{0, begin, "send a"}, {0, copies, "b"}, {0, overtakes(&bad), "b attempt 2"}, {0, serves, "a0 b1 "}, {0, suspects, "a"}, {9 * ms, ended(good), "give"}}},
		{"it overtakes a poor answer", hedged, []move{
			{0, fails("a", 1), ""}, {0, begin, "send a"}, {0, copies, "b"}, {0, overtakes(&Facts{Status: 500, Took: ms, Answered: ms, Known: true}), "b attempt 2"}, {0, suspects, ""}, {9 * ms, ended(good), "give"},
		}},
		{"it overtakes and is no better", hedged, []move{{0, begin, "send a"}, {0, copies, "b"}, {0, overtakes(&broken), "b attempt 2"}, {9 * ms, ended(broken), "fail"}}},
	})
}

// of is what is known of a backend: failures, the time that its answers take in whole seconds, and its penalty.
func of(address string) func(*world, time.Time) string {
	return func(w *world, now time.Time) string {
		m := w.member(address)
		return fmt.Sprintf("%d failures, told unanswered %v, %.0f", m.Counts().Failures, m.Latency().Estimate().Round(time.Second/10), m.Latency().Penalty(now))
	}
}

// suspects are the backends that failed last.
func suspects(w *world, _ time.Time) (text string) {
	for i, b := range w.backends {
		if w.current.view.Suspect(i) {
			text += b.Address
		}
	}
	return text
}

// dead are the backends that no connection can be made to.
func dead(w *world, _ time.Time) (text string) {
	for _, m := range w.pool.Members() {
		if !m.Died().IsZero() {
			text += m.Address()
		}
	}
	return text
}

// TestNoCopyPastTheQueue checks that copies do not take the slots of queued requests.
func TestNoCopyPastTheQueue(t *testing.T) {
	w := newWorld(t, 2)
	hedged(w)
	w.start()
	begin(w, w.began)
	waits(t, w, func() {
		if got := copies(w, w.began); got != "nobody" {
			t.Errorf("got %s, want none", got)
		}
	})
	w.end(Ending{}, w.began)
}
