package lane

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/socket"
	"github.com/ballastlb/ballast/listener/express"
	"github.com/ballastlb/ballast/listener/h1"
	"github.com/ballastlb/ballast/listener/told"
)

// conn is a client's connection. One goroutine serves its requests, one after the other.
type conn struct {
	lane *Lane
	net  net.Conn
	io   io.ReadWriter // net, or a faster way to read and write
	tcp  *net.TCPConn  // net, if it is not encrypted
	raw  syscall.RawConn

	client  *told.Client
	who     *front.Who
	address netip.Addr // of the client; zero if it has none
	peer    string     // the same as text, without a zone; "" if it has none
	ctx     context.Context
	cancel  context.CancelCauseFunc
	base    *http.Request // with ctx

	state   atomic.Int32
	resumed bool // it is or was parked
	credit  int

	// Bytes that have arrived and are not consumed are buf[start:end]. While the connection waits for a request, buf is nil.
	buf        []byte
	start, end int
	n          int   // of the last read
	err        error // of the last read
	read       func(fd uintptr) bool
	little     *[512]byte // for the first bytes of a request over TLS

	head h1.Head
	way  *express.Way

	now        time.Time // when the head of the current request was read
	since      time.Time // when the request began; only set if the server limits the time for a whole request
	readUntil  time.Time // the current read deadline
	writeUntil time.Time // the current write deadline
	watched    watched
}

// The states of a connection.
const (
	busy int32 = iota
	idle       // it waits for a second or later request
	over
)

func newConn(l *Lane, c net.Conn) *conn {
	made := &conn{lane: l, net: c, io: c, credit: firstCredit}
	under := c
	if encrypted, ok := c.(*tls.Conn); ok {
		under = encrypted.NetConn()
	} else {
		made.tcp, _ = c.(*net.TCPConn)
	}
	if quick := socket.New(c); quick != nil {
		made.io = quick
	}
	if made.tcp == nil {
		made.little = new([512]byte)
	}
	of, ok := under.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := of.SyscallConn()
	if err != nil {
		return nil
	}
	made.raw, made.read = raw, made.readOnce
	made.watched.fd = -1
	return made
}

// serve serves a new connection until it ends, is handed over or is parked.
func (c *conn) serve() { c.run(true) }

// serveOn does the same for a connection that was parked.
func (c *conn) serveOn() { c.run(false) }

func (c *conn) run(first bool) {
	parked := false // another goroutine owns c then
	defer func() {
		if value := recover(); value != nil {
			if site := c.lane.Site(); site != nil {
				site.Logger.Error("express lane panicked", zap.Any("panic", value), zap.ByteString("stack", debug.Stack()))
			}
		}
		if !parked {
			c.close()
		}
	}()
	if first && !c.begin() {
		return
	}
	c.way = express.NewWay()
	for ; ; first = false {
		var ready bool
		if ready, parked = c.await(first); !ready || c.head.Method == http.MethodPost && !c.skipEmptyLines(first) {
			return
		}
		why, ok := c.readHead()
		if !ok {
			return
		}
		site := c.lane.Site()
		if site == nil {
			c.handOver(first, unknown)
			return
		}
		size := int64(unknown)
		if why == "" {
			size = int64(len(c.head.Raw)) + c.head.Length
			why = site.Table.Find(&c.head, c.client.TLS, c.way)
		}
		if why != "" {
			site.Table.HandedOver(why)
			c.handOver(first, size)
			return
		}
		c.credit = min(c.credit+1, mostCredit)
		site.Table.Served()
		if !c.answerRequest(site) {
			return
		}
	}
}

// begin does the TLS handshake. It reports false if the connection is not for the lane, or has ended.
func (c *conn) begin() bool {
	if encrypted, ok := c.net.(*tls.Conn); ok {
		if timeout := c.handshakeTimeout(); timeout > 0 {
			_ = c.net.SetDeadline(time.Now().Add(timeout))
		}
		err := encrypted.HandshakeContext(context.Background())
		_ = c.net.SetDeadline(time.Time{})
		if err != nil || encrypted.ConnectionState().NegotiatedProtocol == "h2" {
			// The other server does no second handshake. It logs or answers the error.
			c.leave(c.net, true)
			return false
		}
	}
	c.introduce()
	return true
}

// introduce sets the fields that describe the client.
func (c *conn) introduce() {
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.base = new(http.Request).WithContext(c.ctx)
	c.base.Proto, c.base.ProtoMajor, c.base.ProtoMinor = "HTTP/1.1", 1, 1
	c.client = told.NewClient(c.ctx, c.lane.Server, c.net)
	c.address, c.peer = addressOf(c.client.Remote)
	c.who = front.NewWho(c.peer)
}

