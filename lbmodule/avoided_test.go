package lbmodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/status"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// answered has the backends of h answer for a second: those that are named late, the others at once.
func answered(h *Handler, late ...string) {
	const answers = 100
	view := h.set().View()
	begin := time.Now().Add(-time.Second)
	for n := range answers {
		for i := range view.Len() {
			took := 500 * time.Microsecond
			for _, address := range late {
				if view.Backend(i).Address == address {
					took = 400 * time.Millisecond
				}
			}
			view.Member(i).Latency().Answered(took, begin.Add(time.Duration(n+1)*time.Second/answers))
		}
	}
}

// lateAnswers is why a backend is avoided that took 400 ms where others took half a millisecond.
var lateAnswers = regexp.MustCompile(`^its answers take 400 ms, the others' 0\.5\d? ms; tried again (with the next request|in [0-9.]+ s)$`)

// An avoided backend stays in, with the reason; one that is out has the reason why it is out.
func TestExplainAvoided(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "backends": [{"address": "a:1"}, {"address": "b:1"}, {"address": "slow:1"}, {"address": "drain:1"},
		{"address": "full:1", "max_requests": 1}, {"address": "spare:1", "backup": true}, {"address": "spare:2", "backup": true}]}`)
	if got := reasons(explained(t, "")); got["slow:1"] != "" {
		t.Errorf("before it was slow: %q", got["slow:1"])
	}
	asks(t, "PATCH", webPath+"/backends/drain:1", `{"state": "drain"}`)
	full, _ := h.set().View().AcquireMember(4)
	defer full.Release()
	answered(h, "slow:1", "drain:1", "full:1", "spare:2")
	x := explained(t, "")
	for _, c := range x.Candidates {
		text, avoided := strings.CutPrefix(c.Reason, "avoided: ")
		if want := c.Backend == "slow:1"; avoided != want || avoided && (!c.In || !lateAnswers.MatchString(text)) {
			t.Errorf("%+v: avoided, want %t", c, want)
		}
	}
	if got := reasons(x); got["drain:1"] != "draining" || got["full:1"] != "full" || got["spare:2"] != "backup" || got["a:1"] != "" {
		t.Errorf("%v", got)
	}

	// One that fails.
	failing := h.set().View().Member(0).Latency()
	for range 10 {
		failing.Failed(time.Millisecond, time.Now())
	}
	if got := reasons(explained(t, ""))["a:1"]; !strings.HasPrefix(got, "avoided: it fails; tried again ") {
		t.Errorf("after ten failures: %q", got)
	}
}

// A policy that goes by keys or sessions avoids the backends that its fallback avoids; one that does not go by answers avoids none.
func TestAvoidedByPolicy(t *testing.T) {
	for policy, want := range map[string]bool{
		`{"policy": "lb_peak_ewma"}`: true,
		`{"policy": "lb_hash", "keys": ["{http.request.header.K}"], "fallback": {"policy": "lb_peak_ewma"}}`: true,
		`{"policy": "lb_hash", "keys": ["{http.request.header.K}"]}`:                                         false,
		`{"policy": "lb_sticky", "secrets": ["0123456789abcdef0123456789abcdef"]}`:                           true,
		`{"policy": "lb_sticky", "secrets": ["0123456789abcdef0123456789abcdef"], "learn_header": "K"}`:      true,
		`{"policy": "lb_round_robin"}`: false,
		`{"policy": "lb_least_conn"}`:  false,
	} {
		h := newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "slow:1"}], "load_balancing": {"selection_policy": ` + policy + `}}`)
		answered(h, "slow:1")
		if got := reasons(explained(t, ""))["slow:1"]; strings.HasPrefix(got, "avoided: ") != want {
			t.Errorf("%s: %q", policy, got)
		}
		h.set().View().Member(2).Reset(time.Now())
	}
}

