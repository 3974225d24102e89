//go:build !linux

package caddytests

import "syscall"

// ownNetwork would start a process with a network of its own.
func ownNetwork() *syscall.SysProcAttr { return nil }