// handshakeTimeout returns the smallest timeout that applies, as in net/http; 0 if there is none.
func (c *conn) handshakeTimeout() (least time.Duration) {
	for _, timeout := range []time.Duration{c.lane.ReadHeader, c.lane.ReadTimeout, c.lane.WriteTimeout} {
		if timeout > 0 && (least == 0 || timeout < least) {
			least = timeout
		}
	}
	return least
}

// addressOf returns a client's address as Caddy's client_ip has it without trusted proxies.
func addressOf(remote string) (netip.Addr, string) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Addr{}, ""
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, ""
	}
	address = address.WithZone("")
	return address, address.String()
}

// await waits for the first byte of a request. ready is false if the connection has ended or is parked.
func (c *conn) await(first bool) (ready, parked bool) {
	if c.end > c.start { // there is a pipelined request
		c.begins()
		return true, false
	}
	c.start, c.end = 0, 0
	if c.buf != nil && c.client.TLS != nil {
		c.dropBuffer()
	}
	if first {
		c.begins()
		c.readBy(c.lane.ReadHeader)
		return c.fill() == nil, false
	}
	if !c.resumed && !c.state.CompareAndSwap(busy, idle) {
		return false, false
	}
	c.resumed = false
	soon := c.lane.Idle
	if soon <= 0 || soon > parkAfter {
		soon = parkAfter
	}
	c.readBy(soon)
	err := c.fill()
	if soon != c.lane.Idle && errors.Is(err, os.ErrDeadlineExceeded) {
		if c.park() {
			return false, true
		}
		c.readBy(c.lane.Idle)
		err = c.fill()
	}
	c.begins()
	return c.state.CompareAndSwap(idle, busy) && err == nil, false
}

// parkAfter is how long a goroutine waits for the next request of a connection.
const parkAfter = time.Second

// park makes the connection wait for its next request without a goroutine. It reports whether that is possible; then another goroutine owns
// c.
func (c *conn) park() bool {
	until := time.Time{}
	if c.lane.Idle > 0 {
		until = time.Now().Add(c.lane.Idle - parkAfter)
	}
	way := c.way
	c.resumed, c.way, c.head = true, nil, h1.Head{Method: c.head.Method} // the next request gets others
	if c.lane.watcher.park(c, until) {
		return true
	}
	c.resumed, c.way = false, way
	return false
}

// begins records when a request begins, as net/http does: the first one begins with the connection.
func (c *conn) begins() {
	if c.lane.ReadTimeout > 0 {
		c.since = time.Now()
	}
}

// skipEmptyLines drops the line ends that old clients send after a POST, as net/http does. It reports false if the connection has ended.
func (c *conn) skipEmptyLines(first bool) bool {
	if first {
		return true
	}
	const most = 4
	for range most {
		if c.start == c.end && c.fillMore() != nil {
			return false
		}
		if b := c.buf[c.start]; b != '\r' && b != '\n' {
			break
		}
		c.start++
	}
	return c.start < c.end || c.fillMore() == nil
}

// fillMore reads more if the buffer has no unread bytes.
func (c *conn) fillMore() error {
	c.start, c.end = 0, 0
	c.readBy(c.lane.ReadHeader)
	return c.fill()
}

// readBy sets the deadline for reading; 0 is none.
func (c *conn) readBy(timeout time.Duration) { c.readWithin(&bound{idle: timeout}) }

// readWithin sets the deadline for reading. Setting it is costly, so it is set a little later than necessary, and kept while that is not
// too early.
func (c *conn) readWithin(b *bound) { c.readUntil = within(b, c.readUntil, c.net.SetReadDeadline) }

// writeWithin does the same for writing.
func (c *conn) writeWithin(b *bound) { c.writeUntil = within(b, c.writeUntil, c.net.SetWriteDeadline) }

func within(b *bound, until time.Time, set func(time.Time) error) time.Time {
	early, late := b.next()
	if !until.Before(early) && !until.After(late) {
		return until
	}
	_ = set(late)
	return late
}

// arrive reads those bytes of a body of that length that have arrived after the head, and reports whether the body is complete. It does not
// wait.
func (c *conn) arrive(length int) bool {
	if c.end-c.start >= length {
		return true
	}
	if c.client.TLS != nil {
		return false // it cannot be seen what has arrived
	}
	if head := len(c.head.Raw); c.start+length > len(c.buf) {
		if head+length > writeSize {
			return false
		}
		larger := takeLarge()
		c.end = copy(larger, c.buf[c.start-head:c.end])
		putBuffer(c.buf)
		c.buf, c.start, c.head.Raw = larger, head, larger[:head]
	}
	_ = c.raw.Read(func(fd uintptr) bool {
		for c.end-c.start < length {
			n, errs := socket.Receive(fd, c.buf[c.end:])
			if errs != 0 || n == 0 {
				break // the next read of the body returns the error
			}
			c.end += n
		}
		return true
	})
	return c.end-c.start >= length
}

