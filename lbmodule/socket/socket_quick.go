//go:build linux && !race

package socket

import (
	"syscall"
	"unsafe"
)

const supported = true

// Receiving and sending take a little less than reading and writing, which know of files as well.

func read(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
}

func write(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
}

// quiet reports whether there is nothing to read, nor an end.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, errs := call(syscall.SYS_RECVFROM, fd, one[:], syscall.MSG_DONTWAIT|syscall.MSG_PEEK)
	return errs == syscall.EAGAIN
}

// call makes a system call on a part of memory that is not empty.
func call(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errs := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		if errs != syscall.EINTR {
			return int(n), errs
		}
	}
}
