//go:build linux && race

package socket

import (
	"errors"
	"syscall"
)

// The race detector must see reads and writes: what happens before a write happens before the read at the other end.

const supported = true

func read(fd uintptr, p []byte) (int, syscall.Errno) { return result(syscall.Read(int(fd), p)) }

func write(fd uintptr, p []byte) (int, syscall.Errno) { return result(syscall.Write(int(fd), p)) }

// result converts the result of a call. Calls are not interrupted, because the runtime restarts system calls after signals.
func result(n int, err error) (int, syscall.Errno) {
	errs, _ := errors.AsType[syscall.Errno](err)
	return n, errs
}

// quiet reports whether there is neither something to read nor an end of file.
func quiet(fd uintptr) bool {
	_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_DONTWAIT|syscall.MSG_PEEK)
	return errors.Is(err, syscall.EAGAIN)
}