// fill reads more. The buffer must have room, or be nil.
func (c *conn) fill() error {
	if c.client.TLS != nil {
		if c.buf == nil {
			return c.fillFirst()
		}
		n, err := c.net.Read(c.buf[c.end:])
		if c.end += n; n > 0 {
			return nil
		}
		return err
	}
	if err := c.raw.Read(c.read); err != nil {
		return err
	}
	c.end += c.n
	return c.err
}

// fillFirst reads the beginning of a request over TLS into a small buffer, so that idle connections need no larger one.
func (c *conn) fillFirst() error {
	n, err := c.net.Read(c.little[:])
	if n == 0 {
		return err
	}
	c.makeRoom()
	c.end = copy(c.buf, c.little[:n])
	return nil
}

// readOnce reads from the socket if bytes have arrived. A connection that waits for its next request has no buffer meanwhile.
func (c *conn) readOnce(fd uintptr) bool {
	c.makeRoom()
	n, errs := socket.Receive(fd, c.buf[c.end:])
	switch {
	case errs == syscall.EAGAIN:
		if c.start == c.end {
			c.dropBuffer()
		}
		return false
	case errs != 0:
		c.n, c.err = 0, errs
	case n == 0:
		c.n, c.err = 0, io.EOF
	default:
		c.n, c.err = n, nil
	}
	return true
}

func (c *conn) makeRoom() {
	if c.buf == nil {
		c.buf = takeBuffer()
		c.start, c.end = 0, 0
	}
}

func (c *conn) dropBuffer() {
	putBuffer(c.buf)
	c.buf, c.start, c.end = nil, 0, 0
}

// readHead reads the head of a request, of which at least a byte has arrived. ok is false if the connection has ended; otherwise why is the
// reason why the head is not plain.
func (c *conn) readHead() (why string, ok bool) {
	c.head.Reset()
	c.head.Raw = nil
	for bounded := false; ; {
		reason := c.head.Read(c.buf[c.start:c.end], c.lane.MaxHeaderBytes)
		if reason != h1.Incomplete {
			c.now = time.Now()
			return string(reason), true
		}
		if !bounded {
			c.readBy(c.lane.ReadHeader)
			bounded = true
		}
		c.grow()
		switch err := c.fill(); {
		case err == nil:
		case errors.Is(err, io.EOF):
			return "end", true
		default:
			return "", false
		}
	}
}

// grow makes room in the buffer for more of a head.
func (c *conn) grow() {
	if c.end < len(c.buf) {
		return
	}
	if c.start > 0 {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
		return
	}
	larger := make([]byte, 2*len(c.buf))
	copy(larger, c.buf)
	putBuffer(c.buf)
	c.buf = larger
}

// handOver passes the connection, with the bytes that were read and not answered, to the server that knows all of HTTP. size is the size of
// the request in bytes, or unknown.
func (c *conn) handOver(first bool, size int64) {
	rest := c.buf[c.start:c.end]
	anew := first && c.client.TLS == nil && bytes.HasPrefix(rest, []byte(preface))
	r := &Replayed{again: bytes.Clone(rest), left: c.handsOver(size)}
	c.dropBuffer()
	c.leave(c.replay(r), anew)
}

// preface is a prefix of HTTP/2's connection preface, and of no known method.
const preface = "PR"

// leave passes the connection on as to.
func (c *conn) leave(to net.Conn, anew bool) {
	_ = c.net.SetDeadline(time.Time{})
	c.state.Store(over)
	if c.cancel != nil {
		c.cancel(nil)
	}
	if !c.lane.HandOver(to, anew) {
		to.Close()
		c.lane.Ended()
	}
	c.lane.remove(c) // not earlier: the other server takes connections until the lane has none
	c.net = nil
}

// closeIdle closes the connection if it is idle. It reports whether the connection was parked and so needs no goroutine to end it.
func (c *conn) closeIdle() (gone bool) {
	if !c.state.CompareAndSwap(idle, over) {
		return false
	}
	gone = c.lane.watcher.unpark(c)
	c.net.Close() // the goroutine that reads from it ends, if there is one
	return gone
}

// close closes a connection, unless it was passed on.
func (c *conn) close() {
	if c.net == nil {
		return
	}
	c.net.Close()
	if c.cancel != nil {
		c.cancel(context.Canceled)
	}
	c.lane.remove(c)
	c.lane.Ended()
}
