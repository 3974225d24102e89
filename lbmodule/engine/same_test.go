//go:build unix

package engine

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The client must do the same as net/http's transport: the tests here compare both.

// seen is the result of a request: all that a proxy passes on.
func seen(t testing.TB, rt http.RoundTripper, method string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := rt.RoundTrip(request(ctx, method, "http://backend/"))
	if err != nil {
		return "error"
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return fmt.Sprintf("%s %d %q length %d unpacked %v trailer %v body %q broken %v",
		res.Proto, res.StatusCode, res.Header, res.ContentLength, res.Uncompressed, res.Trailer, body, err != nil)
}

// both returns the results of a request with the client and with net/http's transport, when a backend answers with these bytes and closes
// the connection.
func both(t testing.TB, method, answer string) (ours, theirs string) {
	t.Helper()
	b := newBackend(t, func(_ int, p *peer) {
		p.head()
		p.say(answer)
	})
	defer b.close()
	c := &Client{DialContext: b.dial}
	defer c.CloseIdleConnections()
	stock := &http.Transport{DialContext: b.dial}
	defer stock.CloseIdleConnections()
	return seen(t, c, method), seen(t, stock, method)
}

var packed = func() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, strings.Repeat("packed ", 100))
	w.Close()
	return b.String()
}()

var answers = []string{
	okay,
	"HTTP/1.1 200 OK\r\n\r\nuntil the end",
	"HTTP/1.0 200 OK\r\n\r\nuntil the end",
	"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nlonger",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
	"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nETag: \"a\"\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + okay,
	"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 20 Odd\r\n\r\n",
	"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
	"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX Y: a\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + fmt.Sprint(len(packed)) + "\r\n\r\n" + packed,
	"HTTP/1.1 200 OK\r\nContent-Encoding: GZIP\r\n\r\n" + packed,
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed[:len(packed)-9],
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot packed",
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nok",
	"",
	"\r\n",
	"garbage",
	"garbage\r\n\r\n",
	"SSH-2.0-OpenSSH\r\n",
	"HTTP/1.1 200 OK\r\n",
	"HTTP/1.1 200 OK\r\nX: y",
}

func TestAnswersAreThoseOfTheTransport(t *testing.T) {
	for _, answer := range answers {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
			if ours, theirs := both(t, method, answer); ours != theirs {
				t.Errorf("%s, %q:\n%s\nnet/http:\n%s", method, answer, ours, theirs)
			}
		}
	}
}

func FuzzAnswersAreThoseOfTheTransport(f *testing.F) {
	for _, answer := range answers {
		f.Add(answer)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		if strings.Contains(answer, " 101") {
			return // no other protocol was requested; the transport lets it through
		}
		if ours, theirs := both(t, http.MethodGet, answer); ours != theirs {
			t.Errorf("%q:\n%s\nnet/http:\n%s", answer, ours, theirs)
		}
	})
}

func setBody(r *http.Request, method, body string) {
	r.Method, r.ContentLength, r.Body = method, int64(len(body)), io.NopCloser(strings.NewReader(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
}

// sent is what a backend is sent for that request: the lines of the header in order, and the body.
func sent(t testing.TB, rt func(b *backend) http.RoundTripper, r *http.Request) []string {
	t.Helper()
	lines := make(chan []string, 1)
	b := newBackend(t, func(_ int, p *peer) {
		head := p.head()
		parsed, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(strings.Join(head, "\r\n")+"\r\n\r\n"), p.br)))
		if err != nil {
			t.Error(err)
		}
		body, err := io.ReadAll(parsed.Body)
		if err != nil {
			t.Error(err)
		}
		slices.Sort(head[1:])
		lines <- append(head, string(body), fmt.Sprint(parsed.ContentLength, parsed.Trailer))
		p.say(okay)
	})
	res, err := rt(b).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return <-lines
}

