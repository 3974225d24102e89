// Package socket reads from and writes to TCP connections at lower cost than package net: it makes system calls without notifying the
// scheduler. That is correct for calls that never block, and those on Go's sockets do not. If there is nothing to read, or no room to
// write, it waits with the runtime's poller, as package net does; deadlines apply.
package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Conn is a TCP connection. One goroutine at a time may read, and another one may write.
type Conn struct {
	tcp     *net.TCPConn
	raw     syscall.RawConn
	reading half
	writing half
	asking  asking
}

// half is one direction.
type half struct {
	try  func(fd uintptr) bool // continues with p, and reports false if it must wait
	p    []byte
	n    int
	errs syscall.Errno
}

// New returns a Conn, or nil if the platform or the connection does not support one.
func New(c net.Conn) *Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok || !supported {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	made := &Conn{tcp: tcp, raw: raw}
	made.reading.try, made.writing.try, made.asking.try = made.tryRead, made.tryWrite, made.tryAsk
	return made
}

// Read implements [io.Reader].
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	h := &c.reading
	h.p, h.n, h.errs = p, 0, 0
	err := c.raw.Read(h.try)
	h.p = nil
	switch {
	case err != nil:
		return 0, err
	case h.errs != 0:
		return 0, c.failure("read", h.errs)
	case h.n == 0:
		return 0, io.EOF
	}
	return h.n, nil
}

func (c *Conn) tryRead(fd uintptr) bool {
	n, errs := read(fd, c.reading.p)
	if errs == syscall.EAGAIN {
		return false
	}
	c.reading.n, c.reading.errs = n, errs
	return true
}

// Write implements [io.Writer].
func (c *Conn) Write(p []byte) (int, error) {
	h := &c.writing
	h.p, h.n, h.errs = p, 0, 0
	err := c.raw.Write(h.try)
	h.p = nil
	switch {
	case err != nil:
		return h.n, err
	case h.errs != 0:
		return h.n, c.failure("write", h.errs)
	}
	return h.n, nil
}

func (c *Conn) tryWrite(fd uintptr) bool {
	h := &c.writing
	for h.n < len(h.p) {
		n, errs := write(fd, h.p[h.n:])
		if errs == syscall.EAGAIN {
			return false
		}
		if errs != 0 {
			h.errs = errs
			return true
		}
		h.n += n
	}
	return true
}

// asking is the state of Ask.
type asking struct {
	try     func(fd uintptr) bool
	quietly bool
	said    bool // out was written
}

// ErrUnquiet is returned by [Conn.Ask] if something had arrived before.
var ErrUnquiet = errors.New("connection is closed or has something to read")

// Ask writes out, waits, and reads the first bytes of the answer. If quietly is set and something has arrived already, it writes nothing.
// said is the number of bytes written; if these are not all, nothing was read. Ask saves two attempts to read that a separate Read makes:
// one before the answer can have arrived, and one to check that the connection is quiet.
func (c *Conn) Ask(out, in []byte, quietly bool) (said, n int, err error) {
	r, w, a := &c.reading, &c.writing, &c.asking
	r.p, r.n, r.errs = in, 0, 0
	w.p, w.n, w.errs = out, 0, 0
	a.said, a.quietly = false, quietly
	err = c.raw.Read(a.try)
	r.p, w.p = nil, nil
	switch {
	case err != nil:
		return w.n, 0, err
	case w.errs != 0:
		return w.n, 0, c.failure("write", w.errs)
	case !a.said && w.n == 0 && r.errs == 0 && r.n < 0:
		return 0, 0, ErrUnquiet
	case r.errs != 0:
		return w.n, 0, c.failure("read", r.errs)
	case a.said && r.n == 0:
		return w.n, 0, io.EOF
	}
	return w.n, r.n, nil
}

// tryAsk is first called when the poller's state has been reset, and again when there is an event.
func (c *Conn) tryAsk(fd uintptr) bool {
	if c.asking.said {
		return c.tryRead(fd)
	}
	if c.asking.quietly && !quiet(fd) {
		c.reading.n = -1
		return true
	}
	for w := &c.writing; w.n < len(w.p); {
		n, errs := write(fd, w.p[w.n:])
		if errs != 0 {
			if errs != syscall.EAGAIN { // on EAGAIN the caller writes the rest
				w.errs = errs
			}
			return true
		}
		w.n += n
	}
	c.asking.said = true
	// Without quietly, something may have arrived before, and the poller does not report it again.
	return !c.asking.quietly && c.tryRead(fd)
}

// Receive reads bytes that have arrived at a socket of the runtime's poller, as in a callback of [syscall.RawConn.Read]. p must not be
// empty. The error is EAGAIN if there are none.
func Receive(fd uintptr, p []byte) (int, syscall.Errno) { return read(fd, p) }

// failure returns an error like those of package net.
func (c *Conn) failure(operation string, errs syscall.Errno) error {
	return &net.OpError{
		Op: operation, Net: c.tcp.LocalAddr().Network(), Source: c.tcp.LocalAddr(), Addr: c.tcp.RemoteAddr(), Err: os.NewSyscallError(operation, errs),
	}
}
