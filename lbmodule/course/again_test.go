package course

import (
	"fmt"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// alone leaves one backend.
func alone(w *world) { w.backends = w.backends[:1] }

// all returns what is given together.
func all(given ...func(*world)) func(*world) {
	return func(w *world) {
		for _, f := range given {
			f(w)
		}
	}
}

func attempts(n int) func(*world) { return func(w *world) { w.rules.Retry.Attempts = n } }

func noBudget(w *world) { w.rules.Retry.Budget = pool.BudgetSettings{} }

func noHold(w *world) { w.rules.Hold = 0 }

func notAgainFor(reason pool.RetryReason) func(*world) {
	return func(w *world) { w.rules.Retry.On[reason] = false }
}

// serves is how many requests each backend has, and spent how many retries the pool has made.
func serves(w *world, _ time.Time) (text string) {
	for _, m := range w.pool.Members() {
		text += fmt.Sprintf("%s%d ", m.Address(), m.InFlight())
	}
	return text
}

func spent(w *world, _ time.Time) (text string) {
	for reason := range pool.RetryReasons {
		if n := w.pool.Retries(reason); n > 0 {
			text += fmt.Sprintf("%v%d ", reason, n)
		}
	}
	return text
}

// fails has requests of others fail on that backend.
func fails(address string, times int) func(*world, time.Time) string {
	return act(func(w *world, now time.Time) {
		for range times {
			l := w.lease(address)
			l.Judge(pool.Verdict{Outcome: pool.Failure}, now)
			l.Release()
		}
	})
}

func overloaded(status int) Facts { return answer(status).with(func(f *Facts) { f.RetryAfter = true }) }

func TestWhetherAgain(t *testing.T) {
	gone := failure(Broken).with(func(f *Facts) { f.Gone = true })
	bodyFailed := failure(Broken).with(func(f *Facts) { f.BodyFailed = true })
	noDescriptors := failure(Broken).with(func(f *Facts) { f.NoDescriptors = true })
	notIdempotent := func(w *world) { w.notIdempotent = true }
	upgrade := func(w *world) { w.upgrade = true }
	read := func(w *world) { w.read = true }
	readOn := func(w *world) { w.readOn = true }
	told := func(w *world) { w.told = true }
	off := attempts(1)
	for _, c := range []struct {
		name  string
		given func(*world)
		facts Facts
		want  string
		spent string
	}{
		{"no connection", nil, refusal(), "send b again for connect", "connect1 "},
		{"no TLS", nil, failure(NotConnected), "send b again for connect", "connect1 "},
		{"broken", nil, failure(Broken), "send b again for reset", "reset1 "},
		{"timed out", nil, failure(TimedOut), "send b again for timeout", "timeout1 "},
		{"a status", nil, answer(503), "send b again for status", "status1 "},
		{"a status of gRPC", nil, answer(200).with(func(f *Facts) { f.Call = Call{Status: ParseGRPC("14")} }), "send b again for status", "status1 "},
		{"another status", nil, answer(500), "give", ""},
		{"a good one", nil, answer(200), "give", ""},

		{"off", off, failure(Broken), "fail", ""},
		{"off, a status", off, answer(503), "give", ""},
		{"off, no connection", off, refusal(), "fail", ""},
		{"off, no connection and no other", all(off, alone), refusal(), "wait until 1.901s", ""},
		{"not for resets", notAgainFor(pool.RetryReset), failure(Broken), "fail", ""},
		{"not for timeouts", notAgainFor(pool.RetryTimeout), failure(TimedOut), "fail", ""},
		{"not for statuses", notAgainFor(pool.RetryStatus), answer(503), "give", ""},
		{"not for connections", notAgainFor(pool.RetryConnect), refusal(), "fail", ""},
		{"not for connections, and no other", all(notAgainFor(pool.RetryConnect), alone), refusal(), "wait until 1.901s", ""},

		{"not idempotent", notIdempotent, failure(Broken), "fail", ""},
		{"not idempotent, a status", notIdempotent, answer(503), "give", ""},
		{"not idempotent, no connection", notIdempotent, refusal(), "send b again for connect", "connect1 "},
		{"not idempotent, but asked for", func(w *world) { notIdempotent(w); w.rules.Retry.NonIdempotent = true }, failure(Broken), "send b again for reset", "reset1 "},
		{"upgrade", upgrade, failure(Broken), "fail", ""},
		{"upgrade, asked for", func(w *world) { upgrade(w); w.rules.Retry.NonIdempotent = true }, failure(Broken), "fail", ""},
		{"upgrade, no connection", upgrade, refusal(), "send b again for connect", "connect1 "},
		{"body is read", read, failure(Broken), "fail", ""},
		{"body is read, a status", read, answer(503), "give", ""},
		{"body is read, no connection", read, refusal(), "fail", ""},
		{"body is read, no connection and no other", all(read, alone), refusal(), "fail", ""},
		{"body is read in the meantime", readOn, failure(Broken), "fail", "reset1 "},
		{"body is read in the meantime, a status", readOn, answer(503), "give", "status1 "},
		{"the client was told a 1xx", told, failure(Broken), "fail", ""},
		{"the client was told a 1xx, a status", told, answer(503), "give", ""},
		{"the client has left", nil, gone, "fail", ""},
		{"the client's body broke off", nil, bodyFailed, "fail", ""},
		{"no descriptors", nil, noDescriptors, "fail", ""},
		{"the client has left, no connection", alone, refusal().with(func(f *Facts) { f.Gone = true }), "fail", ""},
		{"the client's body broke off, no connection", alone, refusal().with(func(f *Facts) { f.BodyFailed = true }), "fail", ""},

		{"no budget", noBudget, failure(Broken), "fail", ""},
		{"no budget, a status", noBudget, answer(503), "give", ""},
		{"no budget, no connection", noBudget, refusal(), "send b again for connect", ""}, // nothing was sent
		{"no budget, no connection, no hold", all(noBudget, noHold), refusal(), "fail", ""},
		{"no hold and no other", all(noHold, alone), refusal(), "send a again for connect", "connect1 "},
		{"the address is that of several", func(w *world) { alone(w); w.backends[0].Unchecked = true }, refusal(), "send a again for connect", "connect1 "},
		{"the client's fault, no connection", alone, refusal().with(func(f *Facts) { f.ClientFault = true }), "send a again for connect", "connect1 "},

		{"come back later", nil, overloaded(503), "send b again for status", "status1 "},
		{"come back later, says the only one", alone, overloaded(503), "give", ""},
		{"the only one", alone, answer(503), "send a again for status", "status1 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 2)
			if c.given != nil {
				c.given(w)
			}
			w.play(move{0, begin, "send a"}, move{1 * ms, ended(c.facts), c.want}, move{1 * ms, spent, c.spent})
		})
	}
}

