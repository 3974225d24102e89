package stock

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// What makes a backend dead is that no connection can be made: not a failed handshake, nor a socket whose backlog is full.
func TestIsUnreachable(t *testing.T) {
	if !OutOfDescriptors(reverseproxy.NewDialError(&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)})) {
		t.Error("a transport without descriptors is not noticed")
	}
	for _, err := range []error{syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.ENOENT, context.DeadlineExceeded} {
		if !IsUnreachable(reverseproxy.NewDialError(err)) {
			t.Errorf("%v: not called unreachable", err)
		}
	}
	for _, err := range []error{tls.AlertError(42), syscall.ECONNRESET, reverseproxy.NewDialError(syscall.EAGAIN),
		reverseproxy.NewDialError(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}),
	} {
		if IsUnreachable(err) {
			t.Errorf("%v: called unreachable", err)
		}
	}
}
