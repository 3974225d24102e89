package main

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestExpressKinds: Caddy takes the configs, and the contenders differ in what they should only.
func TestExpressKinds(t *testing.T) {
	log, err := startSyslog()
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	c, err := writeCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o := options{caddy: "ours", policy: "round_robin"}
	for _, logged := range []*syslog{nil, log} {
		for _, tls := range []bool{false, true} {
			configs := make(map[string]string)
			for _, k := range expressKinds(t.TempDir(), o, logged) {
				configs[k.name] = k.config(setting{"127.0.0.1:8443", k.upstreams([]string{"127.0.0.1:1"}), ends{tls: tls, certificate: c}})
				if k.command[0] == "ours" {
					validate(t, k.name, configs[k.name])
				}
				if (k.log != nil) != (logged != nil) {
					t.Errorf("%s has a log: %v", k.name, k.log != nil)
				}
			}
			on, off, haproxy := configs[expressOn], configs[expressOff], configs[expressBar]
			without := func(s string) string {
				return strings.Join(strings.Fields(strings.NewReplacer("express off", "", "chain.log", "", "express.log", "").Replace(s)), " ")
			}
			if on == off || !strings.Contains(off, "express off") || withoutDirs(without(on)) != withoutDirs(without(off)) {
				t.Errorf("on and off differ in more than the lane:\n%s\n%s", on, off)
			}
			if got := strings.Contains(haproxy, " log 127.0.0.1:") && strings.Contains(on, "log {"); got != (logged != nil) {
				t.Errorf("access logs: %v\n%s\n%s", got, on, haproxy)
			}
			if _, ok := configs[expressToo]; ok != (logged == nil) {
				t.Errorf("nginx, whose config has no access log, is measured: %v", ok)
			}
		}
	}
}

// withoutDirs leaves out the words that are paths.
func withoutDirs(s string) string {
	return strings.Join(slices.DeleteFunc(strings.Fields(s), func(word string) bool { return strings.HasPrefix(word, "/") }), " ")
}

func TestGoals(t *testing.T) {
	cost := func(us int) sample {
		return sample{requests: 1000, cpu: time.Duration(us) * time.Millisecond, p99: time.Duration(us) * time.Millisecond, rate: 1e6 / float64(us),
			memory: int64(us) * idleConnections << 10}
	}
	names := func(all ...string) (contenders []contender) {
		for _, name := range all {
			contenders = append(contenders, contender{kind: kind{name: name}})
		}
		return contenders
	}
	both := names(expressBar, expressOn)
	tests := []struct {
		goal       goal
		contenders []contender
		rounds     [][]sample
		want       string
	}{
		{goal{figure: cpuFigure, most: 1}, both, [][]sample{{cost(20), cost(20)}},
			"| x | CPU, us per request | 20.0 | - | 20.0 | - | 1.00 | 1.00 to 1.00 | at most 1.00 | reached |"},
		{goal{figure: cpuFigure, most: 1}, both, [][]sample{{cost(20), cost(21)}, {cost(20), cost(22)}, {cost(20), cost(10)}},
			"| x | CPU, us per request | 21.0 | - | 20.0 | - | 1.05 | 0.50 to 1.10 | at most 1.00 | missed |"},
		{goal{figure: tailFigure, most: 1.10}, both, [][]sample{{cost(100), cost(110)}},
			"| x | p99, ms | 110.00 | - | 100.00 | - | 1.10 | 1.10 to 1.10 | at most 1.10 | reached |"},
		{goal{figure: tailFigure, most: 1.10}, both, [][]sample{{cost(100), cost(111)}},
			"| x | p99, ms | 111.00 | - | 100.00 | - | 1.11 | 1.11 to 1.11 | at most 1.10 | missed |"},
		{goal{figure: rateFigure, least: 0.90}, both, [][]sample{{cost(90), cost(100)}},
			"| x | requests/s | 10000 | - | 11111 | - | 0.90 | 0.90 to 0.90 | at least 0.90 | reached |"},
		{goal{figure: rateFigure, least: 0.90}, both, [][]sample{{cost(88), cost(100)}},
			"| x | requests/s | 10000 | - | 11364 | - | 0.88 | 0.88 to 0.88 | at least 0.90 | missed |"},
		{goal{figure: rateFigure}, both, [][]sample{{cost(1), cost(100)}},
			"| x | requests/s | 10000 | - | 1000000 | - | 0.01 | 0.01 to 0.01 | - | - |"},
		{goal{figure: idleFigure, most: 10, absolute: true}, both, [][]sample{{cost(1), cost(10)}},
			"| x | KiB per connection | 10.0 | - | 1.0 | - | 10.00 | 10.00 to 10.00 | at most 10.0 by itself | reached |"},
		{goal{figure: idleFigure, most: 10, absolute: true}, both, [][]sample{{cost(20), cost(11)}},
			"| x | KiB per connection | 11.0 | - | 20.0 | - | 0.55 | 0.55 to 0.55 | at most 10.0 by itself | missed |"},
		{goal{figure: cpuFigure, most: 1}, names(expressOn, expressOff, expressToo), [][]sample{{cost(20), cost(60), cost(15)}},
			"| x | CPU, us per request | 20.0 | 60.0 | - | 15.0 | - | - | at most 1.00 | - |"},
	}
	for _, test := range tests {
		s := expressScenario{scenario: scenario{title: "x"}, goals: []goal{test.goal}}
		if got := strings.Split(goalTable(s.lines(test.contenders, test.rounds)), "\n")[2]; got != test.want {
			t.Errorf("%s\nwant\n%s", got, test.want)
		}
	}
	if got := goalTable(nil); got != "" {
		t.Errorf("table of nothing = %q", got)
	}
}

