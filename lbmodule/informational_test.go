package lbmodule

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/stock"
)

// client notes the informational answers that it is given before the last one.
type client struct {
	*httptest.ResponseRecorder
	informed []int
}

func (c *client) WriteHeader(status int) {
	if status < http.StatusOK {
		c.informed = append(c.informed, status)
		return
	}
	c.ResponseRecorder.WriteHeader(status)
}

// What fails after the client was given a 1xx is not made again, and what is made again gives it none any more. A transport that is not
// done with an earlier attempt tells the client nothing in the name of a later one.
func TestInformed(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "load_balancing": {"selection_policy": {"policy": "first"}}}`)
	for _, informs := range []bool{false, true} {
		var late func(int, textproto.MIMEHeader) error
		h.stock.Transport = stock.NewTransport(scripted{
			"a:1": func(r *http.Request) (*http.Response, error) {
				late = httptrace.ContextClientTrace(r.Context()).Got1xxResponse
				if informs {
					_ = late(103, nil)
				}
				return nil, errors.New("reset")
			},
			"b:1": func(r *http.Request) (*http.Response, error) {
				_ = late(102, nil)
				_ = httptrace.ContextClientTrace(r.Context()).Got1xxResponse(104, nil)
				_ = late(102, nil)
				return new(instantTransport).RoundTrip(r)
			},
		})
		r, c := newRequest(t), &client{ResponseRecorder: httptest.NewRecorder()}
		err := h.ServeHTTP(c, r, nil)
		_ = late(102, nil)
		if informs {
			expectError(t, err, "502", "reset")
		} else if err != nil {
			t.Error(err)
		}
		wantInformed, want := []int{104}, "a:1 0 reset, b:1 200"
		if informs {
			wantInformed, want = []int{103}, "a:1 0 reset"
		}
		if got := attempts(t, r); got != want || !slices.Equal(c.informed, wantInformed) {
			t.Errorf("attempts: %s, the client is informed by %v; want %s, %v", got, c.informed, want, wantInformed)
		}
	}
}
