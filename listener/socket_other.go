//go:build !linux

package listener

import (
	"errors"
	"net"
	"syscall"
)

// Elsewhere connections may come to the sockets of all configs, and those that stand in the accept queue of one that is closed are lost.

func steer(syscall.Conn, uint32) error { return errors.ErrUnsupported }

func shun(syscall.Conn) error { return errors.ErrUnsupported }

func queued(syscall.Conn) []net.Conn { return nil }
