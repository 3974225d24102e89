package lbmodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// scripted is a transport that does with the requests to a backend what the script for its address says.
type scripted map[string]func(*http.Request) (*http.Response, error)

func (s scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	info, _ := reverseproxy.GetDialInfo(r.Context())
	return s[info.Address](r)
}

// after answers with that status in a while, unless it is canceled.
func after(d time.Duration, status int, canceled *atomic.Int64) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(""))}, nil
		case <-r.Context().Done():
			canceled.Add(1)
			return nil, r.Context().Err()
		}
	}
}

// hedges has h find that its backends took so long, and that requests have earned copies.
func hedges(h *Handler, took time.Duration) {
	p := h.plan.Pool
	for range 200 {
		p.CountRequest()
		p.Latency.Add(took, time.Now())
	}
	// The budget of copies is settled once before it earns.
	p.SpendHedge(h.rules.Hedge.MaxExtra, h.rules.Retry.Budget, time.Now())
	for range 200 {
		p.CountRequest()
	}
}

// attempts are those of a request that h has served, as the placeholder tells of them.
func attempts(t *testing.T, r *http.Request) string {
	t.Helper()
	text := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.load_balancer.attempts}", "")
	var all []struct {
		Backend string
		Status  int
		Error   string
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var told []string
	for _, a := range all {
		told = append(told, strings.TrimSpace(fmt.Sprintf("%s %d %s", a.Backend, a.Status, a.Error)))
	}
	return strings.Join(told, ", ")
}

// TestHedged tests which attempt wins, in virtual time. Afterwards no request is in flight in any case.
func TestHedged(t *testing.T) {
	broken := func(*http.Request) (*http.Response, error) { return nil, errors.New("broken") }
	crash := func(*http.Request) (*http.Response, error) { panic("crash") }
	in := func(ms, status int) func(*atomic.Int64) func(*http.Request) (*http.Response, error) {
		return func(canceled *atomic.Int64) func(*http.Request) (*http.Response, error) {
			return after(time.Duration(ms)*time.Millisecond, status, canceled)
		}
	}
	does := func(f func(*http.Request) (*http.Response, error)) func(*atomic.Int64) func(*http.Request) (*http.Response, error) {
		return func(*atomic.Int64) func(*http.Request) (*http.Response, error) { return f }
	}
	h := newConfig(t).mustLoad(`{"name": "hedged", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "hedge": {"percentile": 0.9, "max_extra": 1},
		"retry": {"attempts": 1}, "load_balancing": {"selection_policy": {"policy": "first"}}}`)
	var said *observer.ObservedLogs
	for name, test := range map[string]struct {
		first, second func(canceled *atomic.Int64) func(*http.Request) (*http.Response, error)
		status        int
		took          time.Duration
		copied        bool // took is from when the copy is sent
		canceled      int64
		attempts      string
	}{
		"answered in time":          {in(5, 200), in(5, 200), 200, 5, false, 0, "a:1 200"},
		"the copy is first":         {in(500, 200), in(5, 200), 200, 5, true, 1, "a:1 0 a copy of the request was answered first, b:1 200"},
		"the copy is later":         {in(50, 200), in(500, 200), 200, 50, false, 1, "a:1 200, b:1 0 the request was answered before its copy"},
		"the copy fails":            {in(50, 200), does(broken), 200, 50, false, 0, "a:1 200, b:1 0 broken"},
		"the copy is a 503":         {in(50, 200), in(5, 503), 200, 50, false, 0, "a:1 200, b:1 503"},
		"the copy is a 500":         {in(50, 200), in(5, 500), 200, 50, false, 0, "a:1 200, b:1 500"},
		"the first is a 429":        {in(20, 429), in(50, 200), 200, 50, true, 0, "a:1 429, b:1 200"},
		"the copy crashes":          {in(50, 200), does(crash), 200, 50, false, 0, "a:1 200, b:1 0 copy of the request panicked"},
		"the first fails meanwhile": {in(20, 503), in(50, 200), 200, 50, true, 0, "a:1 503, b:1 200"},
		"both fail":                 {in(20, 503), in(50, 502), 503, 50, true, 0, "a:1 503, b:1 502"},
	} {
		t.Run(name, func(t *testing.T) {
			h.logger, said = observed() // the log's goroutines must not be born in a bubble
			failures := h.plan.Pool.Member("a:1").Counts().Failures
			synctest.Test(t, func(t *testing.T) {
				h.plan.Pool.Latency = pool.Latency{}
				hedges(h, 10*time.Millisecond)
				wait, _ := h.plan.Pool.Latency.Quantile(0.9, time.Now())
				var canceled atomic.Int64
				h.stock.Transport = stock.NewTransport(scripted{"a:1": test.first(&canceled), "b:1": test.second(&canceled)})
				r, w, start := newRequest(t), httptest.NewRecorder(), time.Now()
				err := h.ServeHTTP(w, r, nil)
				took, want := time.Since(start), test.took*time.Millisecond
				if test.copied {
					want += wait
				}
				if err != nil || w.Code != test.status || took != want {
					t.Errorf("%d, %v after %v; want %d after %v", w.Code, err, took, test.status, want)
				}
				if got := attempts(t, r); got != test.attempts {
					t.Errorf("attempts: %s; want %s", got, test.attempts)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if canceled.Load() != test.canceled {
					t.Errorf("%d canceled, want %d", canceled.Load(), test.canceled)
				}
			})
			if n := len(h.plan.Pool.Live.List(10, "")); n != 0 {
				t.Errorf("%d requests are taken for being served", n)
			}
			// Also of a first attempt that a copy has stood in for.
			if got, want := h.plan.Pool.Member("a:1").Counts().Failures-failures, strings.HasPrefix(test.attempts, "a:1 503"); (got == 1) != want {
				t.Errorf("%d failures of the first, want one: %v", got, want)
			}
			for _, m := range h.plan.Pool.Members() {
				if n := m.InFlight(); n != 0 {
					t.Errorf("%s has %d requests in flight in the end", m.Address(), n)
				}
			}
			if n := said.FilterMessage("copy of a request panicked").FilterField(zap.String("pool", "hedged")).Len(); (n == 1) != (name == "the copy crashes") {
				t.Errorf("%d panics in the log", n)
			}
		})
	}
}

func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, said := observer.New(zap.DebugLevel)
	return zap.New(core), said
}

