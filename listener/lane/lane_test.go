package lane

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast/caddyfile"
	_ "github.com/ballastlb/ballast/lbmodule"
	"github.com/ballastlb/ballast/listener/express"
	"github.com/ballastlb/ballast/listener/told"
)

const patience = 10 * time.Second

// served is a lane with a site that has one load balancer, and what the lane hands over.
type served struct {
	*Lane
	t       *testing.T
	site    *Site
	address string
	tls     atomic.Pointer[tls.Config] // nil without
	handed  chan net.Conn
	ended   chan struct{}
}

// start starts a lane. serve serves the connections to the backend. settings are of the load balancer.
func start(t *testing.T, settings string, options Options, serve func(b *backend)) *served {
	t.Helper()
	s := &served{t: t, handed: make(chan net.Conn, 100), ended: make(chan struct{}, 100)}
	s.site = siteOf(t, fmt.Sprintf("load_balancer %s {\nretry off\nbreaker off\nhold off\n%s\n}", startBackend(t, serve), settings))
	options.Site = func() *Site { return s.site }
	options.HandOver = func(c net.Conn, _ bool) bool {
		s.handed <- c
		return true
	}
	options.Ended = func() { s.ended <- struct{}{} }
	options.Server = new(http.Server)
	if options.MaxHeaderBytes == 0 {
		options.MaxHeaderBytes = 1 << 20
	}
	if s.Lane = New(options); s.Lane == nil {
		t.Fatal("this platform has no lane")
	}
	ln := listen(t)
	s.address = ln.Addr().String()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if config := s.tls.Load(); config != nil {
				c = tls.Server(c, config)
			}
			if !s.Serve(c) {
				c.Close()
			}
		}
	}()
	return s
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// siteOf provisions a site with that body.
func siteOf(t *testing.T, body string) *Site {
	t.Helper()
	text := fmt.Sprintf("{\nadmin off\nauto_https off\nstorage file_system %s\nlog {\noutput discard\n}\n}\nhttp:// {\n%s\n}\n", t.TempDir(), body)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		t.Fatal(err)
	}
	balancers, err := ctx.App("load_balancer")
	if err != nil {
		t.Fatal(err)
	}
	if err := balancers.(caddy.App).Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := balancers.(caddy.App).Stop(); err != nil {
			t.Error(err)
		}
	})
	loaded, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	app := loaded.(*caddyhttp.App)
	server := app.Servers["srv0"]
	return &Site{Server: server, Table: express.Compile(server, ctx), Log: told.NewLog(ctx, app, server), Logger: zap.NewNop()}
}

// backend is a connection to the backend.
type backend struct {
	net.Conn
	*bufio.Reader
}

func (b *backend) Read(p []byte) (int, error) { return b.Reader.Read(p) }

// head reads a request's head; "" if there is none.
func (b *backend) head() string {
	var head strings.Builder
	for {
		line, err := b.ReadString('\n')
		if head.WriteString(line); err != nil {
			return ""
		}
		if line == "\r\n" {
			return head.String()
		}
	}
}

// path reads a head and returns the path that it asks for.
func (b *backend) path() string {
	parts := strings.Fields(b.head())
	if len(parts) < 2 {
		return ""
	}
	return parts[1]
}

func (b *backend) send(text string) { _, _ = io.WriteString(b.Conn, text) }

// answerOf is an answer with that body.
func answerOf(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// paths answers each request, which has no body, with its path.
func paths(b *backend) {
	for path := b.path(); path != ""; path = b.path() {
		b.send(answerOf(path))
	}
}

func startBackend(t *testing.T, serve func(b *backend)) string {
	t.Helper()
	ln := listen(t)
	var mu sync.Mutex
	var conns []net.Conn
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				serve(&backend{c, bufio.NewReader(c)})
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return ln.Addr().String()
}

// client is a client's connection.
type client struct {
	t *testing.T
	*net.TCPConn
	r *bufio.Reader
}

func (s *served) dial() *client {
	s.t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{s.t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// receive returns the answer to a request of that method.
func (c *client) receive(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Errorf("after %q: %v", body, err)
	}
	return res, string(body)
}

func (c *client) expect(want string) {
	c.t.Helper()
	if res, body := c.receive(http.MethodGet); res.StatusCode != http.StatusOK || body != want {
		c.t.Errorf("got %d %q, want %q", res.StatusCode, body, want)
	}
}

// expectEnd expects that the server closes the connection.
func (c *client) expectEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Errorf("got %q, %v, want nothing and the end", rest, err)
	}
}

// closed reports whether the peer closes c within that time.
func closed(c net.Conn, within time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }

