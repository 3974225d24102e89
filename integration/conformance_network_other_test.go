//go:build trust && !linux

package integration

import "syscall"

// ownNetwork would start a process with a network of its own.
func ownNetwork() *syscall.SysProcAttr { return nil }