// TestWhoIsHedged tries which requests have copies, by the settings.
func TestWhoIsHedged(t *testing.T) {
	const hedge = `"hedge": {"percentile": 0.9, "max_extra": 1}`
	for name, test := range map[string]struct {
		settings, method string
		want             bool
	}{
		"GET":                          {hedge, http.MethodGet, true},
		"POST":                         {hedge, http.MethodPost, false},
		"POST, when it is made again":  {`"retry": {"non_idempotent": true}, ` + hedge, http.MethodPost, false},
		"without the setting":          {`"retry": {}`, http.MethodGet, false},
		"of a share of the requests":   {`"hedge": {"percentile": 0.9, "max_extra": 0.001}`, http.MethodGet, false},
		"of sessions":                  {hedge + `, "load_balancing": {"selection_policy": {"policy": "lb_sticky", "secrets": ["0123456789abcdef0123456789abcdef"]}}`, http.MethodGet, false},
		"without a budget for retries": {`"retry": {"budget": {"ratio": 0, "per_second": 0}}, ` + hedge, http.MethodGet, false},
		"without other attempts":       {`"retry": {"disabled": true}, ` + hedge, http.MethodGet, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newConfig(t).mustLoad(`{"name": "who-is-hedged", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], ` + test.settings + `}`)
			h.logger = zap.NewNop()
			synctest.Test(t, func(t *testing.T) {
				hedges(h, 10*time.Millisecond)
				late := after(50*time.Millisecond, 200, new(atomic.Int64))
				h.stock.Transport = stock.NewTransport(scripted{"a:1": late, "b:1": late})
				r := newRequest(t)
				r.Method = test.method
				if err := h.ServeHTTP(httptest.NewRecorder(), r, nil); err != nil {
					t.Fatal(err)
				}
				if got := attempts(t, r); strings.Contains(got, ",") != test.want {
					t.Errorf("attempts: %s; want a copy: %v", got, test.want)
				}
				synctest.Wait()
			})
		})
	}
}

// A policy of another plugin is refused where its name tells, without loading it.
func TestForeignPolicyIsRefusedEarly(t *testing.T) {
	h := new(Handler)
	if err := json.Unmarshal([]byte(`{"upstreams": [{"dial": "a:1"}], "hedge": {"percentile": 0.9, "max_extra": 0.1},
		"load_balancing": {"selection_policy": {"policy": "foreign"}}}`), h); err != nil {
		t.Fatal(err)
	}
	expectError(t, h.Check(), "hedge: selection policy foreign: must be one of the lb_ policies")
	for name, served := range map[string]bool{"foreign": false, "round_robin": true, "random_choose": true, "header": true, "lb_hash": true, "there is none": true} {
		if policies.IsServedByUs(name) != served {
			t.Errorf("%s is served by us: %v, want %v", name, !served, served)
		}
	}
	var p policies.Hash
	err := p.UnmarshalCaddyfile(caddyfile.NewTestDispenser("hash {path} {\n\tfallback foreign\n}"))
	expectError(t, err, "fallback foreign: must be one of the lb_ policies", ":2")
}