// TestUntold checks that EndInforming is called only if another attempt follows, because it stops informational answers.
func TestUntold(t *testing.T) {
	for _, c := range []struct {
		facts Facts
		given func(*world)
		want  int
	}{{failure(Broken), func(*world) {}, 1}, {answer(200), func(*world) {}, 0}, {failure(Broken), attempts(1), 0}, {answer(503), attempts(1), 0}} {
		w := newWorld(t, 2)
		c.given(w)
		w.start()
		begin(w, w.began)
		ended(c.facts)(w, w.began)
		if w.untold != c.want {
			t.Errorf("%+v: asked %d times, want %d", c.facts, w.untold, c.want)
		}
		w.end(Ending{}, w.began)
	}
}

func TestWhomAgain(t *testing.T) {
	broken := failure(Broken)
	scripts(t, []script{
		{"as often as attempts says", attempts(3), []move{
			{0, begin, "send a"}, {1 * ms, ended(broken), "send b again for reset"}, {2 * ms, ended(broken), "send a again for reset"}, {3 * ms, ended(broken), "fail"},
		}},
		{"an answer is kept until another backend has been found", nil, []move{
			{0, begin, "send a"}, {0, serves, "a1 b0 "}, {1 * ms, ended(answer(503)), "send b again for status"}, {1 * ms, serves, "a0 b1 "},
			{2 * ms, ended(answer(503)), "give"}, {2 * ms, serves, "a0 b1 "},
		}},
		{"all others are full", caps, []move{{0, fills("b"), ""}, {0, begin, "send a"}, {1 * ms, ended(broken), "send a again for reset"}}},
		{"all are full with the answer", caps, []move{{0, fills("b"), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(503)), "give"}, {1 * ms, serves, "a1 b1 "}}},
		{"the source fails", nil, []move{
			{0, begin, "send a"}, {0, act(func(w *world, _ time.Time) { w.err = errSource }), ""}, {1 * ms, ended(broken), "fail"},
		}},
		{"the source fails, an answer", nil, []move{
			{0, begin, "send a"}, {0, act(func(w *world, _ time.Time) { w.err = errSource }), ""}, {1 * ms, ended(answer(503)), "give"},
		}},
		{"the source fails, no connection", nil, []move{
			{0, begin, "send a"}, {0, act(func(w *world, _ time.Time) { w.err = errSource }), ""}, {1 * ms, ended(refusal()), "refuse: source does not answer"},
		}},
		{"not one that failed last", func(w *world) { addC(w) }, []move{{0, fails("b", 1), ""}, {0, begin, "send a"}, {1 * ms, ended(broken), "send c again for reset"}, {1 * ms, serves, "a0 b0 c1 "}}},
		{"one that failed last, if all did", func(w *world) { addC(w) }, []move{
			{0, fails("b", 1), ""}, {0, fails("c", 1), ""}, {0, begin, "send a"}, {1 * ms, ended(broken), "send b again for reset"}, {1 * ms, serves, "a0 b1 c0 "},
		}},
		{"not one whose breaker would be open", doubtful, []move{
			{0, fails("c", 2), ""}, {0, fails("b", 2), ""}, {0, begin, "send a"}, {1 * ms, ended(broken), "fail"}, {1 * ms, serves, "a0 b0 c0 "},
		}},
		{"not one whose breaker would be open, an answer", doubtful, []move{
			{0, fails("c", 2), ""}, {0, fails("b", 2), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(503)), "give"}, {1 * ms, serves, "a1 b0 c0 "},
		}},
		{"that one if nothing was sent", all(doubtful, noHold), []move{
			{0, fails("c", 2), ""}, {0, fails("b", 2), ""}, {0, begin, "send a"}, {1 * ms, ended(refusal()), "send b again for connect"},
		}},
	})
}

