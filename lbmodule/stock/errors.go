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

// silentError is the error of a connection attempt that nothing has answered, not even with a refusal. The DialError that it wraps does not
// show that.
type silentError struct{ error }

func (e silentError) Unwrap() error { return e.error }
func (silentError) Timeout() bool   { return true }

// unhide wraps err, the error of a transport's dialer, in a [silentError] if nothing has answered. It excludes name servers that do not
// answer, because they say nothing about the backend.
func unhide(err error) error {
	if _, dial := errors.AsType[reverseproxy.DialError](err); !dial || strings.Contains(err.Error(), ": lookup ") {
		return err
	}
	if strings.HasSuffix(err.Error(), ": i/o timeout") || isSystemError(err, syscall.ETIMEDOUT) || isSystemError(err, syscall.EHOSTUNREACH) {
		return silentError{err}
	}
	return err
}

// IsConnectError reports whether no connection could be made, so that the backend has received nothing of the request. A failed TLS
// handshake counts as well.
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

// IsUnreachable reports whether dialing failed at the network level, such as refused.
func IsUnreachable(err error) bool {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && !isUndecided(err)
}

// isUndecided reports whether dialing failed without saying anything about the backend: a unix socket with a full backlog (EAGAIN) has a process
// behind it, and without a free local port (EADDRNOTAVAIL) nothing was tried.
func isUndecided(err error) bool {
	return isSystemError(err, syscall.EAGAIN) || isSystemError(err, syscall.EADDRNOTAVAIL)
}

// NotTried reports whether dialing failed for a reason that is not the backend's fault, or that does not say whether the backend is alive.
func NotTried(err error) bool { return OutOfDescriptors(err) || isUndecided(err) }

// IsTimeout reports whether err is a timeout.
func IsTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
