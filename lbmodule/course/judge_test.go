package course

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func TestClassify(t *testing.T) {
	excused := func(f *Facts) { f.Excused = true }
	noDescriptors := func(f *Facts) { f.NoDescriptors = true }
	clients := func(f *Facts) { f.ClientFault = true }
	for _, c := range []struct {
		facts Facts
		want  pool.Outcome
		good  bool
	}{
		{answer(200), pool.Success, true},
		{answer(404), pool.Success, true},
		{answer(500), pool.Success, false}, // a healthy application gives that, but another answer is better
		{overloaded(404), pool.Success, false},
		{answer(503), pool.Failure, false},
		{answer(503).with(clients), pool.Ignored, false},
		{answer(503).with(excused), pool.Failure, false},
		{answer(503).with(noDescriptors), pool.Failure, false},
		{answer(200).with(clients), pool.Success, true},
		{overloaded(503), pool.Ignored, false},
		{overloaded(502), pool.Failure, false},
		{answer(429), pool.Ignored, false},
		{failure(Broken), pool.Failure, false},
		{failure(TimedOut), pool.Failure, false},
		{failure(NotConnected), pool.Failure, false},
		{failure(Broken).with(excused), pool.Ignored, false},
		{refusal().with(noDescriptors), pool.Ignored, false},
		{failure(TimedOut).with(clients), pool.Ignored, false},
	} {
		w := newWorld(t, 1)
		if got, good := w.rules.classify(&c.facts), w.rules.Good(&c.facts); got != c.want || good != c.good {
			t.Errorf("%+v: got %v, good %v; want %v, good %v", c.facts, got, good, c.want, c.good)
		}
	}
}

// state is what the pool knows of a: its failures, whether the last request failed, whether it is dead, and its breaker.
func state(w *world, _ time.Time) string {
	m := w.member("a")
	return fmt.Sprintf("%d failures, suspect %v, dead %v, %v", m.Counts().Failures, w.current.view.Suspect(0), m.Vitals().Dead, m.Vitals().Breaker)
}

// ends ends the course.
func ends(e Ending) func(*world, time.Time) string {
	return func(w *world, now time.Time) string {
		r := w.course.End(e, now)
		return fmt.Sprintf("%v %q %v", r.Outcome, r.Status, r.Broken)
	}
}

// halfOpens has the breaker of that backend open and turn half-open.
func halfOpens(address string) func(*world, time.Time) string {
	return act(func(w *world, now time.Time) {
		fails(address, 1)(w, now.Add(-time.Hour))
		w.current.view.Refresh(now)
	})
}

func streams(w *world, now time.Time) string {
	w.course.Streams(now)
	return ""
}

// probes has what carries the course out judge a stream that has gone well for a while.
func probes(w *world, now time.Time) string {
	l, v, ok := w.course.Probe()
	if ok {
		l.Judge(v, now)
	}
	return fmt.Sprint(ok)
}