func addC(w *world) { w.backends = append(w.backends, pool.Backend{Address: "c", Weight: 1}) }

// doubtful has a breaker open after two failures, for one of three backends.
func doubtful(w *world) {
	addC(w)
	w.settings.Breaker = consecutive(2)
}

// TestBackoff checks the pause before the same backend is asked again.
func TestBackoff(t *testing.T) {
	const rounds = 200
	longest := make([]time.Duration, 5)
	for range rounds {
		w := newWorld(t, 1)
		w.rules.Retry.Attempts, w.rules.Retry.Base, w.rules.Retry.Max = len(longest)+1, 10*ms, 45*ms
		w.start()
		begin(w, w.began)
		f := failure(Broken)
		for k := range longest {
			s := w.course.Ended(&f, w.began)
			if s.Do == Wait {
				longest[k] = max(longest[k], s.Until.Sub(w.began))
				s = w.course.Resume(Elapsed, s.Until)
			}
			if s.Do != Send || !s.Again || s.Reason != pool.RetryReset {
				t.Fatalf("attempt %d: got %+v", k+2, s)
			}
		}
		w.end(Ending{}, w.began)
	}
	for k, bound := range []time.Duration{10 * ms, 20 * ms, 40 * ms, 45 * ms, 45 * ms} {
		if longest[k] >= bound || longest[k] < bound*4/5 {
			t.Errorf("longest pause before attempt %d is %v, want one a little shorter than %v", k+2, longest[k], bound)
		}
	}
}

