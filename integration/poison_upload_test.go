package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// picky is a backend that reads as much of an upload as the request says, and remembers what it saw. It speaks to the wire, because
// net/http's server reads the rest of a body by itself.
type picky struct {
	address string

	mu       sync.Mutex          // guards the fields below
	seen     map[string][]string // by the field Id: how each request ended
	smuggled []string            // requests that no client has made
}

func startPicky(t *testing.T, secure *tls.Config) *picky {
	t.Helper()
	p := &picky{seen: map[string][]string{}}
	p.address = startRaw(t, func(plain *net.TCPConn) {
		_ = plain.SetDeadline(time.Now().Add(patience))
		conn := net.Conn(plain)
		if secure != nil {
			conn = tls.Server(plain, secure)
			defer conn.Close()
		}
		br := bufio.NewReader(conn)
		for p.answer(conn, br) {
		}
	})
	return p
}

// answer reads and answers a request, and reports whether the connection goes on.
func (p *picky) answer(conn net.Conn, br *bufio.Reader) bool {
	r, err := http.ReadRequest(br)
	if err != nil {
		return false
	}
	id, do := r.Header.Get("Id"), r.Header.Get("Do")
	if id == "" || r.URL.Path == "/smuggled" {
		p.mu.Lock()
		p.smuggled = append(p.smuggled, r.Method+" "+r.URL.String())
		p.mu.Unlock()
		return false
	}
	say := func(status, body, more string) {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), more, body)
	}
	if do == "early" || do == "early, closed" {
		more := ""
		if do == "early, closed" {
			more = "Connection: close\r\n"
		}
		say("413 Content Too Large", "too large", more)
		if do == "early, closed" {
			p.note(id, "unread")
			return false
		}
	}
	if do == "middle" {
		_, _ = io.CopyN(io.Discard, r.Body, 100_000)
		p.note(id, "unread")
		return false
	}
	n, err := discard(r.Body)
	if err != nil {
		p.note(id, "incomplete")
		return false
	}
	p.note(id, "complete")
	if do != "early" {
		say("200 OK", fmt.Sprintf("%s %d %q", id, n, r.Trailer.Get("X-Trailer")), "")
	}
	return true
}

func (p *picky) note(id, how string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[id] = append(p.seen[id], how)
}

// pickyUpload is what a client sends.
type pickyUpload struct {
	http2   bool
	chunked bool // with trailers
	expects bool // asks whether to go on, and does not wait for it
	broken  bool // ends in the middle
	do      string
}

func (u pickyUpload) String() string {
	text := "HTTP/1.1"
	if u.http2 {
		text = "HTTP/2"
	}
	for word, is := range map[string]bool{", chunked": u.chunked, ", expects": u.expects, ", broken off": u.broken} {
		if is {
			text += word
		}
	}
	return text + ", backend: " + u.do
}

// smuggling is a body of requests.
func smuggling(size int) string {
	const request = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	return strings.Repeat(request, size/len(request))
}

const pickySize = 1 << 20

// send makes the upload, and another request over the same connection. It returns the answers: "none" where there is none.
func (u pickyUpload) send(site, path, id string) (first, next string) {
	if u.http2 {
		return u.sendHTTP2(site, path, id)
	}
	conn, err := net.Dial("tcp", site)
	if err != nil {
		return "none", "none"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	body := smuggling(pickySize)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nId: %s\r\nDo: %s\r\n", path, site, id, u.do)
	if u.expects {
		head += "Expect: 100-continue\r\n"
	}
	end := ""
	if u.chunked {
		head += "Transfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n"
		body, end = strings.TrimSuffix(inChunks(body[:len(body)/2], body[len(body)/2:]), "\r\n"), "X-Trailer: t\r\n\r\n"
	} else {
		head += fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
	}
	written := make(chan error, 1)
	go func() {
		if u.broken {
			_, err := io.WriteString(conn, head+body[:len(body)/2])
			_ = conn.(*net.TCPConn).CloseWrite()
			written <- err
			return
		}
		_, err := io.WriteString(conn, head+body+end)
		written <- err
	}()
	br := bufio.NewReader(conn)
	if first = readAnswer(br); u.broken || first == "none" || <-written != nil {
		return first, "none"
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nId: next-%s\r\n\r\n", path, site, id); err != nil {
		return first, "none"
	}
	return first, readAnswer(br)
}

// readAnswer reads an answer that is not informational.
func readAnswer(br *bufio.Reader) string {
	for { // bound: the connection's deadline
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return "none"
		}
		if res.StatusCode >= http.StatusOK {
			return textOf(res)
		}
	}
}

func textOf(res *http.Response) string {
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Sprint(res.StatusCode, " broken")
	}
	return fmt.Sprint(res.StatusCode, " ", string(text))
}

