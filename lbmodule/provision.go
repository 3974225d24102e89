package lbmodule

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
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
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Provision sets up h. It starts no background work: see [app.App]. It reads the settings of the embedded handler first, and changes only
// the upstreams of that handler, which it removes.
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
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(h.app.LastCall)
	}
	check, warnings := h.healthCheck()
	roster, err := service.NewRoster(h.words.Upstreams, h.Backends, h.limit(), h.logger)
	if err != nil {
		return err
	}
	policy, err := policies.Load(ctx, h.words.Policy)
	if err != nil {
		return err
	}
	shadow, err := policies.LoadShadow(ctx, h.ShadowPolicyRaw, policy)
	if err != nil {
		return err
	}
	if err := roster.SetWeights(policy, h.Backends, h.words.Dynamic != nil); err != nil {
		return err
	}
	noZone, err := h.ResolveZone()
	if err != nil {
		return err
	}
	if h.Mirror, err = h.Mirror.Resolve(roster.Has); err != nil {
		return err
	}
	if err := h.resolveCanary(roster); err != nil {
		return err
	}
	rule, err := service.NewSubset(h.Subset)
	if err != nil {
		return err
	}
	manager, err := h.app.Join(key)
	if err != nil {
		return err
	}
	if noZone != "" {
		const text = "prefer_zone is empty and has no effect; is an environment variable not set?"
		h.logger.Warn(text, zap.String("pool", manager.Pool().Name()), zap.String("prefer_zone", noZone))
		warnings = append(warnings, text)
	}
	warnings = append(warnings, h.warn(roster, policy, check, manager.Pool().Name())...)
	h.service = service.New(service.Options{
		Owner: h.app, Manager: manager, Logger: h.logger, Roster: roster, Policy: policy, Shadow: shadow, Settings: &h.Settings,
		Check: check, Subset: rule, Passive: h.passive(), Limit: h.limit(), Warnings: warnings,
	})
	h.app.Add(h.service)
	h.app.EndStreamsWith(ctx)
	if h.words.Dynamic != nil {
		// reverse_proxy would query the source at every attempt, and take a global lock for every backend in its answer.
		if err := h.service.LoadSource(ctx, h.words.Dynamic); err != nil {
			return err
		}
	}
	if err := h.stock.Provision(ctx, &h.Handler, roster.Upstreams(), roster.Has); err != nil {
		return err
	}
	if err := h.checkHedgeModules(policy); err != nil {
		return err
	}
	h.placeholders = slices.ContainsFunc(roster.Backends(), func(b pool.Backend) bool { return config.IsTemplate(b.Address) })
	h.front = front.New(&h.stock, policy, h.logger, manager.Pool().Name(), h.Retry.WithDefaults().IdempotencyKey)
	h.front.Shadow(shadow)
	h.makePlan(policy, shadow, manager.Pool())
	if h.mirror, err = h.newMirroring(manager.Pool()); err != nil {
		return err
	}
	h.observer = observe.New(h.service, h.DebugHeader)
	h.observer.Secure, h.observer.Dialed = h.stock.Transport.TLSEnabled(), stock.Dialed
	h.observer.Kind = func(err error) course.Kind {
		f := kindOf(err)
		if f.Timeout {
			return course.TimedOut
		}
		return f.Kind
	}
	// The roster has them now, and keeping a second copy of a large pool would waste memory.
	h.Upstreams, h.words.Upstreams, h.words.Described = nil, nil, nil
	if err := h.service.Open(ctx, &h.stock, h.words.Transport, h.Retry.ProbeTimeout(), h.rules.Retry.Budget); err != nil {
		return err
	}
	h.canary = h.newCanarying()
	return nil
}

// limit returns the max_requests of backends without their own; 0 for none.
func (h *Handler) limit() int { return cmp.Or(int(h.MaxRequests), h.words.MaxRequests) }

// Cleanup releases what Provision acquired, even if Provision failed half way.
func (h *Handler) Cleanup() error {
	if h.service != nil {
		h.endStreams(time.Now())
		h.service.Close()
	}
	h.mirror.close()
	return h.stock.Cleanup()
}

