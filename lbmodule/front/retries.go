package front

import (
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Idempotent tells whether making the request twice is as good as making it once.
func (x *Request) Idempotent() bool { return x.front.Idempotent(x.request) }

// Idempotent tells whether making a request twice is as good as making it once (RFC 9110, 9.2.2). That a client says so does not make it
// so: only who runs the backends knows whether they go by its key.
func (f *Front) Idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return f.idempotencyKey && r.Header.Get("Idempotency-Key") != ""
}

// Upgrade tells whether the request asks to switch protocols.
func (x *Request) Upgrade() bool { return IsUpgrade(x.request) }

// IsUpgrade tells whether a request asks to switch protocols.
func IsUpgrade(r *http.Request) bool { return r.Header.Get("Upgrade") != "" }

// Wanted tells whether reverse_proxy's words for retries ask for another attempt after one that ended for that reason, with this answer if
// it has one.
func (x *Request) Wanted(reason pool.RetryReason, _ *http.Response) bool {
	return x.front.Wanted(x.sent, reason)
}

// Wanted tells that of an attempt that r made.
func (f *Front) Wanted(r *http.Request, reason pool.RetryReason) bool {
	match := f.stock.Retries.Match
	switch {
	case reason == pool.RetryConnect:
		return true
	case reason == pool.RetryStatus:
		return f.matches(r, looksAtAnswer)
	case len(match) == 0:
		return r.Method == http.MethodGet
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(placeholderPrefix+"is_transport_error", true)
		defer repl.Delete(placeholderPrefix + "is_transport_error")
	}
	return f.matches(r, func(caddyhttp.MatcherSet) bool { return true })
}

// matches tells whether one of the sets of matchers that are to be asked matches.
func (f *Front) matches(r *http.Request, ask func(caddyhttp.MatcherSet) bool) bool {
	for _, set := range f.stock.Retries.Match {
		if !ask(set) {
			continue
		}
		matched, err := set.MatchWithError(r)
		if err != nil {
			f.logger.Error("failed matching request for retry", zap.String("pool", f.pool), zap.Error(err))
			return false
		}
		if matched {
			return true
		}
	}
	return false
}

// LooksAtAnswers tells whether some of reverse_proxy's words for retries are about answers.
func (f *Front) LooksAtAnswers() bool {
	return slices.ContainsFunc(f.stock.Retries.Match, looksAtAnswer)
}

// looksAtAnswer tells whether a set of matchers can only be judged when there is an answer.
func looksAtAnswer(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(m any) bool {
		expression, ok := m.(*caddyhttp.MatchExpression)
		return ok && slices.ContainsFunc(expression.Placeholders(), func(name string) bool {
			// An empty name is one that the expression makes up.
			return name == "" || name == placeholderPrefix+"status_code" || name == placeholderPrefix+"status_text" ||
				strings.HasPrefix(name, placeholderPrefix+"header.")
		})
	})
}
