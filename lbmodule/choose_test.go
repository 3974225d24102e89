package lbmodule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func TestClassify(t *testing.T) {
	live := t.Context()
	gone, cancel := context.WithCancel(live)
	cancel()
	late, cancelLate := context.WithTimeout(live, 0)
	defer cancelLate()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, test := range map[string]struct {
		ctx    context.Context
		status int
		header http.Header
		err    error
		want   pool.Outcome
	}{
		"200":                      {live, 200, nil, nil, pool.Success},
		"101":                      {live, 101, nil, nil, pool.Success},
		"404":                      {live, 404, nil, nil, pool.Success},
		"429":                      {live, 429, nil, nil, pool.Ignored},
		"503 with Retry-After":     {live, 503, http.Header{"Retry-After": {"1"}}, nil, pool.Ignored},
		"dial error of TLS":        {live, 0, nil, tls.AlertError(42), pool.Failure},
		"500":                      {live, 500, nil, nil, pool.Success},
		"502":                      {live, 502, nil, nil, pool.Failure},
		"503":                      {live, 503, nil, nil, pool.Failure},
		"504":                      {live, 504, nil, nil, pool.Failure},
		"refused":                  {live, 0, nil, dial, pool.Failure},
		"dial error":               {live, 0, nil, reverseproxy.NewDialError(dial), pool.Failure},
		"reset":                    {live, 0, nil, fmt.Errorf("read: %w", syscall.ECONNRESET), pool.Failure},
		"end of connection":        {live, 0, nil, io.ErrUnexpectedEOF, pool.Failure},
		"malformed":                {live, 0, nil, errors.New("net/http: HTTP/1.x transport connection broken: malformed HTTP response"), pool.Failure},
		"client went away":         {gone, 0, nil, context.Canceled, pool.Ignored},
		"client went away, reset":  {gone, 0, nil, fmt.Errorf("write: %w", syscall.EPIPE), pool.Ignored},
		"timeout of the attempt":   {late, 0, nil, context.DeadlineExceeded, pool.Failure},
		"body read by another":     {live, 0, nil, fmt.Errorf("write: %w", errBodyTaken), pool.Ignored},
		"no descriptors":           {live, 0, nil, fmt.Errorf("dial: %w", syscall.EMFILE), pool.Ignored},
		"no descriptors in system": {live, 0, nil, fmt.Errorf("dial: %w", syscall.ENFILE), pool.Ignored},
	} {
		q := &request{h: &Handler{failureStatus: newStatusSet((*config.Breaker)(nil).WithDefaults().FailureStatus)}}
		if got := q.classify(test.ctx, &http.Response{StatusCode: test.status, Header: test.header}, test.err); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// A retry goes to another backend, as long as there is one.
func TestRetryGoesElsewhere(t *testing.T) {
	for _, policy := range []string{"round_robin", "weighted_round_robin", "least_conn", "random", "first", "p2c", "random_choose", "peak_ewma", "ip_hash", "foreign"} {
		t.Run(policy, func(t *testing.T) {
			h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}],
				"load_balancing": {"selection_policy": {"policy": "` + policy + `"}}}`)
			for range 5 {
				r := newRequest(t)
				q := &request{h: h}
				seen := make(map[string]bool)
				for range 3 {
					u := q.next(r, httptest.NewRecorder())
					if u == nil {
						t.Fatal(q.refused)
					}
					seen[u.Dial] = true
					failOver(t, q, r)
				}
				if len(seen) != 3 {
					t.Fatalf("three attempts went to %v", seen)
				}
				if u := q.next(r, httptest.NewRecorder()); u == nil {
					t.Fatalf("a fourth attempt found nobody: %v", q.refused)
				}
				q.end()
			}
			for _, m := range h.pool.Members() {
				if n := m.InFlight(); n != 0 {
					t.Errorf("%s has %d requests in flight after all have ended", m.Address(), n)
				}
			}
		})
	}
}

// Another attempt passes over a backend that failed when it was asked last, though by another request.
func TestRetryPassesOverSuspects(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}], "load_balancing": {"selection_policy": {"policy": "first"}}}`)
	fail := func(i int) {
		l, _ := h.set().View().AcquireMember(i)
		l.Judge(pool.Verdict{Outcome: pool.Failure, Refused: true}, time.Now())
		l.Release()
	}
	second := func() string {
		r := newRequest(t)
		q := &request{h: h}
		q.next(r, httptest.NewRecorder())
		failOver(t, q, r)
		defer q.end()
		return q.next(r, httptest.NewRecorder()).Dial
	}
	fail(1)
	if got := second(); got != "c:1" {
		t.Errorf("second attempt at %s, want c:1", got)
	}
	fail(2)
	if got := second(); got != "b:1" {
		t.Errorf("second attempt at %s when all others are suspects, want b:1", got)
	}
	for _, m := range h.pool.Members() {
		if n := m.InFlight(); n != 0 {
			t.Errorf("%s has %d requests in flight in the end", m.Address(), n)
		}
	}
}

// failOver has the current attempt of q fail to connect, and another one made.
func failOver(t *testing.T, q *request, r *http.Request) {
	t.Helper()
	q.tried = append(q.tried, q.lease.Index())
	if q.again = q.reserve(r, nil, pool.RetryConnect); !q.again {
		t.Fatal("there is no other attempt")
	}
}

func init() { caddy.RegisterModule(foreign{}) }

// foreign is a selection policy of another plugin.
type foreign struct{ reverseproxy.FirstSelection }

// CaddyModule returns the Caddy module information.
func (foreign) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policies.Namespace + ".foreign", New: func() caddy.Module { return new(foreign) }}
}

// Caps hold with policies that are not ours, too.
func TestCapWithForeignPolicy(t *testing.T) {
	h := newConfig(t).mustLoad(`{"backends": [{"address": "a:1", "max_requests": 1}, {"address": "b:1", "max_requests": 2}],
		"load_balancing": {"selection_policy": {"policy": "foreign"}}}`)
	var held []*request
	for range 3 {
		q := &request{h: h}
		if q.next(newRequest(t), httptest.NewRecorder()) == nil {
			t.Fatalf("request %d: %v", len(held)+1, q.refused)
		}
		held = append(held, q)
	}
	q := &request{h: h}
	if u := q.next(newRequest(t), httptest.NewRecorder()); u != nil || !errors.Is(q.refused, pool.ErrFull) {
		t.Errorf("got %v, %v; want all to be full", u, q.refused)
	}
	for _, q := range held {
		q.end()
	}
}

// A selection policy of another plugin may answer with an upstream of its own making, or with none.
type oddPolicy struct{ answer *reverseproxy.Upstream }

func (p oddPolicy) Select(reverseproxy.UpstreamPool, *http.Request, http.ResponseWriter) *reverseproxy.Upstream {
	return p.answer
}

func TestOddPolicies(t *testing.T) {
	h := newConfig(t).mustLoad(twoBackends)
	set := h.set()
	if _, err := acquireIn(set, oddPolicy{}, pool.Key{}, nil, true, newRequest(t), nil); !errors.Is(err, pool.ErrFull) {
		t.Errorf("a policy that chooses nobody: %v", err)
	}
	own := &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: "elsewhere:1"}
	c, err := acquireIn(set, oddPolicy{own}, pool.Key{}, nil, true, newRequest(t), nil)
	if c.upstream != own || c.lease.Held() || err != nil {
		t.Errorf("a policy with an upstream of its own: %v, %v, %v", c.upstream, c.lease.Held(), err)
	}
}
