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
			for range 1000 {
				q, w, r := &request{h: h}, httptest.NewRecorder(), newRequest(t)
				if q.next(r, w).Dial != "c:1" {
					q.end()
					continue
				}
				res, err := q.attempt(answering(func() *http.Response {
					_, err := h.manager.Change(func(e *manage.Edits, _ manage.Group) (*overlay.Overlay, error) {
						return e.Remove(test.removed, overlay.Mark{}), nil
					})
					if err != nil {
						t.Error(err)
					}
					return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: make(http.Header), Body: io.NopCloser(iotest.ErrReader(errors.New("broken")))}
				}), r)
				if err != nil || res.StatusCode != http.StatusServiceUnavailable {
					t.Fatal(res, err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				q.end()
				if !test.broken {
					want := make(http.Header)
					h.sessions.Tell(want, "c:1", r)
					if got, want := w.Header().Get("Set-Cookie"), want.Get("Set-Cookie"); got != want {
						t.Errorf("cookie %q, want %q", got, want)
					}
				}
				return
			}
		})
	}
}

type answering func() *http.Response

func (a answering) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }
