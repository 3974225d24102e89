//go:build unix

package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestConnectionsAreKept(t *testing.T) {
	b := newBackend(t, answering(okay))
	c := b.client()
	for range 100 {
		mustGet(t, c)
	}
	if got := b.dials(); got != 1 {
		t.Errorf("%d connections for requests one after the other", got)
	}
	// Hosts have connections of their own.
	res, err := c.RoundTrip(request(t.Context(), http.MethodGet, "http://other/"))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := b.dials(); got != 2 {
		t.Errorf("%d connections to two hosts", got)
	}
}

// After these answers the connection may not be used again, or may.
func TestWhichConnectionsAreKept(t *testing.T) {
	long := strings.Repeat("x", 3*defaultBuffer)
	for answer, kept := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":                            true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": true,
		"HTTP/1.1 204 No Content\r\n\r\n":                                           true,
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n":                    true,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                              true,
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok":  true,
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok":                            false,
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok":       false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more":                   false,

		// If the end of an answer is given in two ways, another implementation may find it elsewhere (RFC 9112, 6.1 and
		// 6.3).
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n":                           false,
		"HTTP/1.1 200 OK\ncontent-LENGTH: 2\nTransfer-Encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n":                                   false,
		"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n": false,
		"HTTP/1.1 103 Hints\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": true,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + long + "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n":        false,
		"HTTP/1.1 200 OK\r\nX: " + long + "\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n":        false,
		"HTTP/1.1 200 OK\r\nX: " + long + "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n":                             true,
		"HTTP/1.1 200 OK\r\nX: Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n":                        true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n\r\nContent-Length: 2\r\n\r\n0\r\n\r\n":                        true,
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok":                   false,
	} {
		b := newBackend(t, answering(answer))
		c := b.client()
		for range 2 {
			if _, _, err := get(t, c); err != nil {
				t.Fatalf("%.90q: %v", answer, err)
			}
		}
		if got := b.dials() == 1; got != kept {
			t.Errorf("%.90q: connection kept: %v, want %v", answer, got, kept)
		}
	}
}

