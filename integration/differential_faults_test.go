package integration

import (
	"fmt"
	"strings"
)

// untried takes away what load_balancer does about failures.
const untried = "retry off\n breaker off\n hold off"

// faultSites have backends that fail, and clients that leave.
func faultSites() []site {
	faults := append(unanswered(), malformed()...)
	faults = append(faults, brokenBodies()...)
	refused := []exchange{{name: "GET", request: get("/")}, {name: "POST", request: sized("POST", "body")}, {name: "HEAD", request: requestHead("HEAD / HTTP/1.1")}}
	sites := []site{
		{name: "faults", ours: untried, exchanges: faults},
		{name: "faults-over-tls", ours: untried, backend: rawTLS, settings: "transport http {\n tls_insecure_skip_verify\n }", exchanges: faults},
		{name: "faults-over-transport", ours: untried, settings: overTransport, ordered: true, exchanges: faults},
		{name: "small-header", ours: untried, settings: "transport http {\n max_response_header 1KiB\n }", exchanges: []exchange{
			{name: "fits", answer: answer("200 OK", "text", "X-Large: "+strings.Repeat("l", 500))},
			{name: "too large", answer: answer("200 OK", "text", "X-Large: "+strings.Repeat("l", 9000)), then: hangsUp},
		}},
		{name: "slow-header", ours: untried, settings: "transport http {\n response_header_timeout 100ms\n }", exchanges: []exchange{
			{name: "GET", request: get("/"), answer: none, then: listens},
			{name: "POST", request: sized("POST", "body"), answer: none, then: listens},
		}},
		{name: "stopped-header", ours: untried, settings: "transport http {\n read_timeout 1s\n }", differs: []string{"header that stops"}, exchanges: []exchange{
			{name: "GET", request: get("/"), answer: "HTTP/1.1 200 OK\r\nX-A: b", then: listens},
			{name: "POST", request: sized("POST", "body"), answer: "HTTP/1.1 200 OK\r\n", then: listens},
		}},
		{name: "nobody", ours: untried, backend: nobody, exchanges: refused},
		{name: "nobody-by-default", backend: nobody, exchanges: refused[:1], differs: []string{"backends that cannot be reached"}},
		{name: "leaving", exchanges: leavers()},
		{name: "leaving-over-transport", settings: overTransport, ordered: true, exchanges: leavers()},
		// httputil: TestReverseProxyErrorHandler
		{name: "errors-of-faults", ours: untried, tail: "handle_errors {\n respond \"{err.status_code} {err.status_text}|{http.reverse_proxy.status_code}|{http.reverse_proxy.upstream.fails}|{http.reverse_proxy.retries}\"\n }",
			exchanges: unanswered()},
	}
	sites = append(sites, site{name: "fallback", ours: untried, backend: nobody, tail: "handle_errors {\n DIRECTIVE OTHER\n }", differs: []string{"order of fields"}, exchanges: append(usual()[:3:3], exchange{name: "chunks", request: chunkedRequest("PUT", inChunks("some ", "text"))})}) // caddy: TestSubrouteErrorFallbackWithBody
	sites = append(sites, site{name: "words-of-errors", ours: untried, tail: "handle_errors {\n respond \"{err.message}\"\n }", exchanges: []exchange{
		{name: "closed before the answer", answer: none, then: hangsUp, differs: []string{"words of errors"}},
	}})
	// By default some of it is tried again. Each has a pool of its own, whose breaker knows nothing yet.
	for name, x := range map[string]exchange{
		"reset":       {request: get("/"), answer: none, then: resetsIt, differs: []string{"retries"}},
		"closed":      {request: requestHead("HEAD / HTTP/1.1"), answer: none, then: hangsUp, differs: []string{"retries"}},
		"bad":         {request: requestHead("DELETE / HTTP/1.1"), answer: "nonsense\r\n\r\n", then: hangsUp, differs: []string{"retries"}},
		"put":         {request: sized("PUT", "body"), answer: none, then: hangsUp, differs: []string{"retries"}},
		"unavailable": {request: get("/"), answer: answer("503 Service Unavailable", "busy"), then: hangsUp, differs: []string{"retries"}},
		"overloaded":  {request: get("/"), answer: answer("503 Service Unavailable", "busy", "Retry-After: 3")},
		"post":        {request: sized("POST", "body"), answer: none, then: resetsIt},
		"post-503":    {request: sized("POST", "body"), answer: answer("503 Service Unavailable", "busy")},
		"500":         {request: get("/"), answer: answer("500 Internal Server Error", "oh")},
		"cut":         {request: get("/"), answer: answerHead("200 OK", typed, "Content-Length: 9") + "abc", then: hangsUp},
	} {
		x.name = name
		sites = append(sites, site{name: "by-default-" + name, exchanges: []exchange{x}})
	}
	return sites
}

