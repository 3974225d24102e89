package lbmodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// underShadow is the JSON of a load balancer with three backends, a policy, a shadow policy, and more settings.
func underShadow(policy, shadow, more string) string {
	return `{"name": "shadow", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}], "load_balancing": {"selection_policy": ` + policy + `},
		"shadow_policy": ` + shadow + more + `}`
}

// visits has h serve n requests, each of another user, and returns what the API says.
func visits(t *testing.T, h *Handler, n int, trip func(*http.Request) (*http.Response, error)) {
	t.Helper()
	h.stock.Transport = stock.NewTransport(tripper(trip))
	for i := range n {
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, requestFor(t, "/", fmt.Sprint(i)), nil); err != nil {
			t.Fatal(err)
		}
		for _, c := range w.Result().Cookies() {
			if c.Name != "lb" {
				t.Fatalf("a cookie %s", c.Name)
			}
		}
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func atOnceOK(*http.Request) (*http.Response, error) { return answerOf(http.StatusOK), nil }

// TestShadowPolicy: each request is decided on, by its key if the shadow policy goes by one, under any policy.
func TestShadowPolicy(t *testing.T) {
	const requests = 300
	byUser := `{"policy": "lb_hash", "keys": ["{http.request.header.X-User}"]}`
	for _, test := range []struct {
		policy, shadow string
		least, most    float64 // agreement
	}{
		{byUser, byUser, 1, 1},
		{`{"policy": "first"}`, `{"policy": "lb_first"}`, 1, 1},
		{`{"policy": "round_robin"}`, `{"policy": "round_robin"}`, 1, 1}, // both begin with the same
		{`{"policy": "lb_weighted_round_robin"}`, `{"policy": "weighted_round_robin"}`, 1, 1},
		{`{"policy": "lb_first"}`, byUser, 0.2, 0.5},
		{`{"policy": "lb_random"}`, `{"policy": "lb_random"}`, 0.2, 0.5},
		{`{"policy": "lb_peak_ewma"}`, `{"policy": "lb_least_conn"}`, 0.2, 0.5},
		{`{"policy": "lb_least_conn"}`, `{"policy": "lb_peak_ewma"}`, 0.2, 0.5},
		{`{"policy": "lb_sticky", "secrets": ["0123456789abcdef"]}`, `{"policy": "lb_first"}`, 0.2, 0.5},
		{`{"policy": "header", "field": "X-User"}`, `{"policy": "header", "field": "X-User"}`, 1, 1},
		{`{"policy": "lb_first"}`, `{"policy": "ip_hash"}`, 0, 1},
	} {
		t.Run(test.policy+test.shadow, func(t *testing.T) {
			h := newConfig(t).mustLoad(underShadow(test.policy, test.shadow, ""))
			visits(t, h, requests, atOnceOK)
			o := h.overview()
			if s := o.Shadow; s == nil || s.Agreed+s.Differed != requests || s.Agreement < test.least || s.Agreement > test.most || s.ExpectedMs == nil || s.TookMs == nil {
				t.Errorf("%+v", s)
			}
			var would, was uint64
			for _, b := range o.Backends {
				would, was = would+b.Shadow.Requests, was+b.Shadow.Given
				if b.Shadow.Given != b.Requests {
					t.Errorf("%s was given %d requests, %d told", b.Name, b.Requests, b.Shadow.Given)
				}
			}
			if would != requests || was != requests {
				t.Errorf("%d and %d requests of %d", would, was, requests)
			}
			if _, _, _, why := h.Express(); why != "" {
				t.Errorf("the express lane does not take it for %q", why)
			}
		})
	}
}

// TestShadowDecidesOnce: there is one decision for a request, whatever its retries are.
func TestShadowDecidesOnce(t *testing.T) {
	h := newConfig(t).mustLoad(underShadow(`{"policy": "lb_round_robin"}`, `{"policy": "lb_first"}`, `, "breaker": {"consecutive_failures": 1000, "min_requests": 1000}, "retry": {"budget": {"ratio": 1, "per_second": 1000}}`))
	n := 0
	visits(t, h, 60, func(*http.Request) (*http.Response, error) {
		if n++; n%2 == 1 {
			return nil, errors.New("broken")
		}
		return answerOf(http.StatusOK), nil
	})
	o := h.overview()
	if n != 120 || o.Shadow.Agreed+o.Shadow.Differed != 60 {
		t.Errorf("%d decisions on 60 requests with %d attempts", o.Shadow.Agreed+o.Shadow.Differed, n)
	}
	if o.Shadow.TookMs != nil {
		t.Errorf("%+v, though no first attempt was served", o.Shadow.TookMs)
	}
	s := h.set().View().Shadow()
	if share := s.Share(h.set().View().Member(0)); share.Chosen != 60 || share.InFlight != 0 {
		t.Errorf("%+v", share)
	}
}

// TestShadowOfOthers: a policy that is not ours may be in force; none of these can be the shadow policy.
func TestShadowOfOthers(t *testing.T) {
	h := newConfig(t).mustLoad(underShadow(`{"policy": "foreign"}`, `{"policy": "lb_round_robin"}`, ""))
	visits(t, h, 30, atOnceOK)
	if s := h.overview().Shadow; s.Agreed+s.Differed != 30 {
		t.Errorf("%+v", s)
	}
}

// TestShadowConfig tries wrong settings.
func TestShadowConfig(t *testing.T) {
	const inForce = `{"policy": "lb_round_robin"}`
	for shadow, want := range map[string]string{
		`{}`:                                "shadow_policy: policy: missing",
		`null`:                              "shadow_policy: policy: missing",
		`1`:                                 "shadow_policy: must be an object",
		`{"policy": "none"}`:                "shadow_policy none: no such policy in this build; available: ",
		`{"policy": "foreign"}`:             "shadow_policy foreign: must be one of the policies of this module",
		`{"policy": "lb_other"}`:            "shadow_policy other: must be a policy without sessions",
		`{"policy": "lb_sticky"}`:           "shadow_policy sticky: must be a policy without sessions",
		`{"policy": "cookie"}`:              "shadow_policy cookie: must be a policy without sessions",
		`{"policy": "lb_hash", "keys": []}`: "must be given placeholders",
		`{"policy": "lb_p2c", "choose": 1}`: "shadow_policy lb_p2c",
		`{"policy": "lb_first", "a": 1}`:    "unknown field",
		`{"policy": "lb_peak_ewma", "until": "last_byte"}`:                                                                             "shadow_policy peak_ewma: must have first_byte",
		`{"policy": "query", "key": "k", "fallback": {"policy": "lb_peak_ewma", "until": "last_byte"}}`:                                "peak_ewma: must have first_byte",
		`{"policy": "weighted_round_robin", "weights": [1, 2, 3]}`:                                                                     "shadow_policy weighted_round_robin: must not list weights",
		`{"policy": "query", "key": "k", "fallback": {"policy": "weighted_round_robin", "weights": [1]}}`:                              "must not list weights",
		`{"policy": "query", "key": "k", "fallback": {"policy": "foreign"}}`:                                                           "shadow_policy query: must be one of the policies of this module",
		`{"policy": "lb_hash", "keys": ["{http.request.host}"], "fallback": {"policy": "lb_sticky", "secrets": ["0123456789abcdef"]}}`: "shadow_policy hash: must be a policy without sessions",
	} {
		t.Run(shadow, func(t *testing.T) {
			_, err := newConfig(t).load(underShadow(inForce, shadow, ""))
			expectError(t, err, want)
			if strings.Contains(want, "keeps") || strings.Contains(want, "no such") {
				expectError(t, err, "first, hash, header, ip_hash, least_conn")
			}
		})
	}
	c := newConfig(t)
	c.mustLoad(underShadow(inForce, `{"policy": "lb_first"}`, ""))
	_, err := c.load(underShadow(inForce, `{"policy": "lb_random"}`, ""))
	expectError(t, err, "shadow") // handlers that share a pool agree on it
}

// TestShadowMetrics: what is told adds up, and is gone without the shadow policy.
func TestShadowMetrics(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(underShadow(`{"policy": "lb_round_robin"}`, `{"policy": "lb_first"}`, ""))
	visits(t, h, 30, atOnceOK)
	got := c.gathered()
	for name, want := range map[string]string{
		"shadow_decisions_total":  "map[agreed:10 differed:20 dropped:0 full:0]",
		"shadow_requests_total":   "map[a:1 policy:10 a:1 shadow:30 b:1 policy:10 b:1 shadow:0 c:1 policy:10 c:1 shadow:0]",
		"shadow_duration_seconds": "map[policy:30 shadow:30]",
	} {
		if have := fmt.Sprint(values(got[name])); have != want {
			t.Errorf("%s: %s, want %s", name, have, want)
		}
	}
	if n := len(values(got["shadow_in_flight"])); n != 3 {
		t.Errorf("shadow_in_flight of %d backends", n)
	}
	if n := h.set().View().Shadow().Decisions(pool.ShadowAgreed); n != 10 {
		t.Errorf("%d agreed", n)
	}
}
