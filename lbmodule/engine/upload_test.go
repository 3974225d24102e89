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
	"testing/iotest"
	"time"
)

// sentBody is the body of a request, which calls before it is read, and reports whether it was closed.
type sentBody struct {
	io.Reader
	before func()
	closed atomic.Bool
}

func (u *sentBody) Read(p []byte) (int, error) {
	if u.before != nil {
		u.before()
		u.before = nil
	}
	return u.Reader.Read(p)
}

func (u *sentBody) Close() error {
	u.closed.Store(true)
	return nil
}

// post makes a request with that body, of that length.
func post(t testing.TB, c *Client, body *sentBody, length int) (string, error) {
	t.Helper()
	r := request(t.Context(), http.MethodPost, "http://backend/")
	r.Body, r.ContentLength = body, int64(length)
	if !c.Takes(r) {
		t.Fatal("not taken")
	}
	res, err := c.RoundTrip(r)
	eventually(t, "the body to be closed", body.closed.Load)
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
		if text, err := post(t, c, &sentBody{Reader: strings.NewReader("hello")}, 5); text != "ok" || err != nil {
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
		_, err := post(t, c, &sentBody{Reader: body}, 5)
		if err == nil || name == "broken" && !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text, err := post(t, c, &sentBody{Reader: strings.NewReader("hello")}, 5); text != "ok" || err != nil || b.dials() != 1 {
		t.Errorf("%q, %v on %d connections, want the first one", text, err, b.dials())
	}
}

type readerFunc func() error

func readerOf(err error) io.Reader { return readerFunc(func() error { return err }) }

func (f readerFunc) Read([]byte) (int, error) { return 0, f() }

// If the client left while its body was read, that is the error, and not the failure to read.
func TestClientLeavesDuringUpload(t *testing.T) {
	b := newBackend(t, swallowing(5))
	c := b.client()
	gone := errors.New("client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := request(ctx, http.MethodPost, "http://backend/")
	r.ContentLength, r.Body = 5, &sentBody{Reader: strings.NewReader("he"), before: func() { cancel(gone) }}
	if _, err := c.RoundTrip(r); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

// countingConn counts writes.
type countingConn struct {
	*net.UnixConn
	writes *atomic.Int32
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.UnixConn.Write(p)
}

// A body that is there is sent in one piece with its header, in however many pieces it is read.
func TestOneWrite(t *testing.T) {
	writes := new(atomic.Int32)
	b := newBackend(t, swallowing(MaxBody))
	c := b.client()
	c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := b.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return countingConn{made.(*net.UnixConn), writes}, nil
	}
	for i, body := range []io.Reader{
		strings.NewReader(strings.Repeat("x", MaxBody)),
		iotest.DataErrReader(strings.NewReader(strings.Repeat("x", MaxBody))),
		iotest.OneByteReader(strings.NewReader(strings.Repeat("x", MaxBody))),
	} {
		if text, err := post(t, c, &sentBody{Reader: body}, MaxBody); text != "ok" || err != nil {
			t.Fatalf("%q, %v", text, err)
		}
		if n := int(writes.Load()); n != i+1 {
			t.Errorf("%d writes for %d requests", n, i+1)
		}
	}
}

// What has not come of a body is not waited for: the backend is sent what is there, and what it answers counts.
func TestSlowUpload(t *testing.T) {
	for _, there := range []string{"", "h", "hell"} {
		seen := make(chan string, 1)
		b := newBackend(t, func(_ int, p *peer) {
			p.head()
			begun := make([]byte, len(there))
			if _, err := io.ReadFull(p.br, begun); err != nil {
				t.Error(err)
			}
			seen <- string(begun)
			rest, err := io.ReadAll(io.LimitReader(p.br, int64(5-len(there))))
			if err != nil {
				t.Error(err)
			}
			seen <- string(rest)
			p.say(okay)
		})
		reader, writer := io.Pipe()
		go func() {
			if there != "" {
				io.WriteString(writer, there)
			}
			if got := <-seen; got != there {
				t.Errorf("the backend was sent %q, want %q", got, there)
			}
			io.WriteString(writer, "hello"[len(there):])
			writer.Close()
		}()
		c := b.client()
		c.atOnce = time.Millisecond
		if text, err := post(t, c, &sentBody{Reader: reader}, 5); text != "ok" || err != nil || <-seen != "hello"[len(there):] {
			t.Errorf("%q: %q, %v", there, text, err)
		}
	}
}

// An early answer is passed on while the body still comes.
func TestAnswerDuringUpload(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) {
		p.head()
		p.say(okay)
		p.head() // until it is closed
	})
	reader, writer := io.Pipe()
	body := &sentBody{Reader: reader}
	r := request(t.Context(), http.MethodPost, "http://backend/")
	r.Body, r.ContentLength = body, 5
	c := b.client()
	c.atOnce = time.Millisecond
	res, err := c.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(res.Body); string(text) != "ok" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	res.Body.Close()
	writer.Close()
	eventually(t, "the body to be closed", body.closed.Load)
}

