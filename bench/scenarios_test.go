package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
)

// h2loadOut is what h2load 1.52 prints, with that many requests done and failed.
func h2loadOut(done, failed int, protocol string) string {
	return fmt.Sprintf(`starting benchmark...
spawning thread #0: 16 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration for measurements.
Main benchmark duration is started for thread #0.
TLS Protocol: TLSv1.3
%sMain benchmark duration is over for thread #0. Stopping all clients.

finished in 1.00s, 33933.50 req/s, 534.64MB/s
requests: %d total, 33997 started, %[2]d done, %d succeeded, %d failed, 0 errored, 0 timeout
status codes: 33933 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 534.64MB (560607877) total, 3.56MB (3732630) headers (space savings 39.23%%), 530.20MB (555958272) data
                     min         max         mean         sd        +/- sd
time for request:       99us     14.84ms      1.49ms      1.03ms    87.53%%
`, protocol, done, done-failed, failed)
}

func TestParseH2load(t *testing.T) {
	const h2 = "Application protocol: h2\n"
	var log strings.Builder
	for us := 100; us > 0; us-- {
		fmt.Fprintf(&log, "1795907689464296\t200\t%d\n", us)
	}
	got, err := parseH2load(h2loadOut(33933, 7, h2), log.String())
	want := sample{requests: 33933, errors: 7, rate: 33933.5, p50: 51 * time.Microsecond, p99: 100 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("parseH2load = %+v, %v; want %+v", got, err, want)
	}
	for name, bad := range map[string]struct{ out, log string }{
		"nothing":          {"", log.String()},
		"nothing answered": {h2loadOut(0, 0, ""), ""},
		"HTTP/1.1":         {h2loadOut(9, 0, "Application protocol: http/1.1\n"), log.String()},
		"no protocol":      {h2loadOut(9, 0, ""), log.String()},
		"no log":           {h2loadOut(9, 0, h2), ""},
		"two fields":       {h2loadOut(9, 0, h2), "1795907689464296\t200\n"},
		"no number":        {h2loadOut(9, 0, h2), "1795907689464296\t200\tx\n"},
	} {
		if got, err := parseH2load(bad.out, bad.log); err == nil {
			t.Errorf("%s: parseH2load = %+v, want an error", name, got)
		}
	}
}

// twoRounds are of ours and theirs, with ours as given in the first of them and alike in the second.
func twoRounds(first sample) ([]contender, [][]sample) {
	alike := sample{requests: 1000, cpu: 100 * time.Millisecond, p99: 2 * time.Millisecond, memory: 50e6}
	return []contender{{kind: kind{name: theirs}}, {kind: kind{name: ours}}}, [][]sample{{alike, first}, {alike, first}}
}

func TestJudge(t *testing.T) {
	good := sample{requests: 1000, cpu: 40 * time.Millisecond, p99: 2 * time.Millisecond, memory: 60e6}
	tests := []struct {
		name    string
		change  func(*sample)
		cpuOnly bool
		bar     float64
		want    string
	}{
		{"all at its bar", func(*sample) {}, false, 0.4, "yes"},
		{"CPU above", func(s *sample) { s.cpu += time.Millisecond }, false, 0.4, "no: CPU"},
		{"more requests for it", func(s *sample) { s.cpu, s.requests = 2*s.cpu, 2*s.requests }, false, 0.4, "yes"},
		{"p99 above", func(s *sample) { s.p99 += 20 * time.Microsecond }, false, 0.4, "no: p99"},
		{"p99 above by what is not shown", func(s *sample) { s.p99 += 9 * time.Microsecond }, false, 0.4, "yes"},
		{"memory above", func(s *sample) { s.memory += 1e6 }, false, 0.4, "no: memory"},
		{"errors", func(s *sample) { s.errors = 3 }, false, 0.4, "no: 6 errors"},
		{"everything", func(s *sample) { *s = sample{requests: 1, cpu: time.Second, p99: time.Second, memory: 1e9, errors: 1} }, false, 0.4,
			"no: CPU, p99, memory, 2 errors"},
		{"of CPU only", func(s *sample) { s.p99, s.memory = time.Second, 1e9 }, true, 0.4, "yes"},
		{"no bar", func(s *sample) { s.cpu = time.Second }, false, 0, "-"},
	}
	for _, test := range tests {
		ofOurs := good
		test.change(&ofOurs)
		s := scenario{name: "x", pairs: []pair{{judged: ours, reference: theirs, bar: test.bar, cpuOnly: test.cpuOnly}}}
		got := s.judge(twoRounds(ofOurs))
		if len(got) != 1 || got[0].met() != test.want {
			t.Errorf("%s: %+v; want %s", test.name, got, test.want)
		}
	}
}

