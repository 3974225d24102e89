package lbmodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// retryRules say which attempts are made again, when, and how often.
type retryRules struct {
	attempts      int // in all; 0 for any number
	on            [pool.RetryReasons]bool
	status        statusSet
	nonIdempotent bool
	key           bool          // requests with an Idempotency-Key are idempotent
	base, max     time.Duration // of the backoff
	bodyLimit     int64         // bytes of a request's body that are kept
	tryTimeout    time.Duration // 0 for none that we see to
	probeTimeout  time.Duration // by which an attempt must have ended
	budget        pool.BudgetSettings

	stock *stockRetries // reverse_proxy's words rule instead; nil if none is given
}

// stockRetries are retries as reverse_proxy's words describe them.
type stockRetries struct {
	duration time.Duration         // for how long attempts are made, and a backend is waited for; 0 for no bound
	interval time.Duration         // between attempts
	match    caddyhttp.MatcherSets // requests and answers that are retried; nil for GET
	answers  bool                  // some of match look at the answer
}

// waits tells whether requests wait for a backend as reverse_proxy's words say. Without any they do not.
func (s *stockRetries) waits() bool { return s != nil && s.duration > 0 }

// loadRetries makes the rules of the settings.
func (h *Handler) loadRetries() {
	r := h.Retry.WithDefaults()
	h.retries = retryRules{
		attempts: r.Attempts, nonIdempotent: r.NonIdempotent, key: r.IdempotencyKey, bodyLimit: r.BodyLimit,
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
			match: words.Match, answers: slices.ContainsFunc(words.Match, looksAtAnswer),
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

// looksAtAnswer tells whether a set of matchers can only be judged when there is an answer.
func looksAtAnswer(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(m any) bool {
		expression, ok := m.(*caddyhttp.MatchExpression)
		return ok && slices.ContainsFunc(expression.Placeholders(), func(name string) bool {
			// An empty name is one that the expression makes up.
			return name == "" || name == "http.reverse_proxy.status_code" || name == "http.reverse_proxy.status_text" ||
				strings.HasPrefix(name, "http.reverse_proxy.header.")
		})
	})
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
		ok = rules.stock.wants(r, reason, q.h)
	case reason == pool.RetryConnect:
		ok = rules.on[reason]
	default:
		ok = rules.on[reason] && q.repeatable(r)
	}
	return reason, ok && q.body.rewindable()
}

// repeatable tells whether the request may be made again when a backend may have acted on it already.
func (q *request) repeatable(r *http.Request) bool {
	rules := &q.h.retries
	return !isUpgrade(r) && (rules.isIdempotent(r) || rules.nonIdempotent)
}

// isIdempotent tells whether making the request twice is as good as making it once (RFC 9110, 9.2.2). That a client says so does not
// make it so: only who runs the backends knows whether they go by its key.
func (rules *retryRules) isIdempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return rules.key && r.Header.Get("Idempotency-Key") != ""
}

// isKeyed tells whether a request has one of the fields that net/http's transport takes for leave to send it again.
func isKeyed(h http.Header) bool { return h["Idempotency-Key"] != nil || h["X-Idempotency-Key"] != nil }

func isUpgrade(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }

// wants tells what reverse_proxy's words say about an attempt that ended in that way.
func (s *stockRetries) wants(r *http.Request, reason pool.RetryReason, h *Handler) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	switch {
	case reason == pool.RetryConnect:
		return true
	case reason == pool.RetryStatus:
		return s.matches(r, h, looksAtAnswer)
	case len(s.match) == 0:
		return r.Method == http.MethodGet
	default:
		if ok {
			repl.Set("http.reverse_proxy.is_transport_error", true)
			defer repl.Delete("http.reverse_proxy.is_transport_error")
		}
		return s.matches(r, h, func(caddyhttp.MatcherSet) bool { return true })
	}
}

// matches tells whether one of the sets of matchers that are to be asked matches.
func (s *stockRetries) matches(r *http.Request, h *Handler, ask func(caddyhttp.MatcherSet) bool) bool {
	for _, set := range s.match {
		if !ask(set) {
			continue
		}
		matched, err := set.MatchWithError(r)
		if err != nil {
			h.logger.Error("failed matching request for retry", zap.String("pool", h.pool.Name()), zap.Error(err))
			return false
		}
		if matched {
			return true
		}
	}
	return false
}

// errDropped is the error of an attempt whose answer was dropped for another attempt.
func errDropped(status int, call grpcStatus) error {
	if call != noGRPC {
		return fmt.Errorf("answer with status %s%s is dropped for another attempt", course.GRPCPrefix, call)
	}
	return fmt.Errorf("answer with status %d is dropped for another attempt", status)
}
