//go:build !linux

package main

import "syscall"

// ownGroup is for Linux only; elsewhere Ctrl-C reaches the children directly.
func ownGroup() *syscall.SysProcAttr { return nil }
