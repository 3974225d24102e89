package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/config"
)

func init() {
	caddy.RegisterModule(new(Ready))
}

// Ready tells a load balancer in front of Caddy whether to send requests here: it answers 200, or 503 if a pool has no usable backend or
// Caddy is stopping. The body is JSON and contains no addresses:
//
//	{"ready": false, "reason": "no usable backend", "pools": ["web"]}
//
// pools lists the unready pools that have a configured name.
type Ready struct {
	// The names of the pools to look at. Default: all.
	Pools []string `json:"pools,omitempty"`

	app *app.App
}

// CaddyModule returns the Caddy module information.
func (*Ready) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.load_balancer_ready",
		New: func() caddy.Module { return new(Ready) },
	}
}

// Check checks the names.
func (r *Ready) Check() error {
	for _, name := range r.Pools {
		if err := config.ValidateName(name); err != nil {
			return fmt.Errorf("pools: %q: %w", name, err)
		}
	}
	return nil
}

// Provision sets r up.
func (r *Ready) Provision(ctx caddy.Context) error {
	if err := r.Check(); err != nil {
		return err
	}
	var err error
	if r.app, err = app.Load(ctx); err != nil {
		return err
	}
	return r.checkPools(ctx)
}

// readiness is the body of an answer.
type readiness struct {
	Ready  bool     `json:"ready"`
	Reason string   `json:"reason,omitempty"`
	Pools  []string `json:"pools,omitempty"`
}

// ServeHTTP answers 200 or 503.
func (r *Ready) ServeHTTP(w http.ResponseWriter, req *http.Request, _ caddyhttp.Handler) error {
	answer := readiness{Ready: true}
	if stopping(req) {
		answer = readiness{Reason: "stopping"}
	} else if unready, some := r.app.Unready(r.Pools); some {
		answer = readiness{Reason: "no usable backend", Pools: unready}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return json.NewEncoder(w).Encode(answer)
}

// stopping reports whether Caddy is shutting down or waits for shutdown_delay before it does.
func stopping(req *http.Request) bool {
	if caddy.Exiting() {
		return true
	}
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	down, _ := repl.Get("http.shutting_down")
	return down == true
}

// checkPools checks that the config has the named pools. Load balancers later in the config are not loaded yet, but their JSON is
// available from the http app, which also contains r.
func (r *Ready) checkPools(ctx caddy.Context) error {
	asked := askedFor.take(r.Pools)
	var http *caddyhttp.App
	loaded, err := ctx.AppIfConfigured("http")
	if err == nil {
		http = loaded.(*caddyhttp.App)
	} else if !errors.Is(err, caddy.ErrNotConfigured) {
		return nil //nolint:nilerr // Caddy reports it elsewhere and rejects the config
	}
	names, err := r.app.Called(http)
	if err != nil {
		return nil //nolint:nilerr // and an error in a load balancer, too
	}
	for _, name := range r.Pools {
		if slices.Contains(names, name) {
			continue
		}
		if at := asked[name]; at != "" {
			return fmt.Errorf("load_balancer_ready: pools: there is no pool named %s, at %s", name, at)
		}
		return fmt.Errorf("load_balancer_ready: pools: there is no pool named %s", name)
	}
	return nil
}

// askedFor holds where the most recently adapted Caddyfiles name pools. The provisioned JSON has no line numbers, and while a Caddyfile
// is adapted the pools that follow are not known.
var askedFor positions

// positions maps names to their positions in a Caddyfile, until they are taken.
type positions struct {
	mu sync.Mutex
	of map[string]string
}

// NoteAsked records where a Caddyfile names this pool.
func NoteAsked(name, position string) { askedFor.note(name, position) }

func (p *positions) note(name, position string) {
	const most = 1000 // limits entries of Caddyfiles that are adapted but never provisioned
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of) >= most {
		p.of = make(map[string]string)
	}
	p.of[name] = position
}

// take returns the positions of these names and removes them, because another config may have them elsewhere.
func (p *positions) take(names []string) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := make(map[string]string)
	for _, name := range names {
		taken[name] = p.of[name]
		delete(p.of, name)
	}
	return taken
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Ready)(nil)
	_ caddyhttp.MiddlewareHandler = (*Ready)(nil)
)
