// Package lbmodule is the Caddy module of the load balancer: the handler, its JSON, and the circuit breaker for a plain reverse_proxy. The
// packages below it do the work.
package lbmodule

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/observe"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler is a load-balancing reverse proxy. It accepts all settings of `http.handlers.reverse_proxy` with the same meaning, and adds
// backends with properties (weights, exact caps, backups), health checks, slow start, circuit breakers, retries with a budget, a queue and
// hedging.
//
// The selection policy (`load_balancing.selection_policy`) defaults to `lb_peak_ewma`. The stock policies `round_robin`,
// `weighted_round_robin`, `least_conn`, `random` and `first` are implemented by the `lb_` policies of the same name, `random_choose` by
// `lb_p2c`, `cookie` by `lb_sticky`, and `ip_hash`, `client_ip_hash`, `uri_hash`, `query` and `header` by the code of `lb_hash`; any other
// policy chooses among the eligible backends.
//
// The file docs/ranges.md of the source lists the range of each number. Values outside it are refused, and so is an explicit 0.
//
// The placeholders are those of `http.handlers.reverse_proxy`, and
//
// Placeholder | Description
// ------------|-------------
// `{http.load_balancer.pool}` | The name of the pool
// `{http.load_balancer.backend}` | The name of the backend that answered, or was tried last
// `{http.load_balancer.policy}` | The selection policy
// `{http.load_balancer.queue_ms}` | The time in milliseconds that the request waited for a backend
// `{http.load_balancer.attempts}` | The attempts, a JSON list of objects with `backend`, `status`, `ms`, `error` and, of gRPC calls, `grpc_status`
// `{http.load_balancer.retries}` | The number of attempts after the first
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

	app          *app.App
	logger       *zap.Logger
	words        stock.Words   // the settings of the embedded handler
	placeholders bool          // the address of a backend depends on the request
	stock        stock.Handler // reverse_proxy's part
	service      *service.Service
	front        *front.Front
	plan         exchange.Plan
	rules        course.Rules
	observer     observe.Observer
	mirror       *mirroring   // nil for none
	canary       *canarying   // nil for none
	ended        atomic.Int64 // when the config ended, in Unix nanoseconds; 0 before
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.load_balancer",
		New: func() caddy.Module { return new(Handler) },
	}
}

// ServeHTTP proxies the request to a backend of the pool.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	now := time.Now()
	c, told := calls.Get().(*call), new(told)
	c.handler, c.next = h, next
	c.Receive(r, &told.Told)
	c.exchange.Init(&h.plan, c, c, &told.Record)
	told.Show(&h.observer, &told.Record, &told.Told, w, r)
	// Deferred, because the request must be counted even after a panic (http.ErrAbortHandler, when an answer breaks off).
	defer func() {
		c.exchange.Live.Done() // Run does so as well, but the request may be refused before Run
		c.End(c.exchange.Ended())
		c.Request.Body().CloseAfter(w, r)
		h.plan.Pool.CountAnswer(told.Status(err))
		c.recycle()
	}()
	if !h.rules.Retry.Waits() {
		if hopeless := h.service.Refuses(h.rules.Hold); hopeless != nil { // at once, without reading the body
			c.exchange.Refuse(hopeless)
			return h.unavailable(w, hopeless)
		}
	}
	var cancel context.CancelCauseFunc
	if h.DrainTimeout > 0 {
		var ctx context.Context
		ctx, cancel = context.WithCancelCause(r.Context())
		defer cancel(nil)
		r = r.WithContext(ctx)
	}
	h.plan.Pool.Live.Add(&c.exchange.Live, cancel, now)
	if err = c.Begin(h.front, w, r, now); err == nil {
		if c.Request.Body() != nil {
			now = time.Now() // Begin may have waited for the body
		}
		if h.mirror != nil {
			c.mirror(h.mirror, now)
		}
		err = c.exchange.Run(r.Context(), now)
		c.returned = true
	}
	if err == nil || !c.returned || c.Request.Body().Failure() != nil {
		return err
	}
	switch left, unavailable := c.exchange.Unserved(); {
	case left:
		return caddyhttp.Error(pool.StatusCanceled, context.Canceled)
	case unavailable != nil:
		return h.unavailable(w, unavailable)
	default:
		return err
	}
}

