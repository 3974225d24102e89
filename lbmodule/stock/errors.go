package stock

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// OutOfDescriptors reports whether this process, or the system, is out of file descriptors.
func OutOfDescriptors(err error) bool {
	return isSystemError(err, syscall.EMFILE) || isSystemError(err, syscall.ENFILE)
}

// isSystemError reports whether err is that error of the system. A DialError does not unwrap, so its text is compared.
func isSystemError(err error, code syscall.Errno) bool {
	if errors.Is(err, code) {
		return true
	}
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && strings.HasSuffix(err.Error(), code.Error())
}

// IsConnectError reports whether no connection could be made, so that the backend has seen nothing of the request. A failed
// TLS handshake counts as well.
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

// IsUnreachable reports whether dialing failed at the network level, such as refused. EAGAIN is no such failure, because a unix socket with
// a full backlog has a process behind it; nor is EADDRNOTAVAIL, because without a free local port nothing was tried.
func IsUnreachable(err error) bool {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && !isSystemError(err, syscall.EAGAIN) && !isSystemError(err, syscall.EADDRNOTAVAIL)
}

// IsTimeout reports whether err is a timeout.
func IsTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
