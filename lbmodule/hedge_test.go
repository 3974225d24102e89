package lbmodule

import (
	"context"
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

// TestHedged tries who wins, in virtual time. Nothing is in flight afterwards, whatever happened.
func TestHedged(t *testing.T) {
	broken := func(*http.Request) (*http.Response, error) { return nil, errors.New("broken") }
	crash := func(*http.Request) (*http.Response, error) { panic("crash") }
	h := newConfig(t).mustLoad(`{"name": "hedged", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "hedge": {"percentile": 0.9, "max_extra": 1},
		"load_balancing": {"selection_policy": {"policy": "first"}}}`)
	h.logger = zap.NewNop() // the log's goroutines must not be born in a bubble
	for name, test := range map[string]struct {
		first, second func(canceled *atomic.Int64) func(*http.Request) (*http.Response, error)
		status        int
		from          string
		took          time.Duration
		canceled      int64
		trail         string // what is told of the attempts before the current one has ended
	}{
		"answered in time":          {in(5, 200), in(5, 200), 200, "a:1", 5, 0, "a:1 0 "},
		"the copy is first":         {in(500, 200), in(5, 200), 200, "b:1", 15, 1, "a:1 0 a copy of the request was answered first, b:1 0 "},
		"the copy is later":         {in(50, 200), in(500, 200), 200, "a:1", 50, 1, "a:1 0 , b:1 0 the request was answered before its copy"},
		"the copy fails":            {in(50, 200), does(broken), 200, "a:1", 50, 0, "a:1 0 , b:1 0 broken"},
		"the copy is a 503":         {in(50, 200), in(5, 503), 200, "a:1", 50, 0, "a:1 0 , b:1 503 "},
		"the copy is a 429":         {in(50, 200), in(5, 429), 200, "a:1", 50, 0, "a:1 0 , b:1 429 "},
		"the copy is a 500":         {in(50, 200), in(5, 500), 200, "a:1", 50, 0, "a:1 0 , b:1 500 "},
		"the first is a 429":        {in(20, 429), in(50, 200), 200, "b:1", 60, 0, "a:1 429 , b:1 0 "},
		"both are 429":              {in(20, 429), in(50, 429), 429, "a:1", 60, 0, "a:1 0 , b:1 429 "},
		"the copy crashes":          {in(50, 200), does(crash), 200, "a:1", 50, 0, "a:1 0 , b:1 0 copy of the request panicked"},
		"the first fails meanwhile": {in(20, 503), in(50, 200), 200, "b:1", 60, 0, "a:1 503 , b:1 0 "},
		"both fail":                 {in(20, 503), in(50, 502), 503, "a:1", 60, 0, "a:1 0 , b:1 502 "},
		"the first fails at once":   {in(5, 503), in(5, 200), 503, "a:1", 5, 0, "a:1 0 "},
	} {
		t.Run(name, func(t *testing.T) {
			failures := h.pool.Member("a:1").Counts().Failures
			q := &request{h: h}
			r := newRequest(t)
			q.next(r, httptest.NewRecorder())
			h.pool.Live.Add(&q.live, nil)
			synctest.Test(t, func(t *testing.T) {
				var canceled atomic.Int64
				transport := scripted{"a:1": test.first(&canceled), "b:1": test.second(&canceled)}
				info := q.target().Dial
				r := newRequest(t)
				r = r.WithContext(context.WithValue(r.Context(), stock.DialInfoKey, info))
				start := time.Now()
				q.begin(q.choice, start)
				r = q.trace(r)
				res, err := q.hedged(transport, r, 10*time.Millisecond)
				took := time.Since(start)
				if err != nil || res.StatusCode != test.status || q.upstream.Dial != test.from || took != test.took*time.Millisecond {
					t.Errorf("%v, %v from %s after %v; want %d from %s after %vms", res, err, q.upstream.Dial, took, test.status, test.from, int(test.took))
				}
				var trail []string
				for _, a := range q.attemptsMade() {
					trail = append(trail, fmt.Sprintf("%s %d %s", a.Backend, a.Status, a.Error))
				}
				if got := strings.Join(trail, ", "); got != test.trail {
					t.Errorf("attempts: %s; want %s", got, test.trail)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if canceled.Load() != test.canceled {
					t.Errorf("%d canceled, want %d", canceled.Load(), test.canceled)
				}
			})
			// A drain of where the copy was must not end the request.
			for _, address := range []string{"a:1", "b:1"} {
				if h.pool.Live.EndAt(address) != 0 {
					t.Errorf("the copy at %s is taken for one that is still on its way", address)
				}
			}
			q.verdict = pool.Verdict{}
			q.end()
			// Also of a first attempt that a copy has stood in for.
			if got, want := h.pool.Member("a:1").Counts().Failures-failures, name == "the first fails meanwhile"; (got == 1) != want {
				t.Errorf("%d failures of the first, want one: %v", got, want)
			}
			for _, m := range h.pool.Members() {
				if n := m.InFlight(); n != 0 {
					t.Errorf("%s has %d requests in flight in the end", m.Address(), n)
				}
			}
		})
	}
}

func in(ms int, status int) func(*atomic.Int64) func(*http.Request) (*http.Response, error) {
	return func(canceled *atomic.Int64) func(*http.Request) (*http.Response, error) {
		return after(time.Duration(ms)*time.Millisecond, status, canceled)
	}
}

func does(f func(*http.Request) (*http.Response, error)) func(*atomic.Int64) func(*http.Request) (*http.Response, error) {
	return func(*atomic.Int64) func(*http.Request) (*http.Response, error) { return f }
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