// TestJudgeStock: where a stock binary is measured, load_balancer is judged by it as well; a pair that was not measured is not judged.
func TestJudgeStock(t *testing.T) {
	contenders, rounds := twoRounds(sample{requests: 1000, cpu: 40 * time.Millisecond, p99: time.Millisecond, memory: 60e6})
	for r := range rounds {
		rounds[r] = append(rounds[r], sample{requests: 1000, cpu: 80 * time.Millisecond, p99: time.Millisecond, memory: 45e6})
	}
	contenders = append(contenders, contender{kind: kind{name: stock}})
	s := scenario{name: "get1k", pairs: append(ourBar(0.45), pair{judged: allOn, reference: allOff})}
	verdicts := s.judge(contenders, rounds)
	want := "| scenario | compared | CPU | lowest and highest | us per request | p99 | p99, ms | memory | CPU at most | met |\n" +
		"|---|---|---|---|---|---|---|---|---|---|\n" +
		"| `get1k` | load_balancer / reverse_proxy | 0.400 | 0.400 to 0.400 | 40.0 / 100.0 | 0.50 | 1.00 / 2.00 | +10 MB | 0.45 | yes |\n" +
		"| `get1k` | load_balancer / reverse_proxy, stock binary | 0.500 | 0.500 to 0.500 | 40.0 / 80.0 | 1.00 | 1.00 / 1.00 | +15 MB | 0.45 | no: CPU, memory |\n"
	if got := summary(verdicts); got != want {
		t.Errorf("summary:\n%s\nwant:\n%s", got, want)
	}
	if got := summary(nil); got != "" {
		t.Errorf("summary of nothing = %q", got)
	}
	for _, line := range []string{
		"\nload_balancer / reverse_proxy, CPU per request: 0.400 (0.400 to 0.400, 2 pairs)\n",
		"\nload_balancer / reverse_proxy, stock binary, CPU per request: 0.500 (0.500 to 0.500, 2 pairs)\n",
	} {
		if got := report(s, contenders, rounds, verdicts); !strings.Contains(got, line) {
			t.Errorf("report:\n%s\nwant %q in it", got, line)
		}
	}
}

func TestShown(t *testing.T) {
	for _, test := range []struct {
		n        float64
		decimals int
		want     string
	}{{-0.4, 0, "+0"}, {-0.6, 0, "-1"}, {0.4005, 3, "+0.401"}, {1.004, 2, "+1"}} {
		if got := fmt.Sprintf("%+g", shown(test.n, test.decimals)); got != test.want {
			t.Errorf("%v with %d decimals = %s, want %s", test.n, test.decimals, got, test.want)
		}
	}
}

// TestConfigs: Caddy takes every config that it gets in a scenario, and all contenders that are judged are there.
func TestConfigs(t *testing.T) {
	dir := t.TempDir()
	c, err := writeCertificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := options{caddy: "ours", stock: "theirs", policy: "round_robin"}
	limits := limitScenarios()[0]
	limits.name = "limits"
	limits.kinds = func(*processes, string, options) ([]kind, error) { return limitedBy("127.0.0.1:1", o), nil }
	for _, s := range slices.Concat(scenarios, []scenario{limits}, seamlessScenarios()) {
		if s.name == "mirror" {
			s.kinds = func(*processes, string, options) ([]kind, error) { return mirroredTo("127.0.0.1:3", o), nil }
		}
		kinds, err := s.kinds(nil, dir, o)
		if err != nil {
			t.Fatal(err)
		}
		s.certificate = c
		names := make(map[string]bool)
		for _, k := range kinds {
			names[k.name] = true
			config := k.config(setting{"127.0.0.1:8443", k.upstreams([]string{"127.0.0.1:1", "127.0.0.1:2"}), s.ends})
			if k.command[0] == "ours" || k.command[0] == "theirs" {
				validate(t, s.name+", "+k.name, config)
			}
			for _, file := range []string{c.certFile, c.bothFile} {
				if (k.name == "haproxy" || k.name == "nginx") && !s.tls && !s.backendTLS && strings.Contains(config, file) {
					t.Errorf("%s: %s has a certificate:\n%s", s.name, k.name, config)
				}
			}
		}
		for _, p := range s.pairs {
			if !names[p.judged] || !names[p.reference] {
				t.Errorf("%s: %s / %s are not among %v", s.name, p.judged, p.reference, names)
			}
		}
	}
}

// validate fails the test unless Caddy takes that Caddyfile.
func validate(t *testing.T, name, config string) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Errorf("%s: %v\n%s", name, err, config)
		return
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &parsed); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if parsed.Logging == nil {
		parsed.Logging = &caddy.Logging{Logs: make(map[string]*caddy.CustomLog)}
	}
	parsed.Logging.Logs["default"] = &caddy.CustomLog{BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output": "discard"}`)}}
	if err := caddy.Validate(&parsed); err != nil {
		t.Errorf("%s: %v\n%s", name, err, config)
	}
}

