package lbmodule

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/iotest"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// An answer that is passed on because there is no other attempt is of the set that it was asked in, whatever set was looked at for another.
func TestAnswerOfASetThatIsGone(t *testing.T) {
	for name, test := range map[string]struct {
		removed string
		broken  bool
	}{"cookie": {"a:1", false}, "end": {"a:1", true}} {
		t.Run(name, func(t *testing.T) {
			policy := `"load_balancing": {"selection_policy": {` + oneSecret + `}},`
			if test.broken {
				policy = ``
			}
			h := newConfig(t).serve(`{"name": "set-gone-` + name + `", ` + policy + ` "retry": {"on": ["503"], "budget": {"ratio": 0, "per_second": 0}},
				"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}]}`)
			last := false
			h.stock.Transport = stock.NewTransport(answering(func(r *http.Request) *http.Response {
				if last = r.URL.Host == "c:1"; !last {
					return answerOf(http.StatusOK)
				}
				_, err := h.service.Manager().Change(func(e *manage.Edits, _ manage.Group) (*overlay.Overlay, error) {
					return e.Remove(test.removed, overlay.Mark{}), nil
				})
				if err != nil {
					t.Error(err)
				}
				res := answerOf(http.StatusServiceUnavailable)
				if test.broken {
					res.Body = io.NopCloser(iotest.ErrReader(errors.New("broken")))
				}
				return res
			}))
			w, r := httptest.NewRecorder(), newRequest(t)
			for n := 0; !last; n++ { // by chance none of a thousand sessions begins there once in 10^176 times
				if n == 1000 {
					t.Fatal("no request goes to c:1")
				}
				w, r = httptest.NewRecorder(), newRequest(t)
				if broken := breaksOff(t, h, w, r); broken != (last && test.broken) {
					t.Fatalf("answer broke off: %v", broken)
				}
			}
			if w.Code != http.StatusServiceUnavailable {
				t.Errorf("status %d", w.Code)
			}
			if !test.broken {
				want := make(http.Header)
				h.service.Policy().(policies.SessionPolicy).Tell(want, "c:1", r)
				if got, want := w.Header().Get("Set-Cookie"), want.Get("Set-Cookie"); got != want {
					t.Errorf("cookie %q, want %q", got, want)
				}
			}
			for _, m := range h.plan.Pool.Members() {
				if n := m.InFlight(); n != 0 {
					t.Errorf("%s has %d requests in the end", m.Address(), n)
				}
				if failed := m.Counts().Failures > 0; failed != (m.Address() == "c:1") {
					t.Errorf("%s has failed: %v", m.Address(), failed)
				}
			}
		})
	}
}

// breaksOff serves a request, and reports whether its answer broke off.
func breaksOff(t *testing.T, h *Handler, w http.ResponseWriter, r *http.Request) (broken bool) {
	t.Helper()
	defer func() {
		switch reason := recover(); reason {
		case nil:
		case http.ErrAbortHandler:
			broken = true
		default:
			panic(reason)
		}
	}()
	if err := h.ServeHTTP(w, r, nil); err != nil {
		t.Error(err)
	}
	return false
}

// answering is a transport that has an answer to all requests.
type answering func(*http.Request) *http.Response

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// answerOf is an answer with that status and nothing else.
func answerOf(status int) *http.Response {
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Body: http.NoBody}
}
