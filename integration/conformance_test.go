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
	{"h2spec 2.2.1, TLS, with seamless", "github.com/summerwind/h2spec", h2spec(true, true)},
	{"h2spec 2.2.1, h2c", "github.com/summerwind/h2spec", h2spec(false, false)},
	{"h2spec 2.2.1, h2c, with seamless", "github.com/summerwind/h2spec", h2spec(false, true)},
	{"curl", "curl as Debian has it", curl(false)},
	{"curl with seamless", "curl as Debian has it", curl(true)},
	{"wrk, h2load, vegeta", "wrk and h2load as Debian has them, vegeta 12.13.0", loads(false)},
	{"wrk, h2load, vegeta with seamless", "wrk and h2load as Debian has them, vegeta 12.13.0", loads(true)},
	{"WebSocket", "random frames, over HTTP/1.1 and HTTP/2", echoes(false)},
	{"WebSocket with seamless", "random frames, over HTTP/1.1 and HTTP/2", echoes(true)},
	{"grpc-go's interop, v1.83.2", "google.golang.org/grpc/interop: client and server, each case 20 times, over TLS and h2c", runInterop},
	{"HAProxy's scenarios", "HAProxy 3.5-dev5 reg-tests, those that apply, reimplemented", runScenarios},
}

// known are the cases that do not pass with both load_balancer and reverse_proxy, or the tests of which these are parts. Where it is the same
// for several suites, suite is how their names begin.
var known = []struct{ suite, name, reason string }{
	{"Caddy's tests", "TestReverseProxyRequestBodyTimeout", "a body that stops coming is answered 408"},
	{"Caddy's tests", "TestWeightedRoundRobinSelectionValidation", "negative weights are refused in other words, and all weights may be 0"},
	{"httputil's tests", "TestReverseProxy", "Te: trailers, which both pass on, is lost where Connection names it"},
	{"httputil's tests", "TestReverseProxy_CopyBuffer", "the client has the head of an answer that breaks off, and sees that it does in the body"},
	{"httputil's tests", "TestReverseProxyWebSocket", "operations on fields are not done to answers that switch protocols"},
	{"httputil's tests", "TestReverseProxyWebSocketCancellation", "operations on fields are not done to answers that switch protocols"},
	{"httputil's tests with seamless", "TestSelectFlushInterval/default", "an interval is the longest delay; the express lane passes on at once what has come"},
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
	{"grpc-go's interop, v1.83.2", "pick_first_unary over h2c", "grpc-go's server tells no name of its own, and the case fails without a proxy, too"},
	{"grpc-go's interop, v1.83.2", "pick_first_unary over TLS", "grpc-go's server tells no name of its own, and the case fails without a proxy, too"},
	{"HAProxy's scenarios", "balance/balance-uri: the query is no part of the key", "reverse_proxy has no policy that goes by the path alone"},
	{"HAProxy's scenarios", "balance/balance-uri-path-only: the whole URL has the backend of its path", "reverse_proxy has no policy that goes by the path alone"},
	{"HAProxy's scenarios", "balance/balance-uri-path-only: HTTP/2 has the backend of the path", "reverse_proxy has no policy that goes by the path alone"},
	{"HAProxy's scenarios", "checks/agent-check: a weight is changed, and shares with it", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "checks/http-monitor-uri: a page for whoever asks whether there is a backend", "reverse_proxy has no such page"},
	{"HAProxy's scenarios", "contrib/prometheus: metrics count each backend's requests", "reverse_proxy has no counters by backend"},
	{"HAProxy's scenarios", "http-cookies/cookie_insert_indirect: the balancer's cookie does not reach the backend", "neither takes its cookie out of a request; the backend learns nothing by it"},
	{"HAProxy's scenarios", "http-messaging/h1_host_normalization: CONNECT of one host, a field of another", "Caddy passes CONNECT on like any other method, and opens no tunnel itself"},
	{"HAProxy's scenarios", "http-messaging/h1_host_normalization: CONNECT with an empty port", "Caddy passes CONNECT on like any other method, and opens no tunnel itself"},
	{"HAProxy's scenarios", "http-messaging/h1_host_normalization: a URL of one host, a field of another", "Caddy goes by the URL and ignores the field, as RFC 9112, 3.2.2 wants of a proxy"},
	{"HAProxy's scenarios", "http-messaging/h1_host_normalization: a URL of one port, a field of another", "Caddy goes by the URL and ignores the field, as RFC 9112, 3.2.2 wants of a proxy"},
	{"HAProxy's scenarios", "http-messaging/h1_request_target_validation: CONNECT of a URL", "Caddy passes CONNECT on like any other method, and opens no tunnel itself"},
	{"HAProxy's scenarios", "http-messaging/h1_request_target_validation: CONNECT of a path", "Caddy passes CONNECT on like any other method, and opens no tunnel itself"},
	{"HAProxy's scenarios", "http-messaging/h1_request_target_validation: CONNECT without a port", "Caddy passes CONNECT on like any other method, and opens no tunnel itself"},
	{"HAProxy's scenarios", "http-messaging/h1_request_target_validation: GET *", "net/http accepts it, and the backend gets it as it is"},
	{"HAProxy's scenarios", "http-messaging/h1_request_target_validation: GET of an authority", "net/http takes it for a URL of the scheme hostname, and the backend is asked for 80"},
	{"HAProxy's scenarios", "http-messaging/h1_to_h2_upgrade: what looks like a preface", "net/http accepts the method; the backend gets PRI * HTTP/1.1, which is no preface"},
	{"HAProxy's scenarios", "http-messaging/h2_to_h1: GET with a length that ends in a comma", "net/http's HTTP/2 server ignores such a length; load_balancer refuses it, reverse_proxy drops it"},
	{"HAProxy's scenarios", "http-messaging/h2_to_h1: POST with a length that ends in a comma", "net/http's HTTP/2 server ignores such a length; load_balancer refuses it, reverse_proxy drops it"},
	{"HAProxy's scenarios", "http-messaging/h2_to_h1: GET with an empty length", "net/http's HTTP/2 server ignores such a length, and it does not reach the backend"},
	{"HAProxy's scenarios", "http-messaging/h2_to_h1: POST with an empty length", "net/http's HTTP/2 server ignores such a length, and it does not reach the backend"},
	{"HAProxy's scenarios", "http-messaging/http_abortonclose: a client that leaves the queue never reaches the backend, and others go on", "reverse_proxy has no queue"},
	{"HAProxy's scenarios", "http-messaging/http_abortonclose: a request waits while its backend is full", "reverse_proxy has no queue"},
	{"HAProxy's scenarios", "http-messaging/http_abortonclose: without a backend that can be reached the answer is 503", "reverse_proxy answers 502"},
	{"HAProxy's scenarios", "http-messaging/http_request_buffer: a body that stops coming is answered 408, and reaches nobody", "reverse_proxy answers 499, as if the client had left"},
	{"HAProxy's scenarios", "http-messaging/http_transfer_encoding: an answer in chunks that is HTTP/1.0", "net/http takes no chunks in HTTP/1.0 (RFC 9112, 6.1 calls the framing faulty), and reads to the end of the connection"},
	{"HAProxy's scenarios", "http-messaging/http_transfer_encoding: with both chunks and a length, the chunks count, and the connection ends", "net/http drops the length and goes by the chunks, but keeps the connection"},
	{"HAProxy's scenarios", "http-messaging/protocol_upgrade: an upgrade to h2c does not reach the backend", "both pass any upgrade on; a backend that accepts h2c must not be behind them"},
	{"HAProxy's scenarios", "http-messaging/websocket: a WebSocket over HTTP/2 whose backend answers to another key", "Caddy makes the key, but does not look at the answer to it"},
	{"HAProxy's scenarios", "http-messaging/websocket: a handshake without a key", "Caddy leaves handshakes to the two ends"},
	{"HAProxy's scenarios", "http-messaging/websocket: an answer to a handshake without what the key must become", "Caddy leaves handshakes to the two ends"},
	{"HAProxy's scenarios", "seamless-reload/abns_socket: fifty requests around a reload are answered", "reverse_proxy has no seamless reloads: connections are closed or reset"},
	{"HAProxy's scenarios", "server/cli_add_check_server: a backend in maintenance gets nothing, until it is ready", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_add_check_server: a backend that drains ends what it has, and gets nothing new", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_add_server: a backend that is added is used", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_add_server: one that is there cannot be added", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_add_server: one without an address cannot be added", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_add_server: to a pool that there is not none can be added", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_delete_server: a backend that is removed is not used any more", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "server/cli_delete_server: one that there is not cannot be removed", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "stats/clear_counters_server: the counters of one backend are set to 0, and no others", "reverse_proxy has no backends that are changed at run time"},
	{"HAProxy's scenarios", "stick-table/src_conn_rate: the fourth request of an address in a minute is refused", "reverse_proxy has no rate limit"},
	{"HAProxy's scenarios", "stream/set-retries: a connection that is refused is tried at the next backend", "reverse_proxy's policy chooses the backend again that has just refused"},
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