// A body that is not read to its end leaves a connection that cannot be used, and closes it.
func TestClosedBeforeItsEnd(t *testing.T) {
	gone := make(chan error, 1)
	b := newBackend(t, func(_ int, p *peer) {
		p.head()
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart")
		_, err := p.br.ReadByte()
		gone <- err
	})
	c := b.client()
	res, err := c.RoundTrip(request(t.Context(), http.MethodGet, "http://backend/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := res.Body.Read(make([]byte, 1)); !errors.Is(err, errClosed) {
		t.Errorf("reading what was closed: %v", err)
	}
	select {
	case err := <-gone:
		if err == nil {
			t.Error("the backend was sent something")
		}
	case <-time.After(patience):
		t.Error("the connection is still open")
	}
	if got := c.idleConns(); got != 0 {
		t.Errorf("%d connections kept", got)
	}
}

// If a backend has closed a kept connection, or has sent something on it, another one is used.
func TestDeadConnections(t *testing.T) {
	for name, last := range map[string]func(p *peer){
		"closed":          func(p *peer) { p.Close() },
		"said goodbye":    func(p *peer) { p.say("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n") },
		"half closed":     func(p *peer) { p.Conn.(*net.UnixConn).CloseWrite() },
		"said one letter": func(p *peer) { p.say("x") },
	} {
		done, end := make(chan struct{}, 2), make(chan struct{})
		b := newBackend(t, func(n int, p *peer) {
			p.head()
			p.say(okay)
			if n == 1 {
				<-end
				last(p)
				done <- struct{}{}
			}
			p.head() // until it is closed
		})
		c := b.client()
		mustGet(t, c)
		close(end)
		<-done
		mustGet(t, c)
		if got := b.dials(); got != 2 {
			t.Errorf("%s: %d connections", name, got)
		}
	}
}

// isStale reports whether err is one that must not leave the client.
func isStale(err error) bool { return is[*staleError](err) }

// A kept connection that ends while the request is in flight is replaced, once, and only if nothing has come back.
func TestStaleConnection(t *testing.T) {
	var requests atomic.Int32
	b := newBackend(t, func(n int, p *peer) {
		for i := 0; p.head() != nil; i++ {
			requests.Add(1)
			if n == 1 && i == 1 {
				return
			}
			p.say(okay)
		}
	})
	c := b.client()
	mustGet(t, c)
	mustGet(t, c)
	if b.dials() != 2 || requests.Load() != 3 {
		t.Errorf("%d connections, %d requests; want 2 and 3", b.dials(), requests.Load())
	}

	requests.Store(0)
	b = newBackend(t, func(_ int, p *peer) {
		for i := 0; p.head() != nil; i++ {
			if requests.Add(1); i == 1 {
				p.say("HTTP/1.1 2")
				return
			}
			p.say(okay)
		}
	})
	c = b.client()
	mustGet(t, c)
	if _, _, err := get(t, c); err == nil || isStale(err) {
		t.Errorf("an answer that broke off: %v", err)
	}
	if got := requests.Load(); got != 2 {
		t.Errorf("%d requests, want no other after a part of an answer", got)
	}

	// A new connection that ends at once is an error.
	b = newBackend(t, func(_ int, p *peer) { p.head() })
	if _, _, err := get(t, b.client()); !errors.Is(err, io.ErrUnexpectedEOF) || b.dials() != 1 {
		t.Errorf("%v after %d connections", err, b.dials())
	}
}

func TestHeaderTimeout(t *testing.T) {
	for name, say := range map[string]string{"silence": "", "half a header": "HTTP/1.1 200 OK\r\nX-"} {
		b := newBackend(t, func(_ int, p *peer) {
			p.head()
			p.say(say)
			p.head()
		})
		c := b.client()
		c.ResponseHeaderTimeout = 20 * time.Millisecond
		_, _, err := get(t, c)
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			t.Errorf("%s: %v, want a timeout", name, err)
		}
	}
	// It bounds the header only, and says so to the connection.
	b := newBackend(t, answering(okay))
	c := b.client()
	c.ResponseHeaderTimeout = time.Minute
	timed := new(timedConn)
	c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := b.dial(ctx, network, address)
		if err == nil {
			timed.UnixConn = made.(*net.UnixConn)
		}
		return timed, err
	}
	mustGet(t, c)
	if len(timed.deadlines) != 2 || timed.deadlines[0].IsZero() || !timed.deadlines[1].IsZero() {
		t.Errorf("deadlines %v, want one, and its end", timed.deadlines)
	}
}

// timedConn notes its deadlines.
type timedConn struct {
	*net.UnixConn
	deadlines []time.Time
}

func (c *timedConn) SetReadDeadline(at time.Time) error {
	c.deadlines = append(c.deadlines, at)
	return c.UnixConn.SetReadDeadline(at)
}

