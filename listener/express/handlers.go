package express

import (
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/ratelimit"
)

// balancer is a load balancer that returns the plan for its requests, or why only Caddy can serve them.
type balancer interface {
	Express() (*exchange.Plan, *service.Service, *front.Front, string)
}

// handler is a handler of a route.
type handler interface {
	// follow follows the request's way through the handler. The reason is not empty if the request leaves the way.
	follow(w *Way) (end, string)
}

func (c *compiler) handler(h caddyhttp.MiddlewareHandler) handler {
	name := nameOf(h)
	switch h := h.(type) {
	case *caddyhttp.Subroute:
		if h.Errors != nil {
			return stranger{name, "errors"}
		}
		l := c.list(h.Routes, false)
		return &l
	case *requestbody.RequestBody:
		if h.Set == "" {
			return bodyLimit(h.MaxSize)
		}
	case *rewrite.Rewrite:
		if prefix, ok := c.prefix(h); ok {
			return prefix
		}
	case *headers.Handler:
		if front.TakesRequestEdits(h.Request) && front.TakesAnswerEdits(h.Response) {
			return edit{name, h}
		}
	case *ratelimit.Handler:
		if why := h.Express(); why != "" {
			return stranger{name, why}
		}
		return limit{h}
	case balancer:
		plan, service, front, why := h.Express()
		if why != "" {
			return stranger{name, why}
		}
		return &target{name, plan, service, front}
	}
	return stranger{name, name}
}

// stranger is a handler that was not understood.
type stranger struct{ name, why string }

func (s stranger) follow(*Way) (end, string) { return left, s.why }

// target is a load balancer.
type target struct {
	name    string
	plan    *exchange.Plan
	service *service.Service
	front   *front.Front
}

func (t *target) follow(w *Way) (end, string) {
	w.Plan, w.Service, w.Front = t.plan, t.service, t.front
	return arrived, ""
}

// limit is a rate limit.
type limit struct{ h *ratelimit.Handler }

func (l limit) follow(w *Way) (end, string) {
	if len(w.Limits) == mostLimits {
		return left, reasonMany
	}
	w.Limits = append(w.Limits, l.h)
	return passed, ""
}

// bodyLimit is the largest allowed body, 0 for any. Caddy gets requests with a larger one, and refuses them. All others announce the size
// of their body, so reading it need not be limited.
type bodyLimit int64

func (b bodyLimit) follow(w *Way) (end, string) {
	if b > 0 && w.head.Length > int64(b) {
		return left, "request_body"
	}
	return passed, ""
}

// edit is a set of operations on the header of the request or the answer.
type edit struct {
	name string
	h    *headers.Handler
}

func (e edit) follow(w *Way) (end, string) {
	if len(w.Edits) == mostEdits {
		return left, reasonMany
	}
	if front.EditsHost(e.h.Request) {
		w.hosted, w.renamed = false, e.name
	}
	w.Edits = append(w.Edits, Edit{e.h, len(w.Limits)})
	return passed, ""
}

// prefix is the prefix that is stripped from the path, in lower case.
type prefix string

// prefix returns the prefix that r strips, if it does nothing else.
func (c *compiler) prefix(r *rewrite.Rewrite) (prefix, bool) {
	if r.Method != "" || r.URI != "" || r.StripPathSuffix != "" || len(r.URISubstring) > 0 || len(r.PathRegexp) > 0 || r.Query != nil {
		return "", false
	}
	text := r.StripPathPrefix
	if text != "" && !strings.HasPrefix(text, "/") {
		text = "/" + text
	}
	if strings.ContainsAny(text, "{}%") || strings.Contains(text, "//") || !isASCII(text) {
		return "", false
	}
	if c.ctx.Logger(r).Core().Enabled(zap.DebugLevel) {
		return "", false // Caddy logs the rewrite
	}
	return prefix(strings.ToLower(text)), true
}

func (p prefix) follow(w *Way) (end, string) {
	if p == "" {
		return passed, ""
	}
	if !w.head.Plain {
		return left, "rewrite"
	}
	if len(w.path) < len(p) || !beginsWith(w.path, string(p)) {
		return passed, ""
	}
	rest := w.path[len(p):]
	if len(rest) == 0 || rest[0] != '/' {
		return left, "rewrite" // Caddy prepends a slash
	}
	w.path = rest
	w.Strip += len(p)
	return passed, ""
}