// setChunks gives a request a body of unknown length.
func setChunks(r *http.Request, method, body string) {
	setBody(r, method, body)
	r.ContentLength = -1
}

func TestRequestsAreThoseOfTheTransport(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"plain":                 func(*http.Request) {},
		"user agent":            func(r *http.Request) { r.Header.Set("User-Agent", " curl/8 ") },
		"own host":              func(r *http.Request) { r.Host = "example.com:8080" },
		"host of IPv6":          func(r *http.Request) { r.Host = "[::1]:80" },
		"several values":        func(r *http.Request) { r.Header["X"] = []string{"a", "b", " c\t"} },
		"not canonical":         func(r *http.Request) { r.Header["x-odd"] = []string{"a"} },
		"empty value":           func(r *http.Request) { r.Header["X"] = []string{""} },
		"WebSocket casing":      func(r *http.Request) { r.Header["Sec-WebSocket-Key"] = []string{"x"} },
		"accepts":               func(r *http.Request) { r.Header.Set("Accept-Encoding", "br") },
		"accepts the empty":     func(r *http.Request) { r.Header["Accept-Encoding"] = []string{""} },
		"range":                 func(r *http.Request) { r.Header.Set("Range", "bytes=0-1") },
		"te":                    func(r *http.Request) { r.Header.Set("Te", "trailers") },
		"query":                 func(r *http.Request) { r.URL.RawQuery = "a=b&c=%20;d" },
		"empty query":           func(r *http.Request) { r.URL.ForceQuery = true },
		"path to escape":        func(r *http.Request) { r.URL.Path = "/a b/ü\x01\n" },
		"escaped path":          func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/a/b c", "/a%2Fb%20c" },
		"path of two slashes":   func(r *http.Request) { r.URL.Path = "//other/x" },
		"no path":               func(r *http.Request) { r.URL.Path = "" },
		"path without a slash":  func(r *http.Request) { r.URL.Path = "*" },
		"fragment":              func(r *http.Request) { r.URL.Fragment = "x" },
		"options":               func(r *http.Request) { r.Method = http.MethodOptions },
		"head":                  func(r *http.Request) { r.Method = http.MethodHead },
		"agent without a value": func(r *http.Request) { r.Header["User-Agent"] = nil },
		"several agents":        func(r *http.Request) { r.Header["User-Agent"] = []string{"a", "b"} },
		"body":                  func(r *http.Request) { setBody(r, http.MethodPost, "hello") },
		"body of a GET":         func(r *http.Request) { setBody(r, http.MethodGet, "hello") },
		"body of a DELETE":      func(r *http.Request) { setBody(r, http.MethodDelete, "hello") },
		"body of a HEAD":        func(r *http.Request) { setBody(r, http.MethodHead, "hello") },
		"body of OPTIONS":       func(r *http.Request) { setBody(r, http.MethodOptions, "hello") },
		"longest body":          func(r *http.Request) { setBody(r, http.MethodPut, strings.Repeat("x", MaxBody)) },
		"64 KiB":                func(r *http.Request) { setBody(r, http.MethodPut, strings.Repeat("x", maxWhole)) },
		"1 MiB":                 func(r *http.Request) { setBody(r, http.MethodPut, strings.Repeat("x", 1<<20)) },
		"chunks":                func(r *http.Request) { setChunks(r, http.MethodPost, "hello") },
		"1 MiB of chunks":       func(r *http.Request) { setChunks(r, http.MethodPost, strings.Repeat("x", 1<<20)) },
		"no chunks":             func(r *http.Request) { setChunks(r, http.MethodPost, "") },
		"chunks of a GET":       func(r *http.Request) { setChunks(r, http.MethodGet, "hello") },
		"chunks of a HEAD":      func(r *http.Request) { setChunks(r, http.MethodHead, "hello") },
		"no chunks of a GET":    func(r *http.Request) { setChunks(r, http.MethodGet, "") },
		"no chunks of a DELETE": func(r *http.Request) { setChunks(r, http.MethodDelete, "") },
		"no chunks of a REPORT": func(r *http.Request) { setChunks(r, "REPORT", "") },
		"no chunks of PROPFIND": func(r *http.Request) { setChunks(r, "PROPFIND", "") },
		"coding of a GET":       func(r *http.Request) { setBody(r, http.MethodGet, ""); r.TransferEncoding = []string{"chunked"} },
		"coding and length":     func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.TransferEncoding = []string{"chunked"} },
		"coding without a body": func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
		"body without a length": func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.ContentLength = 0 },
		"none without a length": func(r *http.Request) { setBody(r, http.MethodGet, "") },
		"trailer": func(r *http.Request) {
			setChunks(r, http.MethodPost, "hello")
			r.Trailer = http.Header{"X-Sum": {"a", " b"}, "A": {"c"}}
		},
		"long trailer": func(r *http.Request) {
			setChunks(r, http.MethodPost, "hello")
			r.Trailer = http.Header{"X": {strings.Repeat("x", 3000)}}
		},
		"trailer, not canonical": func(r *http.Request) { setChunks(r, http.MethodPost, "hello"); r.Trailer = http.Header{"x-sum": {"a"}} },
		"trailer of nothing":     func(r *http.Request) { setChunks(r, http.MethodPost, ""); r.Trailer = http.Header{"X-Sum": {"a"}} },
		"trailer of a GET":       func(r *http.Request) { setChunks(r, http.MethodGet, ""); r.Trailer = http.Header{"X-Sum": {"a"}} },
		"trailer and a length":   func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Trailer = http.Header{"X-Sum": {"a"}} },
		"empty trailer":          func(r *http.Request) { setChunks(r, http.MethodPost, "hello"); r.Trailer = http.Header{} },
		"trailer header":         func(r *http.Request) { r.Header.Set("Trailer", "X") },
		"coding header":          func(r *http.Request) { r.Header.Set("Transfer-Encoding", "chunked") },
		"host header":            func(r *http.Request) { r.Header.Set("Host", "other") },
		"expect":                 func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Header.Set("Expect", "100-continue") },
		"expect nothing":         func(r *http.Request) { r.Header.Set("Expect", "100-continue") },
		"expect otherwise":       func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Header.Set("Expect", "200-maybe") },
		"expect, chunks":         func(r *http.Request) { setChunks(r, http.MethodPost, "hello"); r.Header.Set("Expect", "100-Continue") },
		"incremental":            func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Header.Set("Incremental", "?1") },
		"long header": func(r *http.Request) {
			setBody(r, http.MethodPost, "hello")
			r.Header.Set("X", strings.Repeat("x", 1<<17))
		},
		"method":                 func(r *http.Request) { setBody(r, "X-CUSTOM!", "hello") },
		"trace":                  func(r *http.Request) { r.Method = http.MethodTrace },
		"empty POST":             func(r *http.Request) { r.Method = http.MethodPost },
		"empty PUT":              func(r *http.Request) { r.Method = http.MethodPut },
		"empty PATCH":            func(r *http.Request) { r.Method = http.MethodPatch },
		"empty DELETE":           func(r *http.Request) { r.Method = http.MethodDelete },
		"length in the header":   func(r *http.Request) { r.Header.Set("Content-Length", "3") },
		"other length there":     func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Header.Set("Content-Length", "3") },
		"header of an old proxy": func(r *http.Request) { r.Header.Set("Keep-Alive", "x"); r.Header.Set("Via", "1.1 Caddy") },
	} {
		request := func() *http.Request {
			r := request(t.Context(), http.MethodGet, "http://backend/x")
			change(r)
			return r
		}
		if !new(Client).Takes(request()) {
			t.Errorf("%s: not taken", name)
			continue
		}
		ours := sent(t, func(b *backend) http.RoundTripper { return b.client() }, request())
		theirs := sent(t, func(b *backend) http.RoundTripper {
			stock := &http.Transport{DialContext: b.dial}
			t.Cleanup(stock.CloseIdleConnections)
			return stock
		}, request())
		if !slices.Equal(ours, theirs) {
			t.Errorf("%s:\n%q\nnet/http:\n%q", name, ours, theirs)
		}
	}
}

