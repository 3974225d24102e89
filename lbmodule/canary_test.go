package lbmodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/canary"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// withCanary is a config with two backends a and b, and two that are the canary, c and d.
func withCanary(more string) string {
	return `{"name": "split", "backends": [{"address": "a:1"}, {"address": "b:1"}, {"address": "c:1", "zone": "new"}, {"address": "d:1", "name": "d"}],
		"canary": {"backends": ["new", "d"], "share": 0.3, "by": "header", "name": "X-User"}` + more + `}`
}

// request begins the request of a user.
func (h *Handler) request(t testing.TB, user string) *ride {
	t.Helper()
	r := newRequest(t)
	r.Header.Set("X-User", user)
	return begin(t, h, r)
}

// userOf returns a user on that side.
func userOf(t testing.TB, h *Handler, side canary.Side) string {
	t.Helper()
	for i := range 1000 {
		user := fmt.Sprint("user", i)
		r := newRequest(t)
		r.Header.Set("X-User", user)
		if h.canary.run.SideOf(h.canary.key(r).Hash) == side {
			return user
		}
	}
	t.Fatal("nobody is on that side")
	return ""
}

// kill makes these backends dead, and no others.
func (h *Handler) kill(dead ...string) {
	view := h.set().View()
	for i := range view.Len() {
		dies := slices.Contains(dead, view.Backend(i).Address)
		for view.Member(i).Vitals().Dead != dies {
			if l, ok := view.AcquireMember(i); ok {
				out := pool.Success
				if dies {
					out = pool.Failure
				}
				l.Judge(pool.Verdict{Outcome: out, Refused: dies}, time.Now())
				l.Release()
			}
		}
	}
	view.Refresh(time.Now())
}

// do changes the canary by hand.
func (h *Handler) do(t testing.TB, a canary.Action, share float64) {
	t.Helper()
	if _, err := h.canary.run.Do(a, share, "", time.Now()); err != nil {
		t.Fatal(err)
	}
}

func isNew(address string) bool {
	return strings.HasPrefix(address, "c") || strings.HasPrefix(address, "d")
}

// TestCanarySides: with any policy a client stays on its side, all backends of the side get requests, and those without a key are the others'.
func TestCanarySides(t *testing.T) {
	for _, policy := range []string{
		`"lb_peak_ewma"`, `"lb_round_robin"`, `"lb_least_conn"`, `"random"`, `"lb_p2c"`, `"lb_first"`, `"lb_hash", "keys": ["{http.request.header.X-Key}"]`,
		`"lb_sticky", "secrets": ["0123456789abcdef"]`, `"weighted_round_robin", "weights": [1, 2, 3, 4]`,
	} {
		h := newConfig(t).mustLoad(withCanary(`, "load_balancing": {"selection_policy": {"policy": ` + policy + `}}`))
		got := make(map[string]int)
		news := 0
		for i := range 400 {
			user := fmt.Sprint("user", i%100)
			r := newRequest(t)
			r.Header.Set("X-User", user)
			r.Header.Set("X-Key", fmt.Sprint(i))
			q := begin(t, h, r)
			want := h.canary.run.SideOf(h.canary.key(r).Hash) == canary.Canary
			if isNew(q.at()) != want {
				t.Errorf("%s: %s is served by %s", policy, user, q.at())
			}
			if want {
				news++
			}
			got[q.at()]++
			q.end()
		}
		if news < 80 || news > 160 {
			t.Errorf("%s: %d of 400 requests are the canary's", policy, news)
		}
		if len(got) != 4 && !strings.Contains(policy, "first") {
			t.Errorf("%s: %v", policy, got)
		}
		q := begin(t, h, newRequest(t))
		if isNew(q.at()) {
			t.Errorf("%s: a request without a key is served by %s", policy, q.at())
		}
		q.end()
	}
}

