package front

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// How long a half-closed tunnel may be silent before it ends. A backend that has closed its side has usually closed the whole connection,
// which TCP does not show, and no longer needs its slot; the client gets a short time to finish. A client that has closed its side may wait
// while the backend works, as clients of container consoles do; a backend that neither sends nor closes for clientDone is considered dead.
const (
	backendDone = 5 * time.Second
	clientDone  = time.Hour
)

// leave is the time limit for each step when a tunnel is ended: to stop copying, to finish a frame and write a close frame, and for the
// client to close.
const leave = 2 * time.Second

// tunnel connects a client to a backend that has switched protocols. reverse_proxy copies the bytes: one goroutine reads from the tunnel,
// which is the backend's side, and writes to the client, and another does the opposite. The tunnel sees both sides, so that it can end a
// WebSocket with close frames. A half-closed tunnel ends when it is silent for too long.
type tunnel struct {
	io.ReadWriteCloser                     // the backend's side
	client             http.ResponseWriter // for the deadlines of the client's connection, even after it was hijacked
	traffic            *pool.Traffic       // of the backend
	webSocket          bool
	up, down           outlet // of a WebSocket: to the backend and to the client

	begun atomic.Bool // something reads from the backend's side
	half  atomic.Bool // one side has closed

	mu     sync.Mutex // guards the fields below
	silent *time.Timer
	bound  time.Duration // of silent
	over   bool          // client must not be used any more
	ending bool          // [tunnel.End] has ended it
	ends   *time.Timer   // ends it, or, if it is ending, cuts it
	endsAt time.Time     // when it is to end
	follow func()        // binds the context of apart to that of the request; nil before apart is called
}

// Switched returns the stream that an answer begins if it switches protocols; ok is false otherwise. It must be called before
// [Request.Answer], and the stream must not be used after [Request.End]. The bytes that it carries are counted in traffic.
func (q *Request) Switched(res *http.Response, traffic *pool.Traffic) (stream pool.Stream, ok bool) {
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok || res.StatusCode != http.StatusSwitchingProtocols {
		return nil, false
	}
	q.tunnel = &tunnel{ReadWriteCloser: backend, client: q.w, traffic: traffic, webSocket: strings.EqualFold(res.Header.Get("Upgrade"), "websocket")}
	res.Body = q.tunnel
	if q.stream != nil {
		q.stream.tunnel = q.tunnel
	}
	return q.tunnel, true
}

// Read implements [io.Reader].
func (t *tunnel) Read(p []byte) (int, error) {
	t.begun.Store(true)
	n, err := t.ReadWriteCloser.Read(p)
	if n > 0 {
		t.traffic.CountOut(n)
		t.passed()
	}
	if errors.Is(err, io.EOF) {
		t.halfClose(backendDone)
	}
	return n, err
}

// Write implements [io.Writer].
func (t *tunnel) Write(p []byte) (n int, err error) {
	if t.webSocket {
		n, err = t.up.write(p, t.ReadWriteCloser.Write)
	} else {
		n, err = t.ReadWriteCloser.Write(p)
	}
	if n > 0 {
		t.traffic.CountIn(n)
		t.passed()
	}
	return n, err
}

// writeDown writes to the client.
func (t *tunnel) writeDown(p []byte, write func([]byte) (int, error)) (int, error) {
	if t.webSocket {
		return t.down.write(p, write)
	}
	return write(p)
}

// CloseWrite tells the backend that the client has closed its side.
func (t *tunnel) CloseWrite() error {
	closer, ok := t.ReadWriteCloser.(interface{ CloseWrite() error })
	if !ok {
		return http.ErrNotSupported
	}
	t.halfClose(clientDone)
	return closer.CloseWrite()
}

// halfClose starts the timer for silence, when one side has closed.
func (t *tunnel) halfClose(bound time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent == nil && !t.over {
		t.bound, t.silent = bound, time.AfterFunc(bound, t.cut)
		t.half.Store(true)
	}
}

// passed restarts the timer when data passes.
func (t *tunnel) passed() {
	if !t.half.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.silent.Reset(t.bound)
	}
}

// cut breaks both directions, so that the goroutines that copy them stop.
func (t *tunnel) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.ReadWriteCloser.Close()
	t.wake()
}

// wake makes the goroutine that reads from the client stop, after which the request's own goroutine closes the tunnel. The caller holds t.mu.
func (t *tunnel) wake() {
	_ = http.NewResponseController(t.client).SetReadDeadline(time.Unix(1, 0))
}

// End implements [pool.Stream].
func (t *tunnel) End(after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := time.Now().Add(after)
	if t.over || t.ending || after > 0 && t.ends != nil && t.endsAt.Before(at) {
		return
	}
	if t.ends != nil {
		t.ends.Stop()
	}
	if after > 0 {
		t.endsAt, t.ends = at, time.AfterFunc(after, func() { t.End(0) })
		return
	}
	t.ending = true
	t.ends = time.AfterFunc(leave, t.cut) // in case the goroutines are stuck in writing
	t.wake()
}

