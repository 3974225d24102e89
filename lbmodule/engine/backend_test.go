//go:build unix

package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// net/http's transport logs unrequested bytes of the backends here.
func init() { log.SetOutput(io.Discard) }

// patience is how long tests wait for what must happen.
const patience = 20 * time.Second

// backend is the other side of connections. They are pairs of sockets, so that no listener is needed.
type backend struct {
	t     testing.TB
	serve func(n int, c *peer) // the n-th connection, from 1 on

	mu    sync.Mutex
	made  int
	peers []*peer
	wait  sync.WaitGroup
}

// peer is the backend's end of a connection.
type peer struct {
	net.Conn
	br *bufio.Reader
}

func newBackend(t testing.TB, serve func(n int, c *peer)) *backend {
	b := &backend{t: t, serve: serve}
	t.Cleanup(b.close)
	return b
}

func (b *backend) close() {
	b.mu.Lock()
	for _, p := range b.peers {
		p.Close()
	}
	b.mu.Unlock()
	b.wait.Wait()
}

func (b *backend) dials() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.made
}

func (b *backend) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	ours, err := fromDescriptor(pair[0])
	if err != nil {
		return nil, err
	}
	theirs, err := fromDescriptor(pair[1])
	if err != nil {
		return nil, err
	}
	p := &peer{Conn: theirs, br: bufio.NewReader(theirs)}
	b.mu.Lock()
	b.made++
	n := b.made
	b.peers = append(b.peers, p)
	b.mu.Unlock()
	b.wait.Go(func() {
		b.serve(n, p)
		p.Close()
	})
	return ours, nil
}

func fromDescriptor(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}

// head reads a request, and returns its lines; nil when there is none.
func (p *peer) head() (lines []string) {
	for {
		line, err := p.br.ReadString('\n')
		if err != nil {
			return nil
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "" {
			return lines
		}
		lines = append(lines, line)
	}
}

func (p *peer) say(text string) { io.WriteString(p, text) }

// answering answers every request with that text.
func answering(text string) func(int, *peer) {
	return func(_ int, p *peer) {
		for p.head() != nil {
			p.say(text)
		}
	}
}

const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func (b *backend) client() *Client {
	c := &Client{DialContext: b.dial, MaxIdleConnsPerHost: 32, atOnce: patience}
	b.t.Cleanup(c.CloseIdleConnections)
	return c
}

// request is one that the client takes.
func request(ctx context.Context, method, url string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		panic(err)
	}
	r.Header["User-Agent"] = []string{""}
	return r
}

// get makes a request and reads the whole answer.
func get(t testing.TB, rt http.RoundTripper) (status int, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("test waited too long"))
	defer cancel()
	res, err := rt.RoundTrip(request(ctx, http.MethodGet, "http://backend/x"))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

func mustGet(t testing.TB, rt http.RoundTripper) {
	t.Helper()
	if status, body, err := get(t, rt); status != http.StatusOK || body != "ok" || err != nil {
		t.Fatalf("%d %q, %v", status, body, err)
	}
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// idleConns is how many connections the client keeps.
func (c *Client) idleConns() int {
	c.idle.mu.Lock()
	defer c.idle.mu.Unlock()
	return c.idle.n
}