// pauses has pauses before the same backend be long.
func pauses(w *world) {
	alone(w)
	w.rules.Retry.Base, w.rules.Retry.Max = time.Hour, time.Hour
}

// TestPause checks what may come of one.
func TestPause(t *testing.T) {
	deadline := func(d time.Duration) func(*world) { return func(w *world) { pauses(w); w.deadline = w.at(d) } }
	begins := func(f Facts, after string) func(*world, time.Time) string {
		return func(w *world, now time.Time) string {
			if got := w.course.Ended(&f, now); got.Do != Wait || got.Wake != [3]<-chan struct{}{} || !got.Until.After(now) || got.Until.After(now.Add(time.Hour)) {
				return w.show(got)
			}
			if got := serves(w, now); got != after {
				return got
			}
			return "pause"
		}
	}
	broken := failure(Broken)
	scripts(t, []script{
		{"it is over", pauses, []move{{0, begin, "send a"}, {1 * ms, begins(broken, "a0 "), "pause"}, {9 * ms, resume(Elapsed), "send a again for reset"}, {9 * ms, spent, "reset1 "}, {9 * ms, waited, "0s"}}},
		{"the client leaves", pauses, []move{{0, begin, "send a"}, {1 * ms, begins(broken, "a0 "), "pause"}, {9 * ms, resume(Gone), "fail"}, {9 * ms, spent, ""}}},
		{"the client leaves, an answer", pauses, []move{{0, begin, "send a"}, {1 * ms, begins(answer(503), "a1 "), "pause"}, {9 * ms, resume(Gone), "give"}}},
		{"the backend dies", pauses, []move{{0, begin, "send a"}, {1 * ms, begins(broken, "a0 "), "pause"}, {2 * ms, dies("a"), ""}, {9 * ms, resume(Elapsed), "fail"}}},
		{"the budget is spent", all(pauses, noBudget), []move{{0, begin, "send a"}, {1 * ms, begins(answer(503), "a1 "), "pause"}, {9 * ms, resume(Elapsed), "give"}, {9 * ms, serves, "a1 "}}},
		{"there is another meanwhile", pauses, []move{
			{0, begin, "send a"}, {1 * ms, begins(broken, "a0 "), "pause"}, {2 * ms, becomes("a", "b"), ""}, {9 * ms, resume(Elapsed), "send b again for reset"},
		}},
		{"the client does not wait as long", deadline(1 * ms), []move{{0, begin, "send a"}, {1 * ms, ended(broken), "fail"}}},
		{"the client waits longer", deadline(2 * time.Hour), []move{{0, begin, "send a"}, {1 * ms, begins(broken, "a0 "), "pause"}}},
	})
}

