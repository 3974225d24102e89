package engine

import (
	"errors"
	"syscall"
)

// canSplice says whether this platform can move bytes between connections in the kernel.
const canSplice = true

// isBroken reports whether the connection has ended otherwise than by the backend's closing it. It tells whose error it is when the kernel
// has moved bytes from one connection to another: the error is the same for both.
func (c *conn) isBroken() bool {
	broken := true
	err := c.raw.Control(func(fd uintptr) {
		_, err := syscall.Getpeername(int(fd))
		broken = errors.Is(err, syscall.ENOTCONN)
	})
	return err != nil || broken
}
