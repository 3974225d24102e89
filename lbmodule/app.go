package lbmodule

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

// App coordinates the load balancers of one config. It has no settings and need not be configured: the first
// load balancer of a config brings it in.
//
// It is the commit hook. Provisioning happens for `caddy validate` and for configs that are then rejected, too,
// so nothing that acts on its own is started there; Start means that this config serves from now on.
type App struct {
	ctx caddy.Context

	logger *zap.Logger
	events *caddyevents.App

	mu       sync.Mutex // guards the fields below; handlers are provisioned one by one, while events may come already
	joined   []joinedPool
	services []*service.Service

	dashboard *dashboard.Dashboard // nil until it is asked for

	warnings []string // that concern no pool more than another

	waited time.Duration // for storage

	quiet []func() // end that events are reported

	flipped chan struct{} // has something in it when the health of a backend is another; see lookOn

	stop context.CancelFunc
	done sync.WaitGroup
}

// joinedPool is a pool of this config.
type joinedPool struct {
	*manage.Manager
	called   string
	explicit bool   // the user named it
	settings string // what handlers that share it must agree on
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "load_balancer",
		New: func() caddy.Module { return new(App) },
	}
}

// loadApp returns the App of the config that ctx belongs to.
func loadApp(ctx caddy.Context) (*App, error) {
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
	a.flipped = make(chan struct{}, 1)
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	a.events = events.(*caddyevents.App)
	return caddyapp.RegisterMetrics(ctx, metricsOf(a))
}

// join returns the manager of the pool of a handler with these settings. With an explicit name that is the pool of that name;
// without one it is the pool of a handler with equal settings, or a new one under the derived name, numbered
// if that is taken.
func (a *App) join(explicit, derived, settings string) (*manage.Manager, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name, have, err := nameIn(a.joined, explicit, derived, settings)
	if err != nil {
		return nil, err
	}
	if have >= 0 {
		return a.joined[have].Manager, nil
	}
	m := a.acquire(name)
	a.joined = append(a.joined, joinedPool{Manager: m, called: name, explicit: explicit != "", settings: settings})
	return m, nil
}

// nameIn is the name of the pool of a handler with these settings, and where that pool is among those that there are; -1 for a new one.
func nameIn(pools []joinedPool, explicit, derived, settings string) (name string, have int, err error) {
	name = explicit
	if explicit == "" {
		name = derived
	}
	for n := 2; ; n++ {
		i := slices.IndexFunc(pools, func(j joinedPool) bool { return j.called == name })
		switch {
		case i < 0 || pools[i].settings == settings && pools[i].explicit == (explicit != ""):
			return name, i, nil
		case explicit != "":
			return "", 0, fmt.Errorf("name %s: the name stands for a pool with other settings already; pools that differ need different names", name)
		}
		// The loop ends: every turn but the last finds another pool.
		name = fmt.Sprintf("%s-%d", derived, n)
	}
}

// acquire acquires the manager of the pool of that name. A storage that does not answer is not waited for once per pool.
func (a *App) acquire(name string) *manage.Manager {
	const least = 100 * time.Millisecond
	start := time.Now()
	ctx, cancel := context.WithTimeout(a.ctx, max(manage.StorageTimeout-a.waited, least))
	defer cancel()
	m := manage.Acquire(ctx, name, a.ctx.Storage(), a.logger)
	a.waited += time.Since(start)
	return m
}

func (a *App) find(name string) (joinedPool, bool) {
	if i := slices.IndexFunc(a.joined, func(j joinedPool) bool { return j.called == name }); i >= 0 {
		return a.joined[i], true
	}
	return joinedPool{}, false
}

// add makes s one of the load balancers that are started and stopped with the config.
func (a *App) add(s *service.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.services = append(a.services, s)
}

// metricsOf are the metrics of the config that serves; while none does yet, those of a.
func metricsOf(a *App) status.Metrics {
	return status.Metrics{Services: func() ([]*service.Service, bool) {
		app := a
		if latest := serving.Latest(); latest != nil {
			app = latest
		}
		if app == nil {
			return nil, false
		}
		return app.pools(), true
	}}
}

// overview describes the pools of a's config, sorted by name.
func (a *App) overview() []status.Pool {
	all := []status.Pool{}
	for _, s := range a.pools() {
		all = append(all, a.overviewOf(s, s.Running(time.Now())))
	}
	return all
}

// pools returns a load balancer of each pool, sorted by the pool's name. Those that share a pool show the same.
func (a *App) pools() (all []*service.Service) {
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

// overviewOf is [status.Overview] with the warnings of a's config.
func (a *App) overviewOf(s *service.Service, running []overlay.Running) status.Pool {
	a.mu.Lock()
	warnings := slices.Clone(a.warnings)
	a.mu.Unlock()
	return status.Overview(s, running, warnings)
}

// Start begins to serve this config.
func (a *App) Start() error {
	a.mu.Lock()
	ctx, cancel := context.WithCancel(a.ctx.Context)
	a.stop = cancel
	serving.Add(a)
	managers, services := a.managers(), a.services
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
	a.done.Go(func() { manage.Follow(ctx, managers) })
	a.done.Go(func() { a.lookOn(ctx, services) })
	return nil
}

// managers returns those of the pools of a. The caller holds a.mu.
func (a *App) managers() (all []*manage.Manager) {
	for _, j := range a.joined {
		all = append(all, j.Manager)
	}
	return all
}

// lookInterval is how often the averages of pools are brought up to date.
const lookInterval = 5 * time.Second

// lookOn keeps the averages of the pools and reverse_proxy's gauge up to date until ctx ends.
func (a *App) lookOn(ctx context.Context, services []*service.Service) {
	gauge := status.NewStockGauge(a.ctx)
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		// While two configs run, the later one tells.
		if serving.Latest() == a {
			gauge.Tell(services)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.flipped:
		case now := <-ticker.C:
			for _, s := range services {
				s.Pool().Look(now)
			}
		}
	}
}

// Stop ends what Start began.
func (a *App) Stop() error {
	if a.stop == nil {
		return nil
	}
	a.stop()
	a.stop = nil
	a.done.Wait()
	serving.Remove(a)
	feed.endStreams(a)
	a.mu.Lock()
	managers := a.managers()
	a.mu.Unlock()
	for _, m := range managers {
		m.Unserve(a) // it may tell of what it does
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, quiet := range a.quiet {
		quiet()
	}
	a.quiet = nil
	for _, s := range a.services {
		s.Stop()
	}
	return nil
}

// Cleanup gives up the pools that this config's handlers joined. A config that is given up after it has begun to serve may not
// have been stopped.
func (a *App) Cleanup() error {
	if err := a.Stop(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, j := range a.joined {
		j.Release()
	}
	a.joined = nil
	return nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
