package lane

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supported tells whether this platform has the system calls that the lane needs.
const supported = true

const (
	// watchEvery is the interval of the rounds. A connection whose request is seen in two rounds is watched.
	watchEvery = 50 * time.Millisecond

	// quietRounds is the number of rounds without such requests after which the rounds stop.
	quietRounds = 4
)

// watcher notices clients that close their connection while they wait for an answer. net/http has a goroutine that reads from the
// connection meanwhile. The watcher uses epoll instead, and only for requests that take longer than a moment: most take less. It also waits
// for the next request of parked connections.
type watcher struct {
	lane  *Lane
	awake atomic.Bool
	quiet int // rounds so far without such requests; used by the round only

	mu      sync.Mutex // guards the fields below
	poll    *os.File   // epoll; nil before it is first needed
	raw     syscall.RawConn
	watched map[int32]*conn // by file descriptor
	sweeps  bool            // a call of [watcher.sweep] is scheduled
	closed  bool
}

func newWatcher(l *Lane) *watcher { return &watcher{lane: l, watched: make(map[int32]*conn)} }

// watched is a watcher's state of a connection.
type watched struct {
	request atomic.Uint64 // number of the request that is waiting for its answer; 0 if none is
	last    uint64        // number of the last request; used by the connection's goroutine
	seen    uint64        // number of the request that the last round saw
	fd      int32         // while the connection is watched, and guarded as watcher.watched is; -1 otherwise
	parked  bool          // guarded in the same way
	until   time.Time     // while it is parked: when it is closed; zero for never
}

// begin is called when a request of c begins.
func (h *watcher) begin(c *conn) {
	c.watched.last++
	c.watched.request.Store(c.watched.last)
	if !h.awake.Load() && h.awake.CompareAndSwap(false, true) {
		h.comeBack()
	}
}

// end is called when the request has ended.
func (h *watcher) end(c *conn) {
	c.watched.request.Store(0)
	if atomic.LoadInt32(&c.watched.fd) < 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(c)
}

// forget stops watching c. The caller holds h.mu.
func (h *watcher) forget(c *conn) {
	if fd := c.watched.fd; fd >= 0 && h.watched[fd] == c {
		delete(h.watched, fd)
		_ = h.control(unix.EPOLL_CTL_DEL, int(fd), nil)
	}
	atomic.StoreInt32(&c.watched.fd, -1)
}

func (h *watcher) comeBack() { time.AfterFunc(watchEvery, h.round) }

// round looks at all connections.
func (h *watcher) round() {
	if h.quiet++; h.look() {
		h.quiet = 0
	}
	if h.quiet < quietRounds {
		h.comeBack()
		return
	}
	h.quiet = 0
	h.awake.Store(false)
	// A request that began meanwhile may have relied on the rounds being active.
	if h.look() && h.awake.CompareAndSwap(false, true) {
		h.comeBack()
	}
}

// look watches the connections whose request it sees for the second time. It reports whether there are requests that the next round must
// see.
func (h *watcher) look() (again bool) {
	h.lane.mu.Lock()
	defer h.lane.mu.Unlock()
	for c := range h.lane.conns {
		request := c.watched.request.Load()
		switch {
		case request == 0:
		case request != c.watched.seen:
			c.watched.seen, again = request, true
		case atomic.LoadInt32(&c.watched.fd) < 0:
			h.watch(c, request)
		}
	}
	return again
}

// watch makes the kernel report when the client of that request closes the connection.
func (h *watcher) watch(c *conn, request uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.open() != nil {
		return
	}
	h.register(c, unix.EPOLLRDHUP)
	if c.watched.request.Load() != request {
		h.forget(c) // the request ended before it was watched
	}
}

// register makes the kernel report one of these events, once. The caller holds h.mu.
func (h *watcher) register(c *conn, events uint32) (ok bool) {
	_ = c.raw.Control(func(fd uintptr) {
		event := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(fd)}
		if ok = h.control(unix.EPOLL_CTL_ADD, int(fd), &event) == nil; ok {
			h.watched[event.Fd] = c
			atomic.StoreInt32(&c.watched.fd, event.Fd)
		}
	})
	return ok
}

// open makes the epoll. The caller holds h.mu.
func (h *watcher) open() error {
	if h.poll != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	h.poll = os.NewFile(uintptr(fd), "epoll")
	if h.raw, err = h.poll.SyscallConn(); err != nil {
		h.poll.Close()
		h.poll = nil
		return err
	}
	go h.wait()
	return nil
}

func (h *watcher) control(operation, fd int, event *unix.EpollEvent) error {
	var failed error
	err := h.raw.Control(func(poll uintptr) { failed = unix.EpollCtl(int(poll), operation, fd, event) })
	return errors.Join(err, failed)
}

// wait waits for events until h is closed.
func (h *watcher) wait() {
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		err := h.raw.Read(func(poll uintptr) bool {
			n, _ = unix.EpollWait(int(poll), events, 0)
			return n > 0
		})
		if err != nil {
			return
		}
		for _, event := range events[:n] {
			h.happened(event.Fd)
		}
	}
}

// happened resumes a parked connection. Otherwise it cancels the request of the connection with that descriptor, unless there are bytes to
// read: they are the next request, as for net/http, or the rest of the body.
func (h *watcher) happened(fd int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.watched[fd]
	switch {
	case c == nil:
		return
	case c.watched.parked:
		c.watched.parked = false
		h.forget(c)
		go c.serveOn()
		return
	}
	var first [128]byte
	n, _, err := unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN):
	case n <= 0, c.client.TLS != nil && n < len(first) && isAlert(first[:n]):
		c.cancel(context.Canceled)
	}
}

// isAlert reports whether b is a TLS record with an alert. A client sends one before it closes an encrypted connection.
func isAlert(b []byte) bool {
	const (
		head        = 5
		alert, data = 21, 23     // types of records
		disguised   = 2 + 1 + 16 // in TLS 1.3, an alert is in a data record: the alert, its type, and the tag, which has this length in all ciphers
	)
	if len(b) < head || int(b[3])<<8|int(b[4]) != len(b)-head {
		return false
	}
	return b[0] == alert || b[0] == data && len(b) == head+disguised
}

// close stops the watcher.
func (h *watcher) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.poll != nil {
		h.poll.Close()
	}
}
