package socket

import (
	"syscall"
	"unsafe"
)

const supported = true

func read(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.SYS_READ, fd, p) }

func write(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.SYS_WRITE, fd, p) }

// quiet reports whether there is nothing to read, nor an end.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, _, errs := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&one[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	return errs == syscall.EAGAIN
}

// call makes a system call on a part of memory that is not empty.
func call(trap, fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errs := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errs != syscall.EINTR {
			return int(n), errs
		}
	}
}
