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

// Ready answers whoever stands in front whether requests should be sent here: 200, or 503 when a pool has no usable
// backend or Caddy is stopping. The body is JSON and tells no addresses:
//
//	{"ready": false, "reason": "no usable backend", "pools": ["web"]}
//
// with those pools that are to blame, if they were given a name.
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

// ServeHTTP answers.
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

// stopping tells whether Caddy is on its way out: while it waits for shutdown_delay, and after that.
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

// checkPools checks that the config has the pools that r is to look at. The load balancers that come later in the config are not there
// yet, but their JSON is: the http app has them, of which r is a part.
func (r *Ready) checkPools(ctx caddy.Context) error {
	asked := askedFor.take(r.Pools)
	var http *caddyhttp.App
	loaded, err := ctx.AppIfConfigured("http")
	if err == nil {
		http = loaded.(*caddyhttp.App)
	} else if !errors.Is(err, caddy.ErrNotConfigured) {
		return nil //nolint:nilerr // it is told of where it belongs: the config is not accepted with it
	}
	names, err := r.app.Called(http)
	if err != nil {
		return nil //nolint:nilerr // and so is what is wrong with a load balancer
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

// askedFor is where the Caddyfiles that were adapted last ask for pools. A line has no place in the JSON that is provisioned, and
// while a Caddyfile is adapted nobody knows which pools follow.
var askedFor positions

// positions are where names stand, until they are taken.
type positions struct {
	mu sync.Mutex
	of map[string]string
}

// NoteAsked notes where a Caddyfile asks for the pool of that name.
func NoteAsked(name, position string) { askedFor.note(name, position) }

func (p *positions) note(name, position string) {
	const most = 1000 // of Caddyfiles that are adapted and not provisioned
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of) >= most {
		p.of = make(map[string]string)
	}
	p.of[name] = position
}

// take returns where these names stand, and forgets it: another config may ask for them elsewhere.
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
