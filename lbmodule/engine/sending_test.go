//go:build unix

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// stock returns net/http's transport for this backend.
func (b *backend) stock() *http.Transport {
	stock := &http.Transport{DialContext: b.dial, MaxIdleConnsPerHost: 32}
	b.t.Cleanup(stock.CloseIdleConnections)
	return stock
}

// either runs a test with the client and with net/http's transport, which must do the same. The client has a short patience.
func either(t *testing.T, test func(t *testing.T, rt func(b *backend) http.RoundTripper)) {
	t.Run("engine", func(t *testing.T) {
		test(t, func(b *backend) http.RoundTripper {
			c := b.client()
			c.atOnce = time.Millisecond
			return c
		})
	})
	t.Run("transport", func(t *testing.T) {
		test(t, func(b *backend) http.RoundTripper { return b.stock() })
	})
}

// uploadOf makes a POST with that body; a negative length means chunks.
func uploadOf(t testing.TB, body io.Reader, length int64) *http.Request {
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("test waited too long"))
	t.Cleanup(cancel)
	r := request(ctx, http.MethodPost, "http://backend/")
	r.Body, r.ContentLength = &sentBody{Reader: body}, length
	if !new(Client).Takes(r) {
		t.Fatal("not taken")
	}
	return r
}

// result is the result of a request.
func result(rt http.RoundTripper, r *http.Request) string {
	res, err := rt.RoundTrip(r)
	if err != nil {
		return "error"
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Sprintf("%d broken", res.StatusCode)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, body)
}

const early = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"

// noise is a body that does not look the same everywhere.
func noise(length int) string {
	var b strings.Builder
	for i := 0; b.Len() < length; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:length]
}

