package ratelimit

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/ratelimit/bucket"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App coordinates the rate limits of one config. It has no settings and need not be configured: the first rate limit of a config loads it.
//
// Its Start is the commit hook: a config that is being provisioned may still be rejected and must not change a zone in use, so Start gives
// the zones the limits of this config.
type App struct {
	ctx caddy.Context

	mu      sync.Mutex // guards the fields below while handlers are provisioned
	zones   []*joinedZone
	users   int  // number of handlers
	several bool // a request may pass more than one of them

	stop context.CancelFunc
	done sync.WaitGroup
}

// joinedZone is a zone of this config.
type joinedZone struct {
	*zone
	identity string   // the settings on which handlers that share the zone must agree
	handler  *Handler // the first of them
	store    *store   // nil for none
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "ip_rate_limit",
		New: func() caddy.Module { return new(App) },
	}
}

// loadApp returns the App of the config that ctx belongs to.
func loadApp(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("ip_rate_limit")
	if err != nil {
		return nil, fmt.Errorf("getting ip_rate_limit app: %w", err)
	}
	return app.(*App), nil
}

// Provision sets a up.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	return caddyapp.RegisterMetrics(ctx, metrics{a})
}

// join gives h its zone and store: the existing ones of that name, or new ones with a derived name.
func (a *App) join(h *Handler) error {
	identity, err := h.Identity()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h.app = a
	a.users++
	a.several = a.users > 1
	name := h.Zone
	if name == "" {
		name = h.derivedZone(identity)
	}
	for n := 2; ; n++ {
		have := a.find(name)
		if have == nil {
			break
		}
		if h.Zone != "" && have.identity == identity {
			h.zone, h.store = have.zone, have.store
			return nil
		}
		if h.Zone != "" {
			return fmt.Errorf("zone %s: is already the name of a limit with other settings; different limits need different names", name)
		}
		name = fmt.Sprintf("%s-%d", h.derivedZone(identity), n)
	}
	h.zone, err = zones.acquire(name, func() (*zone, error) {
		return &zone{name: name, table: bucket.New(h.limits, h.maxKeys(), time.Now)}, nil
	})
	if err != nil {
		return err
	}
	a.zones = append(a.zones, &joinedZone{zone: h.zone, identity: identity, handler: h})
	if h.Redis == nil {
		return nil
	}
	if h.store, err = acquireStore(h.Redis); err != nil {
		return err
	}
	a.zones[len(a.zones)-1].store = h.store
	return nil
}

func (a *App) find(name string) *joinedZone {
	for _, z := range a.zones {
		if z.name == name {
			return z
		}
	}
	return nil
}

// sweepInterval is the interval at which idle keys are dropped.
const sweepInterval = 10 * time.Second

// Start begins to serve this config.
func (a *App) Start() error {
	a.configure()
	serving.Add(a)
	for _, z := range a.zones {
		if z.store != nil {
			z.store.Start()
		}
	}
	ctx, cancel := context.WithCancel(a.ctx.Context)
	a.stop = cancel
	a.done.Go(func() {
		tick := time.NewTicker(sweepInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, z := range a.zones {
				z.table.Sweep()
			}
		}
	})
	return nil
}

// configure gives the zones the limits of this config.
func (a *App) configure() {
	for _, z := range a.zones {
		z.table.Configure(z.handler.limits, z.handler.maxKeys())
	}
}

// Stop does nothing; [App.Cleanup] does the work. Caddy stops the apps of a config in any order, and the http app serves for
// `shutdown_delay` and `grace_period` before its own Stop returns. Cleanup is called as soon as all apps have been stopped.
func (a *App) Stop() error { return nil }

// end undoes Start. If Caddy rolled back to the config before, that config's limits apply again.
func (a *App) end() {
	if a.stop == nil {
		return
	}
	a.stop()
	a.stop = nil
	a.done.Wait()
	serving.Remove(a)
	if other := serving.Latest(); other != nil {
		other.configure()
	}
}

// Cleanup undoes Start and releases the zones and stores that this config's handlers joined.
func (a *App) Cleanup() error {
	a.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, z := range a.zones {
		zones.release(z.name)
		if z.store != nil {
			z.store.release()
		}
	}
	a.zones = nil
	return nil
}

// warnOfProxies warns about a server that trusts proxies and takes the first forwarded address. Proxies append addresses, so the first one
// is chosen by the client.
func (h *Handler) warnOfProxies(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.TrustedProxiesStrict > 0 || !h.identifier.byAddress() || !TrustsProxies(server) {
		return
	}
	h.logger.Warn("trusted_proxies without trusted_proxies_strict: clients can choose the address that they are limited by",
		zap.String("zone", h.zone.name))
}

// TrustsProxies reports whether the server trusts proxies. The settings are no longer there when handlers are provisioned; only an
// unexported field tells. A test fails if Caddy renames it.
func TrustsProxies(server *caddyhttp.Server) bool {
	if server.TrustedProxiesUnix || server.TrustedProxiesRaw != nil {
		return true
	}
	source := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	return source.IsValid() && source.Kind() == reflect.Interface && !source.IsNil()
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