func (u pickyUpload) sendHTTP2(site, path, id string) (first, next string) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ask := func(method string, body io.Reader, id string) string {
		r, err := http.NewRequestWithContext(ctx, method, "http://"+site+path, body)
		if err != nil {
			return err.Error()
		}
		r.Header.Set("Id", id)
		if body != nil {
			r.Header.Set("Do", u.do)
			if r.ContentLength = int64(len(smuggling(pickySize))); u.chunked {
				r.ContentLength, r.Trailer = -1, http.Header{"X-Trailer": {"t"}}
			}
			if u.expects {
				r.Header.Set("Expect", "100-continue")
			}
		}
		res, err := transport.RoundTrip(r)
		if err != nil {
			return "none"
		}
		return textOf(res)
	}
	body := io.Reader(strings.NewReader(smuggling(pickySize)))
	if u.broken {
		body = io.MultiReader(io.LimitReader(body, pickySize/2), iotest.ErrReader(errors.New("left")))
	}
	return ask(http.MethodPost, io.NopCloser(body), id), ask(http.MethodGet, nil, "next-"+id)
}

// TestUploadsAreWhole: a backend sees the whole of an upload or sees that it is not whole, and never takes a part of it for a request,
// whoever stops in the middle. The client's connection either serves its next request or is closed.
func TestUploadsAreWhole(t *testing.T) {
	certificate, key := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	const overTLS = "transport http {\n tls_insecure_skip_verify\n }"
	ways := []struct {
		name, directive, settings string
		secure                    *tls.Config
		backend                   *picky
	}{
		{name: "stock", directive: "reverse_proxy"},
		{name: "plain", directive: "load_balancer", settings: "breaker off"},
		{name: "repeated", directive: "load_balancer", settings: "breaker off\n retry {\n non_idempotent\n body_limit 2MiB\n }"},
		{name: "secure", directive: "load_balancer", settings: "breaker off\n" + overTLS, secure: &tls.Config{Certificates: []tls.Certificate{pair}}},
	}
	var site strings.Builder
	for i := range ways {
		w := &ways[i]
		w.backend = startPicky(t, w.secure)
		to := w.backend.address
		if w.secure != nil {
			to = "https://" + to
		}
		fmt.Fprintf(&site, "handle /%s {\n %s %s {\n %s\n }\n}\n", w.name, w.directive, to, w.settings)
	}
	c := startCaddy(t, site.String())
	var uploads []pickyUpload
	for _, do := range []string{"read", "early", "early, closed", "middle"} {
		for n := range 16 {
			uploads = append(uploads, pickyUpload{http2: n&1 != 0, chunked: n&2 != 0, expects: n&4 != 0, broken: n&8 != 0, do: do})
		}
	}
	outcomes := make([][]string, len(ways))
	var wg sync.WaitGroup
	for at := range ways {
		outcomes[at] = make([]string, len(uploads))
		room := make(chan struct{}, 20) // connections linger for half a second after such answers
		for n, u := range uploads {
			wg.Go(func() {
				room <- struct{}{}
				defer func() { <-room }()
				id := fmt.Sprintf("%s-%d", ways[at].name, n)
				first, next := u.send(c.site, "/"+ways[at].name, id)
				outcomes[at][n] = strings.ReplaceAll(first, id, "ID")
				if next != "none" && next != "200 next-"+id+` 0 ""` {
					if at == 0 {
						t.Logf("%s, %v: the next request gets %q", ways[at].name, u, next)
						return
					}
					t.Errorf("%s, %v: the next request gets %q", ways[at].name, u, next)
				}
				if next == "none" && u.http2 {
					t.Errorf("%s, %v: the next request gets nothing", ways[at].name, u)
				}
			})
		}
	}
	wg.Wait()
	for at, w := range ways {
		w.backend.mu.Lock()
		for n, u := range uploads {
			seen := w.backend.seen[fmt.Sprintf("%s-%d", w.name, n)]
			got := outcomes[at][n]
			for _, how := range seen {
				if how == "complete" && u.broken {
					t.Errorf("%s, %v: the backend takes it for complete", w.name, u)
				}
			}
			trailer := ""
			if u.chunked {
				trailer = "t"
			}
			var want string
			switch {
			case u.broken && u.http2:
				continue // it may leave before there is an answer
			case u.broken && u.do == "read":
				want = "400 " // see docs/differences.md
			case u.broken, u.do == "early, closed":
				continue // the answer and the end of the body race
			case u.do == "read":
				want = fmt.Sprintf("200 ID %d %q", len(smuggling(pickySize)), trailer)
			case u.do == "early":
				want = "413 too large"
			default:
				want = "502 "
			}
			if at > 0 && got != want {
				t.Errorf("%s, %v: the client gets %q, want %q; the backend saw %v", w.name, u, got, want, seen)
			} else if got != want {
				t.Logf("%s, %v: the client gets %q", w.name, u, got)
			}
		}
		if len(w.backend.smuggled) > 0 {
			report := t.Errorf
			if at == 0 {
				report = t.Logf
			}
			report("%s: the backend saw requests that nobody made: %.300q", w.name, w.backend.smuggled)
		}
		w.backend.mu.Unlock()
	}
}
