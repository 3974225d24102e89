package lbmodule

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler is a load-balancing reverse proxy. It takes every setting of `http.handlers.reverse_proxy`, with
// its meaning, and adds backends with properties (weights, exact caps, backups), health checks, slow start, circuit
// breakers, retries with a budget, a queue and hedging.
//
// The selection policy (`load_balancing.selection_policy`) defaults to `lb_peak_ewma`. The stock policies
// `round_robin`, `weighted_round_robin`, `least_conn`, `random` and `first` are served by `lb_` policies of
// that name, `random_choose` by `lb_p2c`, `cookie` by `lb_sticky`, `ip_hash`, `client_ip_hash`, `uri_hash`, `query` and `header` by what serves `lb_hash`; any
// other policy is given the backends that are eligible.
//
// The file docs/ranges.md of the source lists the range of each number. A value outside it is refused, and so is a 0 that is given.
//
// The placeholders are those of `http.handlers.reverse_proxy`, and
//
// Placeholder | Description
// ------------|-------------
// `{http.load_balancer.pool}` | The name of the pool
// `{http.load_balancer.backend}` | The name of the backend that answered, or was tried last
// `{http.load_balancer.policy}` | The selection policy
// `{http.load_balancer.queue_ms}` | How many milliseconds the request waited for a backend
// `{http.load_balancer.attempts}` | The attempts, a JSON list of objects with `backend`, `status`, `ms`, `error` and, of gRPC calls, `grpc_status`
// `{http.load_balancer.retries}` | How many attempts there were after the first
// `{http.load_balancer.error}` | Why no backend was found, or the last error of an attempt
type Handler struct {
	reverseproxy.Handler

	// The name of the pool, by which its state is kept over config reloads. Handlers of equal settings may
	// share a name; they share the pool then. Letters, digits and `._:/@[]~+-`, at most 128 bytes.
	// Default: the address of the first backend.
	Name string `json:"name,omitempty"`

	// Backends with properties. They follow those in `upstreams`.
	Backends []*config.Backend `json:"backends,omitempty"`

	config.Settings

	app           *app.App
	logger        *zap.Logger
	pool          *pool.Pool
	manager       *manage.Manager // of pool
	words         stock.Words     // what is said in reverse_proxy's words
	service       *service.Service
	policy        reverseproxy.Selector
	keyed         policies.Keyed         // policy, if it goes by keys
	sessions      policies.SessionPolicy // policy, if it goes by sessions
	untilLastByte bool                   // the policy goes by the time to the end of answers
	active        *config.HealthCheck    // with its defaults; nil for none
	passive       passive
	retries       retryRules
	debugRanges   []netip.Prefix // clients that are given the debug header
	hold          time.Duration  // how old an outage of all may be for requests to wait; 0 if they never do
	slow          time.Duration  // from which on an answer is slow for the breaker; 0 if none is
	failureStatus statusSet      // answers that are failures
	warnings      []string       // about settings that work but hurt

	stock stock.Handler // reverse_proxy's part
	front *front.Front
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.load_balancer",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets h up. It starts nothing of its own: see [App].
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.Check(); err != nil {
		return err
	}
	var err error
	if h.words, err = stock.Read(&h.Handler); err != nil {
		return err
	}
	key, err := h.poolKey(&h.words)
	if err != nil {
		return err
	}
	if h.app, err = app.Load(ctx); err != nil {
		return err
	}
	h.loadHealthChecks()
	roster, err := service.NewRoster(h.words.Upstreams, h.Backends, h.words.MaxRequests, h.logger)
	if err != nil {
		return err
	}
	h.debugRanges = h.DebugHeader.Prefixes()
	if err := h.loadPolicy(ctx); err != nil {
		return err
	}
	if err := roster.SetWeights(h.policy, h.Backends, h.words.Dynamic != nil); err != nil {
		return err
	}
	if h.manager, err = h.app.Join(key); err != nil {
		return err
	}
	h.pool = h.manager.Pool()
	h.warn(roster)
	h.service = service.New(service.Options{
		Owner: h.app, Manager: h.manager, Logger: h.logger, Roster: roster, Policy: h.policy, Settings: &h.Settings,
		Check: h.active, Passive: h.passive.settings, Limit: h.words.MaxRequests, Warnings: h.warnings,
	})
	h.app.Add(h.service)
	if h.words.Dynamic != nil {
		// reverse_proxy would ask it at every attempt, and go through a global lock for every backend that it names.
		if err := h.service.LoadSource(ctx, h.words.Dynamic); err != nil {
			return err
		}
	}
	return h.provisionStock(ctx, roster)
}

// loadHealthChecks takes the health checks of reverse_proxy's words, where there are any, and ours.
func (h *Handler) loadHealthChecks() {
	h.active = h.HealthCheck.WithDefaults()
	if h.words.Active != nil {
		h.boundInterval(h.words.Active)
		h.active = h.words.Active.WithDefaults()
	}
	h.passive = h.loadPassive()
}

// provisionStock sets up what we take of reverse_proxy, and brings the backends into the pool.
func (h *Handler) provisionStock(ctx caddy.Context, roster *service.Roster) error {
	if err := h.stock.Provision(ctx, &h.Handler, roster.Upstreams()); err != nil {
		return err
	}
	if err := h.checkHedgeModules(); err != nil {
		return err
	}
	h.front = front.New(&h.stock, h.logger, h.pool.Name(), h.Retry.WithDefaults().IdempotencyKey)
	h.loadRetries()
	h.loadBreaker()
	transport := h.stock.Transport
	transport.TimeConnections(func(upstream string, took time.Duration) { h.pool.TrafficOf(upstream).Connected(took) })
	transport.Shorten()
	transport.HearOut()
	return h.service.Open(ctx, &h.stock, h.words.Transport, h.retries.probeTimeout, h.retries.budget)
}