// The API shows it at the backend, and leaves it out where there is nothing to say.
func TestAvoidedOverview(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "backends": [{"address": "a:1"}, {"address": "b:1"}, {"address": "slow:1"}, {"address": "spare:1", "backup": true},
		{"address": "spare:2", "backup": true}]}`)
	if answer := asks(t, "GET", webPath, ""); strings.Contains(answer.body, `"avoided"`) {
		t.Errorf("before one was slow: %s", answer.body)
	}
	answered(h, "slow:1", "spare:2")
	var p struct {
		State    string
		Backends []struct {
			Name, Avoided, Reason string
			Usable                bool
		}
	}
	answer := asks(t, "GET", webPath, "").wants(t, http.StatusOK)
	if err := json.Unmarshal([]byte(answer.body), &p); err != nil {
		t.Fatal(err)
	}
	for _, b := range p.Backends {
		if want := b.Name == "slow:1"; !b.Usable || b.Reason != "" || lateAnswers.MatchString(b.Avoided) != want || b.Avoided != "" && !want {
			t.Errorf("%+v: avoided, want %t", b, want)
		}
	}
	if n := strings.Count(answer.body, `"avoided"`); n != 1 || p.State != "ok" {
		t.Errorf("%d are avoided in a pool that is %s, want one and ok", n, p.State)
	}
	asks(t, "GET", webPath+"/backends/slow:1", "").wants(t, http.StatusOK, `"usable":true,"avoided":"its answers take 400 ms, the others' 0.5`)
}

// The debug header tells the same as explain.
func TestDebugHeaderAvoided(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "debug_header": {"name": "X-Balance", "ranges": ["192.0.2.0/24"]},
		"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "slow:1"}]}`)
	answered(h, "slow:1")
	r := newRequest(t)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, netip.MustParseAddr("192.0.2.1").String())
	w := httptest.NewRecorder()
	h.stock.Transport = stock.NewTransport(new(instantTransport))
	if err := h.ServeHTTP(w, r, nil); err != nil {
		t.Fatal(err)
	}
	var x status.Explanation
	if err := json.Unmarshal([]byte(w.Header().Get("X-Balance")), &x); err != nil {
		t.Fatalf("%v: %s", err, w.Header().Get("X-Balance"))
	}
	if got := reasons(x)["slow:1"]; !strings.HasPrefix(got, "avoided: its answers take 400 ms") {
		t.Errorf("%q", got)
	}
	if got := attempts(t, r); got != x.Chosen+" 200" {
		t.Errorf("attempts: %s, chosen %s", got, x.Chosen)
	}
}

// What latency decided is counted for good: over resets, and reloads.
func TestAvoidedMetrics(t *testing.T) {
	const settings = `{"name": "avoided", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "slow:1"}]}`
	before := newConfig(t)
	h := before.mustLoad(settings)
	answered(h, "slow:1")
	shares(t, h, 1000)
	check := func(c *harness) (counted pool.Picks) {
		t.Helper()
		all := c.gathered()
		avoided, trials := values(all["avoided_total"]), values(all["trials_total"])
		if len(avoided) != 3 || len(trials) != 3 {
			t.Errorf("avoided %v, trials %v, want each of three", avoided, trials)
		}
		for i, address := range []string{"a:1", "b:1", "slow:1"} {
			picks := h.set().View().Member(i).Picks()
			if avoided[address] != float64(picks.Avoided) || trials[address] != float64(picks.Trials) {
				t.Errorf("%s: avoided %v, trials %v, want %+v", address, avoided[address], trials[address], picks)
			}
		}
		return h.set().View().Member(2).Picks()
	}
	first := check(before)
	if first.Avoided == 0 {
		t.Error("nobody was avoided")
	}
	h.set().View().Member(2).Reset(time.Now())
	after := newConfig(t)
	h = after.mustLoad(settings)
	before.cancel()
	if second := check(after); second != first {
		t.Errorf("%+v after a reset and a reload, want %+v", second, first)
	}
}
