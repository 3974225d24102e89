package engine

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// canSplice says whether this platform can move bytes between connections in the kernel.
const canSplice = true

// arrived waits until there is something to read, and returns the number of bytes; io.EOF if the backend has ended the connection.
func (c *conn) arrived() (n int64, _ error) {
	var failed error
	err := c.raw.Read(func(fd uintptr) (ready bool) {
		n, failed = look(int(fd))
		return n > 0 || failed != nil
	})
	if err != nil {
		return 0, err
	}
	return n, failed
}

// look returns the number of bytes that can be read without waiting.
func look(fd int) (int64, error) {
	if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); n > 0 || err != nil {
		return int64(n), os.NewSyscallError("ioctl", err)
	}
	var one [1]byte
	switch n, _, err := syscall.Recvfrom(fd, one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT); {
	case errors.Is(err, syscall.EAGAIN):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("recvfrom", err)
	case n > 0:
		return int64(n), nil
	}
	return 0, io.EOF
}
