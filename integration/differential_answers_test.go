package integration

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"slices"
	"strings"
)

// answerSites have all kinds of answers to ordinary requests, on either way to the backend.
func answerSites() []site {
	answers := append(framings(), statuses()...)
	answers = append(answers, answerFields()...)
	answers = append(answers, informational()...)
	answers = append(answers, inPieces()...)
	good := slices.DeleteFunc(slices.Clone(answers), func(x exchange) bool { // what is not tried again
		return strings.HasPrefix(x.name, "status 502") || strings.HasPrefix(x.name, "status 503") || strings.HasPrefix(x.name, "status 504")
	})
	return []site{
		{name: "answers-by-default", exchanges: good},
		{name: "answers", ours: "retry off", exchanges: answers},
		{name: "answers-over-tls", ours: "retry off", backend: rawTLS, settings: "transport http {\n tls_insecure_skip_verify\n }", exchanges: answers},
		{name: "answers-over-transport", ours: "retry off", settings: overTransport, ordered: true, exchanges: answers},
	}
}

// inGzip is a text as gzip has it.
func inGzip(text string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write([]byte(text))
	w.Close()
	return out.String()
}

const typed = "Content-Type: text/plain"

func framings() (all []exchange) {
	for _, size := range []int{0, 1, 2047, 2048, 2049, 4096, 32 << 10, 300 << 10} {
		text := filled(size)
		all = append(all,
			exchange{name: fmt.Sprintf("sized answer of %d", size), answer: answer("200 OK", text)},
			exchange{name: fmt.Sprintf("answer to the end of %d", size), answer: answerHead("200 OK", typed) + text, then: hangsUp},
		)
		if size > 0 {
			all = append(all, exchange{name: fmt.Sprintf("chunked answer of %d", size), answer: chunkedAnswer("200 OK", inChunks(text))})
		}
	}
	return append(all,
		exchange{name: "chunked answer of nothing", answer: chunkedAnswer("200 OK", "0\r\n\r\n")},
		exchange{name: "chunk extensions", answer: chunkedAnswer("200 OK", "3;a=b\r\nabc\r\n0;c\r\n\r\n")},
		// caddy: the trailers of streaming_test.go; httputil: TestReverseProxy
		exchange{name: "trailers announced", answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1", "X-U: 2"), "Trailer: X-T", "Trailer: X-U")},
		exchange{name: "trailer announced, body empty", answer: chunkedAnswer("200 OK", "0\r\nX-T: 1\r\n\r\n", "Trailer: X-T")},
		exchange{name: "trailer unannounced", answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1"))}, // httputil: TestUnannouncedTrailer
		exchange{name: "trailers, some announced", answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1", "X-U: 2"), "Trailer: X-T")},
		exchange{name: "trailer announced, not sent", answer: chunkedAnswer("200 OK", inChunks("abc"), "Trailer: X-T")},
		exchange{name: "trailer repeated", answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1", "X-T: 2"), "Trailer: X-T")},
		exchange{name: "trailers with TE", request: get("/", "TE: trailers"), answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1"), "Trailer: X-T")},
		exchange{name: "trailer to HTTP/1.0", request: requestHead("GET / HTTP/1.0"), answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1"), "Trailer: X-T")},
		exchange{name: "trailers of an answer to HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", "Transfer-Encoding: chunked", "Trailer: X-T")},
		exchange{name: "HEAD with a length", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", typed, "Content-Length: 7")},
		exchange{name: "HEAD with chunks", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", typed, "Transfer-Encoding: chunked")},
		exchange{name: "HEAD without a length", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", typed)},
		exchange{name: "HEAD, then GET", request: requestHead("HEAD / HTTP/1.1"), more: []string{get("/")}, answers: []string{answerHead("200 OK", typed, "Content-Length: 2"), ok200}},
		exchange{name: "chunked to HTTP/1.0", request: requestHead("GET / HTTP/1.0"), answer: chunkedAnswer("200 OK", inChunks("abc"))},
		exchange{name: "answer of HTTP/1.0", answer: "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nabc", then: hangsUp},
		exchange{name: "answer of HTTP/1.0 with a length", answer: "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc", then: hangsUp},
		exchange{name: "answer of HTTP/1.0, kept", answer: "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc"},
		exchange{name: "length of zero", answer: answerHead("200 OK", "Content-Length: 0")},
		exchange{name: "lengths, equal", answer: answerHead("200 OK", typed, "Content-Length: 3", "Content-Length: 3") + "abc"},
		exchange{name: "without a type", answer: answerHead("200 OK", "Content-Length: 2") + "ok", differs: []string{"absent type"}},
		exchange{name: "of an empty type", answer: answerHead("200 OK", "Content-Type:", "Content-Length: 2") + "ok"},
		exchange{name: "gzip, unasked", answer: answer("200 OK", inGzip("unpacked"), "Content-Encoding: gzip")},
		exchange{name: "gzip, asked", request: get("/", "Accept-Encoding: gzip"), answer: answer("200 OK", inGzip("packed"), "Content-Encoding: gzip")},
		exchange{name: "gzip, chunked", answer: chunkedAnswer("200 OK", inChunks(inGzip("unpacked")), "Content-Encoding: gzip")},
		exchange{name: "gzip, refused", request: get("/", "Accept-Encoding: identity"), answer: answer("200 OK", inGzip("packed"), "Content-Encoding: gzip")},
		exchange{name: "gzip to HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", typed, "Content-Length: 40", "Content-Encoding: gzip")},
		exchange{name: "gzip to a range", request: get("/", "Range: bytes=0-1"), answer: answer("206 Partial Content", inGzip("packed"), "Content-Encoding: gzip")},
		exchange{name: "brotli", answer: answer("200 OK", "abc", "Content-Encoding: br")},
		exchange{name: "to be closed, and one more", answer: answer("200 OK", "abc", "Connection: close"), then: hangsUp},
		exchange{name: "two answers", request: get("/1"), more: []string{get("/2")}, answers: []string{chunkedAnswer("200 OK", inChunks("first")), answer("404 Not Found", "second")}},
		exchange{name: "two answers, the first to be closed", request: get("/1", "Connection: close"), more: []string{get("/2")}},
	)
}

func statuses() (all []exchange) {
	for _, status := range []string{"200 ", "200", "200 Very Fine", "201 Created", "202 Accepted", "203 Non-Authoritative Information", "206 Partial Content", "299 Odd", "300 Multiple Choices", "301 Moved Permanently",
		"302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect", "400 Bad Request", "401 Unauthorized", "402 Payment", "403 Forbidden", "404 Not Found", "405 No",
		"406 Not Acceptable", "407 Proxy Authentication Required", "408 Request Timeout", "409 Conflict", "410 Gone", "411 Length Required", "412 Precondition Failed", "413 Content Too Large",
		"414 URI Too Long", "416 Range Not Satisfiable", "418 I'm a teapot", "421 Misdirected Request", "425 Too Early", "426 Upgrade Required", "429 Too Many Requests", "431 Too Large", "451 Laws",
		"499 Left", "500 Internal Server Error", "501 Not Implemented", "502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout", "505 HTTP Version Not Supported", "511 Login", "599 Last", "600 Beyond", "999 End"} {
		all = append(all, exchange{name: "status " + status, answer: answer(status, "text", "Location: /there", "Retry-After: 7")})
	}
	for _, status := range []string{"204 No Content", "304 Not Modified", "205 Reset Content"} {
		all = append(all,
			exchange{name: status, answer: answerHead(status), then: hangsUp},
			exchange{name: status + " with fields", answer: answerHead(status, "Etag: \"a\"", "Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT", "Cache-Control: max-age=1", typed), then: hangsUp},
			exchange{name: status + " with a length", answer: answerHead(status, "Content-Length: 0")},
			exchange{name: status + " to HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead(status, "X-A: b"), then: hangsUp},
		)
	}
	return append(all,
		exchange{name: "304 with a length of its body", answer: answerHead("304 Not Modified", "Content-Length: 9")},
		exchange{name: "204 with a body", answer: answerHead("204 No Content", "Content-Length: 2") + "ab", then: hangsUp},
	)
}

func answerFields() (all []exchange) {
	many := make([]string, 150)
	for i := range many {
		many[i] = fmt.Sprintf("X-Many-%d: %s", i%50, strings.Repeat("v", i))
	}
	for name, fields := range map[string][]string{
		"many":                    many,
		"large":                   {"X-Large: " + strings.Repeat("l", 8<<10)},
		"very large":              {"X-Large: " + strings.Repeat("l", 200<<10)},
		"cookies":                 {"Set-Cookie: a=b; Path=/", "Set-Cookie: c=d; HttpOnly", "Set-Cookie: a=b; Path=/"},
		"repeated":                {"X-A: 1", "X-B: 2", "X-A: 3"},
		"odd case":                {"x-lower: 1", "ETAG: \"e\"", "WWW-authenticate: Basic"},
		"empty":                   {"X-Empty:", "X-Blank:  "},
		"latin1":                  {"X-Latin: caf\xe9"},
		"underscore":              {"X_Under: 1"},
		"folded":                  {"X-Folded: a", "\tb", "  c"},
		"server and date":         {"Server: backend/1.0", "Date: Mon, 02 Jan 2006 15:04:05 GMT"},
		"via":                     {"Via: 1.0 inner", "Via: 1.1 other"},
		"alt-svc":                 {"Alt-Svc: h3=\":443\""},
		"vary":                    {"Vary: Accept-Encoding", "Vary: Cookie"},
		"close":                   {"Connection: close"},
		"close, and another":      {"Connection: close, X-Foo", "X-Foo: 1", "X-Bar: 2"},
		"connection named":        {"Connection: X-Foo", "Connection: x-bar", "X-Foo: 1", "X-Bar: 2", "X-Kept: 3"}, // httputil: TestReverseProxyStripHeadersPresentInConnection
		"empty connection":        {"Connection:", "X-Foo: 1"},                                                     // httputil: TestReverseProxyStripEmptyConnection
		"keep-alive":              {"Connection: keep-alive", "Keep-Alive: timeout=5, max=100"},
		"keep-alive alone":        {"Keep-Alive: timeout=5"},
		"proxy fields":            {"Proxy-Connection: close", "Proxy-Authenticate: Basic", "Proxy-Authorization: x", "Proxy-Authentication-Info: a", "Proxy-Status: inner"},
		"upgrade without":         {"Upgrade: h2c"},
		"upgrade with":            {"Connection: Upgrade", "Upgrade: h2c, websocket"}, // caddy: TestFinalizeResponse_200_StillStripsHopByHop
		"te":                      {"TE: trailers"},
		"trailer without chunks":  {"Trailer: X-T"},
		"trailer prefix":          {"Trailer:X-T: 1"},
		"location":                {"Location: http://backend.internal/x", "Content-Location: /y", "Refresh: 1"},
		"hsts, csp":               {"Strict-Transport-Security: max-age=1", "Content-Security-Policy: default-src 'self'"},
		"age, cache":              {"Age: 3", "Cache-Control: public", "Expires: 0", "Pragma: no-cache", "Warning: 110 - \"stale\""},
		"accel":                   {"X-Accel-Redirect: /file", "X-Accel-Buffering: no", "X-Sendfile: /f"},
		"grpc":                    {"Grpc-Status: 0"},
		"incremental":             {"Incremental: ?1"},
		"connection names length": {"Connection: Content-Length"},
		"connection names type":   {"Connection: Content-Type"},
		"informative":             {"X-Content-Type-Options: nosniff"},
	} {
		x := exchange{name: "answer with " + name, answer: answer("200 OK", "text", fields...)}
		if name == "connection names type" {
			x.differs = []string{"absent type"}
		}
		all = append(all, x)
	}
	return all
}

func informational() (all []exchange) {
	const ends = ok200
	for name, before := range map[string]string{ // httputil: Test1xxResponses
		"100":                 "HTTP/1.1 100 Continue\r\n\r\n",
		"102":                 "HTTP/1.1 102 Processing\r\n\r\n",
		"103":                 "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nLink: </script.js>; rel=preload\r\n\r\n",
		"103, twice":          "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\nX-More: 1\r\n\r\n",
		"103, 102, 100":       "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
		"199":                 "HTTP/1.1 199 Odd\r\nX-A: b\r\n\r\n",
		"103 of no fields":    "HTTP/1.1 103 Early Hints\r\n\r\n",
		"103 with hop-by-hop": "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=1\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\n\r\n", // caddy: TestInformationalResponseStripsHopByHopHeaders
		"103 with framing":    "HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n",
		"six of them":         strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 6),
	} {
		all = append(all, exchange{name: "informed: " + name, answer: before + ends})
	}
	return append(all,
		exchange{name: "informed: HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answerHead("200 OK", typed, "Content-Length: 2")},
		exchange{name: "informed: POST", request: sized("POST", "body"), answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ends},
		exchange{name: "informed: HTTP/1.0", request: requestHead("GET / HTTP/1.0"), answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ends},
		exchange{name: "informed: then 304", answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answerHead("304 Not Modified", "Etag: \"a\"")},
		exchange{name: "informed: Expect", request: requestHead("POST / HTTP/1.1", "Content-Length: 4", "Expect: 100-continue"), uploads: []string{"body"}, waits: true, continues: true,
			answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ends},
	)
}

// inPieces are answers each of whose pieces is sent when the client has got the one before.
func inPieces() []exchange {
	events := []string{"data: 2\n\n", "data: 3\n\n"}
	return []exchange{
		{name: "pieces in chunks", answer: chunkedAnswer("200 OK", chunk("abc")), pieces: []string{chunk("def"), chunk("g"), "0\r\n\r\n"}},
		{name: "pieces to the end", answer: answerHead("200 OK", typed) + "abc", pieces: []string{"def", "ghi"}, then: hangsUp},
		// httputil: TestReverseProxyFlushInterval, TestSelectFlushInterval
		{name: "pieces of events, sized", answer: answerHead("200 OK", "Content-Type: text/event-stream", "Content-Length: 27") + "data: 1\n\n", pieces: events},
		{name: "pieces of events, with a parameter", answer: answerHead("200 OK", "Content-Type: text/event-stream;charset=utf-8", "Content-Length: 27") + "data: 1\n\n", pieces: events},
		{name: "pieces of events, chunked", answer: answerHead("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked") + chunk("data: 1\n\n"), pieces: []string{chunk("data: 2\n\n"), "0\r\n\r\n"}},
		{name: "pieces after the head", answer: chunkedAnswer("200 OK", ""), pieces: []string{chunk("abc"), "0\r\n\r\n"}}, // httputil: TestReverseProxyFlushIntervalHeaders
		{name: "pieces and a trailer", answer: chunkedAnswer("200 OK", chunk("abc"), "Trailer: X-T"), pieces: []string{chunk("def"), "0\r\nX-T: 1\r\n\r\n"}},
	}
}
