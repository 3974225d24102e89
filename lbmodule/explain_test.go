package lbmodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/status"
)

func init() { caddy.RegisterModule(perRequest{}) }

func explained(t *testing.T, query string) (x status.Explanation) {
	t.Helper()
	answer := asks(t, "GET", webPath+"/explain"+query, "").wants(t, http.StatusOK)
	if err := json.Unmarshal([]byte(answer.body), &x); err != nil {
		t.Fatal(err)
	}
	return x
}

// reasons maps the candidates to why they are out or avoided, "" for those that are in like any other.
func reasons(x status.Explanation) map[string]string {
	all := make(map[string]string)
	for _, c := range x.Candidates {
		if c.In != (c.Reason == "" || strings.HasPrefix(c.Reason, "avoided: ")) {
			all[c.Backend] = "neither in nor out"
			continue
		}
		all[c.Backend] = c.Reason
	}
	return all
}

func TestExplain(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "backends": [
		{"address": "in:1", "weight": 4}, {"address": "full:1", "max_requests": 1}, {"address": "spare:1", "backup": true},
		{"address": "zero:1", "weight": 0}, {"address": "gone:1"}, {"address": "drain:1"}, {"address": "maint:1"}, {"address": "tried:1"}]}`)
	asks(t, "PATCH", webPath+"/backends/drain:1", `{"state": "drain"}`)
	asks(t, "PATCH", webPath+"/backends/maint:1", `{"state": "maintenance"}`)
	set := h.set()
	full, _ := set.View().AcquireMember(1)
	defer full.Release()
	for range 5 {
		l, _ := set.View().AcquireMember(4)
		l.Judge(pool.Verdict{Outcome: pool.Failure, Refused: true}, time.Now())
		l.Release()
	}
	x := explained(t, "")
	got := reasons(x)
	for backend, want := range map[string]string{
		"in:1": "", "full:1": "full", "spare:1": "backup", "zero:1": "weight is 0", "gone:1": "cannot be reached since ", "drain:1": "draining",
		"maint:1": "maintenance", "tried:1": "",
	} {
		if reason := got[backend]; !strings.HasPrefix(reason, want) || want == "" && reason != "" {
			t.Errorf("%s: %q, want %q", backend, reason, want)
		}
	}
	if c := x.Candidates[0]; c.Score == nil || *c.Score != 0 || c.EffectiveWeight != 4 {
		t.Errorf("%+v", c)
	}

	// A request that is being served, at its second backend.
	var live pool.LiveRequest
	h.plan.Pool.Live.Add(&live, nil, time.Now())
	live.At("tried:1")
	live.At("in:1")
	x = explained(t, "")
	if len(x.Live) != 1 || x.Live[0].Backend != "in:1" || x.Live[0].Attempts != 2 {
		t.Fatalf("live %+v", x.Live)
	}
	x = explained(t, "?request="+x.Live[0].ID)
	if x.Chosen != "in:1" || reasons(x)["tried:1"] != "tried" || x.Request == nil {
		t.Errorf("of a live request: %+v", x)
	}
	live.Done()
	live.Done()
	asks(t, "GET", webPath+"/explain?request="+x.Request.ID, "").wants(t, http.StatusNotFound, "request "+x.Request.ID)
}

// What is said of a key is what happens to it, and saying so changes nothing.
func TestExplainKey(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}],
		"load_balancing": {"selection_policy": {"policy": "hash", "keys": ["{http.request.header.K}"]}}}`)
	for _, key := range []string{"one", "two", "three", "four", "five"} {
		said := explained(t, "?key="+key).Chosen
		r := newRequest(t)
		r.Header.Set("K", key)
		q := begin(t, h, r)
		if q.at() != said {
			t.Errorf("key %s: said %s, went to %q", key, said, q.at())
		}
		q.end()
	}
	for _, b := range h.overview().Backends {
		if b.InFlight != 0 {
			t.Errorf("%s has %d in flight", b.Name, b.InFlight)
		}
	}
	newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
	if got := explained(t, "?key=one").Chosen; got != "" {
		t.Errorf("a policy without keys chose %s", got)
	}
}

