package main

import "syscall"

// ownGroup keeps Ctrl-C from reaching the children directly, so that they are stopped in order; if this process
// dies all the same, they do not outlive it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
