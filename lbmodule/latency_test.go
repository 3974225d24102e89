package lbmodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// says answers in a while with that status and header fields; the body takes as long again.
func says(ms, status int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		wait := time.Duration(ms) * time.Millisecond
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		select {
		case <-time.After(wait):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		res := &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(&lateBody{wait})}
		for i := 0; i < len(header); i += 2 {
			res.Header.Set(header[i], header[i+1])
		}
		return res, nil
	}
}

// lateBody ends after a while.
type lateBody struct{ after time.Duration }

func (b *lateBody) Read([]byte) (int, error) {
	time.Sleep(b.after)
	return 0, io.EOF
}

// slowUpload is a request's body that takes a second.
type slowUpload struct{ sent bool }

func (b *slowUpload) Read(p []byte) (int, error) {
	if b.sent {
		return 0, io.EOF
	}
	b.sent = true
	time.Sleep(time.Second)
	return copy(p, "x"), nil
}

func (*slowUpload) Close() error { return nil }

// TestLearn has one attempt end in many ways, in virtual time, and looks at what its backend's latency makes of it.
func TestLearn(t *testing.T) {
	for i, test := range []struct {
		name     string
		settings string
		backend  func(*http.Request) (*http.Response, error)
		leave    time.Duration // when the client goes away; 0 for never
		upload   bool
		want     time.Duration
		penalty  float64
	}{
		{"an answer", ``, says(20, 200), 0, false, 20, 1},
		{"not found", ``, says(20, 404), 0, false, 20, 1},
		{"later", ``, says(20, 202, "Retry-After", "1"), 0, false, 20, 1},
		{"to its end", `"load_balancing": {"selection_policy": {"policy": "peak_ewma", "until": "last_byte"}},`, says(10, 200), 0, false, 20, 1},
		{"a stream, to its end", `"load_balancing": {"selection_policy": {"policy": "peak_ewma", "until": "last_byte"}},`,
			says(20, 200, "Content-Type", "text/event-stream"), 0, false, 20, 1},
		{"too many requests", ``, says(20, 429), 0, false, 0, 2},
		{"busy", ``, says(20, 503, "Retry-After", "1"), 0, false, 0, 2},
		{"refused for a while", ``, says(20, 403, "Retry-After", "1"), 0, false, 0, 2},
		{"internal error", ``, says(20, 500), 0, false, 0, 2},
		{"for the breaker", ``, says(20, 503), 0, false, 0, 1},
		{"for the breaker, late", ``, says(300, 503), 0, false, 300, 1},
		{"without a breaker", `"breaker": {"disabled": true},`, says(20, 503), 0, false, 0, 2},
		{"for the passive checks", `"health_checks": {"passive": {"fail_duration": "10s", "max_fails": 100, "unhealthy_status": [5]}},`, says(20, 500), 0, false, 0, 1},
		{"broken", `"breaker": {"disabled": true},`, func(*http.Request) (*http.Response, error) { return nil, errors.New("broken") }, 0, false, 0, 2},
		{"the client leaves soon", ``, says(5000, 200), 10 * time.Millisecond, false, 0, 1},
		{"the client leaves late", ``, says(5000, 200), 2 * time.Second, false, 2000, 1},
		{"a slow client", ``, says(20, 200), 0, true, 20, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newConfig(t).mustLoad(fmt.Sprintf(`{"name": "learn-%d", %s "upstreams": [{"dial": "a:1"}], "retry": {"disabled": true}}`, i, test.settings))
			h.logger = zap.NewNop()
			synctest.Test(t, func(t *testing.T) {
				r := newRequest(t)
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				r = r.WithContext(ctx)
				if test.upload {
					r.Method, r.Body, r.ContentLength = http.MethodPost, new(slowUpload), 1
				}
				if test.leave > 0 {
					time.AfterFunc(test.leave, cancel)
				}
				h.stock.Transport = stock.NewTransport(scripted{"a:1": test.backend})
				_ = h.ServeHTTP(httptest.NewRecorder(), r, nil)
				l := h.set().View().Member(0).Latency()
				got, penalty := l.Estimate(), l.Penalty(time.Now())
				want := test.want * time.Millisecond
				// A little is forgotten while the body is on its way.
				if got < want*85/100 || got > want*101/100 || penalty < test.penalty*0.98 || penalty > test.penalty {
					t.Errorf("expected in %v, %v times as expensive; want %v, %v", got, penalty, want, test.penalty)
				}
			})
		})
	}
}

// Each of a request and its copy is told of what it took by itself.
func TestLearnOfCopies(t *testing.T) {
	for i, test := range []struct {
		name          string
		first, second func(*http.Request) (*http.Response, error)
		want          [2]time.Duration
	}{
		{"the copy is first", says(5000, 200), says(15, 200), [2]time.Duration{335, 15}},
		{"the first is first", says(700, 200), says(5000, 200), [2]time.Duration{700, 390}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newConfig(t).mustLoad(fmt.Sprintf(`{"name": "learn-copy-%d", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "hedge": {"percentile": 0.9, "max_extra": 1},
				"load_balancing": {"selection_policy": {"policy": "first"}}}`, i))
			h.logger = zap.NewNop()
			synctest.Test(t, func(t *testing.T) {
				hedges(h, 300*time.Millisecond)
				h.stock.Transport = stock.NewTransport(scripted{"a:1": test.first, "b:1": test.second})
				if err := h.ServeHTTP(httptest.NewRecorder(), newRequest(t), nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				for k, m := range []*pool.Member{h.set().View().Member(0), h.set().View().Member(1)} {
					got, want := m.Latency().Estimate(), test.want[k]*time.Millisecond
					if got < want-20*time.Millisecond || got > want+20*time.Millisecond {
						t.Errorf("%s: expected in %v, want about %v", m.Address(), got, want)
					}
				}
			})
		})
	}
}

// A plain reverse_proxy is told so when it asks for the policy; whatever is inside a load balancer may.
func TestPeakEWMANeedsALoadBalancer(t *testing.T) {
	c := newConfig(t)
	_, err := c.ctx.LoadModuleByID("http.handlers.reverse_proxy",
		[]byte(`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "lb_peak_ewma"}}}`))
	expectError(t, err, "lb_peak_ewma", "load_balancer", "reverse_proxy does not tell")
	if _, err := c.load(`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "lb_peak_ewma", "until": "noon"}}}`); err == nil ||
		!strings.Contains(err.Error(), "noon: must be first_byte or last_byte") {
		t.Errorf("until noon: %v", err)
	}
}