// Cleanup releases what Provision acquired, also when Provision failed half way.
func (h *Handler) Cleanup() error {
	if h.service != nil {
		h.service.Close()
	}
	return h.stock.Cleanup()
}

// ServeHTTP proxies the request to a backend of the pool.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	q := &request{h: h, debug: h.debugs(r)}
	q.front.Receive(r)
	q.show(r.Context())
	// A panic (http.ErrAbortHandler, when a body breaks off) must release the lease, too.
	defer func() {
		q.end()
		q.front.Body().CloseAfter(w, r)
		h.pool.CountAnswer(q.status(err))
	}()
	if q.refused = h.refusal(); q.refused != nil {
		return h.unavailable(w, q.refused)
	}
	if h.DrainTimeout <= 0 {
		h.pool.Live.Add(&q.live, nil)
	} else {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		r = r.WithContext(ctx)
		h.pool.Live.Add(&q.live, cancel)
	}
	err = q.serve(w, r, next)
	switch {
	case err == nil:
		return nil
	case q.front.Body().Failure() != nil:
		return err
	case errors.Is(context.Cause(r.Context()), context.Canceled) && (q.refused != nil || q.lost):
		return caddyhttp.Error(front.StatusCanceled, context.Canceled) // the client did not wait for a backend
	case q.refused != nil:
		return h.unavailable(w, q.refused)
	case errors.Is(context.Cause(r.Context()), pool.ErrDrained):
		return h.unavailable(w, pool.ErrDrained)
	default:
		return err
	}
}

// serve takes the request to backends, one after the other, until one of them answers or there is to be no other.
func (q *request) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	x := &q.front
	if err := x.Begin(q.h.front, w, r); err != nil {
		return err
	}
	for { // bound: an attempt says whether there is another
		if q.next(x.Request(), w) == nil {
			return x.Fail(q.refused)
		}
		attempt, _, err := x.Attempt(q.attempts, q.target(), q.set.View().Len(), q)
		if err != nil {
			return x.Fail(err)
		}
		res, err := q.attempt(q.h.stock.Transport, attempt)
		switch {
		case err == nil:
			return x.Answer(res, next)
		case !q.again || errors.Is(err, context.Canceled):
			return x.Fail(err)
		}
		x.Retrying(err)
	}
}

// refusal tells why no request can be served now, when that is known without looking at the request and
// waiting was not asked for: reverse_proxy may read a whole body before it asks for a backend.
func (h *Handler) refusal() error {
	if !h.retries.stock.waits() && h.service.Hopeless(h.hold) {
		return pool.ErrNone
	}
	return nil
}

// unavailable is the answer to a request that found no backend. Clients are asked to come back when that may have
// changed, and at different moments, so that they do not return as a herd.
func (h *Handler) unavailable(w http.ResponseWriter, err error) error {
	const most, spread = 30, 5 // seconds
	next := h.service.NextProbe(time.Now())
	after := min(max(int(math.Ceil(next.Seconds())), 1), most-spread)
	w.Header().Set("Retry-After", strconv.Itoa(after+rand.IntN(spread)))
	return caddyhttp.Error(http.StatusServiceUnavailable, err)
}

// warn notes settings that work but hurt: in the log, and for the API.
func (h *Handler) warn(r *service.Roster) {
	warn := func(text string, fields ...zap.Field) {
		h.logger.Warn(text, append(fields, zap.String("pool", h.pool.Name()))...)
		h.warnings = append(h.warnings, text)
	}
	backends := r.Backends()
	weight, unequal := 0, false
	for _, b := range backends {
		unequal = unequal || (b.Weight > 0 && weight > 0 && b.Weight != weight)
		weight = max(weight, b.Weight)
	}
	if len(backends) > 0 && weight == 0 {
		warn("all weights are zero: no backend will be used")
	}
	if c := h.active; c != nil {
		if c.Timeout >= c.Interval {
			warn("health check timeout is not below its interval: a slow answer delays the next probe",
				zap.Duration("timeout", time.Duration(c.Timeout)), zap.Duration("interval", time.Duration(c.Interval)))
		}
		if len(backends) == 1 && h.words.Dynamic == nil {
			warn("health check of an only backend: it is used whatever the check says, unless it cannot be reached")
		}
		if c.Port != 0 && c.Upstream == "" && slices.ContainsFunc(backends, func(b pool.Backend) bool {
			a, err := caddy.ParseNetworkAddress(b.Address)
			return err == nil && stock.IsSocket(a.Network)
		}) {
			warn("health check port is not used for backends at sockets, which are checked there", zap.Int("port", c.Port))
		}
		if h.words.Dynamic != nil && !service.CanPoll(h.words.Dynamic) {
			warn("backends of this dynamic source depend on the request and are not checked actively")
		}
	}
	if h.Queue.Enabled() && h.words.MaxRequests == 0 && h.words.Dynamic == nil &&
		!slices.ContainsFunc(backends, func(b pool.Backend) bool { return b.MaxRequests > 0 }) {
		warn("queue without max_requests: no backend is ever full, so that no request waits")
	}
	if h.Hold != nil && h.words.TryDuration > 0 {
		warn("hold is ignored: lb_try_duration says how long requests wait")
	}
	if zone := h.PreferZone; zone != "" && !slices.ContainsFunc(backends, func(b pool.Backend) bool { return b.Zone == zone }) {
		h.logger.Warn("no backend is in the preferred zone", zap.String("pool", h.pool.Name()), zap.String("zone", zone))
	}
	for _, text := range policies.Warnings(h.policy) {
		warn(text)
	}
	if unequal && !policies.UsesWeights(h.policy) {
		warn("the selection policy does not look at weights")
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