// TestCanaryGrows: no client goes back as the share grows; a share of 0 means no requests, a share of 1 all.
func TestCanaryGrows(t *testing.T) {
	h := newConfig(t).mustLoad(withCanary(""))
	before := make(map[string]bool)
	for _, share := range []float64{0.05, 0.3, 0.8} {
		h.do(t, canary.SetShare, share)
		for i := range 200 {
			user := fmt.Sprint("user", i)
			q := h.request(t, user)
			if before[user] && !isNew(q.at()) {
				t.Fatalf("%s went back at %v", user, share)
			}
			before[user] = isNew(q.at())
			q.end()
		}
	}
	for action, want := range map[canary.Action]bool{canary.RollBack: false, canary.Promote: true} {
		h.do(t, action, 0)
		for address := range shares(t, h, 50) {
			if isNew(address) != want {
				t.Errorf("after %v, %s got requests", action, address)
			}
		}
	}
}

// TestCanaryGivesWay: when nobody of a side is usable, the other side serves its requests, which are not compared; a canary that is off gets
// none for all that.
func TestCanaryGivesWay(t *testing.T) {
	h := newConfig(t).mustLoad(withCanary(`, "hold": {"disabled": true}`))
	users := [2]string{userOf(t, h, canary.Others), userOf(t, h, canary.Canary)}
	kill := func(dead ...string) { h.kill(dead...) }

	expect := func(what string, side canary.Side, want bool) {
		t.Helper()
		total := func() (n uint64) {
			for _, s := range []canary.Side{canary.Others, canary.Canary} {
				n += h.canary.run.Total(s).Good
			}
			return n
		}
		counted := total()
		q := h.request(t, users[side])
		if q.at() == "" || isNew(q.at()) != want {
			t.Fatalf("%s: served by %q", what, q.at())
		}
		q.step = q.course().Ended(&course.Facts{Status: 200}, time.Now())
		q.end()
		if compared, own := total() != counted, isNew(q.course().Choice().Target.Address()) == (side == canary.Canary); compared != own {
			t.Errorf("%s: compared is %v", what, compared)
		}
	}
	expect("all usable", canary.Others, false)
	expect("all usable", canary.Canary, true)
	kill("c:1")
	expect("one of the canary dead", canary.Canary, true)
	kill("c:1", "d:1")
	expect("the canary dead", canary.Canary, false)
	kill()
	expect("back again", canary.Canary, true)
	kill("a:1", "b:1")
	expect("the others dead", canary.Others, true)
	h.do(t, canary.RollBack, 0)
	q := h.request(t, users[canary.Canary])
	if q.at() != "" {
		t.Errorf("a canary that is off got a request: %s", q.at())
	}
	q.end()
}

// TestCanaryWithFewUsable: a side with fewer usable backends than panic_threshold is not left alone with the load of all; the whole pool helps.
func TestCanaryWithFewUsable(t *testing.T) {
	h := newConfig(t).mustLoad(withCanary(`, "panic_threshold": 0.6, "load_balancing": {"selection_policy": {"policy": "lb_round_robin"}}`))
	user := userOf(t, h, canary.Canary)
	served := func() (others int) {
		for range 12 {
			q := h.request(t, user)
			if !isNew(q.at()) {
				others++
			}
			q.end()
		}
		return others
	}
	if n := served(); n != 0 {
		t.Errorf("the others served %d of 12 while all are usable", n)
	}
	judge(t, h, h.set().Find("c:1"), 5, pool.Verdict{Outcome: pool.Failure}) // opens its breaker
	if n := served(); n != 8 {
		t.Errorf("with one of the canary's two ejected, the others served %d of 12, want 8", n)
	}
}

// late is a source that first names the canary alone, as it was before its backends died.
type late struct {
	*call
	part *service.Set
}

func (l *late) Members(retry bool) (course.Members, error) {
	if part := l.part; part != nil {
		l.part = nil
		return part, nil
	}
	return l.call.Members(retry)
}

// TestCanaryDiesMeanwhile: a request that chose a side just before its last backend died does not wait for that one.
func TestCanaryDiesMeanwhile(t *testing.T) {
	h := newConfig(t).mustLoad(withCanary(""))
	h.kill("c:1", "d:1")
	q := h.request(t, userOf(t, h, canary.Canary))
	q.end()
	q.exchange = exchange.Exchange{}
	q.exchange.Init(&h.plan, &late{q.call, h.set().Divided()[canary.Canary]}, q.call, &new(told).Record)
	q.step = q.course().Begin(time.Now())
	defer q.end()
	if q.at() == "" || isNew(q.at()) {
		t.Errorf("served by %q, %+v", q.at(), q.step)
	}
	if h.overview().Panic {
		t.Error("a side without a usable backend is taken for the pool's panic")
	}
}

