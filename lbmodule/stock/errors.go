package stock

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// OutOfDescriptors reports whether it is this process that cannot make another connection.
func OutOfDescriptors(err error) bool {
	return isSystemError(err, syscall.EMFILE) || isSystemError(err, syscall.ENFILE)
}

// isSystemError reports whether that is what the system said. A DialError does not show what it wraps, but its text.
func isSystemError(err error, code syscall.Errno) bool {
	if errors.Is(err, code) {
		return true
	}
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && strings.HasSuffix(err.Error(), code.Error())
}

// IsConnectError reports whether no connection could be made, so that the backend knows nothing of the request. A failed
// TLS handshake is no connection either.
func IsConnectError(err error) bool {
	if _, dial := errors.AsType[reverseproxy.DialError](err); dial {
		return true
	}
	if _, certificate := errors.AsType[*tls.CertificateVerificationError](err); certificate {
		return true
	}
	if _, noTLS := errors.AsType[tls.RecordHeaderError](err); noTLS {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "remote error" || op.Op == "local error") {
		return true // a TLS alert
	}
	return strings.Contains(err.Error(), "TLS handshake timeout")
}

// IsUnreachable reports whether not even the network could make a connection. It is the transport that dials, and says so. A socket
// whose backlog is full has somebody behind it, and where there are no ports left for our side nothing was tried.
func IsUnreachable(err error) bool {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && !isSystemError(err, syscall.EAGAIN) && !isSystemError(err, syscall.EADDRNOTAVAIL)
}

// IsTimeout reports whether a time was up.
func IsTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
