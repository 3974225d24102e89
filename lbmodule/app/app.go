package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/dashboard"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"
)

func init() {
	caddy.RegisterModule(new(App))
}

// serving holds the started apps.
var serving caddyapp.Serving[*App]

// Serving returns the app of the config that serves; nil if there is none.
func Serving() *App { return serving.Latest() }

// App coordinates the load balancers of one config. It has no settings and need not be configured: the first load balancer of a config
// loads it.
//
// Its Start is the commit hook. Caddy also provisions configs for `caddy validate`, and configs that it then rejects, so provisioning
// starts no background work. Start means that this config serves from now on.
type App struct {
	ctx caddy.Context

	logger *zap.Logger
	events *caddyevents.App

	mu       sync.Mutex // guards the fields below; handlers are provisioned one by one, while events may already arrive
	joined   []joinedPool
	services []*service.Service

	dashboard *dashboard.Dashboard // nil until first use

	warnings []string // that concern no particular pool

	servers []*caddyhttp.Server // end the streams when the process exits

	waited time.Duration // time spent waiting for storage

	quiet []func() // end the reporting of events

	lanes []joinedLane // the express lanes of the config's servers

	routes map[string]PoolRoutes // see Routes

	healthChanged chan struct{} // signals that a backend's health has changed; see keepAverages

	settled  chan struct{} // see Settled
	release  func()        // closes settled
	lastCall sync.Once     // see LastCall

	stop      context.CancelFunc
	quitFleet context.CancelFunc // ends what is told to other nodes
	done      sync.WaitGroup
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "load_balancer",
		New: func() caddy.Module { return new(App) },
	}
}

// Load returns the App of the config that ctx belongs to.
func Load(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("load_balancer")
	if err != nil {
		return nil, fmt.Errorf("getting load_balancer app: %w", err)
	}
	return app.(*App), nil
}

// Provision sets a up.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.healthChanged = make(chan struct{}, 1)
	a.settled = make(chan struct{})
	a.release = sync.OnceFunc(func() { close(a.settled) })
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	a.events = events.(*caddyevents.App)
	return caddyapp.RegisterMetrics(ctx, MetricsOf(a))
}

// Add registers s, which starts and stops with the config.
func (a *App) Add(s *service.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.services = append(a.services, s)
}

// MetricsOf returns the metrics of the config that serves or, while none does, those of a.
func MetricsOf(a *App) status.Metrics {
	return status.Metrics{Nodes: FleetSize, Services: func() ([]*service.Service, bool) {
		app := a
		if latest := serving.Latest(); latest != nil {
			app = latest
		}
		if app == nil {
			return nil, false
		}
		return app.Pools(), true
	}}
}

// Overview describes the pools of a's config, sorted by name.
func (a *App) Overview() []status.Pool {
	all := []status.Pool{}
	for _, s := range a.Pools() {
		all = append(all, a.OverviewOf(s, s.Shortened(s.Running(time.Now()))))
	}
	return all
}

// Pools returns one load balancer for each pool, sorted by the pool's name. Load balancers that share a pool show the same.
func (a *App) Pools() (all []*service.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.services {
		if !slices.ContainsFunc(all, func(other *service.Service) bool { return other.Pool() == s.Pool() }) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *service.Service) int { return strings.Compare(a.Pool().Name(), b.Pool().Name()) })
	return all
}

// OverviewOf is [status.Overview] with the warnings of a's config.
func (a *App) OverviewOf(s *service.Service, running []overlay.Running) status.Pool {
	a.mu.Lock()
	warnings := slices.Clone(a.warnings)
	a.mu.Unlock()
	return status.Overview(s, running, warnings)
}

// Dashboard returns the dashboard of a's config, which all dashboard handlers share. The first call creates it with source.
func (a *App) Dashboard(source dashboard.Source) *dashboard.Dashboard {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dashboard == nil {
		a.dashboard = dashboard.New(source)
	}
	return a.dashboard
}

// Warn records a warning that concerns no particular pool: in the log, and once for the API.
func (a *App) Warn(text string, fields ...zap.Field) {
	a.logger.Warn(text, fields...)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.warnings, text) {
		a.warnings = append(a.warnings, text)
	}
}

// RateLimits describes the config's rate-limit zones, nil if there are none. Only the app of these zones knows the type.
func (a *App) RateLimits() any {
	app, err := a.ctx.AppIfConfigured("ip_rate_limit")
	if err != nil {
		return nil
	}
	limits, ok := app.(interface{ Overview() any })
	if !ok {
		return nil
	}
	return limits.Overview()
}

// Start begins to serve this config.
func (a *App) Start() error {
	a.mu.Lock()
	ctx, cancel := context.WithCancel(a.ctx.Context)
	a.stop = cancel
	within, quit := context.WithCancel(ctx)
	a.quitFleet = quit
	serving.Add(a)
	managers, services := a.managers(), a.services
	a.findRoutes()
	for _, m := range managers {
		a.quiet = append(a.quiet, m.Pool().Notify(a.report))
	}
	a.mu.Unlock()
	for _, m := range managers {
		m.Serve(a)
	}
	for _, s := range services {
		s.Start()
		if s.Polls() {
			a.done.Go(func() { s.Poll(ctx) })
		}
	}
	a.done.Go(func() { a.settle(ctx, managers, services) })
	a.done.Go(func() { manage.Follow(ctx, managers) })
	a.done.Go(func() {
		for _, s := range services {
			s.ForgetCanary(ctx)
		}
	})
	a.done.Go(func() { nodes().Run(within, &fleetSource{app: a}, a.logger) })
	a.done.Go(func() { a.keepAverages(ctx, services) })
	a.done.Go(func() { a.remember(ctx) })
	return nil
}

// managers returns the managers of a's pools. The caller holds a.mu.
func (a *App) managers() (all []*manage.Manager) {
	for _, j := range a.joined {
		all = append(all, j.Manager)
	}
	return all
}

// averageInterval is the interval at which the pools' averages are updated.
const averageInterval = 5 * time.Second

// keepAverages keeps the averages of the pools and reverse_proxy's gauge up to date until ctx ends.
func (a *App) keepAverages(ctx context.Context, services []*service.Service) {
	gauge := status.NewStockGauge(a.ctx)
	ticker := time.NewTicker(averageInterval)
	defer ticker.Stop()
	for {
		// While two configs run, only the later one updates the gauge.
		if serving.Latest() == a {
			gauge.Tell(services)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.healthChanged:
		case now := <-ticker.C:
			for _, s := range services {
				s.Pool().Look(now)
			}
		}
	}
}

// ServiceOf returns a load balancer of the pool with this name, nil if there is none. Those that share a pool have the same settings.
func (a *App) ServiceOf(pool string) *service.Service {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.services {
		if s.Pool().Name() == pool {
			return s
		}
	}
	return nil
}

// Unready reports whether one of the named pools, or of all pools, has no usable backend. unready lists those of them that the user
// named.
func (a *App) Unready(names []string) (unready []string, some bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.services {
		name := s.Pool().Name()
		if len(names) > 0 && !slices.Contains(names, name) || s.Ready() {
			continue
		}
		some = true
		if joined, _ := a.find(name); joined.key.Name != "" && !slices.Contains(unready, name) {
			unready = append(unready, name)
		}
	}
	slices.Sort(unready)
	return unready, some
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
