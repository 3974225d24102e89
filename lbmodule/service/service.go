// Package service is one load balancer as it runs, beside the requests that it serves: which backends there are, by the config, by a
// dynamic source and by what people have edited; the sets of them that requests choose from; probes, and the trying of the dead.
package service

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Options are what a [Service] is made of. All but Check and Warnings are needed.
type Options struct {
	Owner    manage.Owner    // the config that it belongs to
	Manager  *manage.Manager // of its pool
	Logger   *zap.Logger
	Roster   *Roster
	Policy   reverseproxy.Selector
	Settings *config.Settings
	Check    *config.HealthCheck // with its defaults; nil for none
	Passive  pool.Passive
	Limit    int      // cap of backends that have none of their own; 0 for none
	Warnings []string // about settings that work but hurt
}

// Service is one load balancer as it runs: its backends, those of the config and those that a dynamic source names, as edits have them;
// and what is done about them beside serving requests. Several may share a pool.
type Service struct {
	owner    manage.Owner
	manager  *manage.Manager
	pool     *pool.Pool
	logger   *zap.Logger
	roster   *Roster // upstreams and backends, as the config has them
	policy   reverseproxy.Selector
	settings *config.Settings
	check    *config.HealthCheck // with its defaults; nil for none
	passive  pool.Passive
	limit    int
	warnings []string

	dynamic      *dynamicSource      // nil without one
	stock        *stock.Handler      // reverse_proxy's part
	transport    http.RoundTripper   // that goes to backends
	probeTimeout time.Duration       // when the slot of a breaker's lost probe comes back
	budget       pool.BudgetSettings // of retries
	probing      *probing            // of check; nil for none

	// What roster has become by edits; nil when there are none and will be none: a dynamic source names them.
	static atomic.Pointer[Set]

	watchingStatic, watchingDynamic watching
}

// New makes a load balancer, which has no backends before [Service.Open].
func New(o Options) *Service {
	s := &Service{
		owner: o.Owner, manager: o.Manager, pool: o.Manager.Pool(), logger: o.Logger, roster: o.Roster, policy: o.Policy,
		settings: o.Settings, check: o.Check, passive: o.Passive, limit: o.Limit, warnings: o.Warnings,
	}
	s.watchingStatic.service, s.watchingDynamic.service = s, s
	return s
}

// Open brings the load balancer's backends into its pool. from is reverse_proxy's part of the load balancer, with that config of its
// transport; probeTimeout is when the slot of a breaker's lost probe comes back; budget is that of retries. [Service.Close] ends it.
func (s *Service) Open(ctx caddy.Context, from *stock.Handler, raw []byte, probeTimeout time.Duration, budget pool.BudgetSettings) error {
	s.stock, s.transport, s.probeTimeout, s.budget = from, from.Transport.Configured(), probeTimeout, budget
	if err := s.loadProbing(ctx, raw); err != nil {
		return err
	}
	if s.dynamic != nil {
		s.dynamic.inherit(s.manager.Groups())
	}
	s.manager.Attach(s)
	return nil
}

// Close gives the backends up. It may be called after an Open that failed, or was never made.
func (s *Service) Close() {
	s.Stop()
	s.manager.Detach(s)
	if set := s.static.Load(); set != nil {
		set.close()
	}
	if s.dynamic != nil {
		s.dynamic.sets.close()
	}
}

// Start begins what is done beside serving requests: probes, and trying the dead.
func (s *Service) Start() {
	s.watchingStatic.start()
	s.watchingDynamic.start()
	if s.dynamic != nil && !s.dynamic.isPolled() {
		s.dynamic.sets.watch()
	}
}

// Stop ends what Start began.
func (s *Service) Stop() {
	s.static.Load().stop()
	if s.dynamic != nil {
		s.dynamic.sets.stop()
	}
	s.watchingStatic.stop()
	s.watchingDynamic.stop()
}

// Polls tells whether there is a dynamic source that [Service.Poll] is to be called for.
func (s *Service) Polls() bool { return s.dynamic != nil && s.dynamic.isPolled() }

// Poll keeps the backends that a dynamic source names up to date until ctx ends.
func (s *Service) Poll(ctx context.Context) { s.dynamic.poll(ctx) }

// Pool is the pool that the load balancer uses.
func (s *Service) Pool() *pool.Pool { return s.pool }

// Manager is the manager of the pool.
func (s *Service) Manager() *manage.Manager { return s.manager }

// Policy is the selection policy.
func (s *Service) Policy() reverseproxy.Selector { return s.policy }

// Checked tells whether there are active checks.
func (s *Service) Checked() bool { return s.check != nil }

// RetryBudget is how many retries the pool could spend now.
func (s *Service) RetryBudget(now time.Time) float64 { return s.pool.RetryBudget(s.budget, now) }

// Warnings are about settings that work but hurt.
func (s *Service) Warnings() []string { return s.warnings }

// PolicyName is the name of the selection policy.
func (s *Service) PolicyName() string { return policies.Name(s.policy) }

// Members returns the set that r is to be balanced over; retry tells that an attempt has failed.
func (s *Service) Members(r *http.Request, retry bool) (*Set, error) {
	if s.dynamic != nil {
		set, err := s.dynamic.members(r, retry)
		if err == nil {
			return set, nil
		}
		if s.static.Load() == nil {
			return nil, err
		}
		// Upstreams of the config stand in for a dynamic source that cannot answer.
	}
	set := s.static.Load()
	if set == nil {
		return nil, pool.ErrNone
	}
	return set, nil
}

// Quiet tells whether there may be other backends without [Set.Superseded] saying so: a source is asked for each request.
func (s *Service) Quiet() bool { return s.dynamic != nil && !s.dynamic.isPolled() }