// TestJudge checks when the pool gets the verdict on an attempt.
func TestJudge(t *testing.T) {
	breaks := func(w *world) { w.settings.Breaker = consecutive(1) }
	complete := Ending{Complete: true}
	slow := func(w *world) {
		w.rules.Slow = 10 * ms
		w.settings.Breaker = breaker.Settings{SlowRatio: 0.5, Window: 10 * time.Second, MinRequests: 1, Open: time.Minute, MaxOpen: time.Minute}
	}
	pending := answer(200).with(func(f *Facts) { f.Call.Pending = true })
	scripts(t, []script{
		{"a success at its end", nil, []move{
			{0, fails("a", 1), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, state, "1 failures, suspect true, dead false, closed"},
			{2 * ms, ends(complete), `success "" false`}, {2 * ms, state, "1 failures, suspect false, dead false, closed"},
		}},
		{"a stream at its beginning", nil, []move{
			{0, fails("a", 1), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(200).with(func(f *Facts) { f.Stream = true })), "give"},
			{1 * ms, state, "1 failures, suspect false, dead false, closed"}, {2 * ms, ends(Ending{Broken: true}), `failure "" true`},
			{2 * ms, state, "2 failures, suspect true, dead false, closed"},
		}},
		{"a failure at once, and once", attempts(1), []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(503)), "give"}, {1 * ms, state, "1 failures, suspect true, dead false, closed"},
			{2 * ms, ends(complete), `failure "" false`}, {2 * ms, state, "1 failures, suspect true, dead false, closed"},
		}},
		{"an answer that breaks off", nil, []move{{0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {2 * ms, ends(Ending{Broken: true}), `failure "" true`}, {2 * ms, state, "1 failures, suspect true, dead false, closed"}}},
		{"a client that leaves", nil, []move{
			{0, fails("a", 1), ""}, {0, begin, "send a"}, {1 * ms, ended(failure(Broken).with(func(f *Facts) { f.Excused, f.Gone = true, true })), "fail"},
			{2 * ms, ends(Ending{}), `ignored "" false`}, {2 * ms, state, "1 failures, suspect true, dead false, closed"},
		}},
		{"too much to do", attempts(1), []move{
			{0, fails("a", 1), ""}, {0, begin, "send a"}, {1 * ms, ended(overloaded(503)), "give"}, {2 * ms, ends(complete), `ignored "" false`}, {2 * ms, state, "1 failures, suspect true, dead false, closed"},
		}},
		{"no connection", func(w *world) { attempts(1)(w); w.settings.DeadAfter = 1 }, []move{{0, begin, "send a"}, {1 * ms, ended(refusal()), "fail"}, {1 * ms, state, "1 failures, suspect true, dead true, open"}}},
		{"no TLS", func(w *world) { attempts(1)(w); w.settings.DeadAfter = 1 }, []move{
			{0, begin, "send a"}, {1 * ms, ended(failure(NotConnected)), "fail"}, {1 * ms, state, "1 failures, suspect true, dead false, closed"},
		}},
		{"a slow answer", slow, []move{{0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {2 * ms, ends(complete), `success "" false`}, {2 * ms, state, "0 failures, suspect false, dead false, open"}}},
		{"a fast answer", slow, []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(200).with(func(f *Facts) { f.Took = 9 * ms })), "give"}, {2 * ms, ends(complete), `success "" false`}, {2 * ms, state, "0 failures, suspect false, dead false, closed"},
		}},
		{"a failure of one client's requests", func(w *world) { breaks(w); attempts(1)(w) }, []move{
			{0, act(func(w *world, now time.Time) {
				l := w.lease("a")
				l.Judge(pool.Verdict{Outcome: pool.Success, Origin: pool.Origin{Client: 9, Target: 9}}, now)
				l.Release()
			}), ""},
			{0, begin, "send a"}, {1 * ms, ended(answer(503)), "give"}, {1 * ms, state, "1 failures, suspect true, dead false, closed"}, // whose breaker is not opened for that
		}},
		{"a probe at its answer", breaks, []move{
			{0, halfOpens("a"), ""}, {0, state, "1 failures, suspect false, dead false, half_open"}, {0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, probes, "false"},
			{1 * ms, state, "1 failures, suspect false, dead false, closed"},
		}},
		{"a probe that says nothing", func(w *world) { breaks(w); attempts(1)(w) }, []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {1 * ms, ended(overloaded(503)), "give"}, {2 * ms, ends(complete), `ignored "" false`},
			{2 * ms, state, "1 failures, suspect false, dead false, half_open"},
		}},
		{"a stream that is a probe, at its end", breaks, []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {1 * ms, ended(pending), "give"}, {1 * ms, state, "1 failures, suspect false, dead false, half_open"},
			{2 * ms, ends(Ending{Complete: true, Status: ParseGRPC("0")}), `success "ok" false`}, {2 * ms, state, "1 failures, suspect false, dead false, closed"},
		}},
		{"a stream that is a probe, before", breaks, []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {1 * ms, ended(pending), "give"}, {2 * ms, probes, "true"}, {2 * ms, state, "1 failures, suspect false, dead false, closed"},
			{3 * ms, ends(Ending{Complete: true, Status: ParseGRPC("0"), Judged: true}), `success "ok" false`},
		}},
		{"a stream that is a probe, once", func(w *world) { breaks(w); w.settings.Breaker.Probes = 2 }, []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {1 * ms, ended(pending), "give"}, {2 * ms, probes, "true"},
			{3 * ms, ends(Ending{Complete: true, Status: ParseGRPC("0"), Judged: true}), `success "ok" false`}, {3 * ms, state, "1 failures, suspect false, dead false, half_open"},
		}},
		{"a stream that is a probe, and fails after it was judged", breaks, []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {1 * ms, ended(pending), "give"}, {2 * ms, probes, "true"},
			{3 * ms, ends(Ending{Complete: true, Status: ParseGRPC("14"), Judged: true}), `failure "unavailable" false`}, {3 * ms, state, "2 failures, suspect false, dead false, closed"},
		}},
		{"a stream that is none", nil, []move{{0, begin, "send a"}, {1 * ms, ended(pending), "give"}, {1 * ms, probes, "false"}}},
		{"strict sessions probe", func(w *world) { breaks(w); strictly(0)(w) }, []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {1 * ms, ended(answer(200)), "give"}, {1 * ms, state, "1 failures, suspect false, dead false, closed"},
		}},
		{"what is not idempotent is no probe", func(w *world) { breaks(w); w.notIdempotent = true }, []move{
			{0, act(func(w *world, _ time.Time) { halfOpens("a")(w, time.Now().Add(time.Hour)) }), ""}, {0, begin, "send b"},
		}},
	})
}

