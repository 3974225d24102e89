//go:build trust

package integration

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// results maps the cases of a suite to what went wrong in them: nothing, or an error in a few words.
type results map[string]string

// suite is a set of cases that other people have written, or that are written after theirs. It is run against load_balancer and
// reverse_proxy.
type suite struct {
	name   string // with its version
	source string // where the cases come from
	run    func(t *testing.T) (ours, stock results)
}

// suites are those that TestConformance runs, in the order of its table.
var suites = []suite{
	{"Caddy's tests", "caddytest/integration of the Caddy in go.mod", runCaddys},
	{"Caddy's tests with seamless", "the same, all of them", runCaddysSeamless},
	{"httputil's tests", "net/http/httputil of this Go", runHTTPUtils},
	{"httputil's tests with seamless", "the same", runHTTPUtilsSeamless},
	{"h2spec 2.2.1, TLS", "github.com/summerwind/h2spec", h2spec(true, false)},
	{"h2spec 2.2.1, TLS, seamless", "github.com/summerwind/h2spec", h2spec(true, true)},
	{"h2spec 2.2.1, h2c", "github.com/summerwind/h2spec", h2spec(false, false)},
	{"h2spec 2.2.1, h2c, seamless", "github.com/summerwind/h2spec", h2spec(false, true)},
	{"curl", "curl as Debian has it", curl(false)},
	{"curl, seamless", "curl as Debian has it", curl(true)},
	{"wrk, h2load, vegeta", "wrk and h2load as Debian has them, vegeta 12.13.0", loads(false)},
	{"wrk, h2load, vegeta, seamless", "wrk and h2load as Debian has them, vegeta 12.13.0", loads(true)},
	{"WebSocket", "random frames, over HTTP/1.1 and HTTP/2", echoes(false)},
	{"WebSocket, seamless", "random frames, over HTTP/1.1 and HTTP/2", echoes(true)},
	{"grpc-go's interop, v1.83.2", "google.golang.org/grpc/interop: client and server, each case 20 times, over TLS and h2c", runInterop},
	{"HAProxy's scenarios", "HAProxy 3.5-dev5 reg-tests, what carries over, told anew", runScenarios},
}

// known are the cases that do not pass with both load_balancer and reverse_proxy, or the tests of which these are parts.
var known = []struct{ suite, name, reason string }{
	{"Caddy's tests", "TestReverseProxyRequestBodyTimeout", "a body that stops coming is answered 408"},
	{"Caddy's tests", "TestWeightedRoundRobinSelectionValidation", "negative weights are refused in other words, and all weights may be 0"},
	{"Caddy's tests with seamless", "TestReverseProxyRequestBodyTimeout", "a body that stops coming is answered 408"},
	{"Caddy's tests with seamless", "TestWeightedRoundRobinSelectionValidation", "negative weights are refused in other words, and all weights may be 0"},
	{"httputil's tests", "TestReverseProxy", "Te: trailers, which both pass on, is lost where Connection names it"},
	{"httputil's tests", "TestReverseProxy_CopyBuffer", "the client has the head of an answer that breaks off, and sees that it does in the body"},
	{"httputil's tests", "TestReverseProxyWebSocket", "operations on fields are not done to answers that switch protocols"},
	{"httputil's tests", "TestReverseProxyWebSocketCancellation", "operations on fields are not done to answers that switch protocols"},
	{"httputil's tests with seamless", "TestReverseProxy", "Te: trailers, which both pass on, is lost where Connection names it"},
	{"httputil's tests with seamless", "TestReverseProxy_CopyBuffer", "the client has the head of an answer that breaks off, and sees that it does in the body"},
	{"httputil's tests with seamless", "TestReverseProxyWebSocket", "operations on fields are not done to answers that switch protocols"},
	{"httputil's tests with seamless", "TestReverseProxyWebSocketCancellation", "operations on fields are not done to answers that switch protocols"},
	{"h2spec 2.2.1, h2c", "http2/3.5: Sends invalid connection preface",
		"the port speaks HTTP/1.1 as well, and answers 400 in it"},
	{"h2spec 2.2.1", "http2/4.2: Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
		"it takes the limit of frames for 16 KiB, and Go announces 1 MiB; the header is too long for Caddy, which answers 431"},
	{"h2spec 2.2.1", "http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
		"Go closes a connection that sends a setting twice in a frame"},
	{"h2spec 2.2.1", `http2/8.1.2.2: Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`,
		"Go answers 400 where a stream is to be reset; RFC 9113, 8.1.1, allows an answer as well"},
	{"h2spec 2.2.1", "http2/8.1.2.2: Sends a HEADERS frame that contains the connection-specific header field",
		"Go answers 400 where a stream is to be reset; RFC 9113, 8.1.1, allows an answer as well"},
}

// TestConformance runs the suites and prints a table of them. Cases that do not pass with both must be known, and known ones must still
// not do so.
func TestConformance(t *testing.T) {
	var rows []string
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			ours, stock := s.run(t)
			if len(ours) == 0 {
				t.Fatal("the suite has run no case")
			}
			rows = append(rows, fmt.Sprintf("| %s | %s | %d | %d | %d |", s.name, s.source, len(ours), passed(ours), passed(stock)))
			s.compare(t, ours, stock)
		})
	}
	t.Logf("cases that pass:\n| suite | source | cases | load_balancer | reverse_proxy |\n|---|---|---|---|---|\n%s", strings.Join(rows, "\n"))
}

// compare fails the test for each case whose outcome is not what is known of it.
func (s *suite) compare(t *testing.T, ours, stock results) {
	t.Helper()
	reasons, differs := map[string]string{}, map[string]bool{}
	for _, k := range known {
		if strings.HasPrefix(s.name, k.suite) {
			reasons[k.name] = k.reason
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		theirs, both := stock[name]
		if !both {
			t.Errorf("%s: not run with reverse_proxy", name)
		}
		of := name // or a test of which it is a part
		for reasons[of] == "" && strings.Contains(of, "/") {
			of = of[:strings.LastIndex(of, "/")]
		}
		outcome := fmt.Sprintf("%s: load_balancer: %s; reverse_proxy: %s", name, cmp.Or(ours[name], "passes"), cmp.Or(theirs, "passes"))
		switch differ := ours[name] != "" || theirs != ""; {
		case differ && reasons[of] == "":
			t.Error(outcome)
		case differ:
			t.Logf("%s; known: %s", outcome, reasons[of])
			differs[of] = true
		}
	}
	for name, reason := range reasons {
		if !differs[name] {
			t.Errorf("%s is known to differ (%s), but is no case that does", name, reason)
		}
	}
	for name := range stock {
		if _, both := ours[name]; !both {
			t.Errorf("%s: not run with load_balancer", name)
		}
	}
}

// passed counts the cases in which nothing went wrong.
func passed(r results) (n int) {
	for _, wrong := range r {
		if wrong == "" {
			n++
		}
	}
	return n
}
