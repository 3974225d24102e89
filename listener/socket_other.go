//go:build !linux

package listener

import (
	"net"
	"syscall"
)

// On other systems connections may arrive at the sockets of all configs, and those in the accept queue of a socket that is closed are lost.

func steer(socket) ([]net.Conn, error) { return nil, errNoSteering }

func queued(syscall.Conn) []net.Conn { return nil }