// TestStockBreaker checks that a circuit breaker of reverse_proxy gets all answers.
func TestStockBreaker(t *testing.T) {
	w := newWorld(t, 2)
	b := &stockBreaker{}
	w.rules.Breaker, w.rules.Retry.Attempts = b, 0
	w.play(
		move{0, begin, "send a"}, move{1 * ms, ended(answer(503)), "send b again for status"},
		move{2 * ms, ended(failure(Broken)), "send a again for reset"}, move{3 * ms, ended(answer(200)), "give"},
	)
	if want := []int{503, 200}; !slices.Equal(b.statuses, want) {
		t.Errorf("it was told %v, want %v", b.statuses, want)
	}
}

// TestPassive checks which attempts passive checks count as failed.
func TestPassive(t *testing.T) {
	gone := func(f *Facts) { f.Gone = true }
	for _, c := range []struct {
		facts Facts
		want  bool
	}{
		{answer(200), false},
		{answer(500), true},
		{answer(599), true},
		{answer(600), false},
		{answer(404), false},
		{answer(418), true},
		{answer(500).with(gone), false},
		{failure(Broken), true},
		{failure(Broken).with(gone), false},
		{failure(Broken).with(func(f *Facts) { f.Excused = true }), false},
		{overloaded(503), true},
		{answer(200).with(func(f *Facts) { f.Took = 99 * ms }), false},
		{answer(200).with(func(f *Facts) { f.Took = 100 * ms }), true},
	} {
		for _, on := range []bool{true, false} {
			w := newWorld(t, 2)
			w.rules.Retry.Attempts = 1
			w.rules.Passive = PassiveRules{On: on, Latency: 100 * ms, Status: []int{5, 418}}
			w.settings.Passive = pool.Passive{Span: 10 * time.Second, MaxFails: 1}
			w.start()
			begin(w, w.began)
			ended(c.facts)(w, w.began)
			if got := w.member("a").Vitals().Failing; got != (on && c.want) {
				t.Errorf("%+v, on %v: failing %v", c.facts, on, got)
			}
			w.end(Ending{Complete: true}, w.began)
		}
	}
}

// learned is what a's latency is told of an attempt, which took so long since the request's last byte, when its answer begins and when
// the course ends.
func learned(t *testing.T, given func(*world), facts func(took time.Duration) Facts, streams bool, ending Ending) (atAnswer, atEnd string) {
	const typical, shorter, longer = 500 * ms, 400 * ms, 2 * time.Second
	type known struct {
		takes   time.Duration
		penalty float64
	}
	var seen [2][3]known
	for k, took := range []time.Duration{shorter, longer} {
		w := newWorld(t, 1)
		w.rules.Retry.Attempts = 1
		if given != nil {
			given(w)
		}
		w.start()
		l := w.member("a").Latency()
		l.Answered(typical, w.began)
		note := func(n int) { seen[k][n] = known{l.Estimate(), l.Penalty(w.began)} }
		begin(w, w.began)
		note(0)
		ended(facts(took))(w, w.began)
		if streams {
			w.course.Streams(w.began)
			w.course.Streams(w.began) // counts once
		}
		note(1)
		e := ending
		e.Answered = took
		w.end(e, w.began)
		note(2)
	}
	told := func(n int) string {
		short, long := seen[0][n+1] != seen[0][n], seen[1][n+1] != seen[1][n]
		switch {
		case seen[0][n+1].penalty > seen[0][n].penalty:
			return "failed"
		case short:
			return "answered"
		case long:
			return "unanswered"
		default:
			return "nothing"
		}
	}
	return told(0), told(1)
}