// TestFailures: a request that failed, no matter whose, is counted, and ends the run with an error.
func TestFailures(t *testing.T) {
	contenders := []contender{{kind: kind{name: expressBar}}, {kind: kind{name: expressOn}}}
	s := expressScenario{scenario: scenario{title: "x"}}
	for _, test := range []struct {
		bar, on [2]int // errors in both rounds
		want    string
		err     string
	}{
		{[2]int{}, [2]int{}, "|  | failed requests | 0 | - | 0 | - | - | - | none | reached |", ""},
		{[2]int{}, [2]int{1, 2}, "|  | failed requests | 3 | - | 0 | - | - | - | none | missed |", "3 requests failed: x"},
		{[2]int{0, 4}, [2]int{}, "|  | failed requests | 0 | - | 4 | - | - | - | none | missed |", "4 requests failed: x"},
	} {
		var rounds [][]sample
		for r := range 2 {
			rounds = append(rounds, []sample{{errors: test.bar[r]}, {errors: test.on[r]}})
		}
		lines := s.lines(contenders, rounds)
		if got := goalTable(append([]line{{scenario: "x"}}, lines...)); !strings.HasSuffix(got, test.want+"\n") {
			t.Errorf("%s\nwant\n%s", got, test.want)
		}
		message := ""
		if err := failures(lines); err != nil {
			message = err.Error()
		}
		if message != test.err {
			t.Errorf("%v, %v: error %q; want %q", test.bar, test.on, message, test.err)
		}
	}
}

// TestAsk: an idle connection must be one that was served, and stays.
func TestAsk(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody":                      "",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbod":                       "200 OK with 3 bytes; want 200 with 4",
		"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbody":                    "503 Busy with 4 bytes; want 200 with 4",
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody": "answer closes the connection",
	} {
		client, server := net.Pipe()
		go func() {
			if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
				_, _ = server.Write([]byte(answer))
			}
		}()
		err := scenario{path: "/1k", answer: 4}.ask(client, "host")
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%q: %v; want %q", answer, err, want)
		}
		_, _ = client.Close(), server.Close()
	}
}

func TestEachIdle(t *testing.T) {
	var called [idleConnections]atomic.Int32
	if err := eachIdle(func(i int) error { called[i].Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range called {
		if n := called[i].Load(); n != 1 {
			t.Fatalf("connection %d was opened %d times", i, n)
		}
	}
	var calls atomic.Int32
	refused := errors.New("refused")
	if err := eachIdle(func(int) error { calls.Add(1); return refused }); !errors.Is(err, refused) || calls.Load() != idleOpeners {
		t.Errorf("%d calls, %v; want that each of %d ends with its first failure", calls.Load(), err, idleOpeners)
	}
}