func TestHeaderBound(t *testing.T) {
	long := "X: " + strings.Repeat("x", 4000) + "\r\n"
	b := newBackend(t, answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"+long+"\r\nok"))
	c := b.client()
	c.MaxResponseHeaderBytes = 5000
	mustGet(t, c)
	mustGet(t, c) // each has the whole bound
	c.MaxResponseHeaderBytes = 2000
	if _, _, err := get(t, c); err == nil || !strings.Contains(err.Error(), "longer than 2000 bytes") {
		t.Errorf("a long header: %v", err)
	}
	// A body is not bounded.
	const large = 100_000
	b = newBackend(t, answering("HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(large)+"\r\n\r\n"+strings.Repeat("x", large)))
	c = b.client()
	c.MaxResponseHeaderBytes = 2000
	if _, body, err := get(t, c); len(body) != large || err != nil {
		t.Errorf("%d bytes of a large body, %v", len(body), err)
	}
}

func TestCancel(t *testing.T) {
	gone := errors.New("client has left")
	reached := make(chan struct{}, 1)
	for name, say := range map[string]string{"header": "", "body": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"} {
		b := newBackend(t, func(_ int, p *peer) {
			p.head()
			p.say(say)
			reached <- struct{}{}
			p.head()
		})
		c := b.client()
		ctx, cancel := context.WithCancelCause(t.Context())
		leave := func() {
			<-reached
			cancel(gone)
		}
		if say == "" {
			go leave()
		}
		res, err := c.RoundTrip(request(ctx, http.MethodGet, "http://backend/"))
		if say != "" {
			if err != nil {
				t.Fatal(err)
			}
			leave()
			_, err = io.ReadAll(res.Body)
		}
		if !errors.Is(err, gone) {
			t.Errorf("canceled while waiting for the %s: %v", name, err)
		}
		if _, err := c.RoundTrip(request(ctx, http.MethodGet, "http://backend/")); !errors.Is(err, gone) || b.dials() != 1 {
			t.Errorf("canceled before: %v, %d connections", err, b.dials())
		}
		if got := c.idleConns(); got != 0 {
			t.Errorf("%d connections kept", got)
		}
	}
}

func TestDialError(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	c := &Client{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}
	if _, _, err := get(t, c); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
}

type informer func(status int, header textproto.MIMEHeader)

func (f informer) Inform(status int, header textproto.MIMEHeader) { f(status, header) }

func TestInformational(t *testing.T) {
	const hints = "HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\n"
	b := newBackend(t, answering("HTTP/1.1 100 Continue\r\n\r\n"+hints+hints+okay))
	c := b.client()
	c.MaxResponseHeaderBytes = 100 // of each, if there is an Informer
	var heard []int
	listener := informer(func(code int, h textproto.MIMEHeader) {
		if heard = append(heard, code); code == http.StatusEarlyHints && h.Get("Link") != "</x.css>" {
			t.Errorf("%d: %v", code, h)
		}
	})
	res, err := c.Do(&Call{Request: request(t.Context(), http.MethodGet, "http://backend/"), Informer: listener})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(res.Body); string(text) != "ok" || err != nil || len(heard) != 3 {
		t.Errorf("%q, %v; heard %v", text, err, heard)
	}
	c.MaxResponseHeaderBytes = 0
	mustGet(t, c) // also without an Informer
	// All hints together are bounded, then.
	endless := newBackend(t, func(_ int, p *peer) {
		p.head()
		for {
			if _, err := io.WriteString(p, hints); err != nil {
				return
			}
		}
	})
	if _, _, err := get(t, endless.client()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("endless hints: %v", err)
	}
	switching := newBackend(t, answering("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
	if _, _, err := get(t, switching.client()); err == nil {
		t.Error("an unrequested switch of protocols is an answer")
	}
}

// Many at once: every answer is that of its request.
func TestManyAtOnce(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) {
		for {
			lines := p.head()
			if lines == nil {
				return
			}
			path := strings.Fields(lines[0])[1]
			p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n" + (path + "........")[:8] + "\r\n0\r\n\r\n")
		}
	})
	c := b.client()
	c.MaxIdleConnsPerHost = 8
	var wait sync.WaitGroup
	for worker := range 16 {
		wait.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				path := "/" + string(rune('a'+worker)) + string(rune('a'+i%26))
				res, err := c.RoundTrip(request(ctx, http.MethodGet, "http://backend"+path))
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				switch i % 3 {
				case 0:
					cancel() // in the midst of it
					io.Copy(io.Discard, res.Body)
				case 1:
					res.Body.Close()
				default:
					if text, err := io.ReadAll(res.Body); err != nil || !strings.HasPrefix(string(text), path+".") {
						t.Errorf("%s: %q, %v", path, text, err)
					}
				}
				cancel()
			}
		})
	}
	wait.Wait()
	if got := c.idleConns(); got > 8 {
		t.Errorf("%d connections kept", got)
	}
}
