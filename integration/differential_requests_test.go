package integration

import (
	"slices"
	"strings"
)

// requestSites have all kinds of requests. They are asked at a site without settings, whose ordinary requests take the short way, and
// at one where they take Caddy's transport.
func requestSites() []site {
	requests := append(methods(), headers()...)
	requests = append(requests, hopByHop()...)
	requests = append(requests, targets()...)
	requests = append(requests, bodies()...)
	return []site{
		{name: "plain", exchanges: slices.Concat(requests, hosts(), bothWays())},
		{name: "transport", settings: overTransport, ordered: true, exchanges: requests},
	}
}

// bothWays are connections whose requests take one way after the other to the backend.
func bothWays() []exchange {
	return []exchange{
		{name: "large, then ordinary", request: sized("PUT", filled(20<<10)), more: []string{get("/next")}},
		{name: "chunked, then ordinary", request: chunkedRequest("PUT", inChunks("abc")), more: []string{get("/next")}},
	}
}

func methods() (all []exchange) {
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "LINK", "PROPFIND", "get", "X-CUSTOM!#$"} {
		all = append(all, exchange{name: "method " + method, request: requestHead(method + " /method HTTP/1.1")})
	}
	return append(all,
		exchange{name: "OPTIONS *", request: requestHead("OPTIONS * HTTP/1.1")},
		exchange{name: "CONNECT", request: bare("CONNECT SITE:443 HTTP/1.1", "Host: SITE:443")},
		exchange{name: "GET with a body", request: sized("GET", "body")},
		exchange{name: "DELETE with a body", request: sized("DELETE", "body")},
		exchange{name: "OPTIONS with a body", request: sized("OPTIONS", "body")},
		exchange{name: "two over one connection", request: get("/1"), more: []string{sized("POST", "2")}},
		exchange{name: "HTTP/1.0", request: requestHead("GET /old HTTP/1.0")},
		exchange{name: "HTTP/1.0, kept", request: requestHead("GET /old HTTP/1.0", "Connection: keep-alive")},
	)
}

func headers() (all []exchange) {
	many := make([]string, 80)
	for i := range many {
		many[i] = "X-Many-" + string(rune('A'+i%26)) + ": " + strings.Repeat("v", i)
	}
	for name, fields := range map[string][]string{
		"none":             nil,
		"many":             many,
		"large":            {"X-Large: " + filled(9000)[:9000]},
		"repeated":         {"X-Repeated: 1", "X-Other: o", "X-Repeated: 2", "x-repeated: 1"},
		"odd case":         {"x-LOWER-upper: 1", "ETAG: e", "dnt: 1"},
		"empty":            {"X-Empty:", "X-Blank:   "},
		"space around":     {"X-Space:   a b   "},
		"latin1":           {"X-Latin: caf\xe9"},
		"utf-8":            {"X-UTF: caf\u00e9 \u2603"},
		"underscore":       {"X_Under: 1", "X-Over: 2"},
		"cookies":          {"Cookie: a=b; c=d", "Cookie: e=f"},
		"authorization":    {"Authorization: Basic dXNlcjpwYXNz"},
		"accept-encoding":  {"Accept-Encoding: gzip, deflate, br"},
		"identity":         {"Accept-Encoding: identity"},
		"no encoding":      {"Accept-Encoding:"},
		"range":            {"Range: bytes=0-1"},
		"conditional":      {"If-None-Match: \"a\"", "If-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT"},
		"via":              {"Via: 1.0 fred, 1.1 p.example.net"},
		"forwarded":        {"Forwarded: for=192.0.2.60;proto=http;by=203.0.113.43"},
		"x-forwarded":      {"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: other.example", "X-Real-IP: 192.0.2.9"},
		"referer, origin":  {"Referer: http://example.com/a?b#c", "Origin: null"},
		"early data":       {"Early-Data: 1"},
		"max-forwards":     {"Max-Forwards: 3"},
		"cache-control":    {"Cache-Control: no-cache", "Pragma: no-cache"},
		"idempotency":      {"Idempotency-Key: \"k\""},
		"incremental":      {"Incremental: ?1"},
		"priority":         {"Priority: u=1, i"},
		"trailer, no body": {"Trailer: X-T"},
		"http2-settings":   {"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"},
	} {
		all = append(all, exchange{name: "header " + name, request: get("/header", fields...)})
	}
	return append(all,
		exchange{name: "no user agent", request: bare("GET /agent HTTP/1.1", "Host: SITE")}, // httputil: TestUserAgentHeader
		exchange{name: "empty user agent", request: bare("GET /agent HTTP/1.1", "Host: SITE", "User-Agent:")},
		exchange{name: "two user agents", request: get("/agent", "User-Agent: second")},
	)
}

