package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path"
	"runtime"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/dashboard"
	"github.com/ballastlb/ballast/lbmodule/fleet"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/status"
)

func init() {
	caddy.RegisterModule(new(Dashboard))
}

// Dashboard serves a page that shows the live state of all pools. It needs no external resources and works under any path.
//
// It shows addresses and errors, so make it reachable by operators only, or put an `authentication` handler in front of it. A warning is
// logged for a dashboard that serves every path of a public site without a login.
type Dashboard struct {
	// Lets authenticated users take backends out, bring them back and change their weights. A user is authenticated if an earlier
	// `authentication` handler has set `{http.auth.user.id}`; for all others the page is read-only. Default: read-only for all.
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
	// A stopping server waits for its requests, and streams do not end by themselves.
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

// ServeHTTP serves the page, its streams and its actions.
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

// liveState is the [dashboard.Source] of a config.
type liveState struct{ app *app.App }

// snapshot is the state at one moment, as JSON.
type snapshot struct {
	Time       time.Time                    `json:"time"`
	Node       string                       `json:"node,omitempty"`
	Pools      []status.Pool                `json:"pools"`
	Diffs      map[string]status.Difference `json:"diffs,omitempty"` // of pools that differ from their config
	RateLimits any                          `json:"rate_limits,omitempty"`
	Express    []app.ExpressServer          `json:"express,omitempty"` // with the routes that lead to pools, and those that are left to Caddy
	Routes     map[string]app.PoolRoutes    `json:"routes,omitempty"`  // by the pool that they lead to
	Fleet      *fleet.View                  `json:"fleet,omitempty"`   // without backends; nil for a fleet of one
	Process    processOverview              `json:"process"`
}

// Snapshot implements [dashboard.Source].
func (s liveState) Snapshot() ([]byte, error) {
	now := snapshot{Time: time.Now(), Pools: s.app.Overview(), Diffs: make(map[string]status.Difference), RateLimits: s.app.RateLimits(), Routes: s.app.Routes(), Process: describeProcess()}
	now.Node, _ = os.Hostname() // an empty name is fine
	for _, p := range now.Pools {
		if pool := s.app.ServiceOf(p.Name); pool != nil {
			if d := status.Diff(pool, now.Time); len(d.Changes) > 0 {
				now.Diffs[p.Name] = d
			}
		}
	}
	for _, lane := range s.app.Express() {
		lane.Routes = slices.DeleteFunc(slices.Clone(lane.Routes), func(r app.ExpressRoute) bool { return r.Served && r.Pool == "" })
		now.Express = append(now.Express, lane)
	}
	if nodes := app.Fleet(); len(nodes.Nodes) > 1 {
		now.Fleet = nodes.Brief()
	}
	return json.Marshal(now)
}

// Events implements [dashboard.Source].
func (liveState) Events(after uint64) (events []dashboard.Event) {
	for _, e := range app.Events.After(after) {
		events = append(events, dashboard.Event{ID: e.ID, Name: e.Name, Data: e.JSON()})
	}
	return events
}

// Change implements [dashboard.Source]. It does what a PATCH of the admin API does, with the user as owner.
func (s liveState) Change(ctx context.Context, pool, backend string, fields []byte, user string) error {
	in := s.app.ServiceOf(pool)
	if in == nil {
		return refused(apiError(http.StatusNotFound, "pool %s: not found", pool))
	}
	change, err := changeOf(fields, user)
	if err != nil {
		return dashboard.Refusal{Status: http.StatusBadRequest, Err: err}
	}
	before, _, err := editBackend(in, backend, change, changeEdits, func(...overlay.Running) error { return nil })
	if err != nil {
		return refused(err)
	}
	remote, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	s.app.TellChange("backend_changed", in.Manager(), before.Address, &before, change, remote, user)
	return nil
}

// changeOf returns the change that these fields request on behalf of user.
func changeOf(fields []byte, user string) (*manage.Change, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(fields, &all); err != nil {
		return nil, fmt.Errorf("change: %w", err)
	}
	owner, err := json.Marshal(user)
	if all == nil || err != nil {
		return nil, fmt.Errorf("change %s: must be a JSON object", fields)
	}
	all["owner"] = owner
	return manage.ParseChange(all, manage.Edit, time.Now())
}

// refused converts an API error to the dashboard's error type.
func refused(err error) error {
	if e, ok := errors.AsType[caddy.APIError](err); ok {
		return dashboard.Refusal{Status: e.HTTPStatus, Err: e.Err}
	}
	return err
}

// processOverview describes the process, as far as the operating system provides the numbers.
type processOverview struct {
	Goroutines int        `json:"goroutines"`
	CPUSeconds float64    `json:"cpu_seconds,omitempty"`
	Memory     float64    `json:"memory,omitempty"` // resident bytes
	OpenFiles  float64    `json:"open_files,omitempty"`
	Started    *time.Time `json:"started,omitempty"`
}

// processNumbers collects the numbers on each operating system.
var processNumbers = func() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}()

func describeProcess() processOverview {
	o := processOverview{Goroutines: runtime.NumGoroutine()}
	families, _ := processNumbers.Gather() // unavailable numbers are left out
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch value := m.GetGauge().GetValue() + m.GetCounter().GetValue(); f.GetName() {
			case "process_cpu_seconds_total":
				o.CPUSeconds = value
			case "process_resident_memory_bytes":
				o.Memory = value
			case "process_open_fds":
				o.OpenFiles = value
			case "process_start_time_seconds":
				started := time.UnixMilli(int64(value * 1000))
				o.Started = &started
			}
		}
	}
	return o
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Dashboard)(nil)
	_ caddy.CleanerUpper          = (*Dashboard)(nil)
	_ caddyhttp.MiddlewareHandler = (*Dashboard)(nil)
)