// Shown returns the set of backends that is shown, nil if there is none, and whether a dynamic source has named them.
func (s *Service) Shown() (set *Set, dynamic bool) {
	set = s.static.Load()
	if s.dynamic == nil {
		return set, false
	}
	if current := s.dynamic.latest(); current != nil || set == nil {
		return current, true
	}
	return set, false
}

// Ready tells whether there is a usable backend. A source that is asked anew for each request may name one.
func (s *Service) Ready() bool {
	set := s.static.Load()
	if s.dynamic != nil {
		if !s.dynamic.isPolled() {
			return true
		}
		if current := s.dynamic.current.Load(); current != nil {
			set = current
		}
	}
	if set == nil {
		return false
	}
	usable, _ := set.view.Snapshot().Usable()
	return usable > 0
}

// Hopeless tells whether no request can be served now, whatever it is, where requests wait for as long as an outage is not older than
// hold. A dynamic source may name others.
func (s *Service) Hopeless(hold time.Duration) bool {
	if s.dynamic != nil {
		return false
	}
	set := s.static.Load()
	if set == nil {
		return true
	}
	snapshot := set.view.Snapshot()
	gone := snapshot.Gone()
	return snapshot.Hopeless() && (gone.IsZero() || time.Since(gone) >= hold)
}

// NextProbe is after which time a backend of the config may be usable again, 0 if that is not known.
func (s *Service) NextProbe(now time.Time) time.Duration {
	if set := s.static.Load(); set != nil {
		return set.view.NextProbe(now)
	}
	return 0
}

// Running are the backends as they are in force.
func (s *Service) Running(now time.Time) []overlay.Running { return s.manager.Running(s, now) }

// Config implements [manage.Group].
func (s *Service) Config() []overlay.Backend {
	all := s.roster.config()
	if s.dynamic == nil {
		return all
	}
	return append(all, slices.DeleteFunc(s.dynamic.config(), func(b overlay.Backend) bool {
		_, twice := s.roster.byAddress[b.Address]
		return twice
	})...)
}

// Apply implements [manage.Group].
func (s *Service) Apply() (events []pool.Event) {
	if len(s.roster.backends) > 0 {
		before := s.static.Load()
		var set *Set
		set, events = s.newSet(s.roster, s.viewSettings(true))
		s.static.Store(set)
		s.watchingStatic.follow(set)
		if before != nil {
			before.supersede()
		}
	}
	if s.dynamic != nil {
		events = append(events, s.dynamic.apply()...)
	}
	return events
}

// Dynamic implements [manage.Group].
func (s *Service) Dynamic() bool { return s.dynamic != nil }

// DrainTimeout implements [manage.Group].
func (s *Service) DrainTimeout() time.Duration { return time.Duration(s.settings.DrainTimeout) }

// Owner implements [manage.Group].
func (s *Service) Owner() manage.Owner { return s.owner }

// newSet makes the set of the backends of a roster as they are in force, with what was edited. It returns what there is to report when
// no lock is held.
func (s *Service) newSet(r *Roster, settings pool.Settings) (set *Set, events []pool.Event) {
	now := time.Now()
	set = &Set{service: s, superseded: make(chan struct{})}
	var backends []pool.Backend
	for _, b := range s.manager.Edits().Running(r.config(), now) {
		at, inRoster := r.byAddress[b.Address]
		made := pool.Backend{Address: b.Address}
		var upstream *reverseproxy.Upstream
		if inRoster {
			made, upstream = r.backends[at], r.upstreams[at]
		}
		limit := cmp.Or(b.MaxRequests, s.limit)
		switch {
		case !inRoster:
			upstream = &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: b.Address, MaxRequests: limit}
		case upstream.MaxRequests != limit:
			// Requests read the one there is. Both count in the same place.
			upstream = &reverseproxy.Upstream{Host: upstream.Host, Dial: b.Address, MaxRequests: limit}
		}
		made.Weight, made.MaxRequests, made.Backup, made.Zone = b.Weight, limit, b.Backup, b.Zone
		made.State = s.poolState(&b, now)
		backends = append(backends, made)
		set.upstreams = append(set.upstreams, upstream)
		set.targets = append(set.targets, s.stock.NewTarget(upstream))
	}
	set.view, events = s.pool.OpenQuietly(backends, settings)
	return set, events
}

// poolState is what the pool makes of a backend's state.
func (s *Service) poolState(b *overlay.Running, now time.Time) pool.State {
	switch b.State {
	case overlay.Drain:
		if b.Removed == nil && s.settings.DrainSticky.Enabled() && now.Before(manage.DrainEnds(b, s.DrainTimeout())) {
			return pool.Draining
		}
		return pool.Drained
	case overlay.Maintenance:
		return pool.Maintenance
	default:
		return pool.Ready
	}
}

// viewSettings are the settings of the views of the pool. With checked the members are those that the active check watches.
func (s *Service) viewSettings(checked bool) pool.Settings {
	v := pool.Settings{
		Passive:        s.passive,
		SlowStart:      s.settings.SlowStart.Length(),
		PanicThreshold: s.settings.PanicThreshold,
		PreferZone:     s.settings.PreferZone,
	}
	s.settings.Breaker.Apply(&v, s.probeTimeout)
	if b, ok := s.policy.(policies.Balancer); ok {
		v.Policy = b.BalancePolicy()
	}
	if checked && s.check != nil {
		v.Checked = true
		v.Initial = map[string]pool.Initial{"check": pool.HoldUntilChecked, "up": pool.StartUp, "down": pool.StartDown}[s.check.Initial]
	}
	return v
}

var _ manage.Group = (*Service)(nil)
