package lbmodule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
)

// handshakeTimeout is the error of net/http's transport for a TLS handshake that takes too long.
type handshakeTimeout struct{}

func (handshakeTimeout) Error() string   { return "net/http: TLS handshake timeout" }
func (handshakeTimeout) Timeout() bool   { return true }
func (handshakeTimeout) Temporary() bool { return true }

// What the errors of transports mean for an attempt.
func TestFailure(t *testing.T) {
	dial := func(err error) error {
		return reverseproxy.NewDialError(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)})
	}
	for _, test := range []struct {
		err  error
		want exchange.Failure
	}{
		{dial(syscall.ECONNREFUSED), exchange.Failure{Kind: course.NotConnected, Unreachable: true}},
		{fmt.Errorf("wrapped: %w", dial(syscall.EHOSTUNREACH)), exchange.Failure{Kind: course.NotConnected, Unreachable: true}},
		{dial(os.ErrDeadlineExceeded), exchange.Failure{Kind: course.NotConnected, Unreachable: true}},
		{dial(syscall.EAGAIN), exchange.Failure{Kind: course.NotConnected}},
		{dial(syscall.EADDRNOTAVAIL), exchange.Failure{Kind: course.NotConnected}},
		{dial(syscall.EMFILE), exchange.Failure{Kind: course.NotConnected, Unreachable: true, NoDescriptors: true}},
		{dial(syscall.ENFILE), exchange.Failure{Kind: course.NotConnected, Unreachable: true, NoDescriptors: true}},
		{&tls.CertificateVerificationError{Err: errors.New("expired")}, exchange.Failure{Kind: course.NotConnected}},
		{tls.RecordHeaderError{Msg: "no TLS"}, exchange.Failure{Kind: course.NotConnected}},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, exchange.Failure{Kind: course.NotConnected}},
		{errors.New("net/http: TLS handshake timeout"), exchange.Failure{Kind: course.NotConnected}},
		{handshakeTimeout{}, exchange.Failure{Kind: course.NotConnected, Timeout: true}}, // nothing was sent, and nothing was heard
		{os.ErrDeadlineExceeded, exchange.Failure{Kind: course.TimedOut, Timeout: true}},
		{exchange.ErrTryTimeout, exchange.Failure{Kind: course.TimedOut, Timeout: true}},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, exchange.Failure{Kind: course.TimedOut, Timeout: true}},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, exchange.Failure{Kind: course.Broken}},
		{io.ErrUnexpectedEOF, exchange.Failure{Kind: course.Broken}},
		{context.Canceled, exchange.Failure{Kind: course.Broken}},
		{exchange.ErrCopyWon, exchange.Failure{Kind: course.Broken}},
	} {
		if got := kindOf(test.err); got != test.want {
			t.Errorf("%v: %+v, want %+v", test.err, got, test.want)
		}
	}
}
