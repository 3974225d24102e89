//go:build !linux

package listener

import (
	"net"
	"syscall"
)

// Elsewhere connections may come to the sockets of all configs, and those that stand in the accept queue of one that is closed are lost.

func steer(socket) ([]net.Conn, error) { return nil, errNoSteering }

func queued(syscall.Conn) []net.Conn { return nil }