// TestEnds: HAProxy and nginx are told to speak as the scenario wants it, too.
func TestEnds(t *testing.T) {
	c := certificate{"/c.pem", "/k.pem", "/b.pem"}
	tests := []struct {
		kind kind
		ends ends
		want []string
	}{
		{haproxyKind("", "roundrobin"), ends{}, []string{" bind a:1\n", " server s0 b:1 weight 1\n"}},
		{haproxyKind("", "roundrobin"), ends{tls: true, certificate: c}, []string{" bind a:1 ssl crt /b.pem alpn h2,http/1.1\n", " server s0 b:1 weight 1\n"}},
		{haproxyKind("", "roundrobin"), ends{backendTLS: true, certificate: c}, []string{" bind a:1\n", " server s0 b:1 weight 1 ssl verify required ca-file /c.pem\n"}},
		{nginxKind("", "", ""), ends{}, []string{" listen a:1;", "proxy_pass http://b;"}},
		{nginxKind("", "", ""), ends{tls: true, certificate: c}, []string{" listen a:1 http2 ssl;", "ssl_certificate_key /k.pem;", "proxy_pass http://b;"}},
		{nginxKind("", "", ""), ends{backendTLS: true, certificate: c}, []string{" listen a:1;", "proxy_pass https://b;", "proxy_ssl_trusted_certificate /c.pem;"}},
	}
	for _, test := range tests {
		got := test.kind.config(setting{"a:1", test.kind.upstreams([]string{"b:1"}), test.ends})
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%+v: %s\nwant %q in it", test.ends, got, want)
			}
		}
	}
}

// TestCheckAnswer: what is not what the scenario is about is not measured.
func TestCheckAnswer(t *testing.T) {
	chunked := func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }
	tests := []struct {
		name   string
		s      scenario
		answer func(http.ResponseWriter)
		want   string // the error; empty for none
	}{
		{"as it should be", scenario{path: "/1k", answer: 4}, func(http.ResponseWriter) {}, ""},
		{"too short", scenario{path: "/1k", answer: 5}, func(http.ResponseWriter) {}, "GET /1k: HTTP/1.1 200 OK with 4 bytes; want HTTP/1 200 with 5"},
		{"an error", scenario{path: "/1k", answer: 4}, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, "502 Bad Gateway"},
		{"chunks", scenario{path: "/chunked", answer: 4}, chunked, ""},
		{"no chunks", scenario{path: "/chunked", answer: 4}, func(http.ResponseWriter) {}, "is not chunked"},
		{"a body", scenario{path: "/post", answer: 4, post: 99}, func(http.ResponseWriter) {}, ""},
	}
	for _, test := range tests {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength != int64(test.s.post) || (r.Method == http.MethodPost) != (test.s.post > 0) {
				t.Errorf("%s: %s with %d bytes", test.name, r.Method, r.ContentLength)
			}
			test.answer(w)
			_, _ = w.Write([]byte("body"))
		}))
		err := test.s.checkAnswer(t.Context(), server.Listener.Addr().String(), false, false)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		server.Close()
	}
}

// TestMeasureLog: an access log begins anew with each measurement, or the last ones would be made with a full disk; and there must be one.
func TestMeasureLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	var size int64 = -1
	load := func(lines string) generator {
		return func(context.Context, string, time.Duration) (sample, error) {
			info, err := os.Stat(log)
			if err != nil {
				return sample{}, err
			}
			size = info.Size()
			return sample{requests: 2}, os.WriteFile(log, []byte(lines), 0o600)
		}
	}
	logging := contender{kind: kind{log: logFile(log)}, pid: os.Getpid()}
	if _, err := measure(t.Context(), logging, load("a\nb\n"), time.Second); err != nil || size != 0 {
		t.Errorf("measured with a log of %d bytes: %v", size, err)
	}
	if _, err := measure(t.Context(), logging, load(""), time.Second); err == nil {
		t.Error("no error for a contender that logs nothing")
	}
}

// TestSyslog: what is sent is counted, until the next measurement.
func TestSyslog(t *testing.T) {
	s, err := startSyslog()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	conn, err := net.Dial("udp", s.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if _, err := conn.Write([]byte("line")); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		if n, err := s.lines(); n == 3 && err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d lines, %v; want 3", n, err)
		}
	}
	if err := checkLog(s, 6); err != nil {
		t.Error(err)
	}
	if err := checkLog(s, 8); err == nil {
		t.Error("no error for a log of 3 lines after 8 requests")
	}
	if err := s.empty(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.lines(); n != 0 || err != nil {
		t.Errorf("%d lines, %v; want none", n, err)
	}
}
