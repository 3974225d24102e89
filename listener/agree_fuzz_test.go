package listener

import (
	"strings"
	"testing"
)

// lastRequest ends the exchange without a wait.
const lastRequest = "GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// fuzzedRequests are the beginnings of a client's part.
func fuzzedRequests() []string {
	head := func(line string, fields ...string) string {
		return line + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
	}
	get, post := head("GET /g?q=1", "Accept: */*"), head("POST /p", "Content-Length: 5")+"hello"
	chunked := head("PUT /c", "Transfer-Encoding: chunked") + "3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: u\r\n\r\n"
	all := []string{
		get, post, chunked, get + get, post + get, post + "\r\n" + get, post + "\r\n\r\n\r\n" + get, get + chunked + post, head("HEAD /h") + get,
		head("DELETE /d", "Content-Length: 0") + get, head("OPTIONS /o") + head("PATCH /x", "Content-Length: 1") + "x",
		head("POST /e", "Expect: 100-continue", "Content-Length: 3") + "abc" + get, head("GET /u", "Connection: Upgrade", "Upgrade: x"),
		head("GET /k", "Connection: keep-alive", "User-Agent: u", "Accept-Encoding: br", "Cookie: a=b", "Cookie: c=d"), head("GET /close", "Connection: close") + get,
		head("GET /r", "Range: bytes=0-1", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: b", "Forwarded: for=c", "Via: 1.0 v"),
		head("GET /i", "Idempotency-Key: k", "Authorization: Basic eA==", "Te: trailers", "X-Empty:", "X-Obs: \xff"),
		head("GET /%2e%2e/a//b/./c;d?x=%zz&y=<>"), head("GET /a_b", "X_Y: z", "X.Y: z"), head("GET /n", "Pragma: no-cache", "Cache-Control: no-store"),
		"GET / HTTP/1.0\r\nHost: a\r\n\r\n" + get, "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n" + get, "\r\n" + get, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		head("POST /s", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n" + get, head("POST /s", "Content-Length: 44") + get,
		head("GET /f", "X: a\r\n b") + get, head("GET /z", "X: a\x00b") + get, head("POST /l", "Content-Length: 5, 5") + "hello" + get, head("CONNECT a:80"),
		head("GET /long", "X-Long: "+strings.Repeat("l", 5000)) + get, head("POST /large", "Content-Length: 9000") + strings.Repeat("b", 9000) + get,
	}
	// What goes to Caddy's server and comes back.
	own, ownPost := head("GET /own"), head("POST /own", "Content-Length: 5")+"hello"
	all = append(all, own+get, own+own+post+own+get, ownPost+get+ownPost+"\r\n"+post, own+chunked+get, own+"\r\n"+get, head("HEAD /own")+get,
		head("PUT /own", "Content-Length: 9000")+strings.Repeat("o", 9000)+get, head("GET /own", "Connection: close")+get, get+own+head("GET /f", "X: a\r\n b"))
	for n := range 3 { // some that fill the buffer, to a byte
		pad := 4096 - len(head("GET /pad", "X: ")) - 1 + n
		all = append(all, head("GET /pad", "X: "+strings.Repeat("p", pad))+get)
	}
	return all
}

// methodsOf returns the methods of the requests in text, as far as they can be recognized.
func methodsOf(text string) (methods []string) {
	for line := range strings.SplitSeq(text, "\r\n") {
		if at := strings.LastIndex(line, " /"); at > 0 || strings.HasSuffix(line, " HTTP/1.1") {
			method, _, _ := strings.Cut(line, " ")
			if strings.HasSuffix(method, "HEAD") {
				method = "HEAD"
			}
			methods = append(methods, method)
		}
	}
	return methods
}

// FuzzAgree: whatever a client sends, and wherever it is cut, the backend and the client get the same with the express lane as without.
func FuzzAgree(f *testing.F) {
	for i, text := range fuzzedRequests() {
		f.Add([]byte(text), []byte{}, true)
		f.Add([]byte(text), []byte{byte(i), 0, 1, 60, byte(3 * i)}, i%3 > 0)
	}
	all := startTwins(f)
	f.Fuzz(func(t *testing.T, requests, lengths []byte, ends bool) {
		if len(requests) > 12<<10 {
			return
		}
		text := string(requests)
		if ends {
			text += lastRequest
		}
		all.compare(t, cut(text, lengths), nil, methodsOf(text))
	})
}

// TestAgreeAtEachByte cuts requests, and answers, at each byte; in one case the bytes before the cut are all that arrives.
func TestAgreeAtEachByte(t *testing.T) {
	all := startTwins(t)
	for _, path := range []string{"/p", "/own"} {
		text := "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\nGET /g HTTP/1.1\r\nHost: a\r\n\r\n" + lastRequest
		for at := 1; at < len(text); at++ {
			all.compare(t, []string{text[:at], text[at:]}, nil, nil)
		}
	}
	request := []string{lastRequest}
	for _, answer := range fuzzedAnswers() {
		const each = 100 // cuts of an answer; of those that are longer, some
		for at := 1; at < len(answer); at += 1 + len(answer)/each {
			all.compare(t, request, []string{answer[:at], answer[at:]}, nil)
			all.compare(t, request, []string{answer[:at]}, nil)
		}
	}
}

// fuzzedAnswers are those of backends.
func fuzzedAnswers() []string {
	head := func(status string, fields ...string) string {
		return "HTTP/1.1 " + status + "\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
	}
	const date = "Date: Mon, 02 Jan 2006 15:04:05 GMT"
	return []string{
		head("200 OK", date, "Content-Length: 5") + "hello",
		head("200 OK", "Transfer-Encoding: chunked") + "3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
		head("200 OK", "Transfer-Encoding: chunked", "Trailer: A, B") + "3\r\nabc\r\n0\r\nB: 2\r\nA: 1\r\nC: 3\r\n\r\n",
		head("200 OK", "Content-Type: text/plain") + "until close",
		head("204 No Content", date), head("304 Not Modified", "Content-Length: 5", "Etag: \"a\""), head("205 Reset Content", "Content-Length: 0"),
		head("100 Continue") + head("103 Early Hints", "Link: </a>") + head("200 OK", "Content-Length: 2") + "ok",
		head("404 Gone Elsewhere", "Content-Length: 0", "Connection: close"), head("299 Odd", "Content-Length: 1") + "x", head("999 Odd", "Content-Length: 1") + "x",
		head("200 OK", "Connection: X-A, Keep-Alive", "X-A: b", "Keep-Alive: timeout=5", "Content-Length: 1") + "x",
		head("200 OK", "Content-Length: 1", "Content-Length: 1") + "x", head("200 OK", "Content-Length: 1", "Content-Length: 2") + "xy",
		head("200 OK", "Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n", head("101 Switching Protocols", "Upgrade: x", "Connection: Upgrade"),
		head("200 OK", "Content-Length: 3", "Set-Cookie: a=b", "Set-Cookie: c=d", "X-Fold: a\r\n b", "Alt-Svc: clear", "Server: s", "Via: 1.0 v") + "abcd",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "garbage\r\n\r\n",
		head("200 OK", "Content-Encoding: gzip", "Content-Length: 3") + "\x1f\x8b\x08", head("200 OK", "Pragma: no-cache", "Content-Length: 0"),
		head("200 OK", "X-Long: "+strings.Repeat("l", 70000), "Transfer-Encoding: chunked") + "18000\r\n" + strings.Repeat("0123456789ab", 8192) + "\r\n0\r\n\r\n",
		head("200 OK", "Content-Length: 40000") + strings.Repeat("l", 40000), head("200 OK", "X-Long: "+strings.Repeat("l", 40000), "Content-Length: 2") + "ok",
	}
}

// FuzzAgreeAnswers: the same for what a backend answers, if the connection is closed then.
func FuzzAgreeAnswers(f *testing.F) {
	requests := []string{
		"GET /g HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n", "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
		"GET /z HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n",
	}
	for i, text := range fuzzedAnswers() {
		f.Add([]byte(text), []byte{}, byte(i))
		f.Add([]byte(text), []byte{byte(i), 0, 60}, byte(0))
	}
	all := startTwins(f)
	f.Fuzz(func(t *testing.T, answer, lengths []byte, which byte) {
		if len(answer) > 256<<10 || len(answer) == 0 {
			return
		}
		request := requests[int(which)%len(requests)]
		methods := methodsOf(request)
		if !strings.Contains(request, "close") {
			request += "GET /own HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
			methods = append(methods, "GET")
		}
		all.compare(t, []string{request}, cut(string(answer), lengths), methods)
	})
}