// Bodies are read by few goroutines, which are kept.
func TestUploadsAreKept(t *testing.T) {
	var s uploads
	for range 3 {
		u := s.take()
		startUpload(u, strings.NewReader("hello"), 5)
		<-u.over
		if body := u.whole(); string(body) != "hello" || u.check() != nil {
			t.Errorf("%q, %v", body, u.check())
		}
		if s.put(u); len(s.spare) != 1 {
			t.Errorf("%d are kept", len(s.spare))
		}
	}
	var many []*upload
	for range maxUploads + 1 {
		many = append(many, s.take())
	}
	for _, u := range many {
		s.put(u)
	}
	if len(s.spare) != maxUploads {
		t.Errorf("%d are kept, want %d", len(s.spare), maxUploads)
	}
	u := s.take()
	s.close()
	if s.put(u); len(s.spare) != 0 {
		t.Errorf("%d are kept in the end", len(s.spare))
	}
	if _, more := <-u.work; more {
		t.Error("its goroutine still runs")
	}
}

// startUpload starts the upload of a body without a header.
func startUpload(u *upload, body io.Reader, length int) {
	u.from, u.length, u.buf, u.room = io.NopCloser(body), int64(length), takeBuffer(length+1), length+1
	u.data, u.end, u.size, u.full, u.handed = 0, 0, bufferSizes[0], false, false
	u.start()
}

// What net/http's transport sends again when a kept connection turns out to be closed is sent again, with its body.
func TestUploadIsRepeated(t *testing.T) {
	for name, change := range map[string]func(r *http.Request){
		"body of a GET":       func(r *http.Request) { setBody(r, http.MethodGet, "hello") },
		"body with a key":     func(r *http.Request) { setBody(r, http.MethodPost, "hello"); r.Header.Set("Idempotency-Key", "1") },
		"body with an X- key": func(r *http.Request) { setBody(r, http.MethodPut, "hello"); r.Header.Set("X-Idempotency-Key", "1") },
		"key":                 func(r *http.Request) { r.Method = http.MethodDelete; r.Header.Set("Idempotency-Key", "1") },
		"largest body":        func(r *http.Request) { setBody(r, http.MethodGet, strings.Repeat("x", MaxBody)) },
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

// muted returns a client with a kept connection on which nothing can be written.
func (b *backend) muted() *Client {
	c, failed := b.client(), new(atomic.Bool)
	c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		made, err := b.dial(ctx, network, address)
		if err != nil || failed.Load() {
			return made, err
		}
		return mute{made.(*net.UnixConn), failed}, nil
	}
	mustGet(b.t, c)
	failed.Store(true)
	return c
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
		c := b.muted()
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

// refusing is a connection that is reset in the midst of a request, after what the backend has said.
type refusing struct{ *net.UnixConn }

func (c refusing) Write(p []byte) (int, error) {
	n, err := c.UnixConn.Write(p[:len(p)/2])
	if err == nil {
		err = syscall.ECONNRESET
	}
	return n, err
}

// What a backend has answered when it stops reading counts, and its connection is not used again.
func TestAnswerBeforeReset(t *testing.T) {
	for name, say := range map[string]string{
		"answer": "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno",
		"part":   "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nn",
		"none":   "",
	} {
		b := newBackend(t, func(_ int, p *peer) { p.say(say) })
		c := b.client()
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			made, err := b.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return refusing{made.(*net.UnixConn)}, nil
		}
		r := request(t.Context(), http.MethodPost, "http://backend/")
		setBody(r, http.MethodPost, strings.Repeat("x", MaxBody))
		res, err := c.RoundTrip(r)
		if name == "none" {
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(res.Body)
		if res.Body.Close(); res.StatusCode != http.StatusRequestEntityTooLarge || (string(text) == "no" && err == nil) != (name == "answer") {
			t.Errorf("%s: %d %q, %v", name, res.StatusCode, text, err)
		}
		if n := c.idleConns(); n != 0 || b.dials() != 1 {
			t.Errorf("%s: %d connections made, %d kept", name, b.dials(), n)
		}
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
		if err == nil || isStale(err) || b.dials() != before || requests.Load() != 1 {
			t.Errorf("%q: %v, %d more connections, %d requests", body, err, b.dials()-before, requests.Load())
		}
	}
}

// The end of a body may come just when it has been waited for long enough. It is the race detector that judges here.
func TestUploadEndsWhenTimeIsUp(t *testing.T) {
	var s uploads
	b := newBackend(t, func(_ int, p *peer) { io.Copy(io.Discard, p.br) })
	made, err := b.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(b.client(), "backend", made)
	for range 3000 {
		u := newUpload(&s)
		startUpload(u, strings.NewReader("0123456789"), 10)
		end, ended := u.await(time.Nanosecond)
		if ended {
			close(u.work)
			continue
		}
		rest := newSending(c, u, end, false)
		rest.begin(nil)
		if !rest.isSent() {
			t.Fatal(rest.failure())
		}
	}
}
