package lbmodule

import (
	"fmt"
	"net/http"
	"time"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// retryRules say which attempts are made again, when, and how often.
type retryRules struct {
	attempts      int // in all; 0 for any number
	on            [pool.RetryReasons]bool
	status        statusSet
	nonIdempotent bool
	base, max     time.Duration // of the backoff
	bodyLimit     int64         // bytes of a request's body that are kept
	tryTimeout    time.Duration // 0 for none that we see to
	probeTimeout  time.Duration // by which an attempt must have ended
	budget        pool.BudgetSettings

	stock *stockRetries // reverse_proxy's words rule instead; nil if none is given
}

// stockRetries are retries as reverse_proxy's words describe them.
type stockRetries struct {
	duration time.Duration // for how long attempts are made, and a backend is waited for; 0 for no bound
	interval time.Duration // between attempts
	answers  bool          // some are about answers
}

// waits tells whether requests wait for a backend as reverse_proxy's words say. Without any they do not.
func (s *stockRetries) waits() bool { return s != nil && s.duration > 0 }

// loadRetries makes the rules of the settings.
func (h *Handler) loadRetries() {
	r := h.Retry.WithDefaults()
	h.retries = retryRules{
		attempts: r.Attempts, nonIdempotent: r.NonIdempotent, bodyLimit: r.BodyLimit,
		base: time.Duration(r.Backoff.Base), max: time.Duration(r.Backoff.Max), tryTimeout: h.tryTimeout(r), probeTimeout: max(time.Duration(r.TryTimeout), time.Minute) + probeGrace,
		budget: pool.BudgetSettings{Ratio: *r.Budget.Ratio, PerSecond: *r.Budget.PerSecond},
	}
	for _, on := range r.On {
		switch on {
		case "connect":
			h.retries.on[pool.RetryConnect] = true
		case "reset":
			h.retries.on[pool.RetryReset] = true
		case "timeout":
			h.retries.on[pool.RetryTimeout] = true
		default:
			h.retries.status.add(on)
		}
	}
	h.retries.on[pool.RetryStatus] = !h.retries.status.empty()
	if words := h.stock.Retries; words.Given {
		h.retries.stock = &stockRetries{
			duration: words.TryDuration, interval: max(words.TryInterval, 0),
			answers: h.front.LooksAtAnswers(),
		}
		h.retries.status, h.retries.attempts = statusSet{}, 1
		switch {
		case words.Retries > 0:
			h.retries.attempts = words.Retries + 1
		case words.TryDuration > 0:
			h.retries.attempts = 0
		}
	}
	if h.hold = h.Hold.MaxAge(); h.retries.stock.waits() {
		h.hold = 0 // how long to wait has been said
	}
}

// tryTimeout is how long an attempt may take, as far as that is for us to see to. A transport that speaks HTTP/1 only is told to, which
// is cheaper and the same; where nothing is set, it keeps what it has.
func (h *Handler) tryTimeout(r config.Retry) time.Duration {
	timeout := max(time.Duration(r.TryTimeout), 0)
	if timeout > 0 && h.stock.Transport.AnswerWithin(timeout) {
		return 0
	}
	return timeout
}

// attemptError is an error that does not show what it wraps.
type attemptError struct {
	text    string
	timeout bool
}

func (e *attemptError) Error() string   { return e.text }
func (e *attemptError) Timeout() bool   { return e.timeout }
func (e *attemptError) Temporary() bool { return false }

// errTryTimeout is the cause of an attempt's end when its time was up.
var errTryTimeout = &attemptError{text: "backend did not answer within try_timeout", timeout: true}

// lookAt tells whether an answer may be one that is dropped for another attempt.
func (rules *retryRules) lookAt(res *http.Response, call grpcStatus) bool {
	return rules.stock != nil && rules.stock.answers || rules.status.has(res.StatusCode, call)
}

// reason tells why the attempt should be made again; ok is false if it should not.
func (q *request) reason(r *http.Request, res *http.Response, err error) (reason pool.RetryReason, ok bool) {
	rules := &q.h.retries
	switch {
	case rules.attempts > 0 && q.attempts-q.unsent >= rules.attempts, r.Context().Err() != nil, q.body.failed(),
		q.front.Body().Failure() != nil:
		return 0, false
	case err == nil:
		reason = pool.RetryStatus
	case outOfDescriptors(err):
		return 0, false
	case isConnectError(err):
		reason = pool.RetryConnect
	case isTimeout(err):
		reason = pool.RetryTimeout
	default:
		reason = pool.RetryReset
	}
	switch {
	case rules.stock != nil:
		ok = q.h.front.Wanted(r, reason)
	case reason == pool.RetryConnect:
		ok = rules.on[reason]
	default:
		ok = rules.on[reason] && q.repeatable(r)
	}
	return reason, ok && q.body.rewindable()
}

// repeatable tells whether the request may be made again when a backend may have acted on it already.
func (q *request) repeatable(r *http.Request) bool {
	return !front.IsUpgrade(r) && (q.h.front.Idempotent(r) || q.h.retries.nonIdempotent)
}

// isKeyed tells whether a request has one of the fields that net/http's transport takes for leave to send it again.
func isKeyed(h http.Header) bool { return h["Idempotency-Key"] != nil || h["X-Idempotency-Key"] != nil }

// errDropped is the error of an attempt whose answer was dropped for another attempt.
func errDropped(status int, call grpcStatus) error {
	if call != noGRPC {
		return fmt.Errorf("answer with status %s%s is dropped for another attempt", course.GRPCPrefix, call)
	}
	return fmt.Errorf("answer with status %d is dropped for another attempt", status)
}
