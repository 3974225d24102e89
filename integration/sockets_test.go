package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The operation codes of WebSocket frames (RFC 6455, 5.2).
const (
	textFrame  = 1
	closeFrame = 8
)

// writeFrame writes a WebSocket frame of less than 64 KiB. Those of a client are masked.
func writeFrame(w io.Writer, operation byte, payload []byte, masked bool) error {
	frame := []byte{0x80 | operation, byte(len(payload))}
	if len(payload) > 125 {
		frame = binary.BigEndian.AppendUint16([]byte{0x80 | operation, 126}, uint16(len(payload)))
	}
	if masked {
		mask := [4]byte{1, 2, 3, 4}
		frame[1] |= 0x80
		frame = append(frame, mask[:]...)
		for i, b := range payload {
			frame = append(frame, b^mask[i%4])
		}
	} else {
		frame = append(frame, payload...)
	}
	_, err := w.Write(frame)
	return err
}

// readFrame reads a WebSocket frame, and reports whether it is masked.
func readFrame(r io.Reader) (operation byte, payload []byte, masked bool, err error) {
	var head [2]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return 0, nil, false, err
	}
	length := int(head[1] & 0x7f)
	switch length {
	case 126:
		var more [2]byte
		if _, err = io.ReadFull(r, more[:]); err != nil {
			return 0, nil, false, err
		}
		length = int(binary.BigEndian.Uint16(more[:]))
	case 127:
		return 0, nil, false, errors.New("frame of 64 KiB or more")
	}
	var mask [4]byte
	if masked = head[1]&0x80 != 0; masked {
		if _, err = io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, false, err
		}
	}
	payload = make([]byte, length)
	if _, err = io.ReadFull(r, payload); err != nil {
		return 0, nil, masked, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, masked, nil
}

// closeStatus returns the status of a close frame.
func closeStatus(payload []byte) int {
	if len(payload) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(payload))
}

// socketBackend is what a backend sees of its WebSockets.
type socketBackend struct {
	*backend
	mu     sync.Mutex
	closed map[int]int // number of WebSockets by the status that they were closed with; 0 for none
}

// closings returns how many WebSockets were closed with that status.
func (b *socketBackend) closings(status int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed[status]
}

// startSocketBackend starts a backend whose WebSockets echo. On the path /flood it sends without end, and on /pieces a piece of a frame every
// millisecond. On other requests it answers with its address.
func startSocketBackend(t *testing.T) *socketBackend {
	t.Helper()
	b := &socketBackend{backend: startBackend(t), closed: make(map[int]int)}
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, b.addr)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Backend: "+b.addr+"\r\n\r\n"); err != nil {
			return
		}
		switch r.URL.Path {
		case "/flood":
			go func() {
				for payload := make([]byte, 1000); writeFrame(conn, textFrame, payload, false) == nil; {
				}
			}()
		case "/pieces":
			done := make(chan struct{})
			defer close(done)
			go sendPieces(conn, done)
		}
		status := 0
		for {
			operation, payload, masked, err := readFrame(buffered)
			if err != nil {
				break
			}
			if operation == closeFrame && masked {
				status = closeStatus(payload)
				_ = writeFrame(conn, closeFrame, payload, false)
				break
			}
			if writeFrame(conn, operation, payload, false) != nil {
				break
			}
		}
		b.mu.Lock()
		b.closed[status]++
		b.mu.Unlock()
	})
	return b
}

// sendPieces sends frames in pieces until done is closed.
func sendPieces(to io.Writer, done <-chan struct{}) {
	var frames bytes.Buffer
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		if frames.Len() < 100 {
			_ = writeFrame(&frames, textFrame, bytes.Repeat([]byte{0x80 | closeFrame}, 5000), false)
		}
		select {
		case <-ticker.C:
		case <-done:
			return
		}
		if _, err := to.Write(frames.Next(100)); err != nil {
			return
		}
	}
}

// socket is a WebSocket's client.
type socket struct {
	io.ReadWriteCloser
	from    *bufio.Reader
	backend string // its address
}

// openSocket opens a WebSocket over HTTP/1.1.
func openSocket(c *caddy, path string) (*socket, error) {
	conn, err := c.dialSite("http/1.1")
	if err != nil {
		return nil, err
	}
	c.t.Cleanup(func() { conn.Close() })
	return upgradeSocket(conn, c.site, path)
}

// upgradeSocket opens a WebSocket on a connection to a site.
func upgradeSocket(conn net.Conn, site, path string) (*socket, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, site)
	s := &socket{ReadWriteCloser: conn, from: bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.from, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("%w %d", errStatus, res.StatusCode)
	}
	s.backend = res.Header.Get("X-Backend")
	return s, nil
}

