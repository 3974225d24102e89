package openloop

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("X-Key") != "v" {
			t.Errorf("%s, X-Key %q", r.Method, r.Header.Get("X-Key"))
		}
		w.Header().Set("X-Backend", "one")
		switch i := n.Add(1); {
		case i%10 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case i == 11:
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	s, err := Run(t.Context(), Options{URL: server.URL, Method: http.MethodPost, Header: http.Header{"X-Key": {"v"}}, Rate: 200, Duration: time.Second, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if s.Sent != 200 || s.Statuses[200] != 179 || s.Statuses[503] != 20 || s.Errors["connection broken"] != 1 || s.Failed() != 21 || s.Backends["one"] != 199 {
		t.Errorf("%+v", s)
	}
	refused := s.Only(func(r Request) bool { return r.Status == http.StatusServiceUnavailable })
	if refused.Sent != 20 || refused.Statuses[503] != 20 || refused.Backends["one"] != 20 || refused.Failed() != 20 {
		t.Errorf("those refused: %+v", refused)
	}
	early := s.Only(func(r Request) bool { return r.Due < 500*time.Millisecond })
	if early.Sent != 100 || early.Quantile(1) > s.Quantile(1) || early.Quantile(0) < s.Quantile(0) {
		t.Errorf("those of the first half: %d", early.Sent)
	}
	if broken := s.Only(func(r Request) bool { return r.Status == 0 }); broken.Sent != 1 || len(broken.Statuses) != 0 {
		t.Errorf("those without an answer: %+v", broken)
	}
}

// TestStallShows: a server that stalls for a second delays everything that was due then.
func TestStallShows(t *testing.T) {
	const stall = time.Second
	var first atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if first.CompareAndSwap(false, true) {
			time.Sleep(stall)
		}
	}))
	defer server.Close()
	// With one connection all requests behind the stalled one wait: the second was due 20 ms after it, the eleventh 200 ms.
	s, err := Run(t.Context(), Options{URL: server.URL, Rate: 50, Duration: 400 * time.Millisecond, Timeout: time.Minute, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	if s.Failed() != 0 || s.Quantile(0.5) < stall-200*time.Millisecond {
		t.Errorf("%d failed, p50 = %v of requests that were due while the server stalled", s.Failed(), s.Quantile(0.5))
	}
}

// TestStop: nothing is sent after it, and what is in flight is answered.
func TestStop(t *testing.T) {
	stop := make(chan struct{})
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if n.Add(1) == 3 {
			close(stop)
			time.Sleep(50 * time.Millisecond)
		}
	}))
	defer server.Close()
	s, err := Run(t.Context(), Options{URL: server.URL, Rate: 1000, Duration: time.Hour, Timeout: time.Minute, Connections: 1, Stop: stop})
	if err != nil || s.Sent < 3 || s.Sent > 4 || s.Statuses[200] != s.Sent {
		t.Errorf("%+v, %v; want three requests answered, and maybe a fourth", s, err)
	}
}

// TestMake: each request may be another, and what came of it bears its number.
func TestMake(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", r.URL.Query().Get("n"))
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer server.Close()
	s, err := Run(t.Context(), Options{Rate: 200, Duration: 200 * time.Millisecond, Timeout: time.Minute, Make: func(n int) (*http.Request, error) {
		return http.NewRequest([]string{http.MethodGet, http.MethodPost}[n%2], fmt.Sprint(server.URL, "/?n=", n), nil)
	}})
	if err != nil || s.Sent != 40 || len(s.Backends) != 40 || s.Statuses[http.StatusAccepted] != 20 {
		t.Fatalf("%+v, %v", s, err)
	}
	for _, r := range s.Requests {
		if r.Backend != strconv.Itoa(r.N) || r.Status != []int{http.StatusOK, http.StatusAccepted}[r.N%2] {
			t.Errorf("number %d: %+v", r.N, r)
		}
	}
}

func TestWrongOptions(t *testing.T) {
	for _, o := range []Options{{URL: "http://127.0.0.1", Rate: -1}, {URL: "http://127.0.0.1", Rate: 1e6}, {URL: ":"}} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	// A port that was free a moment ago might be somebody else's by now; this one is nobody's.
	s, err := Run(t.Context(), Options{URL: "http://127.0.0.1:1", Rate: 100, Duration: 100 * time.Millisecond})
	if err != nil || s.Errors["connect"] != 10 {
		t.Errorf("%+v, %v; want ten failed connections", s, err)
	}
}