// healthCheck returns the active check, from our settings or reverse_proxy's; nil for none.
func (h *Handler) healthCheck() (check *config.HealthCheck, warnings []string) {
	if h.words.Active == nil {
		return h.HealthCheck.WithDefaults(), nil
	}
	warnings = h.boundInterval(h.words.Active)
	return h.words.Active.WithDefaults(), warnings
}

// boundInterval bounds the interval of a check from reverse_proxy's settings, which allow any interval, to our range.
func (h *Handler) boundInterval(stock *config.HealthCheck) (warnings []string) {
	asked, r := stock.Interval, config.Ranges.Of("health_check.interval")
	stock.Interval = min(max(asked, caddy.Duration(r.Least)), caddy.Duration(r.Most))
	if stock.Interval == asked {
		return nil
	}
	const text = "health_interval is out of range; the nearest valid interval is used"
	h.logger.Warn(text, zap.Duration("health_interval", time.Duration(asked)), zap.Duration("taken", time.Duration(stock.Interval)))
	return []string{text}
}

// passive returns the settings of passive checks: reverse_proxy's, and our max_fail_ratio.
func (h *Handler) passive() pool.Passive {
	words := &h.words.Passive
	if !words.Given {
		return pool.Passive{}
	}
	return h.Settings.Passive(words.Span, words.MaxFails)
}

// makePlan sets the rules and the plan of requests.
func (h *Handler) makePlan(policy reverseproxy.Selector, shadow policies.Balancer, p *pool.Pool) {
	transport, words := h.stock.Transport, &h.stock.Retries
	h.rules = h.Settings.Rules(config.RetryWords{
		Given: words.Given, Retries: words.Retries, Duration: words.TryDuration, Interval: words.TryInterval, Answers: h.front.LooksAtAnswers(),
	}, policies.ShadowTraits(policies.Traits(policy), shadow))
	if words := &h.words.Passive; words.Span > 0 {
		h.rules.Passive = course.PassiveRules{On: true, Latency: words.Latency, Status: words.Status}
	}
	if h.stock.CircuitBreaker != nil {
		h.rules.Breaker = h.stock.CircuitBreaker
	}
	retry := h.Retry.WithDefaults()
	h.plan = exchange.Plan{
		Rules: &h.rules, Pool: p, Observer: &h.observer, Kind: kindOf, TryTimeout: max(time.Duration(retry.TryTimeout), 0),
		BodyLimit: retry.BodyLimit, SmallBody: stock.SmallBody,
		Panicked: func(value any, stack []byte) {
			h.logger.Error("copy of a request panicked", zap.String("pool", p.Name()), zap.Any("panic", value), zap.ByteString("stack", stack))
		},
	}
	// An HTTP/1 transport can bound the time of an attempt by itself, which is cheaper.
	if h.plan.TryTimeout > 0 && transport.AnswerWithin(h.plan.TryTimeout) {
		h.plan.TryTimeout = 0
	}
	transport.TimeConnections(func(upstream string, took time.Duration) { p.TrafficOf(upstream).Connected(took) })
	transport.UseEngine(h.logger.With(zap.String("pool", p.Name())), p.Detoured)
	transport.DeferWriteErrors()
}

func init() {
	app.DescribeBy(new(Handler).CaddyModule().ID.Name(), describePool)
}

// describePool returns the key of the pool that a load balancer with that config will use.
func describePool(text []byte) (key app.PoolKey, err error) {
	h := new(Handler)
	if err := json.Unmarshal(text, h); err != nil {
		return key, err
	}
	if err := h.Check(); err != nil {
		return key, err
	}
	words, err := stock.Read(&h.Handler)
	if err != nil {
		return key, err
	}
	return h.poolKey(&words)
}

// PoolSettings describes all settings in which handlers that share a pool must agree. h must not be provisioned yet.
func (h *Handler) PoolSettings() (string, error) {
	words, err := stock.Read(&h.Handler)
	if err != nil {
		return "", err
	}
	return h.describe(&words, h.Settings)
}

