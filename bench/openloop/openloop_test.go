package openloop

import (
	"net/http"
	"net/http/httptest"
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
	s, err := Run(t.Context(), Options{URL: server.URL, Method: http.MethodPost, Header: http.Header{"X-Key": {"v"}}, Rate: 200, Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if s.Sent != 200 || s.Statuses[200] != 179 || s.Statuses[503] != 20 || s.Errors["connection broken"] != 1 || s.Failed() != 21 || s.Backends["one"] != 199 {
		t.Errorf("%+v", s)
	}
}

// TestStallShows: a server that stalls for 300 ms delays everything that was due then.
func TestStallShows(t *testing.T) {
	var first atomic.Bool
	var stalled time.Time
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if first.CompareAndSwap(false, true) {
			stalled = time.Now()
			time.Sleep(300 * time.Millisecond)
		}
	}))
	defer server.Close()
	// With one connection all requests behind the stalled one wait.
	s, err := Run(t.Context(), Options{URL: server.URL, Rate: 200, Duration: time.Second, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	// Some 60 requests were due during the stall; the tenth of them has waited for 250 ms.
	if got := s.Quantile(0.95); got < 200*time.Millisecond {
		t.Errorf("p95 = %v from %v on; the stall does not show", got, stalled)
	}
	if got := s.Quantile(0); got > 100*time.Millisecond {
		t.Errorf("the fastest took %v", got)
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
	server := httptest.NewServer(nil)
	server.Close()
	s, err := Run(t.Context(), Options{URL: server.URL, Rate: 100, Duration: 100 * time.Millisecond})
	if err != nil || s.Errors["connect"] != 10 {
		t.Errorf("%+v, %v; want ten failed connections", s, err)
	}
}