// TestCanaryRetries: another attempt stays on the side while there is somebody else, and then goes to the other side.
func TestCanaryRetries(t *testing.T) {
	h := newConfig(t).mustLoad(withCanary(`, "retry": {"attempts": 4, "backoff": {"base": "1ms", "max": "1ms"}}`))
	var tried []string
	script := make(scripted)
	for _, address := range []string{"a:1", "b:1", "c:1", "d:1"} {
		script[address] = func(*http.Request) (*http.Response, error) {
			tried = append(tried, address)
			return nil, errors.New("reset")
		}
	}
	h.stock.Transport = stock.NewTransport(script)
	for _, side := range []canary.Side{canary.Others, canary.Canary} {
		tried = nil
		r := newRequest(t)
		r.Header.Set("X-User", userOf(t, h, side))
		if err := h.ServeHTTP(httptest.NewRecorder(), r, nil); err == nil {
			t.Error("somebody has answered")
		}
		if all := slices.Sorted(slices.Values(tried)); !slices.Equal(all, []string{"a:1", "b:1", "c:1", "d:1"}) {
			t.Errorf("side %v: tried %v", side, tried)
			continue
		}
		for i, address := range tried {
			if want := (side == canary.Canary) == (i < 2); isNew(address) != want {
				t.Errorf("side %v: tried %v", side, tried)
				break
			}
		}
		if n := h.canary.run.Total(side); n.Failed != 2 {
			t.Errorf("side %v: %d failures are compared, want 2: the others are not of the side's choice", side, n.Failed)
		}
	}
}

