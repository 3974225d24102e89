package lane

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestBodies: a body is passed on whole, wherever it is cut, and the request behind it is one.
func TestBodies(t *testing.T) {
	s := start(t, "", Options{}, func(b *backend) {
		for {
			r, err := http.ReadRequest(b.Reader)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			b.send(answerOf(string(body)))
		}
	})
	for _, size := range []int{1, 300, readSize, 3 * readSize} {
		body := strings.Repeat("0123456789", size)[:size]
		text := post("/", size) + body + post("/", 4) + "last"
		for cut := 1; cut < len(text); cut += 1 + len(text)/60 {
			c := s.dial()
			c.send(text[:cut])
			c.send(text[cut:])
			c.expect(body)
			c.expect("last")
			c.Close()
		}
	}
}

// early has a backend that answers before it reads bodies, and then reads them if it is asked to.
func early(t *testing.T, reads bool) *served {
	t.Helper()
	return start(t, "", Options{}, func(b *backend) {
		head := b.head()
		if head == "" {
			return
		}
		if strings.HasPrefix(head, "GET ") {
			b.send(answerOf("next"))
			return
		}
		b.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
		if reads {
			_, _ = io.Copy(io.Discard, b)
		}
	})
}

// hidden is a request that would be answered if a body's bytes were taken for one.
const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"

// TestEarlyAnswer: if a request is answered before its body has come, no part of the body is taken for a request: it is read first if it is
// short, and the connection is closed if it is long.
func TestEarlyAnswer(t *testing.T) {
	for _, reads := range []bool{true, false} {
		s := early(t, reads)
		for _, size := range []int{100, 5000, maxRest - 100, 2 * maxRest} {
			body := strings.Repeat(hidden, 1+size/len(hidden))[:size]
			c := s.dial()
			c.send(post("/", size) + body[:50])
			go func() { _, _ = io.WriteString(c, body[50:]+get("/next")) }()
			res, text := c.receive(http.MethodPost)
			if res.StatusCode != http.StatusRequestEntityTooLarge || text != "no" {
				t.Errorf("%d bytes: got %d %q", size, res.StatusCode, text)
			}
			if res.Close {
				if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
					t.Errorf("%d bytes: after the last answer came %q", size, rest)
				}
			} else { // all of the body was read, on its way to the backend at least
				c.expect("next")
			}
			c.Close()
		}
	}
}

// TestEarlyAnswerLate: the rest of a body that does not come in time is not taken for a request when it comes after all.
func TestEarlyAnswerLate(t *testing.T) {
	s := early(t, false)
	s.site.Server.ReadIdleTimeout = caddy.Duration(100 * time.Millisecond)
	c := s.dial()
	c.send(post("/", len("begin"+hidden)) + "begin")
	if res, text := c.receive(http.MethodPost); !res.Close || text != "no" {
		t.Errorf("got %d %q, header %v", res.StatusCode, text, res.Header)
	}
	_, _ = io.WriteString(c, hidden)
	c.expectEnd()
}

// TestEarlyAnswerAwaited: a client that waits for the answer before it sends its body gets it if its connection is not kept anyway.
func TestEarlyAnswerAwaited(t *testing.T) {
	s := early(t, true)
	for name, text := range map[string]string{
		"close": "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100\r\n\r\nbegin",
		"drain": post("/", 100) + "begin",
	} {
		s.draining.Store(name == "drain")
		c := s.dial()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		c.send(text)
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if res.StatusCode != http.StatusRequestEntityTooLarge || !res.Close {
			t.Errorf("%s: got %d, header %v", name, res.StatusCode, res.Header)
		}
		if rest, err := io.ReadAll(c.r); err != nil || string(rest) != "no" {
			t.Errorf("%s: got %q, %v, want the body and the end", name, rest, err)
		}
		c.Close()
	}
}

// TestBrokenBody: a client that stops in its body gets no answer of the backend, and the backend no whole request.
func TestBrokenBody(t *testing.T) {
	whole := make(chan string, 1)
	s := start(t, "", Options{}, func(b *backend) {
		r, err := http.ReadRequest(b.Reader)
		if err != nil {
			return
		}
		if body, err := io.ReadAll(r.Body); err == nil {
			whole <- string(body)
		}
	})
	for _, size := range []int{10, 10000} {
		for _, sent := range []int{0, 1, size / 2, size - 1} {
			c := s.dial()
			c.send(post("/", size) + strings.Repeat("b", sent))
			_ = c.CloseWrite()
			if got, err := io.ReadAll(c.r); err != nil || strings.Contains(string(got), "200 OK") {
				t.Errorf("%d of %d: got %q, %v", sent, size, got, err)
			}
			<-s.ended
			c.Close()
		}
	}
	select {
	case body := <-whole:
		t.Errorf("the backend got %q", body)
	default:
	}
}

// TestTimeouts: connections on which nothing comes are closed.
func TestTimeouts(t *testing.T) {
	const timeout, long = 100 * time.Millisecond, time.Minute
	for name, c := range map[string]struct {
		options Options
		idle    time.Duration // within a body
		before  string        // that is answered
		sent    string
	}{
		"idle":          {Options{Idle: timeout, ReadHeader: long}, long, get("/"), ""},
		"never asked":   {Options{Idle: long, ReadHeader: timeout}, long, "", ""},
		"head":          {Options{Idle: long, ReadHeader: timeout}, long, "", get("/")[:10]},
		"second head":   {Options{Idle: long, ReadHeader: timeout}, long, get("/"), get("/")[:10]},
		"body":          {Options{Idle: long, ReadHeader: long}, timeout, "", post("/", 10) + "b"},
		"body of large": {Options{Idle: long, ReadHeader: long}, timeout, get("/"), post("/", 10000) + "b"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "", c.options, func(b *backend) {
				for r, err := http.ReadRequest(b.Reader); err == nil; r, err = http.ReadRequest(b.Reader) {
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						b.send(answerOf(r.URL.Path))
					}
				}
			})
			s.site.Server.ReadIdleTimeout = caddy.Duration(c.idle)
			client := s.dial()
			if c.before != "" {
				client.send(c.before)
				client.expect("/")
			}
			client.send(c.sent)
			begun := time.Now()
			if got, err := io.ReadAll(client.r); err != nil || strings.Contains(string(got), "200 OK") {
				t.Errorf("got %q, %v", got, err)
			}
			if took := time.Since(begun); took < timeout/2 || took > timeout+2*time.Second {
				t.Errorf("it took %v", took)
			}
			<-s.ended
		})
	}
	// What comes bit by bit within the timeouts is served.
	s := start(t, "", Options{Idle: long, ReadHeader: long}, paths)
	c := s.dial()
	for _, b := range get("/slow") {
		c.send(string(b))
	}
	c.expect("/slow")
}
