//go:build unix

package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// upload is the body of a request, which calls before it is read, and tells whether it was closed.
type upload struct {
	io.Reader
	before func()
	closed atomic.Bool
}

func (u *upload) Read(p []byte) (int, error) {
	if u.before != nil {
		u.before()
		u.before = nil
	}
	return u.Reader.Read(p)
}

func (u *upload) Close() error {
	u.closed.Store(true)
	return nil
}

// post makes a request with that body, of that length.
func post(t testing.TB, c *Client, body *upload, length int) (string, error) {
	t.Helper()
	r := request(t.Context(), http.MethodPost, "http://backend/")
	r.Body, r.ContentLength = body, int64(length)
	if !c.Takes(r) {
		t.Fatal("not taken")
	}
	res, err := c.RoundTrip(r)
	if !body.closed.Load() {
		t.Error("the body is still open")
	}
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// swallowing answers requests of that length.
func swallowing(length int) func(int, *peer) {
	return func(_ int, p *peer) {
		for p.head() != nil {
			if _, err := io.CopyN(io.Discard, p.br, int64(length)); err != nil {
				return
			}
			p.say(okay)
		}
	}
}

func TestUpload(t *testing.T) {
	b := newBackend(t, swallowing(5))
	c := b.client()
	for range 3 {
		if text, err := post(t, c, &upload{Reader: strings.NewReader("hello")}, 5); text != "ok" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
	}
	// What cannot be read is not sent, and costs no connection.
	broken := errors.New("client has left")
	for name, body := range map[string]io.Reader{
		"broken":    io.MultiReader(strings.NewReader("he"), readerOf(broken)),
		"too short": strings.NewReader("hell"),
		"empty":     strings.NewReader(""),
		"too long":  strings.NewReader("hello!"),
	} {
		_, err := post(t, c, &upload{Reader: body}, 5)
		if err == nil || name == "broken" && !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text, err := post(t, c, &upload{Reader: strings.NewReader("hello")}, 5); text != "ok" || err != nil || b.dials() != 1 {
		t.Errorf("%q, %v on %d connections, want the first one", text, err, b.dials())
	}
}

type readerFunc func() error

func readerOf(err error) io.Reader { return readerFunc(func() error { return err }) }

func (f readerFunc) Read([]byte) (int, error) { return 0, f() }

// Where the client has left while its body was read, that is what is told, and not how reading it failed.
func TestClientLeavesDuringUpload(t *testing.T) {
	b := newBackend(t, swallowing(5))
	c := b.client()
	gone := errors.New("client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := request(ctx, http.MethodPost, "http://backend/")
	r.ContentLength, r.Body = 5, &upload{Reader: strings.NewReader("he"), before: func() { cancel(gone) }}
	if _, err := c.RoundTrip(r); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

// A backend that closes a kept connection while the body still comes is asked on another one.
func TestSlowUpload(t *testing.T) {
	leave, left := make(chan struct{}), make(chan struct{})
	b := newBackend(t, func(n int, p *peer) {
		if n > 1 {
			swallowing(5)(n, p)
			return
		}
		p.head()
		p.say(okay)
		<-leave
		p.Close()
		close(left)
	})
	c := b.client()
	mustGet(t, c)
	body := &upload{Reader: strings.NewReader("hello"), before: func() {
		close(leave)
		<-left
	}}
	if text, err := post(t, c, body, 5); text != "ok" || err != nil || b.dials() != 2 {
		t.Errorf("%q, %v on %d connections", text, err, b.dials())
	}
}

// The same goes for a new connection: backends do not wait for ever for a request to begin.
func TestSlowUploadOnNewConnection(t *testing.T) {
	leave, left := make(chan struct{}), make(chan struct{})
	b := newBackend(t, func(n int, p *peer) {
		if n > 1 {
			swallowing(5)(n, p)
			return
		}
		<-leave
		p.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		p.Close()
		close(left)
	})
	body := &upload{Reader: strings.NewReader("hello"), before: func() {
		close(leave)
		<-left
	}}
	if text, err := post(t, b.client(), body, 5); text != "ok" || err != nil || b.dials() != 2 {
		t.Errorf("%q, %v on %d connections", text, err, b.dials())
	}
}

// What net/http's transport sends again when a kept connection turns out to be closed is sent again, with its body.
func TestUploadIsRepeated(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"body of a GET":       func(r *http.Request) { setBody(r, http.MethodGet, "hello") },
		"body with a key":     func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Header.Set("Idempotency-Key", "1") },
		"body with an X- key": func(r *http.Request) { setBody(r, http.MethodPut, "hello"); r.Header.Set("X-Idempotency-Key", "1") },
		"key":                 func(r *http.Request) { r.Method = http.MethodDelete; r.Header.Set("Idempotency-Key", "1") },
		"largest body":        func(r *http.Request) { setBody(r, http.MethodGet, strings.Repeat("x", maxBody)) },
	} {
		r := request(t.Context(), http.MethodGet, "http://backend/")
		change(r)
		b := newBackend(t, func(n int, p *peer) {
			if p.head(); n == 1 {
				p.say(okay)
				p.head() // and goes
				return
			}
			body := make([]byte, r.ContentLength)
			if _, err := io.ReadFull(p.br, body); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			p.say("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + string(body))
		})
		c := b.client()
		mustGet(t, c)
		res, err := c.RoundTrip(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(res.Body)
		if res.Body.Close(); int64(len(text)) != r.ContentLength || err != nil || b.dials() != 2 {
			t.Errorf("%s: %d bytes, %v on %d connections", name, len(text), err, b.dials())
		}
	}
}

// mute is a connection to which nothing can be written once it has failed.
type mute struct {
	*net.UnixConn
	failed *atomic.Bool
}

func (c mute) Write(p []byte) (int, error) {
	if c.failed.Load() {
		return 0, syscall.EPIPE
	}
	return c.UnixConn.Write(p)
}

// A request of which nothing has been sent can be made again, whatever it is.
func TestNothingWritten(t *testing.T) {
	for _, length := range []int{0, 5} {
		b := newBackend(t, func(n int, p *peer) {
			if n == 1 {
				answering(okay)(n, p)
				return
			}
			swallowing(length)(n, p)
		})
		c := b.client()
		failed := new(atomic.Bool)
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			made, err := b.dial(ctx, network, address)
			if err != nil || failed.Load() {
				return made, err
			}
			return mute{made.(*net.UnixConn), failed}, nil
		}
		mustGet(t, c)
		failed.Store(true)
		r := request(t.Context(), http.MethodPost, "http://backend/")
		if length > 0 {
			setBody(r, http.MethodPost, strings.Repeat("x", length))
		}
		res, err := c.RoundTrip(r)
		if err != nil {
			t.Errorf("%d bytes: %v", length, err)
			continue
		}
		res.Body.Close()
	}
}

// A request that a backend may have acted on is not made again by itself.
func TestUploadIsNotRepeated(t *testing.T) {
	var requests atomic.Int32
	b := newBackend(t, func(_ int, p *peer) {
		p.head()
		p.say(okay)
		p.head()
		requests.Add(1)
	})
	for _, body := range []string{"hello", "", "with a key, and cannot be had again"} {
		requests.Store(0)
		c := b.client()
		mustGet(t, c)
		before := b.dials()
		r := request(t.Context(), http.MethodPost, "http://backend/")
		if body != "" {
			setBody(r, http.MethodPost, body)
		}
		if strings.HasPrefix(body, "with a key") {
			r.Header.Set("Idempotency-Key", "1")
			r.GetBody = nil
		}
		res, err := c.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
		if err == nil || errors.Is(err, errStale) || b.dials() != before || requests.Load() != 1 {
			t.Errorf("%q: %v, %d more connections, %d requests", body, err, b.dials()-before, requests.Load())
		}
	}
}
