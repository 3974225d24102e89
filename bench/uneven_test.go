package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
	"github.com/ballastlb/ballast/examples/backend/server"
)

// answered is what came back when backends a, b and c answered as many requests in each second.
func answered(seconds ...[3]int) *measured {
	m := &measured{Summary: &openloop.Summary{}, backends: []string{"a", "b", "c"}, duration: time.Duration(len(seconds)) * time.Second}
	for at, each := range seconds {
		for i, n := range each {
			for k := range n {
				due := time.Duration(at)*time.Second + time.Duration(k)*time.Second/time.Duration(n)
				m.Requests = append(m.Requests, openloop.Request{Due: due, Latency: time.Millisecond, Status: http.StatusOK, Backend: m.backends[i]})
			}
		}
	}
	m.Summary = m.Only(func(openloop.Request) bool { return true })
	return m
}

// add adds a request in its place, which is by latency.
func (m *measured) add(r openloop.Request) {
	at := slices.IndexFunc(m.Requests, func(other openloop.Request) bool { return other.Latency > r.Latency })
	if at < 0 {
		at = len(m.Requests)
	}
	m.Requests = slices.Insert(m.Requests, at, r)
	m.Summary = m.Only(func(openloop.Request) bool { return true })
}

func TestFrom(t *testing.T) {
	got := from(2*time.Second, answered([3]int{9, 0, 0}, [3]int{9, 0, 0}, [3]int{4, 2, 0}, [3]int{0, 0, 3}).Summary)
	if got.Sent != 9 || got.Backends["a"] != 4 || got.Backends["c"] != 3 {
		t.Errorf("%d requests, %v", got.Sent, got.Backends)
	}
	if last := got.Requests[len(got.Requests)-1].Due; got.Requests[0].Due != 0 || last >= 2*time.Second {
		t.Errorf("due from %v to %v", got.Requests[0].Due, last)
	}
}

func TestExtremes(t *testing.T) {
	fair, poor := [3]int{10, 10, 10}, [3]int{1, 14, 15}
	tests := []struct {
		name        string
		m           *measured
		weights     []int
		width       time.Duration
		least, most float64
	}{
		{"all fair", answered(fair, fair, fair), nil, time.Second, 1, 1},
		{"one poor second", answered(fair, poor, fair), nil, time.Second, 0.1, 1.5},
		{"in windows that overlap", answered(fair, poor, poor, fair), nil, 2 * time.Second, 0.1, 1.5},
		{"that make it less", answered(fair, poor, fair), nil, 2 * time.Second, 0.55, 1.25},
		{"the whole", answered(fair, poor), nil, 2 * time.Second, 0.55, 1.25},
		{"as the weights", answered([3]int{50, 30, 20}), []int{5, 3, 2}, time.Second, 1, 1},
		{"not as the weights", answered([3]int{40, 30, 30}), []int{5, 3, 2}, time.Second, 0.8, 1.5},
		{"no whole window", answered(fair), nil, 2 * time.Second, 0, 0},
	}
	for _, test := range tests {
		test.m.weights = test.weights
		least, most := test.m.extremes(test.width)
		if near := func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }; !near(least, test.least) || !near(most, test.most) {
			t.Errorf("%s: %v to %v, want %v to %v", test.name, least, most, test.least, test.most)
		}
	}
	// What nobody answered is part of what was sent.
	m := answered(fair)
	for range 10 {
		m.add(openloop.Request{Latency: time.Second})
	}
	if got := m.ofFair(0, 0, time.Second); got != 0.75 {
		t.Errorf("of its fair share = %v, want 0.75", got)
	}
}

