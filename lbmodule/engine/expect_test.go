//go:build unix

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What a backend says to "Expect: 100-continue" decides on the body as in net/http's transport.
func TestExpectContinue(t *testing.T) {
	const expect, refused = 300 * time.Millisecond, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno"
	closing := strings.Replace(refused, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
	// readBody reads the body, and answers with it.
	echo := func(p *peer) {
		body := make([]byte, 5)
		if _, err := io.ReadFull(p.br, body); err == nil {
			fmt.Fprintf(p, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", body)
		}
	}
	for name, test := range map[string]struct {
		wait  time.Duration
		serve func(p *peer)
		want  string
		asked bool // the body is read
		kept  bool
	}{
		"100":                {expect, func(p *peer) { p.say("HTTP/1.1 100 Continue\r\n\r\n"); echo(p) }, "200 hello", true, true},
		"102, 100":           {expect, func(p *peer) { p.say("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"); echo(p) }, "200 hello", true, true},
		"100 twice":          {expect, func(p *peer) { p.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"); echo(p) }, "200 hello", true, true},
		"nothing":            {time.Millisecond, echo, "200 hello", true, true},
		"not waited for":     {0, echo, "200 hello", true, true},
		"100, not waited":    {0, func(p *peer) { p.say("HTTP/1.1 100 Continue\r\n\r\n"); echo(p) }, "200 hello", true, true},
		"417":                {patience, func(p *peer) { p.say(refused); io.CopyN(io.Discard, p.br, 5) }, "417 no", true, true},
		"417, close":         {patience, func(p *peer) { p.say(closing) }, "417 no", false, false},
		"417, not waited":    {0, func(p *peer) { io.CopyN(io.Discard, p.br, 5); p.say(closing) }, "417 no", true, false},
		"early 200":          {patience, func(p *peer) { p.say(okay); io.CopyN(io.Discard, p.br, 5) }, "200 ok", true, true},
		"gone":               {patience, func(p *peer) { p.Close() }, "error", false, false},
		"gone after 100":     {patience, func(p *peer) { p.say("HTTP/1.1 100 Continue\r\n\r\n"); p.Close() }, "error", true, false},
		"switches protocols": {patience, func(p *peer) { p.say("HTTP/1.1 101 Switching Protocols\r\n\r\n") }, "error", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Bool
			requests := func(b *backend) *http.Request {
				r := uploadOf(t, strings.NewReader("hello"), 5)
				r.Header.Set("Expect", "100-continue")
				r.Body.(*sentBody).before = func() { asked.Store(true) }
				return r
			}
			serve := func(_ int, p *peer) {
				for p.head() != nil {
					test.serve(p)
				}
			}
			b := newBackend(t, serve)
			c := b.client()
			c.ExpectContinueTimeout, c.sendWait = test.wait, patience
			r := requests(b)
			if got := result(c, r); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			eventually(t, "the body to be closed", r.Body.(*sentBody).closed.Load)
			if asked.Load() != test.asked && name != "gone after 100" {
				t.Errorf("body read: %v, want %v", asked.Load(), test.asked)
			}
			if kept := c.idleConns() == 1; kept != test.kept {
				t.Errorf("connection kept: %v, want %v", kept, test.kept)
			}
			if name == "switches protocols" {
				return // the transport lets it through
			}
			stockBackend := newBackend(t, serve)
			stock := stockBackend.stock()
			stock.ExpectContinueTimeout = test.wait
			if got := result(stock, requests(stockBackend)); got != test.want {
				t.Errorf("net/http: %s, want %s", got, test.want)
			}
		})
	}
}

// The body of a client that expects to be told to continue is asked for only when there is a connection.
func TestExpectWithoutBackend(t *testing.T) {
	refused := errors.New("connection refused")
	for name, change := range map[string]func(r *http.Request){
		"expects": func(r *http.Request) { r.Header.Set("Expect", "100-continue") },
		"large":   func(r *http.Request) { r.ContentLength = MaxBody + 1 },
		"chunks":  func(r *http.Request) { r.ContentLength = -1 },
	} {
		c := &Client{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}
		t.Cleanup(c.CloseIdleConnections)
		r := uploadOf(t, readerOf(errors.New("is read")), 5)
		body := r.Body.(*sentBody)
		body.before = func() { t.Errorf("%s: body is read", name) }
		change(r)
		if _, err := c.RoundTrip(r); !errors.Is(err, refused) || !body.closed.Load() {
			t.Errorf("%s: %v, body closed: %v", name, err, body.closed.Load())
		}
	}
	// A small one may have begun. It is closed once its read returns.
	c := &Client{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}
	t.Cleanup(c.CloseIdleConnections)
	reader, writer := io.Pipe()
	r := uploadOf(t, reader, 5)
	if _, err := c.RoundTrip(r); !errors.Is(err, refused) {
		t.Error(err)
	}
	writer.Close()
	eventually(t, "the body to be closed", r.Body.(*sentBody).closed.Load)
	eventually(t, "the upload to end", c.rests)
}

// A body that has begun is sent again over a new connection if the request may be repeated and the body can be had again.
func TestStaleConnectionDuringUpload(t *testing.T) {
	lost := errors.New("body is gone")
	for name, test := range map[string]struct {
		change func(r *http.Request)
		again  bool // it is sent again
	}{
		"with a key":    {func(r *http.Request) { r.Header.Set("Idempotency-Key", "1") }, true},
		"PUT":           {func(r *http.Request) { r.Method = http.MethodPut }, false},
		"cannot be had": {func(r *http.Request) { r.Method, r.GetBody = http.MethodGet, nil }, false},
		"is gone": {func(r *http.Request) {
			r.Method = http.MethodGet
			r.GetBody = func() (io.ReadCloser, error) { return nil, lost }
		}, false},
		"GET":            {func(r *http.Request) { r.Method = http.MethodGet }, true},
		"GET, in chunks": {func(r *http.Request) { r.Method, r.ContentLength = http.MethodGet, -1 }, true},
	} {
		body := noise(100 << 10)
		b := newBackend(t, func(n int, p *peer) {
			r, err := http.ReadRequest(p.br)
			if err != nil {
				return
			}
			if n == 1 {
				p.say(okay)
				p.head() // and goes
				return
			}
			got, err := io.ReadAll(r.Body)
			if string(got) != body || err != nil {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
			p.say(okay)
		})
		c := b.client()
		c.atOnce = time.Millisecond
		mustGet(t, c)
		first := &laterReader{Reader: strings.NewReader(body), at: 10}
		r := uploadOf(t, first, int64(len(body)))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
		test.change(r)
		res, err := c.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		dials := 1
		if test.again {
			dials = 2
		}
		// The error is why the connection failed, not why the body cannot be sent again.
		if (err == nil) != test.again || isStale(err) || errors.Is(err, lost) || b.dials() != dials {
			t.Errorf("%s: %v on %d connections", name, err, b.dials())
		}
	}
}

// A request of whose beginning nothing could be written is sent again if its body can be had again.
func TestNothingWrittenOfUpload(t *testing.T) {
	for _, again := range []bool{true, false} {
		b := newBackend(t, func(n int, p *peer) {
			if n == 1 {
				answering(okay)(n, p)
				return
			}
			swallowing(100<<10)(n, p)
		})
		c := b.muted()
		r := request(t.Context(), http.MethodPost, "http://backend/")
		if setBody(r, http.MethodPost, noise(100<<10)); !again {
			r.GetBody = nil
		}
		res, err := c.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		if (err == nil) != again || isStale(err) {
			t.Errorf("can be had again: %v: %v", again, err)
		}
	}
}

// A body in chunks of a method that usually has none is waited for a little longer, to see whether there is one.
func TestProbedBodies(t *testing.T) {
	b := newBackend(t, describing(func(r *http.Request, body []byte, err error) string {
		return fmt.Sprintf("%q %q %v", body, r.TransferEncoding, err)
	}))
	c := b.client()
	c.atOnce = time.Microsecond
	for body, want := range map[string]string{"": `200 "" [] <nil>`, "hello": `200 "hello" ["chunked"] <nil>`} {
		for at := range 2 {
			r := uploadOf(t, &laterReader{Reader: strings.NewReader(body), at: at}, -1)
			r.Method = http.MethodGet
			if got := result(c, r); got != want {
				t.Errorf("%q, paused at %d: %s, want %s", body, at, got, want)
			}
		}
	}
	reader, writer := io.Pipe()
	time.AfterFunc(2*probeTime, func() { writer.Close() })
	r := uploadOf(t, reader, -1)
	r.Method = http.MethodGet
	if got := result(c, r); got != `200 "" ["chunked"] <nil>` {
		t.Errorf("late: %s", got)
	}
}

// The body is not asked for again while it is being read: what that read takes may be more than can be had again.
func TestStaleConnectionDuringRead(t *testing.T) {
	body := noise(100 << 10)
	left := make(chan struct{})
	b := newBackend(t, func(n int, p *peer) {
		r, err := http.ReadRequest(p.br)
		if err != nil {
			return
		}
		if n == 1 {
			p.say(okay)
			p.head()
			p.Close()
			close(left)
			return
		}
		if got, err := io.ReadAll(r.Body); string(got) != body || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		p.say(okay)
	})
	c := b.client()
	c.atOnce = time.Millisecond
	mustGet(t, c)
	var reading atomic.Bool
	asked := make(chan struct{})
	first := io.MultiReader(strings.NewReader("x"), reads(func(p []byte) (int, error) {
		reading.Store(true)
		defer reading.Store(false)
		<-left
		select {
		case <-asked: // too early
		case <-time.After(50 * time.Millisecond):
		}
		return copy(p, body[1:]), nil
	}))
	r := uploadOf(t, first, int64(len(body)))
	r.Method = http.MethodGet
	r.GetBody = func() (io.ReadCloser, error) {
		close(asked)
		if reading.Load() {
			t.Error("the body is being read")
		}
		return io.NopCloser(strings.NewReader(body)), nil
	}
	if got := result(c, r); got != "200 ok" {
		t.Error(got)
	}
}

// reads is a reader.
type reads func(p []byte) (int, error)

func (f reads) Read(p []byte) (int, error) { return f(p) }

// A backend does not get the last byte of a body that continues after its announced length, however late it does.
func TestBodiesThatGoOn(t *testing.T) {
	for _, length := range []int{1, 5, MaxBody + 1, 30_000, 100_000} {
		for more, want := range map[string]string{"": "200 ok", "x": "error"} {
			answered := make(chan struct{})
			b := newBackend(t, func(_ int, p *peer) {
				r, err := http.ReadRequest(p.br)
				if err != nil {
					return
				}
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					p.say(okay)
				}
			})
			c := b.client()
			c.atOnce = time.Millisecond
			reader, writer := io.Pipe()
			go func() {
				_, _ = io.WriteString(writer, strings.Repeat("x", length))
				select {
				case <-answered: // too early
				case <-time.After(50 * time.Millisecond):
				}
				_, _ = io.WriteString(writer, more)
				writer.Close()
			}()
			got := result(c, uploadOf(t, reader, int64(length)))
			if close(answered); got != want {
				t.Errorf("%d bytes and then %q: %s, want %s", length, more, got, want)
			}
		}
	}
}
