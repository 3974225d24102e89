package engine

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/lbmodule/socket"
)

// staleError is returned if a kept connection ended before an answer began, and the request may be repeated on another one: the backend may
// have closed the connection while it was idle. It holds the error to return if the request cannot be repeated.
type staleError struct{ error }

// conn is a connection to a backend. At any time either one request or the idle pool owns it.
type conn struct {
	net    net.Conn
	io     io.ReadWriter // net, or quick
	quick  *socket.Conn  // nil if there is none
	ask    []byte        // a request that the next read writes before it reads; nil for none
	said   int           // number of bytes of ask that were written
	client *Client
	host   string
	br     *bufio.Reader
	out    []byte          // the request, or what is sent of it before the answer is awaited
	own    []byte          // buffer for requests without a body
	rest   *sending        // sends the rest of the request's body; nil if there is none
	under  *ciphertext     // the connection beneath TLS; nil without TLS
	raw    syscall.RawConn // nil if the connection cannot be checked; then it is used only once
	check  func(fd uintptr) bool
	quiet  bool // result of the last check
	used   bool // has carried a request before
	spent  bool // must not be used again

	since  time.Time // when it became idle
	left   int64     // bytes of a header that may still be read; negative for no bound
	failed error     // the network error of the last read
	state  *tls.ConnectionState
	closed atomic.Bool

	watched
}

// maxOwn is the size of the buffer that a connection keeps for its next request.
const maxOwn = 32 << 10

func newConn(client *Client, host string, made net.Conn) *conn {
	c := &conn{net: made, io: made, client: client, host: host}
	if c.quick = socket.New(made); c.quick != nil {
		c.io = c.quick
	}
	c.br = bufio.NewReaderSize(c, client.bufferSize())
	c.raw, c.check = rawOf(made), c.peek
	client.watcher.add(c)
	return c
}

// Read implements [io.Reader] for c.br.
func (c *conn) Read(p []byte) (int, error) {
	if c.left < 0 {
		return c.io.Read(p)
	}
	if c.left == 0 {
		c.failed = fmt.Errorf("header of the answer is longer than %d bytes", c.client.headerBytes())
		return 0, c.failed
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.read(p)
	c.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.failed = err
	}
	return n, err
}

// read reads. If ask is set, it writes that request first.
func (c *conn) read(p []byte) (n int, err error) {
	if c.ask == nil {
		return c.io.Read(p)
	}
	out := c.ask
	c.ask = nil
	if c.said, n, err = c.quick.Ask(out, p, c.used); err != nil || c.said == len(out) {
		return n, err
	}
	more, err := c.io.Write(out[c.said:])
	if c.said += more; err != nil {
		return 0, err
	}
	return c.io.Read(p)
}

// alive reports whether an idle connection is open and has no unrequested bytes.
func (c *conn) alive() bool {
	if c.under != nil {
		return c.under.isQuiet(c.net)
	}
	c.quiet = false
	return c.raw.Read(c.check) == nil && c.quiet
}

// close may be called more than once, and during a read.
func (c *conn) close() {
	if !c.closed.Swap(true) {
		c.net.Close()
		c.client.watcher.remove(c)
	}
}

// release ends the use of the connection by a request. clean says that the answer has been read to its end, so that the connection may be
// used again.
func (c *conn) release(clean bool) {
	if !clean || c.raw == nil || c.br.Buffered() > 0 || !c.rest.isSent() {
		c.close()
		return
	}
	c.out, c.rest = nil, nil
	if c.used = true; cap(c.own) > maxOwn {
		c.own = nil
	}
	c.client.idle.put(c, time.Now())
}

