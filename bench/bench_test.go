package main

import (
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

func TestParseWrk(t *testing.T) {
	const good = `Running 4s test @ http://127.0.0.1:1/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.90ms  511.62us  17.48ms   77.63%
    Req/Sec    33.60k     1.38k   35.78k    78.05%
  Latency Distribution
     50%    1.83ms
     75%    2.08ms
     90%    2.42ms
     99%  950.00us
  137005 requests in 4.10s, 160.35MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  33418.47
Transfer/sec:     39.11MB
`
	got, err := parseWrk(good)
	want := sample{requests: 137005, errors: 15, rate: 33418.47, p50: 1830 * time.Microsecond, p99: 950 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("parseWrk = %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "unable to connect", "0 requests in 4s\nRequests/sec: 0.00\n"} {
		if got, err := parseWrk(bad); err == nil {
			t.Errorf("parseWrk(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat("4242 (a (b) c) S 17 1 1 0 -1 4194304 1 2 3 4 150 50 7 8 20 0 2 0 99 1000000 256 18446744073709551615 1")
	if err != nil || got.pid != 4242 || got.parent != 17 || got.cpu != 2*time.Second || got.memory == 0 {
		t.Errorf("parseStat = %+v, %v", got, err)
	}
	for _, bad := range []string{"", "1 (a) S 2", "x (a) S 17 1 1 0 -1 4194304 1 2 3 4 150 50 7 8 20 0 2 0 99 1000000 256 1 1"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", bad, got)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median of three = %v", got)
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("median of four = %v", got)
	}
}

// TestQuantileOfAll: what is refused counts as not served, however fast that was.
func TestQuantileOfAll(t *testing.T) {
	summary := func(served, refused, unanswered int) *openloop.Summary {
		s := &openloop.Summary{Sent: served + refused + unanswered}
		for range refused {
			s.Requests = append(s.Requests, openloop.Request{Latency: time.Millisecond, Status: 429})
		}
		for i := range served {
			s.Requests = append(s.Requests, openloop.Request{Latency: time.Duration(10+i) * time.Millisecond, Status: 200})
		}
		for range unanswered {
			s.Requests = append(s.Requests, openloop.Request{Latency: time.Second})
		}
		return s.Only(func(openloop.Request) bool { return true })
	}
	tests := []struct {
		served, refused, unanswered int
		q                           float64
		want                        time.Duration
	}{
		{100, 0, 0, 0.5, 60 * time.Millisecond},
		{100, 0, 0, 0.99, 109 * time.Millisecond},
		{50, 50, 0, 0.25, 35 * time.Millisecond},
		{50, 50, 0, 0.5, unevenTimeout},
		{199, 0, 1, 0.99, 208 * time.Millisecond},
		{98, 1, 1, 0.99, unevenTimeout},
		{0, 10, 0, 0.5, unevenTimeout},
	}
	for _, test := range tests {
		if got := quantileOfAll(summary(test.served, test.refused, test.unanswered), test.q); got != test.want {
			t.Errorf("%d served, %d refused, %d unanswered: quantile %v = %v, want %v", test.served, test.refused, test.unanswered, test.q, got, test.want)
		}
	}
	if got := refused.of(&measured{Summary: summary(60, 30, 10), duration: time.Second}); got != "40.0 %" {
		t.Errorf("refused = %s", got)
	}
	if got := above.of(&measured{Summary: summary(60, 30, 10)}); got != "10 of 100" {
		t.Errorf("above 500 ms = %s", got)
	}
}

func TestChoose(t *testing.T) {
	tests := []struct {
		names  string
		uneven bool
		want   int
	}{
		{"", false, len(scenarios) + len(expressScenarios())},
		{"", true, len(unevenScenarios) + 2},
		{"post4k,get1k,express-get1k", false, 3},
		{"tail,joining,pairs", true, 3},
		{names(experiments(options{uneven: true})), true, len(unevenScenarios) + 2},
		{"tail", false, -1},
		{"get1k,", false, -1},
	}
	for _, test := range tests {
		got, err := choose(experiments(options{uneven: test.uneven}), test.names)
		if test.want < 0 {
			if err == nil {
				t.Errorf("%q: no error", test.names)
			}
		} else if err != nil || len(got) != test.want {
			t.Errorf("%q: %d, %v; want %d", test.names, len(got), err, test.want)
		}
	}
}