func TestWhatIsNotTaken(t *testing.T) {
	reasons := map[string]Reason{
		"method": ReasonConnect, "no method": ReasonMethod, "no body": ReasonBody, "close": ReasonClose, "other scheme": ReasonURL, "foreign backend": ReasonURL, "opaque": ReasonURL,
		"foreign host": ReasonHost, "upgrade": ReasonUpgrade, "extended connect": ReasonHeader, "value with zero": ReasonHeader,
	}
	for name, change := range map[string]func(r *http.Request){
		"method":    func(r *http.Request) { r.Method = http.MethodConnect },
		"no method": func(r *http.Request) { r.Method = "" },
		"no body":   func(r *http.Request) { r.ContentLength = 1 },
		"coding": func(r *http.Request) {
			setBody(r, http.MethodPost, "x")
			r.TransferEncoding = []string{"gzip", "chunked"}
		},
		"coding of nothing": func(r *http.Request) { r.Body, r.TransferEncoding = http.NoBody, []string{"chunked"} },
		"trailer": func(r *http.Request) {
			setBody(r, http.MethodPost, "x")
			r.Trailer = http.Header{"Content-Length": nil}
		},
		"name of a trailer": func(r *http.Request) { setBody(r, http.MethodPost, "x"); r.Trailer = http.Header{"X Y": nil} },
		"close":             func(r *http.Request) { r.Close = true },
		"other scheme":      func(r *http.Request) { r.URL.Scheme = "ftp" },
		"foreign backend":   func(r *http.Request) { r.URL.Scheme, r.URL.Host = "https", "bücher.example" },
		"no scheme":         func(r *http.Request) { r.URL.Scheme = "" },
		"opaque":            func(r *http.Request) { r.URL.Opaque = "x" },
		"no backend":        func(r *http.Request) { r.URL.Host = "" },
		"credentials":       func(r *http.Request) { r.URL.User = nil; r.URL.RawQuery = "a b" },
		"query with lines":  func(r *http.Request) { r.URL.RawQuery = "a\r\nX: y" },
		"no host":           func(r *http.Request) { r.Host = "" },
		"host with lines":   func(r *http.Request) { r.Host = "a\r\nX: y" },
		"host with a zone":  func(r *http.Request) { r.Host = "[fe80::1%25eth0]" },
		"foreign host":      func(r *http.Request) { r.Host = "bücher.example" },
		"upgrade":           func(r *http.Request) { r.Header.Set("Connection", "Upgrade"); r.Header.Set("Upgrade", "websocket") },
		"own connection":    func(r *http.Request) { r.Header.Set("Connection", "close") },
		"extended connect":  func(r *http.Request) { r.Header[":protocol"] = []string{"websocket"} },
		"no user agent":     func(r *http.Request) { r.Header.Del("User-Agent") },
		"name with spaces":  func(r *http.Request) { r.Header["X Y"] = []string{"a"} },
		"name with lines":   func(r *http.Request) { r.Header["X\r\nY"] = []string{"a"} },
		"value with lines":  func(r *http.Request) { r.Header["X"] = []string{"a\r\nY: b"} },
		"value with zero":   func(r *http.Request) { r.Header["X"] = []string{"a\x00"} },
	} {
		r := request(t.Context(), http.MethodGet, "http://backend/x")
		change(r)
		if reason := new(Client).Refuses(r); reason == "" || new(Client).Takes(r) {
			t.Errorf("%s: taken", name)
		} else if want, ok := reasons[name]; ok && reason != want {
			t.Errorf("%s: refused for its %s, want %s", name, reason, want)
		}
	}
}