// exchange makes the composed request. Afterwards the answer owns the connection, or it has been released.
func (c *conn) exchange(k *Call) (*http.Response, error) {
	r := k.Request
	ctx := r.Context()
	c.watch(k)
	answer, err := c.roundTrip(k)
	if err != nil {
		c.close()
		cause := c.rest.stop(ctx.Err() != nil)
		switch open := c.unwatch(); {
		case k.off.Load():
			return nil, errBrokenOff
		case !open || ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		return nil, cmp.Or(cause, err)
	}
	res := &answer.Response
	res.TLS = c.state
	again := !res.Close && res.StatusCode >= http.StatusOK && !c.spent
	if r.Method == http.MethodHead || res.ContentLength == 0 {
		res.Body = http.NoBody
		c.release(c.unwatch() && again)
		return res, nil
	}
	b := &answer.body
	b.conn, b.ctx, b.again = c, ctx, again
	res.Body = b
	if c.client.asksGzip(k) && isGzip(res.Header) {
		res.Body = &unpacked{packed: b}
		res.Header.Del("Content-Encoding")
		res.Header.Del("Content-Length")
		res.ContentLength, res.Uncompressed = -1, true
	}
	return res, nil
}

// roundTrip writes the request and reads the header of its answer.
func (c *conn) roundTrip(k *Call) (*answer, error) {
	if c.quick != nil && c.rest == nil {
		return c.askOnce(k)
	}
	r := k.Request
	n, broken := c.io.Write(c.out)
	c.rest.begin(broken)
	nothing := n == 0 && (c.rest == nil || r.GetBody != nil)
	if broken != nil {
		if c.spent = true; n == 0 && c.used {
			return nil, c.early(broken, nothing)
		}
		if !isReset(broken) {
			return nil, broken
		}
		// The backend has stopped reading. An answer that it sent before is still valid.
	}
	timeout := c.client.ResponseHeaderTimeout
	if timeout > 0 && c.rest == nil {
		if err := c.expect(time.Now().Add(timeout)); err != nil {
			return nil, err
		}
	}
	c.left = c.client.headerBytes()
	if _, err := c.br.Peek(1); err != nil {
		if broken == nil {
			if _, broken = c.rest.failure(); broken != nil && !isReset(broken) {
				return nil, broken // the connection was closed because of it
			}
		}
		if broken != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !isAlert(err) {
			err = broken
		}
		return nil, c.early(err, nothing || isRepeatable(r))
	}
	a, err := c.readHeader(k)
	if err != nil {
		return nil, c.late(err)
	}
	c.left = -1
	if c.rest != nil {
		return a, c.rest.answer(a.Close)
	}
	if timeout > 0 {
		if err := c.expect(time.Time{}); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// askOnce is roundTrip for a request that is complete, with as few system calls as possible.
func (c *conn) askOnce(k *Call) (*answer, error) {
	timeout := c.client.ResponseHeaderTimeout
	if timeout > 0 {
		if err := c.expect(time.Now().Add(timeout)); err != nil {
			return nil, err
		}
	}
	c.left, c.ask, c.said = c.client.headerBytes(), c.out, 0
	_, err := c.br.Peek(1)
	if err != nil && c.said < len(c.out) { // an error of writing
		if c.spent = true; c.said == 0 && c.used {
			return nil, c.early(err, true)
		}
		if !isReset(err) {
			return nil, err
		}
		// The backend has stopped reading. An answer that it sent before is still valid.
		broken := err
		if _, err = c.br.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			err = broken
		}
	}
	if err != nil {
		return nil, c.early(err, isRepeatable(k.Request))
	}
	a, err := c.readHeader(k)
	if err != nil {
		return nil, c.late(err)
	}
	c.left = -1
	if timeout > 0 {
		if err := c.expect(time.Time{}); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// isReset reports whether err, an error of writing, means that the backend has stopped reading.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// readHeader reads the header of the answer, and passes on informational answers before it.
func (c *conn) readHeader(k *Call) (*answer, error) {
	a := k.newAnswer()
	for {
		if err := a.readHead(c.br, k.Request.Method); err != nil {
			return nil, err
		}
		c.spent = c.spent || a.odd
		switch {
		case a.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("backend switches protocols, which was not requested")
		case a.StatusCode >= http.StatusOK || a.StatusCode < http.StatusContinue:
			a.Request = k.Request
			return a, nil
		}
		if a.StatusCode == http.StatusContinue {
			c.rest.continued()
		}
		// Without an Informer, one bound applies to all headers together.
		if k.Informer != nil {
			k.Informer.Inform(a.StatusCode, textproto.MIMEHeader(a.Header))
			c.left = c.client.headerBytes()
		}
		*a = answer{lines: a.lines} // the informer may keep the header
	}
}

// early returns the error for err if it came before the first byte of an answer; again says whether the request may be repeated.
func (c *conn) early(err error, again bool) error {
	again = again && c.used && !errors.Is(err, os.ErrDeadlineExceeded)
	if err = c.late(err); again {
		err = &staleError{err}
	}
	return err
}

// late returns the error for err if it came later.
func (c *conn) late(err error) error {
	if c.failed != nil {
		err = c.failed // rather than the parser's error about an incomplete line
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errHeaderTimeout
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the answer: %w", err)
}
