//go:build !linux

package socket

import "syscall"

const supported = false

func read(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }

func quiet(uintptr) bool { return false }

func write(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.ENOSYS }