// mustOpenSocket is openSocket for a WebSocket that must open.
func mustOpenSocket(t *testing.T, c *caddy, path string) *socket {
	t.Helper()
	s, err := openSocket(c, path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// overTLS is a config whose sites have TLS, with a certificate of Caddy's own authority.
func overTLS(config string) string {
	config = strings.Replace(config, "http://SITE_ADDRESS {\n", "https://SITE_ADDRESS {\ntls internal\n", 1)
	config = strings.Replace(config, "protocols h1 h2c", "protocols h1 h2", 1)
	return strings.Replace(config, "{\n", "{\n\tskip_install_trust\n\tauto_https disable_redirects\n", 1)
}

// dialSite connects to the site, with TLS if it has that.
func (c *caddy) dialSite(protocol string) (net.Conn, error) {
	if !c.secure {
		return net.Dial("tcp", c.site)
	}
	// The certificate is there a moment after the site is.
	for deadline := time.Now().Add(patience); ; {
		conn, err := tls.Dial("tcp", c.site, &tls.Config{NextProtos: []string{protocol}, InsecureSkipVerify: true, ServerName: "127.0.0.1"})
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// extendedConnects lets Caddy accept WebSockets over HTTP/2.
const extendedConnects = "GODEBUG=http2xconnect=1"

// openSocketOverHTTP2 opens a WebSocket by an extended CONNECT (RFC 8441), on a connection of its own.
func openSocketOverHTTP2(t *testing.T, c *caddy, path string) *socket {
	t.Helper()
	conn, err := c.dialSite(http2.NextProtoTLS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	transport, err := new(http2.Transport).NewClientConn(conn) //nolint:staticcheck // net/http refuses to send :protocol
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, c.url(path), reader)
	if err != nil {
		t.Fatal(err)
	}
	if c.secure {
		r.URL.Scheme = "https"
	}
	r.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	res, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %d", res.StatusCode)
	}
	t.Cleanup(func() { res.Body.Close() })
	return &socket{
		ReadWriteCloser: struct {
			io.Reader
			io.Writer
			io.Closer
		}{res.Body, writer, conn},
		from: bufio.NewReader(res.Body), backend: res.Header.Get("X-Backend"),
	}
}

// echo sends a text and waits until it comes back.
func (s *socket) echo(text string) error {
	if err := writeFrame(s, textFrame, []byte(text), true); err != nil {
		return err
	}
	operation, payload, _, err := readFrame(s.from)
	switch {
	case err != nil:
		return err
	case operation == closeFrame:
		return fmt.Errorf("closed with %d", closeStatus(payload))
	case string(payload) != text:
		return fmt.Errorf("echo of %q is %q", text, payload)
	}
	return nil
}

// closing reads frames up to the close frame, and what follows to the end. It returns the frame's status. If answers is set, the client answers
// with a close frame of its own.
func (s *socket) closing(answers bool) (status int, err error) {
	for {
		operation, payload, masked, err := readFrame(s.from)
		switch {
		case err != nil:
			return 0, err
		case masked:
			return 0, errors.New("a frame to the client is masked")
		case operation != closeFrame && operation != textFrame:
			return 0, fmt.Errorf("frame with operation %d", operation)
		case operation == textFrame:
			continue
		}
		if answers {
			_ = writeFrame(s, closeFrame, payload, true)
		}
		if rest, err := io.ReadAll(s.from); err != nil || len(rest) > 0 {
			return closeStatus(payload), fmt.Errorf("%d bytes behind the close frame, %w", len(rest), err)
		}
		s.Close()
		return closeStatus(payload), nil
	}
}

// sockets are WebSockets that are looked at together.
type sockets []*socket

// openSockets opens n WebSockets.
func openSockets(t *testing.T, c *caddy, n int) (all sockets) {
	t.Helper()
	for range n {
		all = append(all, mustOpenSocket(t, c, "/"))
	}
	return all
}

// each calls f for all at once, and reports the errors.
func (all sockets) each(t *testing.T, what string, f func(s *socket) error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, s := range all {
		wg.Go(func() { errs[i] = f(s) })
	}
	wg.Wait()
	failed := 0
	for i, err := range errs {
		if err == nil {
			continue
		}
		if failed++; failed <= 3 {
			t.Errorf("%s: WebSocket %d to %s: %v", what, i, all[i].backend, err)
		}
	}
	if failed > 3 {
		t.Errorf("%s: %d of %d WebSockets failed", what, failed, len(all))
	}
}

// echo has all echo.
func (all sockets) echo(t *testing.T, when string) {
	t.Helper()
	all.each(t, when, func(s *socket) error { return s.echo(when) })
}

// goAway waits until all have been closed with 1001.
func (all sockets) goAway(t *testing.T, when string) {
	t.Helper()
	all.each(t, when, func(s *socket) error {
		status, err := s.closing(true)
		if status != 1001 {
			return fmt.Errorf("closed with %d, %w; want 1001", status, err)
		}
		return err
	})
}

// to returns those to a backend, or with other, those to others.
func (all sockets) to(address string, other bool) (some sockets) {
	for _, s := range all {
		if (s.backend == address) != other {
			some = append(some, s)
		}
	}
	return some
}

// inFlight returns the number of requests in flight of the pool, by backend's address; nil if there is no such pool.
func (c *caddy) inFlight(pool string) map[string]int64 {
	var p poolState
	if c.api(http.MethodGet, "/load_balancer/pools/"+pool, &p) != http.StatusOK {
		return nil
	}
	all := make(map[string]int64)
	for _, b := range p.Backends {
		all[b.Address] = b.InFlight
	}
	return all
}

// exits waits for the process to end after it was told to, and checks its status.
func (c *caddy) exits(t *testing.T, within time.Duration) {
	t.Helper()
	start := time.Now()
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatalf("caddy did not exit within %v", patience)
	}
	if took, code := time.Since(start), c.cmd.ProcessState.ExitCode(); took > within || code != 0 {
		t.Errorf("caddy exited with %d after %v, want 0 within %v", code, took, within)
	}
}

// balancing is a load balancer of pool p over these backends.
func balancing(settings string, backends ...*socketBackend) string {
	site := "load_balancer {\n name p\n slow_start off\n " + settings + "\n"
	if !strings.Contains(settings, "lb_policy") {
		site += " lb_policy round_robin\n"
	}
	for _, b := range backends {
		site += " to " + b.addr + "\n"
	}
	return siteConfig(strings.TrimSuffix(site, "\n") + "\n}")
}
