//go:build unix

package engine

import "syscall"

// canTell says whether this platform can check an idle connection.
const canTell = true

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
	for {
		c.n, c.err = syscall.Read(int(fd), c.into)
		if c.err != syscall.EINTR {
			break
		}
	}
	if c.n = max(c.n, 0); c.err == syscall.EAGAIN || c.err == syscall.EWOULDBLOCK {
		c.err = errNothing
	}
	return true
}
