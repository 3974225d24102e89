package listener

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sweepInterval is the interval at which silent connections are compared with their deadlines.
const sweepInterval = time.Second

// silent holds the connections on which the client has not sent anything yet. They need no goroutine: epoll reports which of them have
// something to read.
type silent struct {
	speaks func(net.Conn) // called with a connection when its first byte has arrived

	poll *os.File // epoll; the runtime's poller waits for its descriptor
	raw  syscall.RawConn

	mu      sync.Mutex
	waiting map[int]silentConn // by file descriptor; nil after close
	done    sync.WaitGroup
}

type silentConn struct {
	net.Conn
	until time.Time // zero for no limit
}

func newSilent(speaks func(net.Conn)) (*silent, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	s := &silent{speaks: speaks, poll: os.NewFile(uintptr(fd), "epoll"), waiting: make(map[int]silentConn)}
	if s.raw, err = s.poll.SyscallConn(); err != nil {
		s.poll.Close()
		return nil, err
	}
	s.done.Go(s.watch)
	return s, nil
}

// add waits for the first byte of c, for at most timeout if that is not 0.
func (s *silent) add(c net.Conn, timeout time.Duration) {
	of, ok := c.(syscall.Conn)
	if !ok {
		s.speaks(c)
		return
	}
	raw, err := of.SyscallConn()
	if err != nil {
		c.Close()
		return
	}
	var until time.Time
	if timeout > 0 {
		until = time.Now().Add(timeout)
	}
	var first error
	var speaks bool
	err = raw.Control(func(fd uintptr) {
		var n int
		n, _, first = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if speaks = n > 0; errors.Is(first, unix.EAGAIN) {
			first = s.register(int(fd), silentConn{Conn: c, until: until})
		} else if !speaks && first == nil {
			first = io.EOF
		}
	})
	if err != nil || first != nil {
		c.Close()
	} else if speaks {
		s.speaks(c)
	}
}

// register makes epoll watch the descriptor of c.
func (s *silent) register(fd int, c silentConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		return net.ErrClosed
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}
	if err := s.control(unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return err
	}
	if len(s.waiting) == 0 {
		_ = s.poll.SetReadDeadline(time.Now().Add(sweepInterval))
	}
	s.waiting[fd] = c
	return nil
}

func (s *silent) control(operation, fd int, event *unix.EpollEvent) error {
	var failed error
	err := s.raw.Control(func(poll uintptr) { failed = unix.EpollCtl(int(poll), operation, fd, event) })
	if err != nil {
		return err
	}
	return os.NewSyscallError("epoll_ctl", failed)
}

// watch passes connections on when they have something to read, until s is closed.
func (s *silent) watch() {
	events := make([]unix.EpollEvent, 128)
	for {
		var n int
		err := s.raw.Read(func(poll uintptr) bool {
			n, _ = unix.EpollWait(int(poll), events, 0)
			return n > 0
		})
		switch {
		case err == nil:
			for _, event := range events[:n] {
				if c := s.take(int(event.Fd)); c != nil {
					s.speaks(c)
				}
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.sweep(time.Now())
		default:
			return
		}
	}
}

// take ends the wait for the first byte of a connection. It returns nil if no connection waits with this descriptor.
func (s *silent) take(fd int) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.waiting[fd]
	if !ok {
		return nil
	}
	delete(s.waiting, fd)
	_ = s.control(unix.EPOLL_CTL_DEL, fd, nil)
	return c.Conn
}

// sweep closes the connections that have been silent for too long.
func (s *silent) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for fd, c := range s.waiting {
		if !c.until.IsZero() && now.After(c.until) {
			delete(s.waiting, fd)
			c.Close()
		}
	}
	var next time.Time // zero for never
	if len(s.waiting) > 0 {
		next = now.Add(sweepInterval)
	}
	_ = s.poll.SetReadDeadline(next)
}

// len returns the number of silent connections.
func (s *silent) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

// close closes all silent connections.
func (s *silent) close() {
	s.mu.Lock()
	for _, c := range s.waiting {
		c.Close()
	}
	s.waiting = nil
	s.poll.Close()
	s.mu.Unlock()
	s.done.Wait()
}