func post(path string, length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", path, length)
}

// TestPipelined: requests that come at once are answered in their order.
func TestPipelined(t *testing.T) {
	s := start(t, "", Options{}, paths)
	c := s.dial()
	const n = 200 // more than a buffer has room for
	var all strings.Builder
	for i := range n {
		all.WriteString(get(fmt.Sprintf("/%d", i)))
	}
	go func() { _, _ = io.WriteString(c, all.String()) }()
	for i := range n {
		c.expect(fmt.Sprintf("/%d", i))
	}
	if n := len(s.handed); n > 0 {
		t.Errorf("%d connections were handed over", n)
	}
}

// TestHandOver: a request that is not plain is handed over with all bytes that were read of it and after it, wherever they are cut; the
// requests before it are answered.
func TestHandOver(t *testing.T) {
	s := start(t, "", Options{}, paths)
	const before = 2
	plain := get("/a") + get("/b")
	for _, odd := range []string{
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"GET /c HTTP/1.1\nHost: a\n\n", "GET /long HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("l", 5000) + "\r\nX_Y: z\r\n\r\n",
	} {
		text := plain + odd + get("/rest")
		step := 1 + len(text)/300
		for cut := 1; cut < len(text); cut += step {
			c := s.dial()
			c.send(text[:cut])
			answered := 0
			for ; answered < before && cut >= (answered+1)*len(plain)/before; answered++ {
				c.expect([]string{"/a", "/b"}[answered])
			}
			c.send(text[cut:])
			for ; answered < before; answered++ {
				c.expect([]string{"/a", "/b"}[answered])
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			select {
			case handed := <-s.handed:
				_ = handed.SetReadDeadline(time.Now().Add(patience))
				if got, err := io.ReadAll(handed); err != nil || string(got) != text[len(plain):] {
					t.Errorf("cut at %d: handed over %q, %v, want %q", cut, got, err, text[len(plain):])
				}
				handed.Close()
			case <-time.After(patience):
				t.Fatalf("cut at %d: %q is not handed over", cut, odd)
			}
			c.Close()
		}
	}
}

// TestUnfinished: an incomplete head is handed over with the end of the connection; a connection without a byte is not a request.
func TestUnfinished(t *testing.T) {
	s := start(t, "", Options{}, paths)
	text := get("/a")
	for cut := 1; cut < len(text); cut++ {
		c := s.dial()
		c.send(text[:cut])
		_ = c.CloseWrite()
		handed := <-s.handed
		if got, err := io.ReadAll(handed); err != nil || string(got) != text[:cut] {
			t.Errorf("handed over %q, %v, want %q", got, err, text[:cut])
		}
		handed.Close()
		c.Close()
	}
	c := s.dial()
	_ = c.CloseWrite()
	c.expectEnd()
	<-s.ended
}

// TestPanic: a request that panics loses its connection, and no other.
func TestPanic(t *testing.T) {
	s := start(t, "", Options{}, paths)
	var once sync.Once
	s.site.AltSvc = func() string {
		once.Do(func() { panic("for the test") })
		return ""
	}
	other := s.dial()
	c := s.dial()
	c.send(get("/a") + get("/b"))
	c.expectEnd()
	<-s.ended
	for range 3 {
		other.send(get("/c"))
		other.expect("/c")
	}
}

// TestShutdown: idle connections are closed; requests are answered first, and the answer tells the client to close.
func TestShutdown(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := start(t, "", Options{}, func(b *backend) {
		for path := b.path(); path != ""; path = b.path() {
			if path == "/slow" {
				close(asked)
				<-answer
			}
			b.send(answerOf(path))
		}
	})
	idle, slow, drained := s.dial(), s.dial(), s.dial()
	idle.send(get("/a"))
	idle.expect("/a")
	drained.send(get("/a"))
	drained.expect("/a")
	s.Drain()
	drained.send(get("/last"))
	if res, _ := drained.receive(http.MethodGet); !res.Close {
		t.Errorf("header %v of an answer while clients are to leave", res.Header)
	}
	drained.expectEnd()
	slow.send(get("/slow") + get("/behind"))
	<-asked
	over := make(chan error, 1)
	go func() { over <- s.Shutdown(t.Context()) }()
	idle.expectEnd()
	select {
	case err := <-over:
		t.Fatalf("it is over before the last answer: %v", err)
	default:
	}
	close(answer)
	if res, body := slow.receive(http.MethodGet); !res.Close || body != "/slow" {
		t.Errorf("got %q, header %v", body, res.Header)
	}
	slow.expectEnd()
	select {
	case err := <-over:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it is not over")
	}
	late := s.dial()
	late.expectEnd()
}
