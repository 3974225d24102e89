package lane

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/listener/h1"
)

// Replayed is a connection of which some bytes were already read. It returns them first.
//
// If the lane knows where the handed-over request ends, the other server can read that request only. When the server tries to read the next
// one, it gets an end of file, and the lane takes the connection back.
type Replayed struct {
	net.Conn
	lane   *Lane
	state  *tls.ConnectionState
	again  []byte
	broken error   // the error that follows the bytes that were read; nil if more can be read
	failed *Failed // the first request, if it ended with an error

	left   int64  // bytes of the request that are still to be read; unknown if the connection stays with the other server
	method string // of the request
	credit int
	idle   bool // the request was answered

	whose   atomic.Int32
	stopped chan struct{} // has an element if the read in progress must stop
}

// unknown is a size of a request that is not known. It also stands for the rest of a connection.
const unknown = -1

// A handover, including the way back, costs about as much as a small request. So a connection comes back only while it has credit: each
// request that the lane serves adds one, and each handover takes one. If most requests of a connection are handed over, it stays with the
// other server.
const (
	firstCredit = 4
	mostCredit  = 8
)

// handsOver takes one from the credit. It returns size, the size of the request that is handed over, or unknown if the connection must stay
// there.
func (c *conn) handsOver(size int64) int64 {
	if c.credit--; c.credit < 0 {
		return unknown
	}
	return size
}

// The owners of a connection.
const (
	others    int32 = iota
	returning       // the lane takes it when the other server closes it
	returned
)

// replay completes r for a connection that is passed on, and returns it with the methods that net/http uses.
func (c *conn) replay(r *Replayed) net.Conn {
	r.Conn, r.lane, r.state = c.net, c.lane, c.client.TLS
	r.method, r.credit, r.stopped = c.head.Method, c.credit, make(chan struct{}, 1)
	if tcp, ok := r.Conn.(*net.TCPConn); ok {
		return &replayedTCP{r, tcp}
	}
	return r
}

// TLSState returns the state of the connection; nil without TLS.
func (r *Replayed) TLSState() *tls.ConnectionState { return r.state }

// Failed returns the failed request that is read next, or nil. It returns it once only.
func (r *Replayed) Failed() *Failed {
	f := r.failed
	r.failed = nil
	return f
}

// Became receives the states of the connection, as [http.Server.ConnState].
func (r *Replayed) Became(state http.ConnState) {
	switch state {
	case http.StateIdle:
		r.idle = true
	case http.StateHijacked:
		r.left = unknown
	}
}

// Read implements [io.Reader].
func (r *Replayed) Read(p []byte) (int, error) {
	switch {
	case r.left == unknown:
		return r.read(p)
	case r.left > 0:
		n, err := r.read(p[:min(int64(len(p)), r.left)])
		r.left -= int64(n)
		return n, err
	case !r.idle:
		return r.watch()
	case r.lane.takesBack() && r.whose.CompareAndSwap(others, returning):
		return 0, io.EOF
	default:
		r.left = unknown
		return r.read(p)
	}
}

func (r *Replayed) read(p []byte) (int, error) {
	if len(r.again) == 0 {
		if r.broken != nil {
			return 0, r.broken
		}
		return r.Conn.Read(p)
	}
	n := copy(p, r.again)
	if r.again = r.again[n:]; len(r.again) == 0 {
		r.again = nil
	}
	return n, nil
}

// watch is the read with which net/http finds out whether the client closes the connection while its request is served. A byte that arrives
// belongs to the next request, so it is kept for the lane. net/http would only store it as well; watch waits until net/http stops reading.
func (r *Replayed) watch() (int, error) {
	if len(r.again) == 0 {
		var next [1]byte
		n, err := r.Conn.Read(next[:])
		if n == 0 {
			return 0, err
		}
		r.again = next[:]
	}
	<-r.stopped
	return 0, nil
}

// SetReadDeadline implements [net.Conn]. net/http stops a read with a deadline in the past.
func (r *Replayed) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && time.Until(t) <= 0 {
		defer r.stop()
	} else {
		select {
		case <-r.stopped: // left by a read that has ended
		default:
		}
	}
	return r.Conn.SetReadDeadline(t)
}

func (r *Replayed) stop() {
	select {
	case r.stopped <- struct{}{}:
	default:
	}
}

// Close implements [io.Closer]. It gives a returning connection back to the lane.
func (r *Replayed) Close() error {
	if r.whose.CompareAndSwap(returning, returned) {
		if !r.lane.takeBack(r) {
			return r.Conn.Close()
		}
		return nil
	}
	if r.whose.Load() == returned {
		return nil
	}
	r.stop()
	return r.Conn.Close()
}

// takesBack reports whether the lane takes connections back.
func (l *Lane) takesBack() bool { return !l.draining.Load() && l.Site() != nil }

// takeBack resumes a connection that was handed over. It reports false if the lane takes no connections any more.
func (l *Lane) takeBack(r *Replayed) bool {
	c := newConn(l, r.Conn)
	if c == nil || !l.add(c) {
		return false
	}
	l.Back()
	_ = r.Conn.SetDeadline(time.Time{})
	c.introduce()
	c.credit, c.head = r.credit, h1.Head{Method: r.method}
	if len(r.again) > 0 {
		c.makeRoom()
		if len(r.again) > len(c.buf) {
			c.dropBuffer()
			c.buf = r.again
		}
		c.end = copy(c.buf, r.again)
	}
	go c.serveOn()
	return true
}

// CloseWrite closes the connection for writing, if it can.
func (r *Replayed) CloseWrite() error {
	half, ok := r.Conn.(interface{ CloseWrite() error })
	if !ok {
		return net.ErrClosed
	}
	return half.CloseWrite()
}

// replayedTCP is a Replayed to which the kernel can copy bytes directly.
type replayedTCP struct {
	*Replayed
	tcp *net.TCPConn
}

// ReadFrom implements [io.ReaderFrom].
func (r *replayedTCP) ReadFrom(from io.Reader) (int64, error) { return r.tcp.ReadFrom(from) }
