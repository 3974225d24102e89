package ratelimit

import (
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler limits how many requests each client may make, in total and at the same time. A client is identified by its address as Caddy
// determines it (`client_ip`, which heeds trusted proxies), an IPv6 client by its /64; or by `key`.
//
// Requests over a limit are refused with status 429, as an error that `handle_errors` may handle, with the header fields `Retry-After`,
// `RateLimit` and `RateLimit-Policy`. A request that is refused by one of several limits is charged to none.
//
// Buckets survive config reloads. If the rate or the burst changes, they keep their fill level in proportion.
//
// When a request is refused, these placeholders are set:
//
// Placeholder | Description
// ------------|-------------
// `{http.ip_rate_limit.zone}` | The zone that refused the request
// `{http.ip_rate_limit.retry_after}` | The number of seconds after which a retry may succeed
type Handler struct {
	Settings

	logger     *zap.Logger
	app        *App
	zone       *zone
	limits     bucket.Limits
	identifier identifier
	exemptions ranges
	store      *store // nil for none
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.ip_rate_limit",
		New: func() caddy.Module { return new(Handler) },
	}
}

// UnmarshalJSON reads the handler's config.
func (h *Handler) UnmarshalJSON(text []byte) error { return Ranges.Decode("", text, &h.Settings) }

// Provision sets h up. [App] starts the background work.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.CheckWhole(); err != nil {
		return err
	}
	app, err := loadApp(ctx)
	if err != nil {
		return err
	}
	h.limits = h.Settings.limits()
	h.identifier = newIdentifier(&h.Settings)
	if h.exemptions, err = h.Settings.exempt(); err != nil {
		return err
	}
	if err := app.join(h); err != nil {
		return err
	}
	h.warnOfProxies(ctx)
	if h.oneAtATime() {
		h.logger.Warn("rate without a burst: requests that are not evenly spaced are refused; a burst such as 10 allows several at once",
			zap.String("zone", h.zone.name), zap.String("rate", filledIn(h.Rate)))
	}
	return nil
}

// ServeHTTP passes the request on, or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	c := h.identifier.identify(r)
	var p pass
	switch outcome, d := h.decide(&c, &p); outcome {
	case exempt, dryRun:
		return next.ServeHTTP(w, r)
	case refused:
		if h.app.several {
			passesOf(r.Context()).refund()
		}
		return h.refuse(w, r, d)
	}
	if h.app.several {
		return passOn(p, w, r, next)
	}
	defer p.grant.Release() // also if a later handler panics, for example with http.ErrAbortHandler
	return next.ServeHTTP(w, r)
}

// passOn passes on a request that may meet another limit, which refunds p if it refuses the request.
func passOn(p pass, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	defer p.grant.Release()
	all := passesOf(r.Context())
	all.add(&p)
	defer all.remove()
	return next.ServeHTTP(w, r)
}

// logDryRun logs requests that would have been refused, at most once a second.
func (h *Handler) logDryRun(d bucket.Decision) {
	n, ok := h.zone.mayLog(time.Now())
	if !ok {
		return
	}
	h.logger.Warn("requests would be refused", zap.String("zone", h.zone.name), zap.Uint64("requests", n),
		zap.Stringer("latest_key", d.Key), zap.String("latest_cause", causeError(d.Cause).Error()))
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
