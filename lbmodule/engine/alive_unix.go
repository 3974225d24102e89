//go:build unix

package engine

import "syscall"

// canTell tells whether this platform can tell whether an idle connection is alive.
const canTell = true

// peek looks whether there is anything to read from the socket, without waiting and without taking it: an idle connection is quiet.
func (c *conn) peek(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	// No error is an end, or bytes that nobody has asked for: they would be taken for the next answer.
	c.quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	return true
}
