package lbmodule

import (
	"net/http"
	"path"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/dashboard"
)

func init() {
	caddy.RegisterModule(new(Dashboard))
}

// Dashboard serves a page that shows the state of all pools, live. It needs nothing from outside and works under any path that it
// is mounted at.
//
// It shows addresses and errors: put it where only operators get to, or an `authentication` handler in front of it. A dashboard that
// takes a whole public site, without a login in front, is warned of.
type Dashboard struct {
	// Lets users take backends out, bring them back and change their weights. A user is whom an `authentication` handler
	// in front has let in (`{http.auth.user.id}`); all others can only look. Default: read-only for everybody.
	Actions bool `json:"actions,omitempty"`

	page *dashboard.Dashboard
}

// CaddyModule returns the Caddy module information.
func (*Dashboard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.load_balancer_dashboard",
		New: func() caddy.Module { return new(Dashboard) },
	}
}

// Provision sets d up.
func (d *Dashboard) Provision(ctx caddy.Context) error {
	app, err := app.Load(ctx)
	if err != nil {
		return err
	}
	d.page = app.Dashboard(liveState{app})
	// A server that stops waits for its requests, and streams do not end by themselves.
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		server.RegisterOnShutdown(d.page.Close)
		warnOfDashboard(app, server)
	}
	return nil
}

// Cleanup ends the streams.
func (d *Dashboard) Cleanup() error {
	if d.page != nil {
		d.page.Close()
	}
	return nil
}

// ServeHTTP answers.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	v := dashboard.Visit{Path: r.URL.Path, Actions: d.Actions}
	_, v.File = path.Split(r.URL.Path)
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		v.Path = original.URL.Path
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		v.User, _ = repl.GetString("http.auth.user.id")
	}
	d.page.Serve(w, r, v)
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Dashboard)(nil)
	_ caddy.CleanerUpper          = (*Dashboard)(nil)
	_ caddyhttp.MiddlewareHandler = (*Dashboard)(nil)
)
