package lbmodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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

	app *App
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
	if r.app, err = loadApp(ctx); err != nil {
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
	} else if unready, some := r.app.unready(r.Pools); some {
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

// unready tells whether one of the pools of these names, or of all, has no usable backend, and gives those that
// were named by the user.
func (a *App) unready(names []string) (unready []string, some bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.services {
		name := s.Pool().Name()
		if len(names) > 0 && !slices.Contains(names, name) || s.Ready() {
			continue
		}
		some = true
		if joined, _ := a.find(name); joined.explicit && !slices.Contains(unready, name) {
			unready = append(unready, name)
		}
	}
	slices.Sort(unready)
	return unready, some
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Ready)(nil)
	_ caddyhttp.MiddlewareHandler = (*Ready)(nil)
)
