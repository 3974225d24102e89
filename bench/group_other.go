//go:build !linux

package main

import "syscall"

// ownGroup is for Linux only, as is /proc.
func ownGroup() *syscall.SysProcAttr { return nil }