// isEnding reports whether [tunnel.End] has ended the tunnel.
func (t *tunnel) isEnding() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ending
}

// apart returns a context for the tunnel of a connection, and a function that ends it. The context ends with that of the request, but only
// once the connection has been hijacked. Before that, the server has already sent the head of the answer but still reads ahead, and cancels
// the request's context if the client closes its side as soon as it has the head.
func (t *tunnel) apart(request context.Context) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(request))
	unbind := func() bool { return true }
	t.mu.Lock()
	defer t.mu.Unlock()
	t.follow = func() {
		if cause := context.Cause(request); cause == nil {
			unbind = context.AfterFunc(request, func() { cancel(context.Cause(request)) })
		} else if !errors.Is(cause, context.Canceled) {
			cancel(cause) // canceled by this process
		}
	}
	return ctx, func() {
		unbind()
		cancel(nil)
	}
}

// hijacked is called when the client's connection has been taken over, which clears its deadlines.
func (t *tunnel) hijacked() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending {
		t.wake()
	}
	if t.follow != nil {
		t.follow()
	}
}

// client is the client of a WebSocket, for writing to it.
type client interface {
	Write(p []byte) (int, error)
	SetWriteDeadline(t time.Time) error // another goroutine may be writing
}

// sayGoodbye sends a close frame to both sides of an ended WebSocket. It reports whether the client got one.
func (t *tunnel) sayGoodbye(to client) bool {
	if !t.webSocket || !t.isEnding() {
		return false
	}
	late := make(chan struct{})
	cut := time.AfterFunc(leave, func() {
		t.ReadWriteCloser.Close()
		_ = to.SetWriteDeadline(time.Unix(1, 0))
		close(late)
	})
	defer cut.Stop()
	select {
	case <-t.down.end(goingAway(false), to.Write):
	case <-late: // the rest of a frame is missing
	}
	t.up.end(goingAway(true), t.ReadWriteCloser.Write)
	t.down.mu.Lock()
	defer t.down.mu.Unlock()
	return t.down.sent
}

// finish is called when the client's request ends. t may be nil.
func (t *tunnel) finish() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	for _, timer := range []*time.Timer{t.silent, t.ends} {
		if timer != nil {
			timer.Stop()
		}
	}
}

// clientConn is the client's connection of a tunnel.
type clientConn struct {
	net.Conn
	tunnel *tunnel
}

// hijack takes over the client's connection of a tunnel.
func (t *tunnel) hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	t.hijacked()
	c := &clientConn{conn, t}
	if half, ok := conn.(closeWriter); ok {
		return &halfClosingConn{c, half}, buffered, nil
	}
	return c, buffered, nil
}

// Write implements [io.Writer].
func (c *clientConn) Write(p []byte) (int, error) { return c.tunnel.writeDown(p, c.Conn.Write) }

// Close implements [io.Closer]. After a close frame, it waits a little for the client to close its side: closing a connection on which
// something has arrived unread resets it, and the client may lose the frame.
func (c *clientConn) Close() error {
	if c.tunnel.sayGoodbye(c.Conn) {
		if half, ok := c.Conn.(closeWriter); ok && half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(leave)) == nil {
			_, _ = io.Copy(io.Discard, c.Conn)
		}
	}
	return c.Conn.Close()
}

type closeWriter interface{ CloseWrite() error }

// halfClosingConn is a clientConn whose sides can be closed one by one.
type halfClosingConn struct {
	*clientConn
	closeWriter
}

// clientStream is the request body of a WebSocket of HTTP/2 or HTTP/3. Such a WebSocket has no connection of its own: what goes to the client
// is written to an [untyped].
type clientStream struct {
	io.ReadCloser
	tunnel *tunnel // nil until the backend has switched protocols
}

// Close implements [io.Closer].
func (c *clientStream) Close() error {
	if c.tunnel != nil {
		c.tunnel.sayGoodbye(streamClient{c.tunnel.client})
	}
	return c.ReadCloser.Close()
}

// streamClient is the client of a WebSocket of HTTP/2 or HTTP/3.
type streamClient struct{ http.ResponseWriter }

// Write implements [io.Writer].
func (c streamClient) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	if err == nil {
		err = http.NewResponseController(c.ResponseWriter).Flush()
	}
	return n, err
}

// SetWriteDeadline sets the deadline of the stream itself. The server's writers around it set deadlines of their own, and must not be used by
// two goroutines.
func (c streamClient) SetWriteDeadline(t time.Time) error {
	w := c.ResponseWriter
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return http.NewResponseController(w).SetWriteDeadline(t)
		}
		w = outer.Unwrap()
	}
}