// unavailable returns the error for a request that no backend could serve, and counts it.
func (h *Handler) unavailable(w http.ResponseWriter, err error) error {
	h.plan.Pool.CountRefusal(course.RefusalOf(err))
	w.Header().Set("Retry-After", h.service.RetryAfter(time.Now()))
	return caddyhttp.Error(http.StatusServiceUnavailable, err)
}

// call is one request. It connects the front and the exchange of the request to the load balancer.
type call struct {
	front.Request
	exchange exchange.Exchange
	handler  *Handler
	next     caddyhttp.Handler
	returned bool // Run has returned, rather than panicked
}

// told has the data of a request for logs and placeholders. They may use it after the call has ended, so it is not recycled.
type told struct {
	observe.Request
	exchange.Record
	front.Told
}

// calls is a pool: calls are large, and most end within a millisecond.
var calls = sync.Pool{New: func() any { return new(call) }}

// recycle keeps c for another request, if there can be no reference to it any more. A dynamic source of another plugin that is asked for
// each request may keep the request.
func (c *call) recycle() {
	if c.returned && c.exchange.Settled() && c.Settled() && !c.Quiet() {
		c.Clear()
		c.exchange, c.handler, c.next, c.returned = exchange.Exchange{}, nil, nil, false
		calls.Put(c)
	}
}

// Members implements [course.Source].
func (c *call) Members(retry bool) (course.Members, error) {
	set, err := c.handler.service.Members(c.Request.Request(), retry)
	if err != nil {
		return nil, err
	}
	if c.handler.canary != nil {
		set = c.sideOf(set, retry)
	}
	return set, nil
}

// Quiet implements [course.Source].
func (c *call) Quiet() bool { return c.handler.service.Quiet() }

// Body implements [exchange.Front].
func (c *call) Body() exchange.ClientBody {
	if body := c.Request.Body(); body != nil {
		return body
	}
	return nil
}

// Attempt implements [exchange.Front].
func (c *call) Attempt(_ context.Context, n int, to course.Target, inform exchange.Inform) (o exchange.Outgoing, err error) {
	r, trip, whole, err := c.Request.Attempt(n, to.(*stock.Target), c.exchange.Course().Members().View().Len(), inform)
	return exchange.Outgoing{Request: r, Back: trip, Whole: whole}, err
}

// Copy implements [exchange.Front].
func (c *call) Copy(ctx context.Context, r *http.Request, to course.Target) (o exchange.Outgoing, ok bool) {
	copied, trip, ok := c.Request.Copy(ctx, r, to.(*stock.Target))
	return exchange.Outgoing{Request: copied, Back: trip}, ok
}

// CopyWon implements [exchange.Front].
func (c *call) CopyWon(by course.Target) { c.Request.CopyWon(by.(*stock.Target)) }

// Answer implements [exchange.Front].
func (c *call) Answer(answer *http.Response) error {
	if stream, ok := c.Request.Switched(answer, c.exchange.Traffic()); ok {
		c.handler.opened(&c.exchange.Live, stream)
	}
	return c.Request.Answer(answer, c.next)
}

// Fail implements [exchange.Front].
func (c *call) Fail(err error) error { return c.Request.Fail(err) }

// Refuse implements [exchange.Front].
func (c *call) Refuse(err error) error { return c.Fail(err) }

// kindOf classifies an error of an attempt.
func kindOf(err error) exchange.Failure {
	f := exchange.Failure{
		Kind: course.Broken, Unreachable: stock.IsUnreachable(err), NoDescriptors: stock.OutOfDescriptors(err), Timeout: stock.IsTimeout(err),
	}
	switch {
	case stock.IsConnectError(err):
		f.Kind = course.NotConnected
	case f.Timeout:
		f.Kind = course.TimedOut
	}
	return f
}

// PoolName returns the name of h's pool.
func (h *Handler) PoolName() string { return h.plan.Pool.Name() }

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ course.Source               = (*call)(nil)
	_ exchange.Front              = (*call)(nil)
)