// describing answers each request with what it says of the request, whose body it has read.
func describing(describe func(r *http.Request, body []byte, err error) string) func(int, *peer) {
	return func(_ int, p *peer) {
		for {
			r, err := http.ReadRequest(p.br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			text := describe(r, body, err)
			fmt.Fprintf(p, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	}
}

// A server of net/http gets what was sent, in whatever form and pieces.
func TestBodiesArrive(t *testing.T) {
	b := newBackend(t, describing(func(r *http.Request, body []byte, err error) string {
		return fmt.Sprintf("%x %d %q %v %v", body, r.ContentLength, r.TransferEncoding, r.Trailer, err)
	}))
	other := newBackend(t, b.serve)
	c, stock := b.client(), other.stock()
	c.sendWait = patience
	for _, length := range []int{0, 1, 5, MaxBody - 1, MaxBody, MaxBody + 1, firstPiece - 1, firstPiece, firstPiece + 1, maxWhole - 1, maxWhole, maxWhole + 1, 1 << 20} {
		body := noise(length)
		for form, of := range map[string]func(io.Reader) io.Reader{
			"at once":          func(r io.Reader) io.Reader { return r },
			"end with data":    iotest.DataErrReader,
			"in halves":        iotest.HalfReader,
			"half, then later": func(r io.Reader) io.Reader { return &laterReader{Reader: r, at: length / 2} },
			"later":            func(r io.Reader) io.Reader { return &laterReader{Reader: r} },
		} {
			for _, how := range []string{"length", "chunks", "trailers", "coding"} {
				c.atOnce = time.Millisecond
				if form == "at once" {
					c.atOnce = patience
				}
				request := func() *http.Request {
					r := uploadOf(t, of(strings.NewReader(body)), int64(length))
					switch how {
					case "chunks":
						r.ContentLength = -1
					case "trailers":
						r.ContentLength, r.Trailer = -1, http.Header{"X-Sum": {"7", "8"}, "A": {" b "}}
					case "coding":
						r.TransferEncoding = []string{"chunked"}
					}
					return r
				}
				if ours, theirs := result(c, request()), result(stock, request()); ours != theirs || !strings.HasPrefix(ours, "200") {
					t.Errorf("%d bytes, %s, %s:\n%.100s\nnet/http:\n%.100s", length, form, how, ours, theirs)
				}
			}
		}
	}
	if n := b.dials(); n != 1 {
		t.Errorf("%d connections", n)
	}
	eventually(t, "all uploads to end", func() bool { return c.rests() })
}

// laterReader pauses once, mostly for longer than the client waits. What arrives must be the same in either case.
type laterReader struct {
	io.Reader
	at, read int
	paused   bool
}

func (l *laterReader) Read(p []byte) (int, error) {
	if left := l.at - l.read; left > 0 {
		p = p[:min(left, len(p))]
	} else if !l.paused {
		l.paused = true
		time.Sleep(3 * time.Millisecond)
	}
	n, err := l.Reader.Read(p)
	l.read += n
	return n, err
}

// What arrives while the body does not is sent, and what the backend says to it is heard.
func TestFullDuplex(t *testing.T) {
	either(t, func(t *testing.T, rt func(b *backend) http.RoundTripper) {
		for _, length := range []int64{100 * 4, -1} {
			b := newBackend(t, func(_ int, p *peer) {
				r, err := http.ReadRequest(p.br)
				if err != nil {
					t.Error(err)
					return
				}
				p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for line := make([]byte, 4); ; {
					if _, err := io.ReadFull(r.Body, line); err != nil {
						break
					}
					fmt.Fprintf(p, "4\r\n%s\r\n", line)
				}
				p.say("0\r\n\r\n")
				io.Copy(io.Discard, p.br)
			})
			reader, writer := io.Pipe()
			client := rt(b)
			if c, ok := client.(*Client); ok {
				c.sendWait = patience
			}
			res, err := client.RoundTrip(uploadOf(t, reader, length))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 {
				said, heard := fmt.Sprintf("%04d", i), make([]byte, 4)
				io.WriteString(writer, said)
				if i == 99 {
					writer.Close()
				}
				if _, err := io.ReadFull(res.Body, heard); err != nil || string(heard) != said {
					t.Fatalf("%q, %v, want %q", heard, err, said)
				}
			}
			if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
			if c, ok := client.(*Client); ok {
				eventually(t, "the connection to be kept", func() bool { return c.idleConns() == 1 && c.rests() })
			}
		}
	})
}

// An answer that comes while most of the body is to come is heard at once, and the sending ends.
func TestEarlyAnswers(t *testing.T) {
	either(t, func(t *testing.T, rt func(b *backend) http.RoundTripper) {
		for name, serve := range map[string]func(_ int, p *peer){
			"closes": func(_ int, p *peer) { p.head(); p.say(early) },
			"stays":  func(_ int, p *peer) { p.head(); p.say(early); waitForEnd(p) },
			"reads":  func(_ int, p *peer) { p.head(); p.say(early); io.Copy(io.Discard, p.br) },
			"closes, no body": func(_ int, p *peer) {
				p.head()
				p.say("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			},
		} {
			for what, body := range map[string]func() (io.Reader, int64){
				"1 MB":              func() (io.Reader, int64) { return strings.NewReader(noise(1 << 20)), 1 << 20 },
				"1 MB in chunks":    func() (io.Reader, int64) { return strings.NewReader(noise(1 << 20)), -1 },
				"endless":           func() (io.Reader, int64) { return endless{}, -1 },
				"stalled":           func() (io.Reader, int64) { return stalledBody(t), 1 << 20 },
				"stalled in chunks": func() (io.Reader, int64) { return stalledBody(t), -1 },
			} {
				if strings.HasPrefix(name, "closes") && t.Name() == "TestEarlyAnswers/transport" {
					continue // net/http's transport may see the end of the connection before it has read the answer
				}
				b := newBackend(t, serve)
				client := rt(b)
				from, length := body()
				r := uploadOf(t, from, length)
				if got := result(client, r); got != "413 no" && got != "413 " {
					t.Errorf("%s, %s: %s", name, what, got)
				}
				if c, ok := client.(*Client); ok {
					if name != "reads" && c.idleConns() != 0 {
						t.Errorf("%s, %s: connection kept", name, what)
					}
					if !strings.HasPrefix(what, "stalled") {
						eventually(t, "the body to be closed", r.Body.(*sentBody).closed.Load)
						eventually(t, "the upload to end", func() bool { return c.rests() })
					}
				}
				b.close()
			}
		}
	})
}

// waitForEnd waits until the other side closes the connection, without reading more than that takes.
func waitForEnd(p *peer) {
	for {
		if _, err := p.br.Peek(p.br.Size()); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
		if _, err := io.WriteString(p, "x"); err != nil {
			return
		}
	}
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// stalledBody is a body that begins, and continues at the end of the test.
func stalledBody(t testing.TB) io.Reader {
	reader, writer := io.Pipe()
	t.Cleanup(func() { writer.Close() })
	return io.MultiReader(strings.NewReader("begins"), reader)
}

// A body that is not what it says ends the request, and its connection.
func TestBodiesThatFail(t *testing.T) {
	broken := errors.New("client has left")
	either(t, func(t *testing.T, rt func(b *backend) http.RoundTripper) {
		for name, body := range map[string]struct {
			length int64
			from   func() io.Reader
		}{
			"broken":         {1 << 20, func() io.Reader { return io.MultiReader(strings.NewReader(noise(1<<18)), readerOf(broken)) }},
			"broken, chunks": {-1, func() io.Reader { return io.MultiReader(strings.NewReader(noise(1<<18)), readerOf(broken)) }},
			"broken later": {1 << 20, func() io.Reader {
				return io.MultiReader(&laterReader{Reader: strings.NewReader("x"), at: 1}, readerOf(broken))
			}},
			"broken late, short": {5, func() io.Reader {
				return &laterReader{Reader: io.MultiReader(strings.NewReader("x"), readerOf(broken)), at: 1}
			}},
			"short":           {1 << 20, func() io.Reader { return strings.NewReader(noise(1<<20 - 1)) }},
			"long":            {1 << 20, func() io.Reader { return strings.NewReader(noise(1<<20 + 1)) }},
			"short late":      {5, func() io.Reader { return &laterReader{Reader: strings.NewReader("hell"), at: 1} }},
			"long late":       {5, func() io.Reader { return &laterReader{Reader: strings.NewReader("hello!"), at: 1} }},
			"broken at once":  {-1, func() io.Reader { return readerOf(broken) }},
			"short of 64 KiB": {maxWhole, func() io.Reader { return strings.NewReader(noise(maxWhole - 1)) }},
			"long of 64 KiB":  {maxWhole, func() io.Reader { return strings.NewReader(noise(maxWhole + 1)) }},
		} {
			var got atomic.Pointer[string]
			b := newBackend(t, func(_ int, p *peer) {
				r, err := http.ReadRequest(p.br)
				if err != nil {
					return
				}
				text, err := io.ReadAll(r.Body)
				said := fmt.Sprintf("%d bytes, whole: %v", len(text), err == nil)
				got.Store(&said)
				io.Copy(io.Discard, p.br) // it never answers
			})
			client := rt(b)
			r := uploadOf(t, body.from(), body.length)
			_, err := client.RoundTrip(r)
			if err == nil || strings.HasPrefix(name, "broken") && !errors.Is(err, broken) {
				t.Errorf("%s: %v", name, err)
			}
			eventually(t, "the body to be closed", r.Body.(*sentBody).closed.Load)
			b.close()
			said := got.Load()
			if said != nil && strings.HasSuffix(*said, "true") && !strings.HasPrefix(name, "long") {
				t.Errorf("%s: the backend takes it for complete: %s", name, *said)
			}
			// A body that fails before the header is sent leaves the connection as it was.
			if c, ok := client.(*Client); ok && said != nil && c.idleConns() != 0 {
				t.Errorf("%s: the connection is kept", name)
			}
		}
	})
}

// A backend that is gone in the midst of a body makes the request fail at once, even where the client pauses. If there may be trailers, the
// request fails once the body is no longer read, because its end would change the request.
func TestBackendClosesDuringUpload(t *testing.T) {
	for _, length := range []int64{1 << 20, -1} {
		gone, failed := make(chan struct{}, 2), make(chan struct{})
		b := newBackend(t, func(_ int, p *peer) {
			p.head()
			io.CopyN(io.Discard, p.br, 3)
			p.Close()
			gone <- struct{}{}
		})
		c := b.client()
		c.atOnce = time.Millisecond
		reader, writer := io.Pipe()
		r := uploadOf(t, io.MultiReader(strings.NewReader("begins"), reader), length)
		r.Trailer = http.Header{"X": nil}
		body := r.Body.(*sentBody)
		if length < 0 {
			go func() {
				<-gone
				select {
				case <-failed: // too early
				case <-time.After(50 * time.Millisecond):
				}
				writer.Write([]byte("goes on"))
				writer.Close()
			}()
		}
		_, err := c.RoundTrip(r)
		if close(failed); err == nil {
			t.Error("an answer")
		}
		if length < 0 && !body.closed.Load() {
			t.Error("the body is still read")
		}
		writer.Close()
		eventually(t, "the body to be closed", body.closed.Load)
		r = uploadOf(t, endless{}, length)
		if _, err := c.RoundTrip(r); err == nil {
			t.Error("an answer")
		}
		eventually(t, "the body to be closed", r.Body.(*sentBody).closed.Load)
	}
}

// A server ends the context when a body breaks off, just before it tells the body's reader. The request fails after that.
func TestReaderIsToldFirst(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) { io.Copy(io.Discard, p) })
	c := b.client()
	c.atOnce, c.sendWait = time.Millisecond, patience
	ctx, cancel := context.WithCancel(t.Context())
	failed, told := make(chan struct{}), false
	body := io.MultiReader(strings.NewReader("begins"), reads(func([]byte) (int, error) {
		cancel()
		select {
		case <-failed: // too early
		case <-time.After(50 * time.Millisecond):
			told = true
		}
		return 0, io.ErrUnexpectedEOF
	}))
	_, err := c.RoundTrip(uploadOf(t, body, 1<<20).WithContext(ctx))
	if close(failed); !errors.Is(err, context.Canceled) || !told {
		t.Errorf("%v, the reader was told before: %v", err, told)
	}
}

// Where the client leaves, both sides end.
func TestCancelDuringUpload(t *testing.T) {
	gone := errors.New("client has left")
	for _, early := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"} {
		over := make(chan struct{})
		b := newBackend(t, func(_ int, p *peer) {
			p.head()
			p.say(early)
			io.Copy(io.Discard, p.br)
			close(over)
		})
		c := b.client()
		c.atOnce = time.Millisecond
		r := uploadOf(t, endless{}, -1)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(gone) })
		res, err := c.RoundTrip(r.WithContext(ctx))
		if err == nil {
			_, err = io.ReadAll(res.Body)
		}
		if !errors.Is(err, gone) {
			t.Errorf("%q: %v", early, err)
		}
		<-over
		eventually(t, "the body to be closed", r.Body.(*sentBody).closed.Load)
		eventually(t, "the upload to end", func() bool { return c.rests() })
	}
}

// The time for the answer's header begins at the end of the request.
func TestHeaderTimeoutAfterUpload(t *testing.T) {
	const timeout, uploads = 100 * time.Millisecond, time.Second
	for path, want := range map[string]struct {
		text string // what the client gets
		took time.Duration
	}{"/99ms": {"done", uploads + 2*99*time.Millisecond}, "/101ms": {"", uploads + timeout}} {
		synctest.Test(t, func(t *testing.T) {
			c := pipes(nil)
			c.ResponseHeaderTimeout = timeout
			defer c.CloseIdleConnections()
			reader, writer := io.Pipe()
			time.AfterFunc(uploads, func() {
				io.WriteString(writer, "hello")
				writer.Close()
			})
			r := uploadOf(t, reader, -1)
			r.URL.Path = path
			start := time.Now()
			res, err := c.RoundTrip(r)
			var text []byte
			if err == nil {
				text, err = io.ReadAll(res.Body)
			}
			if (err != nil) != (want.text == "") || err != nil && !errors.Is(err, errHeaderTimeout) || string(text) != want.text || time.Since(start) != want.took {
				t.Errorf("%s: %q, %v after %v, want %q after %v", path, text, err, time.Since(start), want.text, want.took)
			}
		})
	}
}

// A large body takes little memory, and arrives unchanged.
func TestLargeUpload(t *testing.T) {
	const size = 100 << 20
	var got atomic.Int64
	b := newBackend(t, func(_ int, p *peer) {
		for { // a connection that closes without saying so may be used again before that is seen
			r, err := http.ReadRequest(p.br)
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, r.Body)
			got.Store(n)
			p.say(okay)
		}
	})
	c := b.client()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, length := range []int64{size, -1} {
		if said := result(c, uploadOf(t, io.LimitReader(endless{}, size), length)); said != "200 ok" || got.Load() != size {
			t.Errorf("%s, %d bytes", said, got.Load())
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d bytes were allocated", used)
	}
}

// rests reports whether the client's last upload has ended.
func (c *Client) rests() bool {
	c.uploads.mu.Lock()
	defer c.uploads.mu.Unlock()
	return len(c.uploads.spare) > 0
}

// Requests at the same time do not mix.
func TestManyUploadsAtOnce(t *testing.T) {
	b := newBackend(t, func(_ int, p *peer) {
		for {
			r, err := http.ReadRequest(p.br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			fmt.Fprintf(p, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	})
	c := b.client()
	c.atOnce = 100 * time.Microsecond // some come in time
	before := runtime.NumGoroutine()
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			for j := range 20 {
				body := strings.Repeat(fmt.Sprintf("%d-%d.", i, j), 1<<(j%16))
				length := int64(len(body))
				if j%3 == 0 {
					length = -1
				}
				from := io.Reader(strings.NewReader(body))
				if j%2 == 0 {
					from = &laterReader{Reader: from, at: len(body) / 2}
				}
				if got := result(c, uploadOf(t, from, length)); got != "200 "+body {
					t.Errorf("%.60s", got)
				}
			}
		})
	}
	wait.Wait()
	c.CloseIdleConnections()
	b.close()
	eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}
