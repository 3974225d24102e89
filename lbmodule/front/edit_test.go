package front

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Which of load_balancer's own operations are taken.
func TestOperationsThatAreTaken(t *testing.T) {
	for settings, want := range map[string]string{
		`"request": {"set": {"X-A": ["b"]}, "add": {"x-c": ["d", ""]}, "delete": ["X-B*", "*-E", "f"]}`:              "",
		`"request": {"replace": {"Cookie": [{"search_regexp": "^(a|b)$", "replace": "$1"}]}}`:                        "",
		`"request": {"set": {"Host": ["a.b:80"]}}`:                                                                   "",
		`"request": {"set": {"host": ["{http.reverse_proxy.upstream.hostport}"]}}`:                                   "",
		`"request": {"set": {"X-A": ["{http.request.host} {http.request.scheme}://{http.vars.client_ip}"]}}`:         "",
		`"request": {"delete": ["Host", "User-Agent", "Content-Length", "Connection"]}`:                              "",
		`"request": {"set": {"Host": ["{http.request.scheme}"]}}`:                                                    "header_up",
		`"request": {"set": {"Host": ["a{http.request.host}"]}}`:                                                     "header_up",
		`"request": {"set": {"Host": ["a", "b"]}}`:                                                                   "header_up",
		`"request": {"set": {"Host": ["a b"]}}`:                                                                      "header_up",
		`"request": {"set": {"Host": [""]}}`:                                                                         "header_up",
		`"request": {"replace": {"Host": [{"search": "a", "replace": "b"}]}}`:                                        "header_up",
		`"request": {"replace": {"*": [{"search": "a", "replace": "b"}]}}`:                                           "header_up",
		`"request": {"replace": {"X-A": [{"search_regexp": "a{2}", "replace": "b"}]}}`:                               "header_up",
		`"request": {"replace": {"X-A": [{"search": "a", "replace": "b\u0001"}]}}`:                                   "header_up",
		`"request": {"set": {"X-A": ["{http.request.uri}"]}}`:                                                        "header_up",
		`"request": {"set": {"X-A": ["\\{http.request.host}"]}}`:                                                     "header_up",
		`"request": {"set": {"X-A": ["b\n"]}}`:                                                                       "header_up",
		`"request": {"set": {"X A": ["b"]}}`:                                                                         "header_up",
		`"request": {"set": {"X-{http.request.host}": ["b"]}}`:                                                       "header_up",
		`"request": {"delete": ["{http.request.host}"]}`:                                                             "header_up",
		`"request": {"delete": ["*"]}`:                                                                               "header_up",
		`"request": {"delete": ["idem*"]}`:                                                                           "header_up",
		`"request": {"delete": ["x-*"]}`:                                                                             "header_up",
		`"request": {"add": {"content-length": ["1"]}}`:                                                              "header_up",
		`"request": {"set": {"Connection": ["close"]}}`:                                                              "header_up",
		`"request": {"set": {"Content-Type": ["application/grpc"]}}`:                                                 "header_up",
		`"response": {"set": {"X-A": ["b"]}, "delete": ["*"], "replace": {"Via": [{"search": "a", "replace": ""}]}}`: "",
		`"response": {"set": {"X-A": ["b"]}, "require": {"status_code": [2]}}`:                                       "",
		`"response": {"set": {"X-A": ["{http.request.host}"]}}`:                                                      "header_down",
		`"response": {"set": {"Content-Length": ["1"]}}`:                                                             "header_down",
		`"response": {"set": {"Trailer": ["X-A"]}}`:                                                                  "header_down",
		`"response": {"set": {"Trailer:X-A": ["1"]}}`:                                                                "header_down",
		`"response": {"replace": {"*": [{"search": "a", "replace": "b"}]}}`:                                          "header_down",
	} {
		if got := newFront(t, `{"headers": {`+settings+`}}`).refusesEdits(); got != want {
			t.Errorf("%s: %q, want %q", settings, got, want)
		}
	}
}

// handlerOf is a handler of header operations.
func handlerOf(t *testing.T, settings string) *headers.Handler {
	t.Helper()
	h := new(headers.Handler)
	if err := json.Unmarshal([]byte(settings), h); err != nil {
		t.Fatal(err)
	}
	if err := h.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return h
}