// poolKey returns the key of h's pool.
func (h *Handler) poolKey(words *stock.Words) (key app.PoolKey, err error) {
	key = app.PoolKey{Name: h.Name, Derived: h.derivedName(words)}
	if key.Settings, err = h.describe(words, h.Settings); err != nil {
		return key, err
	}
	// These settings differ between the nodes of a fleet.
	shared := h.Settings
	shared.PreferZone = ""
	if shared.Subset != nil {
		anywhere := *shared.Subset
		anywhere.Peer = nil
		shared.Subset = &anywhere
	}
	key.Shared, err = h.describe(words, shared)
	return key, err
}

// describe returns a digest of all settings in which handlers that share a pool must agree. It is a digest because the settings of a large
// pool are long.
func (h *Handler) describe(words *stock.Words, settings config.Settings) (string, error) {
	described, err := json.Marshal(struct {
		Words    json.RawMessage
		Backends []*config.Backend
		Settings config.Settings
	}{words.Described, h.Backends, settings})
	if err != nil {
		return "", fmt.Errorf("describing pool: %w", err)
	}
	digest := sha256.Sum256(described)
	return string(digest[:]), nil
}

// derivedName returns the name of a pool without a configured name. The pool's state is lost when the name changes, so it
// depends on a single backend and not on all.
func (h *Handler) derivedName(words *stock.Words) string {
	switch {
	case len(words.Dynamic) > 0:
		return service.SourceName(words.Dynamic)
	case len(words.Upstreams) > 0:
		return words.Upstreams[0].Dial
	default:
		return h.Backends[0].Address
	}
}

// warn logs and returns warnings about valid settings with harmful effects.
func (h *Handler) warn(r *service.Roster, policy reverseproxy.Selector, check *config.HealthCheck, poolName string) (warnings []string) {
	warn := func(text string, fields ...zap.Field) {
		h.logger.Warn(text, append(fields, zap.String("pool", poolName))...)
		warnings = append(warnings, text)
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
	if c := check; c != nil {
		if c.Timeout >= c.Interval {
			warn("health check timeout is not below its interval: a slow answer delays the next probe",
				zap.Duration("timeout", time.Duration(c.Timeout)), zap.Duration("interval", time.Duration(c.Interval)))
		}
		if len(backends) == 1 && h.words.Dynamic == nil {
			warn("health check of the only backend has no effect: the backend is used as long as it can be reached")
		}
		if c.Port != 0 && c.Upstream == "" && slices.ContainsFunc(backends, func(b pool.Backend) bool {
			a, err := caddy.ParseNetworkAddress(b.Address)
			return err == nil && stock.IsSocket(a.Network)
		}) {
			warn("health check port is ignored for backends at unix sockets, which are checked at their socket", zap.Int("port", c.Port))
		}
		if h.words.Dynamic != nil && !service.CanPoll(h.words.Dynamic) {
			warn("backends of this dynamic source depend on the request and are not checked actively")
		}
	}
	if h.Queue.Enabled() && h.limit() == 0 && h.words.Dynamic == nil &&
		!slices.ContainsFunc(backends, func(b pool.Backend) bool { return b.MaxRequests != 0 }) {
		warn("queue without max_requests has no effect: no backend is ever full")
	}
	if h.Hold != nil && h.words.TryDuration > 0 {
		warn("hold is ignored: lb_try_duration sets how long requests wait")
	}
	if zone := h.PreferZone; zone != "" && !service.HasLabels(h.words.Dynamic) && !slices.ContainsFunc(backends, func(b pool.Backend) bool { return b.Zone == zone }) {
		h.logger.Warn("no backend is in the preferred zone", zap.String("pool", poolName), zap.String("zone", zone))
	}
	if h.Subset != nil {
		switch policy.(type) {
		case policies.SessionPolicy:
			warn("subset with sticky sessions: another balancer of the fleet may not use a session's backend, and gives the session another one")
		case policies.Keyed:
			warn("subset with a policy that hashes: the other balancers of the fleet choose other backends for a key")
		}
	}
	for _, text := range policies.Warnings(policy) {
		warn(text)
	}
	if unequal && !policies.UsesWeights(policy) {
		warn("the selection policy ignores weights")
	}
	return warnings
}

// BalancesLoad marks h for selection policies, some of which behave differently in a load balancer than in a plain reverse_proxy.
func (*Handler) BalancesLoad() {}
