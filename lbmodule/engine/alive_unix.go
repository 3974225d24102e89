//go:build unix

package engine

import (
	"errors"
	"syscall"
)

// canCheckIdle says whether this platform can check an idle connection.
const canCheckIdle = true

// peek reports whether the socket has nothing to read, without blocking and without consuming anything.
func (c *conn) peek(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	// Without an error, the connection has ended, or there are unrequested bytes that would be taken for the next answer.
	c.quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	return true
}

// look reads from the socket without blocking.
func (c *ciphertext) look(fd uintptr) bool {
	n, err := syscall.Read(int(fd), c.into)
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(int(fd), c.into)
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EWOULDBLOCK) {
		err = errNothing
	}
	c.n, c.err = max(n, 0), err
	return true
}
