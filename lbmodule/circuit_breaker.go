package lbmodule

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func init() {
	caddy.RegisterModule(new(CircuitBreaker))
}

// CircuitBreaker adds the load balancer's breaker to a plain `reverse_proxy`, with limits: one breaker covers all upstreams. It sees only
// the status and the duration of answers, not failed connections or timeouts. While half-open, it lets a request pass every 100 ms. A
// config reload resets it. The `load_balancer` handler has a breaker for each backend, without these limits.
type CircuitBreaker struct {
	config.Breaker

	logger   *zap.Logger
	settings breaker.Settings
	failures course.Statuses
	slow     time.Duration

	mu    sync.Mutex // guards the fields below
	state breaker.Breaker
	next  time.Time // while half-open: when the next request may pass
}

// probeInterval is the time between two requests that pass a half-open breaker.
const probeInterval = 100 * time.Millisecond

// CaddyModule returns the Caddy module information.
func (*CircuitBreaker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.circuit_breakers.lb_breaker",
		New: func() caddy.Module { return new(CircuitBreaker) },
	}
}

// UnmarshalJSON reads the breaker's config.
func (c *CircuitBreaker) UnmarshalJSON(text []byte) error {
	return config.Ranges.Decode("breaker", text, &c.Breaker)
}

// Provision sets c up.
func (c *CircuitBreaker) Provision(ctx caddy.Context) error {
	c.logger = ctx.Logger()
	if err := cmp.Or(config.Ranges.Check("breaker", &c.Breaker), c.Breaker.Check()); err != nil {
		return err
	}
	if c.MaxEjected != 0 {
		return fmt.Errorf("breaker: max_ejected %s: is for load_balancer; here one breaker stands for all upstreams", config.Percent(c.MaxEjected))
	}
	if given := course.NewStatuses(c.FailureStatus); given.SomeGRPC() {
		return fmt.Errorf("breaker: failure_status: gRPC statuses need load_balancer; reverse_proxy does not report them")
	}
	c.Breaker = c.Breaker.WithDefaults()
	c.failures = course.NewStatuses(c.FailureStatus)
	var s pool.Settings
	c.Breaker.Apply(&s, 0)
	c.settings = s.Breaker
	if c.SlowRatio != nil {
		c.slow = time.Duration(c.SlowRatio.Latency)
	}
	return nil
}

// OK implements reverseproxy.CircuitBreaker. reverse_proxy calls it for every upstream on every request, even if no request follows.
func (c *CircuitBreaker) OK() bool {
	if c.Disabled || c.DryRun {
		return true
	}
	now := time.Now()
	c.mu.Lock()
	turned := c.state.Tick(now)
	ok := c.state.State() == breaker.Closed
	if c.state.State() == breaker.HalfOpen && !now.Before(c.next) {
		c.next, ok = now.Add(probeInterval), true
	}
	c.mu.Unlock()
	c.report(turned)
	return ok
}

// RecordMetric implements reverseproxy.CircuitBreaker.
func (c *CircuitBreaker) RecordMetric(status int, latency time.Duration) {
	if c.Disabled {
		return
	}
	now, jitter := time.Now(), rand.Float64()
	failed := c.failures.HasHTTP(status)
	slow := c.slow > 0 && latency >= c.slow
	c.mu.Lock()
	ticked := c.state.Tick(now)
	turned := c.state.Record(&c.settings, c.state.Generation(), failed, slow, now, jitter)
	if cause := c.state.Due(&c.settings, now); (failed || slow) && cause != 0 {
		turned = c.state.Trip(&c.settings, cause, now, jitter)
	}
	c.mu.Unlock()
	c.report(ticked)
	c.report(turned)
}

func (c *CircuitBreaker) report(t breaker.Transition) {
	if !t.Happened() {
		return
	}
	level := zap.InfoLevel
	if t.To == breaker.Open {
		level = zap.WarnLevel
	}
	c.logger.Log(level, "circuit breaker turned", zap.Stringer("from", t.From), zap.Stringer("to", t.To), zap.Stringer("reason", t.Cause),
		zap.Duration("open_for", t.OpenFor), zap.Bool("dry_run", c.DryRun))
}

// Interface guards
var (
	_ caddy.Provisioner           = (*CircuitBreaker)(nil)
	_ reverseproxy.CircuitBreaker = (*CircuitBreaker)(nil)
)