// TestCanaryCounts: what is a failure for the comparison.
func TestCanaryCounts(t *testing.T) {
	for name, test := range map[string]struct {
		facts course.Facts
		end   course.Ending
		want  canary.Total
	}{
		"200":              {course.Facts{Status: 200}, course.Ending{}, canary.Total{Good: 1}},
		"404":              {course.Facts{Status: 404}, course.Ending{}, canary.Total{Good: 1}},
		"429":              {course.Facts{Status: 429}, course.Ending{}, canary.Total{}},
		"500":              {course.Facts{Status: 500}, course.Ending{}, canary.Total{Failed: 1}},
		"503 with a time":  {course.Facts{Status: 503, RetryAfter: true}, course.Ending{}, canary.Total{Failed: 1}},
		"timeout":          {course.Facts{Kind: course.TimedOut}, course.Ending{}, canary.Total{Failed: 1}},
		"the client left":  {course.Facts{Kind: course.Broken, Excused: true, Gone: true}, course.Ending{}, canary.Total{}},
		"broken off":       {course.Facts{Status: 200, Body: true}, course.Ending{Broken: true}, canary.Total{Good: 1, Failed: 1}},
		"500 broken off":   {course.Facts{Status: 500, Body: true}, course.Ending{Broken: true}, canary.Total{Failed: 1}},
		"gRPC unavailable": {course.Facts{Status: 200, Call: course.Call{Pending: true}}, course.Ending{Complete: true, Status: 14}, canary.Total{Good: 1, Failed: 1}},
	} {
		h := newConfig(t).mustLoad(strings.Replace(withCanary(`, "retry": {"disabled": true}`), "split", strings.ReplaceAll(name, " ", "_"), 1))
		q := h.request(t, userOf(t, h, canary.Canary))
		q.step = q.course().Ended(&test.facts, time.Now())
		q.course().End(test.end, time.Now())
		if got := h.canary.run.Total(canary.Canary); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// TestCanaryBreaker: how many backends breakers take out is bounded for the whole pool: the only backend of a canary may be taken out.
func TestCanaryBreaker(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "lone", "backends": [{"address": "a:1"}, {"address": "c:1", "name": "new"}], "retry": {"disabled": true},
		"canary": {"backends": ["new"], "share": 0.5, "by": "header", "name": "X-User", "guard": {"disabled": true}}}`)
	user := userOf(t, h, canary.Canary)
	for i := range 6 {
		q := h.request(t, user)
		if want := i < 5; (q.at() == "c:1") != want {
			t.Errorf("request %d: %s", i, q.at())
		}
		q.step = q.course().Ended(&course.Facts{Status: 502}, time.Now())
		q.end()
	}
	if q := h.overview(); q.State != "degraded" || q.Panic {
		t.Errorf("%s", q.State)
	}
}

// TestCanaryReload: a canary goes on over a reload of the same config, and begins anew with another one.
func TestCanaryReload(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(withCanary(""))
	h.do(t, canary.RollBack, 0)
	next := newConfig(t)
	same := next.mustLoad(withCanary(""))
	c.cancel()
	if r := same.canary.run.Report(); r.State != canary.RolledBack {
		t.Errorf("after a reload: %v", r.State)
	}
	other := newConfig(t).mustLoad(strings.Replace(withCanary(""), "0.3", "0.2", 1))
	next.cancel()
	if r := other.canary.run.Report(); r.State == canary.RolledBack || r.Share != 0.2 {
		t.Errorf("with another config: %v %v", r.State, r.Share)
	}
	again := newConfig(t).mustLoad(withCanary(""))
	if r := again.canary.run.Report(); r.State == canary.RolledBack {
		t.Error("what no config has any more is remembered")
	}
}

// TestCanaryOfEdits: a backend that is added belongs to the side that its name or zone says.
func TestCanaryOfEdits(t *testing.T) {
	h := newConfig(t).mustLoad(withCanary(""))
	parts := h.set().Divided()
	if n, others := parts[canary.Canary].View().Len(), parts[canary.Others].View().Len(); n != 2 || others != 2 {
		t.Errorf("%d and %d backends", n, others)
	}
	if shown := h.overview().Canary; shown == nil || shown.Canary.Backends != 2 || shown.State != "finished" {
		t.Errorf("%+v", shown)
	}
}

// TestWithoutCanary: the handler has none, and requests choose from the whole set.
func TestWithoutCanary(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "none", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
	q := begin(t, h, newRequest(t))
	defer q.end()
	if h.canary != nil || q.course().Members() != course.Members(h.set()) || h.set().Divided()[0] != nil {
		t.Error("divided without a canary")
	}
}

// TestCanaryErrors: what only the config as a whole shows is an error when it is loaded.
func TestCanaryErrors(t *testing.T) {
	t.Setenv("BALLAST_TEST_NEW", "x:1")
	for settings, want := range map[string]string{
		`"canary": {"backends": ["{env.BALLAST_TEST_NEW}"], "share": 0.1}`:     "must be the name, address or zone of a backend",
		`"canary": {"backends": ["a:1", "b:1"], "share": 0.1}`:                 "canary: backends: the canary has all of them",
		`"canary": {"backends": ["a:1"], "share": 0}`:                          "canary",
		`"canary": {"backends": ["a:1"]}`:                                      "canary: share 0%: must be",
		`"canary": {"backends": ["a:1"], "share": 0.1, "steps": [{}]}`:         "canary",
		`"canary": {"backends": ["a:1"], "share": 0.1}, "subset": {"size": 1}`: "canary: cannot be combined with subset",
	} {
		_, err := newConfig(t).load(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], ` + settings + `}`)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", settings, err, want)
		}
	}
}

// BenchmarkCanary is what it costs a request to choose and release a backend, without a canary and with one.
func BenchmarkCanary(b *testing.B) {
	for _, policy := range []string{"lb_round_robin", "lb_peak_ewma"} {
		for name, more := range map[string]string{"without": "", "with": `, "canary": {"backends": ["c:1", "d:1"], "share": 0.3}`} {
			b.Run(policy+"/"+name, func(b *testing.B) {
				h := newConfig(b).mustLoad(`{"name": "cost", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}, {"dial": "d:1"}]` + more + `,
					"load_balancing": {"selection_policy": {"policy": "` + policy + `"}}}`)
				r := newRequest(b)
				caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.7")
				q, told := begin(b, h, r), new(told)
				q.end()
				now := time.Now()
				facts := course.Facts{Status: http.StatusOK, Took: time.Millisecond, Answered: time.Millisecond, Known: true}
				b.ReportAllocs()
				for b.Loop() {
					q.exchange = exchange.Exchange{}
					q.exchange.Init(&h.plan, q.call, q.call, &told.Record)
					k := q.course()
					k.Begin(now)
					k.Ended(&facts, now)
					k.End(course.Ending{}, now)
				}
			})
		}
	}
}