// TestHoldAgain checks how a request waits that has found no connection.
func TestHoldAgain(t *testing.T) {
	scripts(t, []script{
		{"when all have been tried", nil, []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "send b again for connect"}, {2 * ms, ended(refusal()), "wait until 1.902s"}, {2 * ms, spent, "connect1 "},
			{9 * ms, returns("a"), ""}, {9 * ms, wakes, "woken by 0"}, {9 * ms, resume(Signaled), "send a again for connect"}, {9 * ms, holds, "0 held, 1 stay"},
			{9 * ms, waited, "7ms"}, {9 * ms, ended(failure(Broken)), "fail"}, // two attempts count: one found no connection for the second time
		}},
		{"what was not sent does not count", attempts(3), []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "send b again for connect"}, {2 * ms, ended(refusal()), "wait until 1.902s"}, {9 * ms, returns("a"), ""},
			{9 * ms, resume(Signaled), "send a again for connect"}, {9 * ms, ended(failure(Broken)), "send a again for reset"}, {10 * ms, ended(failure(Broken)), "fail"},
		}},
		{"nobody is back", nil, []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "send b again for connect"}, {2 * ms, ended(refusal()), "wait until 1.902s"},
			{1902 * ms, resume(Elapsed), "wait until 2.002s"}, {2002 * ms, resume(Elapsed), "refuse: " + noneUsable},
		}},
		{"the client leaves", nil, []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "send b again for connect"}, {2 * ms, ended(refusal()), "wait until 1.902s"}, {3 * ms, resume(Gone), "refuse: " + noneUsable},
		}},
		{"for a slot", all(caps, alone), []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "wait until 1.901s"}, {9 * ms, returns("a"), ""}, {9 * ms, fills("a"), ""},
			{9 * ms, resume(Signaled), "queue of 10000 for 2s"}, {9 * ms, queuedWith(pool.ErrQueueTimeout), "refuse: " + pool.ErrQueueTimeout.Error()},
		}},
		{"for a slot of another", all(caps, noBudget), []move{
			{0, fills("b"), ""}, {0, begin, "send a"}, {1 * ms, ended(refusal()), "queue of 10000 for 2s"}, {5 * ms, frees("b"), ""}, {5 * ms, tries, "chose b"},
			{5 * ms, queuedWith(nil), "send b again for connect"}, {5 * ms, spent, ""},
		}},
	})
}

