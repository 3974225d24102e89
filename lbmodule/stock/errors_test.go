package stock

import (
	"context"
	"crypto/tls"
	"errors"
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
	for _, err := range []error{syscall.EMFILE, syscall.EAGAIN, syscall.EADDRNOTAVAIL} {
		if !NotTried(reverseproxy.NewDialError(os.NewSyscallError("connect", err))) {
			t.Errorf("%v: taken for something about the backend", err)
		}
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

// Silence is distinguished from a refusal, although a DialError does not say which it is.
func TestUnhide(t *testing.T) {
	dial := func(err error) error {
		return reverseproxy.NewDialError(&net.OpError{Op: "dial", Net: "tcp", Err: err})
	}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"no answer":          {dial(os.ErrDeadlineExceeded), true},
		"no answer at all":   {dial(os.NewSyscallError("connect", syscall.ETIMEDOUT)), true},
		"no route":           {dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), true},
		"refused":            {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), false},
		"full backlog":       {dial(os.NewSyscallError("connect", syscall.EAGAIN)), false},
		"silent name server": {dial(&net.DNSError{Err: "read udp 127.0.0.1:1->127.0.0.1:53: i/o timeout", Name: "backend", Server: "127.0.0.1:53", IsTimeout: true}), false},
	} {
		got := unhide(c.err)
		if _, silent := errors.AsType[silentError](got); silent != c.want {
			t.Errorf("%s: %v is silence: %v, want %v", name, got, silent, c.want)
		}
		if !IsConnectError(got) {
			t.Errorf("%s: %v is no error of connecting", name, got)
		}
	}
}
