//go:build linux && !race

package socket

import (
	"syscall"
	"unsafe"
)

const supported = true

// recvfrom and sendto cost slightly less than read and write, which also work on files.

func read(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
}

func write(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// quiet reports whether there is neither something to read nor an end of file.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, errs := call(syscall.SYS_RECVFROM, fd, one[:], syscall.MSG_DONTWAIT|syscall.MSG_PEEK)
	return errs == syscall.EAGAIN
}

// call makes a system call with a buffer that is not empty.
func call(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errs := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		if errs != syscall.EINTR {
			return int(n), errs
		}
	}
}
