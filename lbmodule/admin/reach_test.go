package admin

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/app"
)

// The API lists the warning once with each pool, however many servers show the dashboard.
func TestOpenDashboardIsListed(t *testing.T) {
	const routes = `[{"handle": [{"handler": "load_balancer_dashboard"}]}, {"handle": [{"handler": "load_balancer", "name": "shown", "upstreams": [{"dial": "127.0.0.1:1"}]}]}]`
	ctx := newContext(t, caddy.ModuleMap{"http": json.RawMessage(`{"servers": {
		"a": {"listen": [":8080"], "routes": ` + routes + `}, "b": {"listen": [":8081"], "routes": ` + routes + `}}}`)})
	app, err := app.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if shown := app.Overview(); len(shown) != 1 || !slices.Equal(shown[0].Warnings, []string{openDashboard}) {
		t.Errorf("overview: %+v", shown)
	}
}