// TestExplainWay checks that it is told how the next request's backend is chosen, and which it is where that is certain.
func TestExplainWay(t *testing.T) {
	const three = `"backends": [{"address": "a:1", "weight": 1}, {"address": "b:1", "weight": 3}, {"address": "c:1", "weight": 0}]`
	for _, test := range []struct {
		settings, way, otherwise, chosen string
		share                            float64 // of a; 0 for none
	}{
		{`"load_balancing": {"selection_policy": {"policy": "first"}}`, "order", "", "a:1", 0},
		{`"load_balancing": {"selection_policy": {"policy": "lb_round_robin"}}`, "turn", "", "", 0.25},
		{`"load_balancing": {"selection_policy": {"policy": "lb_weighted_round_robin"}}`, "turn", "", "", 0.25},
		{`"load_balancing": {"selection_policy": {"policy": "lb_random"}}`, "chance", "", "", 0.25},
		{`"load_balancing": {"selection_policy": {"policy": "lb_least_conn"}}`, "score", "", "b:1", 0},
		{`"load_balancing": {"selection_policy": {"policy": "lb_p2c"}}`, "draw", "", "", 0.25},
		{`"hold": "2s"`, "draw", "", "", 0.25},
		{`"load_balancing": {"selection_policy": {"policy": "lb_hash", "keys": ["{http.request.header.K}"]}}`, "key", "chance", "", 0.25},
		{`"load_balancing": {"selection_policy": {"policy": "lb_hash", "keys": ["{http.request.header.K}"], "fallback": {"policy": "lb_least_conn"}}}`, "key", "score", "", 0},
		{`"load_balancing": {"selection_policy": {"policy": "ip_hash"}}`, "key", "chance", "", 0.25},
		{`"load_balancing": {"selection_policy": {"policy": "lb_sticky", "secrets": ["0123456789abcdef"]}}`, "session", "draw", "", 0.25},
	} {
		h := newConfig(t).serve(`{"name": "web", ` + three + `, ` + test.settings + `}`)
		busy, _ := h.set().View().AcquireMember(0)
		x := explained(t, "")
		var share float64
		if s := x.Candidates[0].Share; s != nil {
			share = *s
		}
		if string(x.Way) != test.way || string(x.Otherwise) != test.otherwise || x.Chosen != test.chosen || share != test.share || x.Candidates[2].Share != nil {
			t.Errorf("%s: way %s, otherwise %s, chosen %q, share %v; want %+v", test.settings, x.Way, x.Otherwise, x.Chosen, share, test)
		}
		busy.Release()
	}
	newConfig(t).serve(`{"name": "web", "backends": [{"address": "a:1"}, {"address": "b:1", "weight": 0}]}`)
	if got := explained(t, "").Chosen; got != "a:1" {
		t.Errorf("the only one: %q", got)
	}
	newConfig(t).serve(`{"name": "web", "prefer_zone": "eu", "backends": [{"address": "a:1", "zone": "eu"}, {"address": "b:1", "zone": "us", "weight": 9},
		{"address": "c:1", "zone": "eu", "weight": 9}], "load_balancing": {"selection_policy": {"policy": "first"}}}`)
	asks(t, "PATCH", webPath+"/backends/c:1", `{"state": "drain"}`)
	if x := explained(t, ""); x.Chosen != "" || !x.Candidates[0].In || !x.Candidates[1].In {
		t.Errorf("which zone is by chance: %+v", x)
	}
}

func TestExplainZones(t *testing.T) {
	newConfig(t).serve(`{"name": "web", "prefer_zone": "eu", "backends": [{"address": "a:1", "zone": "eu"}, {"address": "b:1", "zone": "us"}]}`)
	if got := reasons(explained(t, "")); got["a:1"] != "" || got["b:1"] != "other zone" {
		t.Errorf("%v", got)
	}
}

