package lbmodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/stock"
)

// hears1xx is a trace that hears of what the client may be given of 1xx answers of the current attempt.
func (q *request) hears1xx(tell func(status int)) *httptrace.ClientTrace {
	attempt := q.attempts
	return &httptrace.ClientTrace{Got1xxResponse: func(status int, _ textproto.MIMEHeader) error {
		if q.MayInform(attempt) {
			tell(status)
		}
		return nil
	}}
}

// A 1xx that the client is given ends the race with a copy before that begins, and while there is a copy there is none.
func TestInformationalWhileHedged(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "informed", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "hedge": {"percentile": 0.9, "max_extra": 1},
		"load_balancing": {"selection_policy": {"policy": "first"}}}`)
	h.logger = zap.NewNop() // the log's goroutines must not be born in a bubble
	hints := func(at, answer time.Duration, status int) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			time.Sleep(at * time.Millisecond)
			if err := httptrace.ContextClientTrace(r.Context()).Got1xxResponse(status, nil); err != nil {
				return nil, err
			}
			return after((answer-at)*time.Millisecond, 200, new(atomic.Int64))(r)
		}
	}
	for name, test := range map[string]struct {
		first, second func(*http.Request) (*http.Response, error)
		from, told    string
	}{
		"before there is a copy":  {hints(5, 50, 103), hints(1, 5, 102), "a:1", "103"},
		"while there is a copy":   {hints(15, 50, 103), after(200*time.Millisecond, 200, new(atomic.Int64)), "a:1", ""},
		"of the copy":             {after(50*time.Millisecond, 200, new(atomic.Int64)), hints(1, 5, 102), "b:1", ""},
		"of one that is too late": {hints(15, 50, 103), hints(1, 5, 102), "b:1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := &request{h: h}
			q.next(newRequest(t), httptest.NewRecorder())
			synctest.Test(t, func(t *testing.T) {
				var told []string
				trace := q.hears1xx(func(status int) { told = append(told, fmt.Sprint(status)) })
				info := q.target().Dial
				r := newRequest(t)
				r = r.WithContext(httptrace.WithClientTrace(context.WithValue(r.Context(), stock.DialInfoKey, info), trace))
				q.begin(q.choice, time.Now())
				q.informed.begin(q.attempts)
				res, err := q.hedged(scripted{"a:1": test.first, "b:1": test.second}, r, 10*time.Millisecond)
				if err != nil || res.StatusCode != http.StatusOK || q.upstream.Dial != test.from {
					t.Errorf("%v, %v from %s; want 200 from %s", res, err, q.upstream.Dial, test.from)
				}
				if got := strings.Join(told, " "); got != test.told {
					t.Errorf("the client is told %q, want %q", got, test.told)
				}
				if again := q.informed.end(); again != (test.told == "") {
					t.Errorf("may be made again: %v", again)
				}
				time.Sleep(time.Second)
			})
			q.end()
		})
	}
}

// What fails after the client was given a 1xx is not made again, and what is made again gives it none any more.
func TestInformed(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
	for _, informs := range []bool{false, true} {
		told := 0
		r := newRequest(t)
		q := &request{h: h}
		q.next(r, httptest.NewRecorder())
		trace := q.hears1xx(func(int) { told++ })
		var late func(int, textproto.MIMEHeader) error
		_, err := q.attempt(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			late = httptrace.ContextClientTrace(r.Context()).Got1xxResponse
			if informs {
				_ = late(103, nil)
			}
			return nil, errors.New("reset")
		}), r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
		_ = late(103, nil) // of a transport that is not done yet
		if want := map[bool]int{true: 2}[informs]; err == nil || q.again == informs || told != want {
			t.Errorf("informed %v: %v, again %v, told %d times", informs, err, q.again, told)
		}
		q.end()
	}
}

// A transport that is not done with an earlier attempt tells the client nothing in the name of a later one.
func TestInformedByAnEarlierAttempt(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`)
	var told []int
	q := &request{h: h}
	defer q.end()
	var traces [2]*httptrace.ClientTrace
	for i := range traces {
		r := newRequest(t)
		q.next(r, httptest.NewRecorder())
		_, _ = q.attempt(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			traces[i] = httptrace.ContextClientTrace(r.Context())
			if i == 1 {
				_ = traces[0].Got1xxResponse(102, nil)
				_ = traces[1].Got1xxResponse(103, nil)
				_ = traces[0].Got1xxResponse(102, nil)
			}
			return nil, errors.New("reset")
		}), r.WithContext(httptrace.WithClientTrace(r.Context(), q.hears1xx(func(status int) { told = append(told, status) }))))
	}
	if !slices.Equal(told, []int{103}) {
		t.Errorf("the client is told %v, want 103 of the second attempt", told)
	}
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