// TestLearn checks what attempts record in backends' latencies.
func TestLearn(t *testing.T) {
	facts := func(f Facts, changes ...func(*Facts)) func(time.Duration) Facts {
		return func(took time.Duration) Facts {
			f.Took, f.Answered = took, took
			for _, change := range changes {
				change(&f)
			}
			return f
		}
	}
	unknown := func(f *Facts) { f.Answered, f.Known = 0, false }
	gone := func(f *Facts) { f.Gone, f.Excused = true, true }
	call := func(status string) func(*Facts) { return func(f *Facts) { f.Call.Status = ParseGRPC(status) } }
	pending := func(f *Facts) { f.Call.Pending = true }
	timeUp := func(f *Facts) { f.Call.Excused = true }
	body := func(f *Facts) { f.Body = true }
	untilLast := func(w *world) { w.rules.UntilLastByte = true }
	connections := func(w *world) { w.settings.ConnectionsOnly, w.rules.BreakerOff = true, true }
	passive := func(w *world) {
		w.rules.Passive = PassiveRules{On: true, Status: []int{500}, Latency: 10 * time.Second}
		w.settings.Passive = pool.Passive{Span: time.Minute, MaxFails: 9}
	}
	complete, known := Ending{Complete: true, Known: true}, Ending{Known: true}
	status := func(code string) Ending { return Ending{Complete: true, Known: true, Status: ParseGRPC(code)} }
	for name, c := range map[string]struct {
		given   func(*world)
		facts   func(time.Duration) Facts
		streams bool
		ending  Ending
		want    [2]string
	}{
		"answer":                          {nil, facts(answer(200)), false, complete, [2]string{"answered", "nothing"}},
		"before the request was sent":     {nil, facts(answer(200), unknown), false, complete, [2]string{"nothing", "nothing"}},
		"not found":                       {nil, facts(answer(404)), false, complete, [2]string{"answered", "nothing"}},
		"error":                           {nil, facts(answer(500)), false, complete, [2]string{"failed", "nothing"}},
		"error that is watched":           {passive, facts(answer(500)), false, complete, [2]string{"unanswered", "nothing"}},
		"error that is not watched":       {passive, facts(answer(501)), false, complete, [2]string{"failed", "nothing"}},
		"error after a long upload":       {passive, facts(answer(501), func(f *Facts) { f.Took = time.Minute }), false, complete, [2]string{"failed", "nothing"}},
		"too many":                        {nil, facts(answer(429)), false, complete, [2]string{"failed", "nothing"}},
		"come back later":                 {nil, facts(overloaded(404)), false, complete, [2]string{"failed", "nothing"}},
		"failure that is watched":         {nil, facts(answer(503)), false, complete, [2]string{"unanswered", "nothing"}},
		"failure that nobody watches":     {connections, facts(answer(503)), false, complete, [2]string{"failed", "nothing"}},
		"broken":                          {connections, facts(failure(Broken)), false, complete, [2]string{"failed", "nothing"}},
		"broken and watched":              {nil, facts(failure(Broken)), false, complete, [2]string{"unanswered", "nothing"}},
		"no connection, watched":          {func(w *world) { connections(w); w.rules.Hold = 0 }, facts(refusal()), false, complete, [2]string{"unanswered", "nothing"}},
		"client has left":                 {nil, facts(failure(Broken), gone), false, known, [2]string{"unanswered", "nothing"}},
		"client has left before it sent":  {nil, facts(failure(Broken), gone, unknown), false, known, [2]string{"nothing", "nothing"}},
		"client broke its body off":       {nil, facts(failure(Broken), func(f *Facts) { f.Excused = true }), false, known, [2]string{"nothing", "nothing"}},
		"answer breaks off":               {connections, facts(answer(200)), false, Ending{Broken: true, Known: true}, [2]string{"answered", "failed"}},
		"answer breaks off, watched":      {nil, facts(answer(200)), false, Ending{Broken: true, Known: true}, [2]string{"answered", "nothing"}},
		"to the last byte":                {untilLast, facts(answer(200), body), false, complete, [2]string{"nothing", "answered"}},
		"to the last byte, not there":     {untilLast, facts(answer(200), body), false, known, [2]string{"nothing", "unanswered"}},
		"to the last byte, unknown":       {untilLast, facts(answer(200), body), false, Ending{Complete: true}, [2]string{"nothing", "nothing"}},
		"to the last byte, none":          {untilLast, facts(answer(200)), false, complete, [2]string{"answered", "nothing"}},
		"to the last byte of a stream":    {untilLast, facts(answer(200), body, func(f *Facts) { f.Stream = true }), false, complete, [2]string{"answered", "nothing"}},
		"to the last byte of an error":    {untilLast, facts(answer(500), body), false, complete, [2]string{"failed", "nothing"}},
		"call":                            {nil, facts(answer(200), call("0")), false, complete, [2]string{"answered", "nothing"}},
		"call that failed":                {nil, facts(answer(200), call("14")), false, complete, [2]string{"unanswered", "nothing"}},
		"call with an error":              {nil, facts(answer(200), call("2")), false, complete, [2]string{"failed", "nothing"}},
		"call whose client left":          {nil, facts(answer(200), call("1")), false, complete, [2]string{"unanswered", "nothing"}},
		"call whose time was up":          {nil, facts(answer(200), call("4"), timeUp), false, complete, [2]string{"unanswered", "nothing"}},
		"call whose time was up, broken":  {nil, facts(failure(Broken), timeUp), false, complete, [2]string{"unanswered", "nothing"}},
		"call that was too much":          {nil, facts(answer(200), call("8")), false, complete, [2]string{"failed", "nothing"}},
		"stream":                          {nil, facts(answer(200), pending), true, status("0"), [2]string{"answered", "nothing"}},
		"stream of unknown time":          {nil, facts(answer(200), pending, unknown), true, status("0"), [2]string{"nothing", "nothing"}},
		"stream with nothing in it":       {nil, facts(answer(200), pending), false, status("0"), [2]string{"nothing", "answered"}},
		"stream that ends with an error":  {nil, facts(answer(200), pending), true, status("2"), [2]string{"answered", "failed"}},
		"stream that ends with a failure": {nil, facts(answer(200), pending), false, status("14"), [2]string{"nothing", "unanswered"}},
		"stream that is canceled":         {nil, facts(answer(200), pending), false, status("1"), [2]string{"nothing", "unanswered"}},
		"stream whose client left":        {nil, facts(answer(200), pending), false, known, [2]string{"nothing", "nothing"}},
	} {
		atAnswer, atEnd := learned(t, c.given, c.facts, c.streams, c.ending)
		if got := [2]string{atAnswer, atEnd}; got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestPoolLatency checks that the latency which copies go by is that of successes.
func TestPoolLatency(t *testing.T) {
	for name, c := range map[string]struct {
		on    bool
		facts Facts
		want  bool
	}{
		"success": {true, answer(200), true},
		"off":     {false, answer(200), false},
		"failure": {true, answer(503), false},
		"ignored": {true, answer(429), false},
		"pending": {true, answer(200).with(func(f *Facts) { f.Call.Pending = true }), false},
		"call":    {true, answer(200).with(func(f *Facts) { f.Call.Status = ParseGRPC("14") }), false},
	} {
		w := newWorld(t, 1)
		w.rules.Hedge.On, w.rules.Retry.Attempts = c.on, 1
		w.start()
		begin(w, w.began)
		ended(c.facts)(w, w.began)
		if got := w.pool.Latency.Quantiles(w.began, 0.5) != nil; got != c.want {
			t.Errorf("%s: counted %v, want %v", name, got, c.want)
		}
		w.end(Ending{Complete: true}, w.began)
	}
}

// A breaker gets a description of what was wrong.
func TestFault(t *testing.T) {
	for name, c := range map[string]struct {
		facts Facts
		want  string
	}{
		"refused":   {Facts{Kind: NotConnected, Unreachable: true}, "no connection"},
		"timed out": {Facts{Kind: TimedOut}, "no answer in time"},
		"broken":    {Facts{Kind: Broken}, "connection broke off, or no valid answer"},
		"status":    {answer(503), "status 503"},
		"gRPC":      {answer(200).with(func(f *Facts) { f.Call.Status = ParseGRPC("14") }), "gRPC status unavailable"},
		"slow":      {answer(200).with(func(f *Facts) { f.Took = time.Second }), "slow answer"},
		"good":      {answer(200), ""},
		"excused":   {Facts{Kind: Broken, Excused: true}, ""},
	} {
		w := newWorld(t, 1)
		w.rules.Slow, w.rules.Retry.Attempts = time.Second, 1
		w.start()
		begin(w, w.began)
		ended(c.facts)(w, w.began)
		w.end(Ending{Complete: true}, w.began)
		if got := w.pool.Members()[0].Vitals().Fault; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