// Requests carry the means to end them only where drains have a timeout.
func TestDrainTimeoutSettings(t *testing.T) {
	// What is served last is what the API shows.
	h := newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}], "drain_timeout": "1ms"}`)
	asks(t, "PATCH", webPath+"/backends/a:1", `{"state": "drain"}`)
	eventually(t, "the drain to end", func() bool { return h.set().View().Backend(0).State == pool.Drained })
	h = newConfig(t).serve(`{"name": "web2", "upstreams": [{"dial": "a:1"}]}`)
	asks(t, "PATCH", "/load_balancer/pools/web2/backends/a:1", `{"state": "drain"}`)
	if got := h.set().View().Backend(0).State; got != pool.Draining {
		t.Errorf("state %v: sessions may stay by default", got)
	}
	h = newConfig(t).serve(`{"name": "web3", "upstreams": [{"dial": "a:1"}], "drain_sticky": {"disabled": true}}`)
	asks(t, "PATCH", "/load_balancer/pools/web3/backends/a:1", `{"state": "drain"}`)
	if got := h.set().View().Backend(0).State; got != pool.Drained {
		t.Errorf("state %v with drain_sticky off", got)
	}
}

// perRequest is a source that names the backends in the request's To: an address each, and max_requests behind it.
type perRequest struct{}

func (perRequest) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.upstreams.per_request_test", New: func() caddy.Module { return new(perRequest) }}
}

func (perRequest) GetUpstreams(r *http.Request) (all []*reverseproxy.Upstream, err error) {
	for _, to := range r.Header.Values("To") {
		u := new(reverseproxy.Upstream)
		_, _ = fmt.Sscan(to, &u.Dial, &u.MaxRequests) // there need not be the second one
		all = append(all, u)
	}
	return all, nil
}

func TestEditsOfPerRequestSource(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "dynamic_upstreams": {"source": "per_request_test"}}`)
	goes := func(to string) string {
		r := newRequest(t)
		r.Header.Set("To", to)
		q := begin(t, h, r)
		defer q.end()
		return q.at()
	}
	asks(t, "POST", webPath+"/backends", `{"address": "c:1", "weight": 60000}`).wants(t, http.StatusCreated, "not in use yet")
	asks(t, "PATCH", webPath+"/backends/c:1", `{"state": "drain"}`).wants(t, http.StatusOK)
	for _, to := range []string{"a:1", "b:1", "a:1"} {
		if got := goes(to); got != to {
			t.Errorf("%s, want %s", got, to)
		}
	}
	if got := h.addresses(); got != "a:1 b:1 c:1" {
		t.Errorf("shown: %s", got)
	}
	asks(t, "PATCH", webPath+"/backends/a:1", `{"state": "drain"}`).wants(t, http.StatusOK)
	asks(t, "PATCH", webPath+"/backends/c:1", `{"state": "ready"}`).wants(t, http.StatusOK)
	if got := goes("a:1"); got != "c:1" {
		t.Errorf("%s, want c:1: the other one drains", got)
	}
	asks(t, "DELETE", webPath+"/backends/c:1?sync", "").wants(t, http.StatusNoContent)
	if got := goes("a:1"); got != "" {
		t.Errorf("%s, want nobody", got)
	}
}

// Edits hold for the backends of a dynamic source, too.
func TestDynamicEdits(t *testing.T) {
	c := newConfig(t)
	h := c.serve(`{"name": "web", "dynamic_upstreams": {"source": "multi", "sources": []}}`)
	eventually(t, "the source to answer", func() bool { return h.set() != nil })
	asks(t, "POST", webPath+"/backends", `{"address": "c:1"}`).wants(t, http.StatusCreated, `"source":"api"`)
	q := begin(t, h, newRequest(t))
	if q.at() != "c:1" {
		t.Errorf("got %q, %v", q.at(), q.course().Refused())
	}
	q.end()
	asks(t, "PATCH", webPath+"/backends/c:1", `{"state": "drain"}`).wants(t, http.StatusOK)
	q = begin(t, h, newRequest(t))
	if q.at() != "" {
		t.Errorf("got %s", q.at())
	}
	q.end()
}