func hopByHop() (all []exchange) {
	for _, fields := range [][]string{
		{"Connection: close"},
		{"Connection: keep-alive", "Keep-Alive: timeout=5"},
		{"Connection: close, X-Foo", "X-Foo: 1", "X-Bar: 2"},
		// httputil: TestReverseProxyStripHeadersPresentInConnection
		{"Connection: X-Foo", "Connection: x-bar, X-Baz", "X-Foo: 1", "X-Bar: 2", "X-Baz: 3", "X-Kept: 4"},
		// httputil: TestReverseProxyStripEmptyConnection
		{"Connection:", "X-Foo: 1"},
		{"Connection:", "Connection: X-Foo", "X-Foo: 1"},
		{"Connection: ,, X-Foo ,", "X-Foo: 1"},
		{"Connection: TE", "TE: trailers"},
		{"TE: trailers"},
		{"TE: gzip"},
		{"TE: gzip, trailers;q=0.5"},
		{"TE: deflate", "TE: trailers"},
		{"Keep-Alive: timeout=5, max=10"},
		{"Proxy-Connection: keep-alive"},
		{"Proxy-Connection: close"},
		{"Proxy-Authorization: Basic dXNlcjpwYXNz"},
		{"Proxy-Authenticate: Basic"},
		{"Upgrade: websocket"},
		{"Upgrade: h2c", "Connection: keep-alive"},
		{"Connection: Upgrade"},
		{"Connection: Upgrade, X-Foo", "X-Foo: 1"},
		{"Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Via", "Via: 1.1 other"},
		{"Connection: User-Agent"},
		{"Connection: Host"},
		{"Connection: Authorization, Cookie", "Authorization: a", "Cookie: b=c"},
		{"Trailer: X-Foo", "Connection: Trailer"},
	} {
		all = append(all, exchange{name: "hop-by-hop " + strings.Join(fields, "; "), request: get("/hop", fields...)})
	}
	return append(all,
		exchange{name: "hop-by-hop Content-Length of a body", request: sized("POST", "body", "Connection: Content-Length")},
		exchange{name: "hop-by-hop Content-Type of a body", request: sized("POST", "body", "Connection: Content-Type")},
	)
}

func targets() (all []exchange) {
	for _, target := range []string{
		"/", "//", "///a//b/", "/a/../b", "/./a", "/%2F%2f", "/a%20b", "/a+b", "/%e2%98%83", "/%FF%fe", "/%00", "/a;b=c", "/a?", "/a??b", "/a?b=c&d", "/a?b;c", "/a?b=%zz",
		"/a?b=c%20d+e", "/a?b=\xff", "/\xff", "/a%", "/a|b", "/a\"b", "/a{b}", "/a\\b", "/[a]", "/~a:@!$&'()*+,=", "/a#b", "/a?q=a#b", "/%2e%2e/a", "*", "a", "?a", "/?a=b?c=d",
		"/a?a=1&a=2&b=%26", // httputil: TestReverseProxyQuery
		// httputil: TestReverseProxyQueryParameterSmuggling*
		"/a?a=1&a=2;b=3&c=%zz", "/a?%00=%0a",
		"http://SITE/absolute?q=1", "https://SITE/absolute", "http://SITE", "http://SITE:8080/port", "http://user:pass@SITE/user", "HTTP://SITE/upper",
	} {
		all = append(all, exchange{name: "target " + target, request: get(target)})
	}
	return all
}

func hosts() (all []exchange) {
	for _, host := range []string{
		"example.com", "EXAMPLE.com", "example.com:80", "example.com:8080", "example.com.", "127.0.0.1", "127.0.0.1:1234", "[::1]", "[::1]:8080", "a_b.example", "xn--caf-dma.example",
		"caf\u00e9.example", "", "a b", "a/b", "a@b", "example.com:", "example.com:http", "-", "a,b",
	} {
		all = append(all, exchange{name: "host " + host, request: bare("GET /host HTTP/1.1", "Host: "+host, "User-Agent: test")})
	}
	return append(all,
		exchange{name: "no host", request: bare("GET /host HTTP/1.1", "User-Agent: test")},
		exchange{name: "no host, HTTP/1.0", request: bare("GET /host HTTP/1.0", "User-Agent: test")},
		exchange{name: "two hosts", request: bare("GET /host HTTP/1.1", "Host: a.example", "Host: b.example")},
		exchange{name: "absolute target, another host", request: bare("GET http://a.example/host HTTP/1.1", "Host: b.example")},
	)
}

