package lbmodule

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// classify tells what an attempt says about its backend. A request that its client gave up, broke off or was too slow to send (see
// [front.ClientBody]), and descriptors that we have run out of, are no backend's failure; neither is a status that a healthy application gives. A backend that says it has
// too much to do is neither well nor broken: taking it out would give the others too much to do.
func (q *request) classify(ctx context.Context, res *http.Response, err error) pool.Outcome {
	switch {
	case err == nil:
		switch {
		case isOverload(res):
			return pool.Ignored
		case slices.Contains(q.h.failureStatus.http, res.StatusCode):
			return q.failure()
		}
		return pool.Success
	case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled), q.body.failed(),
		errors.Is(err, errBodyTaken), outOfDescriptors(err):
		return pool.Ignored
	default:
		return q.failure()
	}
}

// failure is the outcome of an attempt that has failed, for all that the backend shows.
func (q *request) failure() pool.Outcome {
	if q.isClients() {
		return pool.Ignored
	}
	return pool.Failure
}

// isClients tells whether what went wrong with the attempt is the client's doing.
func (q *request) isClients() bool {
	body := q.front.Body()
	return q.body.failed() || body.Failure() != nil || body.Stalled(q.begun, q.waited, time.Now())
}

// isOverload tells whether a backend says that it has too much to do.
func isOverload(res *http.Response) bool {
	return res.StatusCode == http.StatusTooManyRequests ||
		res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != ""
}

// outOfDescriptors tells whether it is this process that cannot make another connection.
func outOfDescriptors(err error) bool {
	return isSystemError(err, syscall.EMFILE) || isSystemError(err, syscall.ENFILE)
}

// isSystemError tells whether that is what the system said. A DialError does not show what it wraps, but its text.
func isSystemError(err error, code syscall.Errno) bool {
	if errors.Is(err, code) {
		return true
	}
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && strings.HasSuffix(err.Error(), code.Error())
}

// isConnectError tells whether no connection could be made, so that the backend knows nothing of the request. A failed
// TLS handshake is no connection either.
func isConnectError(err error) bool {
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

// isUnreachable tells whether not even the network could make a connection. It is the transport that dials, and says so. A socket
// whose backlog is full has somebody behind it, and where there are no ports left for our side nothing was tried.
func isUnreachable(err error) bool {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	return dial && !isSystemError(err, syscall.EAGAIN) && !isSystemError(err, syscall.EADDRNOTAVAIL)
}

// isTimeout tells whether a time was up.
func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return errors.Is(err, errTryTimeout) || ok && timeout.Timeout()
}
