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