// Which operations are taken that surround the load balancer.
func TestOperationsAround(t *testing.T) {
	for settings, want := range map[string]bool{
		`{}`:                                    true,
		`{"request": {"set": {"Host": ["a"]}}}`: true,
		`{"request": {"set": {"Host": ["{http.request.host}"]}}}`:                               false,
		`{"request": {"set": {"X-A": ["{http.request.host}"]}}}`:                                false,
		`{"request": {"set": {"Te": ["trailers"]}}}`:                                            false,
		`{"request": {"delete": ["Te"]}}`:                                                       true,
		`{"response": {"set": {"Content-Type": ["a"]}, "delete": ["*"]}}`:                       true,
		`{"response": {"set": {"Connection": ["close"]}}}`:                                      false,
		`{"response": {"deferred": true}}`:                                                      true,
		`{"response": {"deferred": true, "delete": ["Server", "Content-Length", "x-*"]}}`:       true,
		`{"response": {"deferred": true, "delete": ["*"]}}`:                                     false,
		`{"response": {"deferred": true, "delete": ["Content-*"]}}`:                             false,
		`{"response": {"require": {"status_code": [2]}, "delete": ["*trail*"]}}`:                false,
		`{"response": {"require": {"status_code": [2]}, "delete": ["A"], "set": {"B": ["1"]}}}`: true,
	} {
		h := handlerOf(t, settings)
		if got := TakesRequestEdits(h.Request) && TakesAnswerEdits(h.Response); got != want {
			t.Errorf("%s: %v, want %v", settings, got, want)
		}
	}
}

// What a pattern deletes is what Caddy deletes.
func TestDeletesAsCaddy(t *testing.T) {
	names := []string{"Host", "Content-Length", "Content-Type", "X-A", "Trailer"}
	for _, pattern := range []string{"*", "**", "host", "HOST", "content-*", "Content*", "*-length", "*TYPE", "*t-l*", "*a*", "x-a", "x", "", "*x-", "-*"} {
		header := make(http.Header)
		for _, name := range names {
			header.Set(name, "1")
		}
		(&headers.HeaderOps{Delete: []string{pattern}}).ApplyTo(header, empty)
		for _, name := range names {
			if _, left := header[name]; left == deletes(pattern, name) {
				t.Errorf("%q deletes %s: %v", pattern, name, !left)
			}
		}
	}
}

// The header and the host of an attempt are those of a Request, whose placeholders are the handler's.
func TestEditsAsRequest(t *testing.T) {
	for _, settings := range []string{
		`"set": {"X-A": ["1"], "Host": ["{http.reverse_proxy.upstream.hostport}"]}`,
		`"set": {"X-A": ["{http.request.host}|{http.request.hostport}|{http.request.scheme}|{http.request.remote.host}|{http.vars.client_ip}"]}`,
		`"add": {"X-B": ["3"], "Host": ["other"]}, "delete": ["x-c*"], "replace": {"X-B": [{"search_regexp": "^2$", "replace": "4"}]}`,
		`"delete": ["Host", "User-Agent", "Via"]`,
	} {
		f := newFront(t, `{"headers": {"request": {`+settings+`}}}`)
		if why := f.refusesEdits(); why != "" {
			t.Fatalf("%s: %s", settings, why)
		}
		r := newRequest(t, http.MethodGet, "http://front.test:81/", nil)
		r.RemoteAddr = "192.0.2.7:1234"
		r = arrived(t, r)
		r.Header = http.Header{"X-B": {"1", "2"}, "X-C": {"1"}, "X-Cc": {"2"}}
		x := begin(t, f, nil, r)
		before, host := x.header.Clone(), x.host
		target := f.stock.NewTarget(&reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: "backend.test:82"})
		got := f.EditRequest(&Asked{Host: r.Host, Remote: "192.0.2.7", ClientIP: "192.0.2.7"}, target, before, host)
		want := attempt(t, x, 1, "backend.test:82")
		if got != want.Host || !maps.EqualFunc(before, want.Header, slices.Equal) {
			t.Errorf("%s:\n%s %v, want\n%s %v", settings, got, before, want.Host, want.Header)
		}
	}
}

func TestSentHost(t *testing.T) {
	f := newFront(t, `{}`)
	for host, want := range map[string]string{
		"": "backend.test:82", "a.b:80": "a.b:80", "[::1]:80": "[::1]:80", "[fe80::1%25eth0]:80": "[fe80::1]:80", "b\u00fccher.example": "xn--bcher-kva.example",
		"/run/socket": "", "a b": "",
	} {
		if got := SentHost(host, f.stock.NewTarget(&reverseproxy.Upstream{Dial: "backend.test:82"})); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

// Requests whose operations are constant do not look for placeholders.
func TestAsksOnlyWithPlaceholders(t *testing.T) {
	for value, want := range map[string]bool{"a": false, "{http.request.host}": true} {
		if f := newFront(t, fmt.Sprintf(`{"headers": {"request": {"set": {"X-A": [%q]}}}}`, value)); f.asks != want {
			t.Errorf("%s: %v", value, f.asks)
		}
	}
}
