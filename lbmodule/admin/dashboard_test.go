package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/dashboard"
)

// startDashboard is a config with one pool that serves, and its dashboard.
func startDashboard(t *testing.T, pool, settings string) (caddy.Context, *app.App, *Dashboard) {
	t.Helper()
	ctx := newContext(t, nil)
	balancer := `{"name": "` + pool + `", "upstreams": [{"dial": "10.0.0.1:80"}, {"dial": "10.0.0.2:80"}]}`
	if _, err := ctx.LoadModuleByID("http.handlers.load_balancer", json.RawMessage(balancer)); err != nil {
		t.Fatal(err)
	}
	loaded, err := ctx.LoadModuleByID("http.handlers.load_balancer_dashboard", json.RawMessage(settings))
	if err != nil {
		t.Fatal(err)
	}
	of, err := app.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := of.Start(); err != nil {
		t.Fatal(err)
	}
	return ctx, of, loaded.(*Dashboard)
}

func TestDashboardSource(t *testing.T) {
	_, of, _ := startDashboard(t, "dashboard-source", `{}`)
	source := liveState{of}
	user := func(pool, backend, change string) error {
		return source.Change(context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{}), pool, backend, []byte(change), "ann")
	}
	look := func() (state snapshot) {
		t.Helper()
		text, err := source.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &state); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return state
	}
	routes := []app.ExpressRoute{{Handler: "load_balancer", Pool: "web", Served: true}, {Handler: "respond", Served: true}, {Handler: "file_server", Reason: "file_server"}}
	lane := of.AddExpress(app.ExpressServer{Server: "dashboard-source", On: true, Routes: routes})
	state := look()
	if len(state.Pools) != 1 || len(state.Pools[0].Backends) != 2 || len(state.Diffs) != 0 || state.Time.IsZero() || state.Process.Goroutines == 0 || state.Process.Memory == 0 {
		t.Errorf("state: %+v", state)
	}
	lane.Serve()
	lane.HandOver("te")
	lanes := look().Express
	if len(lanes) != 1 || lanes[0].Served != 1 || lanes[0].HandedOver["te"] != 1 || len(lanes[0].Routes) != 2 || lanes[0].Routes[0].Pool != "web" || lanes[0].Routes[1].Handler != "file_server" {
		t.Errorf("express lanes: %+v", lanes)
	}
	if all := of.Express()[0].Routes; len(all) != 3 || !all[0].Served {
		t.Errorf("the routes after a look: %+v", all)
	}
	last := app.Events.Newest()
	if err := user("dashboard-source", "10.0.0.1:80", `{"state": "drain", "for": "5m", "reason": "r"}`); err != nil {
		t.Fatal(err)
	}
	state = look()
	if b := state.Pools[0].Backends[0]; b.State != "drain" || len(b.Edits) != 1 || b.Edits[0].Owner != "ann" || b.Edits[0].Reason != "r" {
		t.Errorf("after a change: %+v", b)
	}
	if d := state.Diffs["dashboard-source"]; len(d.Changes) != 1 || d.Changes[0].Owner != "ann" {
		t.Errorf("differences: %+v", state.Diffs)
	}
	events := source.Events(last)
	if len(events) == 0 || events[0].Name != "backend_changed" || !strings.Contains(string(events[0].Data), `"owner":"ann"`) {
		t.Errorf("events: %+v", events)
	}
	if err := user("dashboard-source", "10.0.0.1:80", `{"state": null}`); err != nil {
		t.Fatal(err)
	}
	if state = look(); len(state.Diffs) != 0 || state.Pools[0].Backends[0].State != "ready" {
		t.Errorf("taken back: %+v", state)
	}
	for _, tt := range []struct {
		pool, backend, change string
		status                int
		want                  string
	}{
		{"nobody", "10.0.0.1:80", `{"weight": 1}`, 404, "pool nobody"},
		{"dashboard-source", "10.0.0.9:80", `{"weight": 1}`, 404, "backend 10.0.0.9:80"},
		{"dashboard-source", "10.0.0.1:80", `{"weight": 70000}`, 400, "weight 70000"},
		{"dashboard-source", "10.0.0.1:80", `{"state": "gone"}`, 400, "state"},
		{"dashboard-source", "10.0.0.1:80", `{"weight": 1, "for": "soon"}`, 400, "soon"},
	} {
		err := user(tt.pool, tt.backend, tt.change)
		refusal, ok := errors.AsType[dashboard.Refusal](err)
		if !ok || refusal.Status != tt.status || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s of %s/%s: %v, want %d with %q", tt.change, tt.pool, tt.backend, err, tt.status, tt.want)
		}
	}
}

// TestDashboardUser checks which users may make changes.
func TestDashboardUser(t *testing.T) {
	for _, tt := range []struct {
		settings string
		user     any // as an authentication handler leaves it; nil for none
		status   int
	}{
		{`{"actions": true}`, "ann", 204}, {`{"actions": true}`, "", 403}, {`{"actions": true}`, nil, 403}, {`{}`, "ann", 403},
	} {
		_, _, page := startDashboard(t, "dashboard-user", tt.settings)
		body := strings.NewReader(`{"pool":"dashboard-user","backend":"10.0.0.1:80","change":{"weight":2}}`)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://example.com/lb/change", body)
		r.Header.Set("Content-Type", "application/json")
		repl := caddy.NewReplacer()
		if tt.user != nil {
			repl.Set("http.auth.user.id", tt.user)
		}
		w := httptest.NewRecorder()
		if err := page.ServeHTTP(w, caddyhttp.PrepareRequest(r, repl, w, new(caddyhttp.Server)), nil); err != nil || w.Code != tt.status {
			t.Errorf("%s for %v: %d %s, %v; want %d", tt.settings, tt.user, w.Code, w.Body, err, tt.status)
		}
	}
}

// TestDashboardsShare sees that the pages of a config share their snapshots.
func TestDashboardsShare(t *testing.T) {
	ctx, _, one := startDashboard(t, "dashboards-share", `{}`)
	other, err := ctx.LoadModuleByID("http.handlers.load_balancer_dashboard", json.RawMessage(`{"actions": true}`))
	if err != nil {
		t.Fatal(err)
	}
	if one.page != other.(*Dashboard).page {
		t.Error("two dashboards of a config take a snapshot each")
	}
}
