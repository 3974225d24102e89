package lbmodule

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// A retry goes to another backend, as long as there is one.
func TestRetryGoesElsewhere(t *testing.T) {
	for _, policy := range []string{"round_robin", "weighted_round_robin", "least_conn", "random", "first", "p2c", "random_choose", "peak_ewma", "ip_hash", "foreign"} {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newQuietConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}], "retry": {"attempts": 4},
					"breaker": {"disabled": true}, "load_balancing": {"selection_policy": {"policy": "` + policy + `"}}}`)
				var at []string
				h.stock.Transport = stock.NewTransport(refusing(func(r *http.Request) error {
					at = append(at, r.URL.Host)
					return &net.OpError{Op: "remote error", Err: tls.AlertError(42)}
				}))
				for range 5 {
					time.Sleep(time.Second) // there are enough retries again
					at = nil
					if err := h.ServeHTTP(httptest.NewRecorder(), newRequest(t), nil); err == nil || len(at) != 4 {
						t.Fatalf("attempts went to %v, and then %v; want four", at, err)
					}
					if seen := slices.Sorted(slices.Values(at[:3])); len(slices.Compact(seen)) != 3 {
						t.Fatalf("attempts went to %v, want the first three to be at one backend each", at)
					}
				}
				for _, m := range h.plan.Pool.Members() {
					if n := m.InFlight(); n != 0 {
						t.Errorf("%s has %d requests in flight after all have ended", m.Address(), n)
					}
				}
			})
		})
	}
}

// refusing is a transport that has no answer to any request.
type refusing func(*http.Request) error

func (f refusing) RoundTrip(r *http.Request) (*http.Response, error) { return nil, f(r) }

func init() { caddy.RegisterModule(foreign{}) }

// foreign is a selection policy of another plugin: the first, or what choose says.
type foreign struct {
	reverseproxy.FirstSelection
	choose func(reverseproxy.UpstreamPool) *reverseproxy.Upstream // nil for the first
}

// CaddyModule returns the Caddy module information.
func (foreign) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policies.Namespace + ".foreign", New: func() caddy.Module { return new(foreign) }}
}

func (f foreign) Select(all reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	if f.choose != nil {
		return f.choose(all)
	}
	return f.FirstSelection.Select(all, r, w)
}

// Caps hold with policies that are not ours, too.
func TestCapWithForeignPolicy(t *testing.T) {
	h := newConfig(t).mustLoad(`{"backends": [{"address": "a:1", "max_requests": 1}, {"address": "b:1", "max_requests": 2}],
		"load_balancing": {"selection_policy": {"policy": "foreign"}}}`)
	var at []string
	for range 4 {
		q := begin(t, h, newRequest(t))
		defer q.end()
		if at = append(at, q.at()); q.at() == "" && !errors.Is(q.course().Refused(), pool.ErrFull) {
			t.Errorf("refused with %v, want all to be full", q.course().Refused())
		}
	}
	if want := []string{"a:1", "b:1", "b:1", ""}; !slices.Equal(at, want) {
		t.Errorf("requests went to %q, want %q", at, want)
	}
}

// A selection policy of another plugin may answer with an upstream of its own making, with one that it was not offered, or with none.
func TestOddPolicies(t *testing.T) {
	h := newConfig(t).mustLoad(`{"backends": [{"address": "a:1", "max_requests": 1}, {"address": "b:1"}], "load_balancing": {"selection_policy": {"policy": "foreign"}}}`)
	var at string
	h.stock.Transport = stock.NewTransport(answering(func(r *http.Request) *http.Response { at = r.URL.Host; return answerOf(http.StatusOK) }))
	own := &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: "elsewhere:1"}
	remembered := h.set().Upstream(0)
	for name, test := range map[string]struct {
		choice *reverseproxy.Upstream
		full   bool // a:1 is
		at     string
		err    error
	}{
		"nobody":                       {err: pool.ErrFull},
		"one of its own":               {choice: own, at: "elsewhere:1"},
		"one that it remembers":        {choice: remembered, at: "a:1"},
		"one that is full, over again": {choice: remembered, full: true, err: pool.ErrFull},
	} {
		h.service.Policy().(*foreign).choose = func(reverseproxy.UpstreamPool) *reverseproxy.Upstream { return test.choice }
		at = ""
		var l pool.Lease
		if test.full {
			l, _ = h.set().View().AcquireMember(0)
		}
		if err := h.ServeHTTP(httptest.NewRecorder(), newRequest(t), nil); at != test.at || !errors.Is(err, test.err) {
			t.Errorf("%s: at %q, %v; want %q, %v", name, at, err, test.at, test.err)
		}
		l.Release()
	}
	if n := own.NumRequests(); n != 0 {
		t.Errorf("%d requests are counted in the end", n)
	}
}
