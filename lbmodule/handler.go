package lbmodule

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
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

	app           *App
	logger        *zap.Logger
	pool          *pool.Pool
	manager       *manage.Manager // of pool
	words         stock.Words     // what is said in reverse_proxy's words
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
	probing       *probing       // of active; nil for none
	warnings      []string       // about settings that work but hurt
	roster        *roster        // upstreams and backends, as the config has them
	dynamic       *dynamicSource // nil without dynamic_upstreams

	// What roster has become by edits; nil when there are none and will be none: a dynamic source names them.
	static atomic.Pointer[memberSet]

	watchingStatic, watchingDynamic watching

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
	settings, err := h.describe(&h.words)
	if err != nil {
		return err
	}
	if h.app, err = loadApp(ctx); err != nil {
		return err
	}
	h.loadHealthChecks()
	roster, err := h.makeRoster()
	if err != nil {
		return err
	}
	h.debugRanges = h.DebugHeader.Prefixes()
	if err := h.loadPolicy(ctx); err != nil {
		return err
	}
	if err := h.setWeights(roster); err != nil {
		return err
	}
	if h.manager, err = h.app.join(h.Name, h.derivedName(&h.words), settings); err != nil {
		return err
	}
	h.pool, h.roster = h.manager.Pool(), roster
	h.app.add(h)
	h.warn(roster)
	if err := h.loadDynamicSource(ctx); err != nil {
		return err
	}
	if err := h.provisionStock(ctx); err != nil {
		return err
	}
	if h.dynamic != nil {
		h.dynamic.inherit(h.manager.Groups())
	}
	h.manager.Attach(group{h})
	return nil
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

// start begins what a handler does beside serving requests.
func (h *Handler) start() {
	h.watchingStatic.start(h)
	h.watchingDynamic.start(h)
	if h.dynamic != nil && !h.dynamic.isPolled() {
		h.dynamic.sets.watch(h)
	}
}

// stop ends what start began.
func (h *Handler) stop() {
	h.static.Load().stop(h)
	if h.dynamic != nil {
		h.dynamic.sets.stop(h)
	}
	h.watchingStatic.stop()
	h.watchingDynamic.stop()
}

// provisionStock sets up what we take of reverse_proxy.
func (h *Handler) provisionStock(ctx caddy.Context) error {
	if err := h.stock.Provision(ctx, &h.Handler, h.roster.upstreams); err != nil {
		return err
	}
	if err := h.checkHedgeModules(); err != nil {
		return err
	}
	h.loadRetries()
	h.loadBreaker()
	transport := h.stock.Transport
	transport.TimeConnections(func(upstream string, took time.Duration) { h.pool.TrafficOf(upstream).Connected(took) })
	transport.Shorten()
	transport.HearOut()
	h.front = front.New(&h.stock, h.logger)
	return h.loadProbing(ctx, transport.Configured(), h.words.Transport)
}

// Cleanup releases what Provision acquired, also when Provision failed half way.
func (h *Handler) Cleanup() error {
	h.stop()
	if h.manager != nil {
		h.manager.Detach(group{h})
	}
	if set := h.static.Load(); set != nil {
		set.close(h)
	}
	if h.dynamic != nil {
		h.dynamic.sets.close(h)
	}
	return h.stock.Cleanup()
}

// ServeHTTP proxies the request to a backend of the pool.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	q := &request{h: h, debug: h.debugs(r), received: receive(r)}
	q.show(r.Context())
	// A panic (http.ErrAbortHandler, when a body breaks off) must release the lease, too.
	defer func() {
		q.end()
		q.received.closeAfter(w, r)
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
	case q.received.failure() != nil:
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
		attempt, err := x.Attempt(q.target(), q.set.view.Len())
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
	if h.dynamic != nil || h.retries.stock.waits() {
		return nil
	}
	set := h.static.Load()
	if set == nil {
		return pool.ErrNone
	}
	snapshot := set.view.Snapshot()
	if gone := snapshot.Gone(); snapshot.Hopeless() && (gone.IsZero() || time.Since(gone) >= h.hold) {
		return pool.ErrNone
	}
	return nil
}

// unavailable is the answer to a request that found no backend. Clients are asked to come back when that may have
// changed, and at different moments, so that they do not return as a herd.
func (h *Handler) unavailable(w http.ResponseWriter, err error) error {
	const most, spread = 30, 5 // seconds
	after := 1
	if set := h.static.Load(); set != nil {
		next := set.view.NextProbe(time.Now())
		after = min(max(int(math.Ceil(next.Seconds())), 1), most-spread)
	}
	w.Header().Set("Retry-After", strconv.Itoa(after+rand.IntN(spread)))
	return caddyhttp.Error(http.StatusServiceUnavailable, err)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