// bodies are requests that have some, or might. httputil: TestReverseProxy_Post, TestNilBody; caddy: request_trailers_test.go
func bodies() (all []exchange) {
	for name, body := range map[string]string{"0": "", "1": "x", "small": "some text", "4 KiB": filled(4 << 10), "16 KiB": filled(16 << 10), "16 KiB and 1": filled(16<<10 + 1), "64 KiB": filled(64 << 10), "300 KiB": filled(300 << 10)} {
		all = append(all,
			exchange{name: "body of " + name, request: sized("POST", body)},
			exchange{name: "body of " + name + ", PUT, and one more", request: sized("PUT", body), more: []string{sized("PUT", body)}},
		)
		if body != "" {
			all = append(all, exchange{name: "chunked body of " + name, request: chunkedRequest("POST", inChunks(body))})
		}
	}
	return append(all,
		exchange{name: "chunked body of nothing", request: chunkedRequest("POST", "0\r\n\r\n")},
		exchange{name: "chunked body of many chunks", request: chunkedRequest("POST", inChunks("a", "bc", filled(5000), "d"))},
		exchange{name: "chunk extensions", request: chunkedRequest("POST", "3;a=b\r\nabc\r\n2;c=\"d e\";f\r\nde\r\n0;f\r\n\r\n")},
		exchange{name: "malformed chunk", request: requestHead("POST /blind HTTP/1.1", "Transfer-Encoding: chunked") + "3\r\nabc\r\nx\r\n", blind: true, differs: []string{"malformed body"}},
		exchange{name: "malformed end of a chunk", request: requestHead("POST /blind HTTP/1.1", "Transfer-Encoding: chunked") + "3\r\nabcdef\r\n", blind: true, differs: []string{"malformed body"}},
		exchange{name: "chunked GET", request: chunkedRequest("GET", inChunks("abc"))},
		exchange{name: "trailers announced", request: chunkedRequest("POST", withTrailers("abc", "X-T: 1", "X-T2: 2"), "Trailer: X-T, X-T2")},
		exchange{name: "trailers unannounced", request: chunkedRequest("POST", withTrailers("abc", "X-T: 1"))},
		exchange{name: "trailers announced, not sent", request: chunkedRequest("POST", inChunks("abc"), "Trailer: X-T")},
		exchange{name: "trailers with TE", request: chunkedRequest("POST", withTrailers("abc", "X-T: 1"), "Trailer: X-T", "TE: trailers")},
		exchange{name: "forbidden trailers", request: chunkedRequest("POST", withTrailers("abc", "Content-Length: 1", "Host: x", "X-T: 1"), "Trailer: X-T")},
		exchange{name: "expects, continues", request: requestHead("POST /upload HTTP/1.1", "Content-Length: 4", "Expect: 100-continue"), uploads: []string{"body"}, waits: true, continues: true},
		exchange{name: "expects, is not told", request: requestHead("POST /upload HTTP/1.1", "Content-Length: 4", "Expect: 100-continue"), uploads: []string{"body"}, waits: true},
		exchange{name: "expects, does not wait", request: sized("POST", "body", "Expect: 100-continue"), continues: true},
		exchange{name: "expects, in chunks", request: chunkedRequest("POST", "", "Expect: 100-continue"), uploads: []string{chunk("body"), "0\r\n\r\n"}, waits: true, continues: true},
		exchange{name: "expects something else", request: sized("POST", "body", "Expect: miracles")},
		exchange{name: "body in pieces", request: requestHead("POST /pieces HTTP/1.1", "Content-Length: 9"), uploads: []string{"abc", "def", "ghi"}},
		exchange{name: "chunked body in pieces", request: chunkedRequest("POST", ""), uploads: []string{chunk("abc"), chunk("def"), "0\r\n\r\n"}},
		exchange{name: "sized and chunked", request: chunkedRequest("POST", inChunks("abc"), "Content-Length: 3")},
		exchange{name: "two lengths, equal", request: sized("POST", "abc", "Content-Length: 3")},
		exchange{name: "two lengths", request: sized("POST", "abc", "Content-Length: 4")},
		exchange{name: "negative length", request: requestHead("POST / HTTP/1.1", "Content-Length: -1")},
		exchange{name: "body with gzip coding", request: sized("POST", "abc", "Content-Encoding: gzip")},
	)
}