// TestStockAgain checks other attempts as the words of reverse_proxy say.
func TestStockAgain(t *testing.T) {
	broken := failure(Broken)
	answers := func(w *world) { w.rules.Retry.Stock.Answers = true }
	unwanted := func(reasons ...pool.RetryReason) func(*world) { return func(w *world) { w.unwanted = reasons } }
	soon := func(w *world) { w.rules.Retry.Stock.Interval = 0 }
	scripts(t, []script{
		{"after an interval", stock(0, 2), []move{
			{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {1 * ms, serves, "a0 b0 "}, {251 * ms, resume(Elapsed), "send b again for reset"},
			{251 * ms, spent, "reset1 "}, {251 * ms, waited, "0s"}, {252 * ms, ended(broken), "fail"},
		}},
		{"without one", all(stock(0, 2), soon), []move{{0, begin, "send a"}, {1 * ms, ended(broken), "send b again for reset"}}},
		{"the client leaves", stock(0, 2), []move{{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {2 * ms, resume(Gone), "fail"}}},
		{"the client does not wait as long", func(w *world) { stock(0, 2)(w); w.deadline = w.at(251 * ms) }, []move{{0, begin, "send a"}, {1 * ms, ended(broken), "fail"}}},
		{"the request does not match", all(stock(0, 2), unwanted(pool.RetryReset)), []move{{0, begin, "send a"}, {1 * ms, ended(broken), "fail"}}},
		{"whatever the method, if it matches", all(stock(0, 2), func(w *world) { w.notIdempotent = true }), []move{{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}}},
		{"no answer is asked about", stock(0, 2), []move{{0, begin, "send a"}, {1 * ms, ended(answer(503)), "give"}}},
		{"an answer matches", all(stock(0, 2), answers), []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(404)), "pause until 251ms"}, {1 * ms, serves, "a1 b0 "}, {251 * ms, resume(Elapsed), "send b again for status"}, {251 * ms, serves, "a0 b1 "},
		}},
		{"an answer does not match", all(stock(0, 2), answers, unwanted(pool.RetryStatus)), []move{{0, begin, "send a"}, {1 * ms, ended(answer(404)), "give"}}},
		{"an answer is better than waiting", all(stock(time.Second, 0), answers), []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(404)), "pause until 251ms"}, {2 * ms, dies("a", "b"), ""}, {251 * ms, resume(Elapsed), "give"},
		}},
		{"nobody is there, and there is no lb_try_duration", stock(0, 2), []move{
			{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {2 * ms, dies("a", "b"), ""}, {251 * ms, resume(Elapsed), "fail"},
		}},
		{"for any number, until lb_try_duration is over", stock(600*ms, 0), []move{
			{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {251 * ms, resume(Elapsed), "send b again for reset"},
			{252 * ms, ended(broken), "pause until 502ms"}, {502 * ms, resume(Elapsed), "send a again for reset"}, {600 * ms, ended(broken), "fail"},
		}},
		{"the budget is spent", all(stock(time.Second, 0), noBudget), []move{{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {251 * ms, resume(Elapsed), "fail"}}},
		{"the budget is spent, no connection", all(stock(time.Second, 0), noBudget), []move{ // nothing was sent
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "pause until 251ms"}, {1 * ms, dead, ""}, {251 * ms, resume(Elapsed), "send b again for connect"}, {251 * ms, dead, "a"},
		}},
		{"the budget is spent, no connection and no lb_try_duration", all(stock(0, 3), noBudget, noHold), []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "pause until 251ms"}, {251 * ms, resume(Elapsed), "fail"},
		}},
		{"no connection to anybody", all(stock(600*ms, 0), alone), []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "wait until 251ms"}, {1 * ms, dead, "a"}, {1 * ms, holds, "1 held, 1 stay"}, {9 * ms, returns("a"), ""}, {9 * ms, wakes, "woken by 0"},
			{9 * ms, resume(Signaled), "send a again for connect"}, {9 * ms, holds, "0 held, 1 stay"}, {9 * ms, spent, ""}, {9 * ms, waited, "8ms"},
		}},
		{"no connection to anybody any more", all(stock(600*ms, 0), alone), []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "wait until 251ms"}, {251 * ms, resume(Elapsed), "wait until 501ms"}, {501 * ms, resume(Elapsed), "wait until 751ms"},
			{751 * ms, resume(Elapsed), "wait until 851ms"}, {851 * ms, resume(Elapsed), "fail"},
		}},
		{"no connection, and lb_retries are over", all(stock(time.Minute, 2), alone), []move{
			{0, begin, "send a"}, {1 * ms, ended(refusal()), "wait until 251ms"}, {251 * ms, resume(Elapsed), "fail"},
		}},
		{"no connection, and the client leaves", all(stock(time.Minute, 0), alone), []move{{0, begin, "send a"}, {1 * ms, ended(refusal()), "wait until 251ms"}, {9 * ms, resume(Gone), "fail"}}},
		{"all die meanwhile", stock(time.Minute, 0), []move{
			{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {2 * ms, dies("a", "b"), ""}, {251 * ms, resume(Elapsed), "wait until 501ms"},
			{260 * ms, returns("b"), ""}, {260 * ms, wakes, "woken by 0"}, {260 * ms, resume(Signaled), "send b again for reset"}, {260 * ms, spent, ""}, // waiting costs nothing
		}},
		{"the source does not answer any more", stock(time.Second, 0), []move{
			{0, begin, "send a"}, {1 * ms, ended(broken), "pause until 251ms"}, {2 * ms, becomes("c"), ""}, {2 * ms, act(func(w *world, _ time.Time) { w.err = errSource }), ""},
			{251 * ms, resume(Elapsed), "wait until 501ms"}, {251 * ms, wakes, "asleep"}, // that there is another list is known
			{300 * ms, act(func(w *world, _ time.Time) { w.err = nil }), ""}, {501 * ms, resume(Elapsed), "send c again for reset"},
		}},
		{"no connection and no lb_try_duration", all(stock(0, 2), alone), []move{{0, begin, "send a"}, {1 * ms, ended(refusal()), "wait until 1.901s"}}}, // as others do
	})
}