// unanswered are backends that do not answer.
func unanswered() (all []exchange) {
	for _, request := range []string{get("/"), requestHead("HEAD / HTTP/1.1"), sized("POST", "body"), sized("PUT", filled(20<<10)), chunkedRequest("POST", inChunks("body")), requestHead("GET / HTTP/1.0")} {
		line, _, _ := strings.Cut(request, "\r\n")
		name := fmt.Sprintf("%s of %d bytes", line, len(request))
		all = append(all,
			exchange{name: "reset before the answer, " + name, request: request, answer: none, then: resetsIt},
			exchange{name: "closed before the answer, " + name, request: request, answer: none, then: hangsUp},
			exchange{name: "closed in the header, " + name, request: request, answer: "HTTP/1.1 200 OK\r\nX-A: b\r\n", then: hangsUp},
			exchange{name: "closed after 103, " + name, request: request, answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", then: hangsUp},
		)
	}
	return append(all,
		exchange{name: "closed after an answer, and one more", request: get("/1"), more: []string{get("/2")}, answer: answer("200 OK", "text", "Connection: close"), then: hangsUp},
	)
}

// malformed are answers that are none.
func malformed() (all []exchange) {
	for name, text := range map[string]string{
		"nothing but a line":         "\r\n",
		"nonsense":                   "nonsense\r\n\r\n",
		"another protocol":           "SSH-2.0-OpenSSH_9.0\r\n",
		"no status":                  "HTTP/1.1 OK\r\n\r\n",
		"no version":                 "200 OK\r\n\r\n",
		"version 2":                  "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"version 3.7":                "HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
		"version 0.9":                "HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
		"two digits":                 "HTTP/1.1 20 OK\r\n\r\n",
		"letters":                    "HTTP/1.1 abc OK\r\n\r\n",
		"lines without CR":           "HTTP/1.1 200 OK\nContent-Type: text/plain\nContent-Length: 2\n\nok",
		"a field without a colon":    answerHead("200 OK", "nonsense", "Content-Length: 0"),
		"a space in a name":          answerHead("200 OK", "X A: b", "Content-Length: 0"),
		"a space after a name":       answerHead("200 OK", "X-A : b", "Content-Length: 0"),
		"an empty name":              answerHead("200 OK", ": b", "Content-Length: 0"),
		"an odd name":                answerHead("200 OK", "X(A): b", "Content-Length: 0"),
		"a NUL in a value":           answerHead("200 OK", "X-A: b\x00c", "Content-Length: 0"),
		"a control in a value":       answerHead("200 OK", "X-A: b\x01c", "Content-Length: 0"),
		"a CR in a value":            answerHead("200 OK", "X-A: b\rc", "Content-Length: 0"),
		"a fold at the beginning":    answerHead("200 OK", " folded", "Content-Length: 0"),
		"two lengths":                answerHead("200 OK", typed, "Content-Length: 3", "Content-Length: 4") + "abcd",
		"a list of lengths":          answerHead("200 OK", typed, "Content-Length: 3, 3") + "abc",
		"a negative length":          answerHead("200 OK", typed, "Content-Length: -1") + "abc",
		"a length in letters":        answerHead("200 OK", typed, "Content-Length: three") + "abc",
		"a length with a plus":       answerHead("200 OK", typed, "Content-Length: +3") + "abc",
		"an empty length":            answerHead("200 OK", typed, "Content-Length:") + "abc",
		"a huge length":              answerHead("200 OK", typed, "Content-Length: 99999999999999999999") + "abc",
		"gzip and chunks":            answerHead("200 OK", typed, "Transfer-Encoding: gzip, chunked") + inChunks("abc"),
		"another coding":             answerHead("200 OK", typed, "Transfer-Encoding: identity") + "abc",
		"chunks twice":               answerHead("200 OK", typed, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + inChunks("abc"),
		"a length and chunks":        chunkedAnswer("200 OK", inChunks("abc"), "Content-Length: 3"),
		"chunks in HTTP/1.0":         "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n" + inChunks("abc"),
		"a reason with odd letters":  answerHead("200 caf\xe9 \x01", typed, "Content-Length: 0"),
		"a bad trailer":              chunkedAnswer("200 OK", "3\r\nabc\r\n0\r\nnonsense\r\n\r\n", "Trailer: X-T"),
		"a forbidden trailer":        chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1", "Content-Length: 3", "Transfer-Encoding: x"), "Trailer: Content-Length, X-T"),
		"no announcement of framing": chunkedAnswer("200 OK", withTrailers("abc", "Transfer-Encoding: x"), "Trailer: Transfer-Encoding"),
	} {
		all = append(all, exchange{name: "answer of " + name, answer: text, then: hangsUp})
	}
	for _, status := range []string{"099 Odd", "000 Odd", "+99 Odd", "1000 Odd", "-1 Odd"} {
		x := exchange{name: "answer with status " + status, answer: answer(status, "ok"), then: hangsUp}
		if !strings.HasPrefix(status, "1000") && !strings.HasPrefix(status, "-") { // which net/http refuses to read
			x.differs = []string{"status that HTTP does not have"}
		}
		all = append(all, x)
	}
	return all
}

// brokenBodies are answers whose bodies do not end as they should.
func brokenBodies() []exchange {
	return []exchange{ // caddy: TestReverseProxyResponseHandling; httputil: TestReverseProxy_CopyBuffer, TestReverseProxy_PanicBodyError
		{name: "body closed before it begins", answer: answerHead("500 Internal Server Error", typed, "Content-Length: 500"), then: hangsUp},
		{name: "body closed within", answer: answerHead("500 Internal Server Error", typed, "Content-Length: 500") + "partial", then: hangsUp},
		{name: "body closed at its end", answer: answerHead("500 Internal Server Error", typed, "Content-Length: 500") + strings.Repeat("full", 125), then: hangsUp},
		{name: "large body closed within", answer: answerHead("200 OK", typed, "Content-Length: 100000") + filled(50000), then: hangsUp},
		{name: "chunks closed before they begin", answer: chunkedAnswer("200 OK", ""), then: hangsUp},
		{name: "chunks closed between two", answer: chunkedAnswer("200 OK", chunk("abc")), received: 3, then: hangsUp},
		{name: "chunks closed within one", answer: chunkedAnswer("200 OK", "8\r\nabc"), then: hangsUp},
		{name: "chunks closed before the trailers", answer: chunkedAnswer("200 OK", "3\r\nabc\r\n0\r\n", "Trailer: X-T"), then: hangsUp},
		{name: "chunks reset", answer: chunkedAnswer("200 OK", chunk("abc")), received: 3, then: resetsIt},
		{name: "answer to the end reset", answer: answerHead("200 OK", typed) + "abc", received: 3, then: resetsIt},
		{name: "chunk of no size", answer: chunkedAnswer("200 OK", chunk("abc")), pieces: []string{"\r\nabc\r\n"}, then: hangsUp},
		{name: "chunk of an odd size", answer: chunkedAnswer("200 OK", chunk("abc")), pieces: []string{"xyz\r\nabc\r\n"}, then: hangsUp},
		{name: "chunk longer than its size", answer: chunkedAnswer("200 OK", chunk("abc")), pieces: []string{"2\r\nabc\r\n0\r\n\r\n"}, then: hangsUp},
		{name: "chunk of a huge size", answer: chunkedAnswer("200 OK", chunk("abc")), pieces: []string{"fffffffffffffffff\r\nabc\r\n"}, then: hangsUp},
		{name: "more than the length", answer: answer("200 OK", "abc") + "more"},
		{name: "more than the chunks", answer: chunkedAnswer("200 OK", inChunks("abc")) + "more"},
		{name: "another answer behind, and one more", request: get("/1"), more: []string{get("/2")}, answers: []string{ok200 + answer("404 Not Found", "unasked"), ok200}},
		{name: "a body to HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: ok200},
		{name: "a body of 304", answer: answerHead("304 Not Modified", "Content-Length: 2") + "ok"},
		{name: "gzip that is none", answer: answer("200 OK", "no gzip", "Content-Encoding: gzip"), then: hangsUp},
		{name: "gzip that ends early", answer: answer("200 OK", inGzip(filled(3000))[:60], "Content-Encoding: gzip"), then: hangsUp},
		{name: "HTTP/1.0 and a body that ends early", request: requestHead("GET / HTTP/1.0"), answer: answerHead("200 OK", typed, "Content-Length: 9") + "abc", then: hangsUp},
	}
}

// leavers are clients that go away. httputil: TestReverseProxyCancellation; caddy: TestClientDisconnectRecordsStatus
func leavers() []exchange {
	return []exchange{
		{name: "before the answer", request: get("/"), leaves: beforeAnswer},
		{name: "before the answer, POST", request: sized("POST", "body"), leaves: beforeAnswer},
		{name: "before the answer, large", request: sized("POST", filled(40<<10)), leaves: beforeAnswer},
		{name: "before the answer, chunks", request: chunkedRequest("POST", inChunks("body")), leaves: beforeAnswer},
		{name: "before the answer, HEAD", request: requestHead("HEAD / HTTP/1.1"), leaves: beforeAnswer},
		{name: "in chunks", answer: chunkedAnswer("200 OK", chunk("abc")), leaves: inAnswer},
		{name: "in a stream of events", answer: answerHead("200 OK", "Content-Type: text/event-stream") + "data: 1\n\n", leaves: inAnswer},
		{name: "in a sized answer of events", answer: answerHead("200 OK", "Content-Type: text/event-stream", "Content-Length: 100") + "data: 1\n\n", leaves: inAnswer},
	}
}