func TestRegained(t *testing.T) {
	none, half, fair := [3]int{0, 150, 150}, [3]int{50, 125, 125}, [3]int{100, 100, 100}
	tests := []struct {
		name         string
		m            *measured
		start, width time.Duration
		share        float64
		want         string
	}{
		{"at once", answered(half, fair), 0, time.Second, 0.5, "1.0 s"},
		{"in the third second", answered(none, none, half), 0, time.Second, 0.5, "3.0 s"},
		{"counted from the end of what was wrong", answered(none, none, half), 2 * time.Second, time.Second, 0.5, "1.0 s"},
		{"in a window that begins between seconds", answered(none, [3]int{40, 130, 130}, fair), 0, time.Second, 0.5, "2.2 s"},
		{"even over two seconds", answered(none, half, fair, fair), 0, 2 * time.Second, 0.85, "3.4 s"},
		{"never", answered(none, none, none), time.Second, time.Second, 0.5, "not in 2.0 s"},
	}
	for _, test := range tests {
		if got := test.m.showRegained(test.start, test.width, test.share); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestOutlier(t *testing.T) {
	fair := [3]int{10, 10, 10}
	m := answered(fair, fair, [3]int{5, 13, 12}, fair, fair, [3]int{9, 11, 10}, fair, fair)
	if got := secondsAfterOutlier.of(m); got != "no slow answer" {
		t.Errorf("without an outlier: %s", got)
	}
	m.add(openloop.Request{Due: 500 * time.Millisecond, Latency: 1500 * time.Millisecond, Status: http.StatusOK, Backend: "a"})
	m.add(openloop.Request{Due: 500 * time.Millisecond, Latency: 2 * time.Second, Status: http.StatusOK, Backend: "b"})
	if end, ok := m.outlierEnd(); end != 2*time.Second || !ok {
		t.Errorf("the outlier ended after %v, %v", end, ok)
	}
	if got := secondsAfterOutlier.of(m); got != "50, 100, 100, 100 %" {
		t.Errorf("shares after it: %s", got)
	}
	if got := halfAfterOutlier.of(m); got != "1.0 s" {
		t.Errorf("half its share after %s", got)
	}
}

// TestHeld: what the stopped backend or nobody answered in the end, and had come before it went on.
func TestHeld(t *testing.T) {
	m := answered([3]int{10, 10, 10})
	for _, r := range []openloop.Request{
		{Due: stoppedFor - 5*time.Second, Latency: 5 * time.Second, Status: 200, Backend: "a"},         // held
		{Due: stoppedFor - time.Millisecond, Latency: 2 * time.Millisecond, Status: 200, Backend: "a"}, // held, for a moment
		{Due: 0, Latency: 15 * time.Second},                                                  // held, and the client left
		{Due: 0, Latency: time.Second, Status: 200, Backend: "a"},                            // answered while it was stopped, of all things
		{Due: stoppedFor, Latency: time.Second, Status: 200, Backend: "a"},                   // came later
		{Due: stoppedFor - time.Second, Latency: 2 * time.Second, Status: 200, Backend: "b"}, // another was slow
	} {
		m.add(r)
	}
	if got := held.of(m); got != "3" {
		t.Errorf("held: %s, want 3", got)
	}
}

func TestFailedLater(t *testing.T) {
	m := answered([3]int{10, 10, 10}, [3]int{10, 10, 10})
	for _, due := range []time.Duration{0, time.Second - 1, time.Second, 2*time.Second - 1, 2 * time.Second} {
		m.add(openloop.Request{Due: due, Latency: time.Millisecond, Status: 500, Backend: "a"})
	}
	if first, later := failedAtFirst.of(m), failedLater.of(m); first != "6.2 %" || later != "6.2 %" {
		t.Errorf("failed: %s, then %s", first, later)
	}
}

// TestUnevenScenarios: what they say makes sense, and their backends know the settings.
func TestUnevenScenarios(t *testing.T) {
	for _, s := range unevenScenarios {
		if len(s.weights) != 0 && len(s.weights) != len(s.backends) {
			t.Errorf("%s: %d weights of %d backends", s.name, len(s.weights), len(s.backends))
		}
		if !slices.IsSortedFunc(s.events, func(a, b event) int { return int(a.at - b.at) }) {
			t.Errorf("%s: events are not in their order", s.name)
		}
		if n := len(s.events); n > 0 && s.duration > 0 && s.events[n-1].at >= s.duration {
			t.Errorf("%s: an event after %v of %v", s.name, s.events[n-1].at, s.duration)
		}
		if each := s.duration + unevenWarmUp; each > time.Minute || s.together*s.rate > 1000 {
			t.Errorf("%s: takes %v, %d contenders at %d per second", s.name, each, s.together, s.rate)
		}
		told := func(settings string) {
			w := httptest.NewRecorder()
			server.New("").ServeHTTP(w, httptest.NewRequest(http.MethodPatch, "/_settings", strings.NewReader(settings)))
			if w.Code != http.StatusOK {
				t.Errorf("%s: backend %s: %s", s.name, settings, w.Body)
			}
		}
		for _, settings := range s.backends {
			told(settings)
		}
		for _, e := range s.events {
			backend := httptest.NewServer(server.New(""))
			t.Cleanup(backend.Close)
			at := &site{backends: []string{strings.TrimPrefix(backend.URL, "http://")}}
			if err := at.undergoOne(t.Context(), e.happening); err != nil && !strings.Contains(err.Error(), "no process was started") {
				t.Errorf("%s: event after %v: %v", s.name, e.at, err)
			}
		}
		for _, c := range s.columns {
			if got := c.of(answered([3]int{10, 10, 10})); got == "" {
				t.Errorf("%s: %s is empty", s.name, c.title)
			}
		}
	}
}

func TestAlike(t *testing.T) {
	if got := alike(3, "x", "a"); !slices.Equal(got, []string{"a", "x", "x"}) {
		t.Errorf("alike = %v", got)
	}
}

// TestWeights: each proxy is told the weights in its own words, and Caddy's reverse_proxy, which knows none in least_conn, in a policy of its own.
func TestWeights(t *testing.T) {
	s := unevenScenario{weights: []int{5, 1, 2}, options: []string{"breaker off"}}
	want := map[string]string{
		"`peak_ewma`":                  "load_balancer b {\n\t\tlb_policy peak_ewma\n\t\tbreaker off\n\t\tbackend a {\n\t\tweight 5\n\t\t}\n\t\tbackend c {\n\t\tweight 2\n\t\t}\n\t}\n",
		"Caddy `weighted_round_robin`": "reverse_proxy a b c {\n\t\tlb_policy weighted_round_robin 5 1 2\n\t}\n",
		"HAProxy `leastconn`":          " server s0 a weight 5\n server s1 b weight 1\n server s2 c weight 2\n",
		"nginx `least_conn`":           "server a weight=5; server b weight=1; server c weight=2;",
	}
	for _, k := range s.kinds("", options{}) {
		if got := k.config(setting{address: "127.0.0.1:80", upstreams: k.upstreams([]string{"a", "b", "c"})}); !strings.Contains(got, want[k.name]) {
			t.Errorf("%s: %s\nwant %q in it", k.name, got, want[k.name])
		}
		delete(want, k.name)
	}
	if len(want) > 0 {
		t.Errorf("not among the contenders: %v", want)
	}
	s.weights = nil
	for _, k := range s.kinds("", options{}) {
		if k.name == "Caddy `least_conn`" {
			return
		}
	}
	t.Error("Caddy's least_conn is missing where backends are alike")
}
