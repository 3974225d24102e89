package main

import "syscall"

// ownGroup keeps Ctrl-C from reaching the processes before the last figures are read, and ends them when this process ends.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
