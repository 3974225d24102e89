package lbmodule

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/app"
)

// The API lists the warning once with each pool, however many servers show the dashboard.
func TestOpenDashboardIsListed(t *testing.T) {
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	const routes = `[{"handle": [{"handler": "load_balancer_dashboard"}]}, {"handle": [{"handler": "load_balancer", "name": "shown", "upstreams": [{"dial": "127.0.0.1:1"}]}]}]`
	cfg := &caddy.Config{
		StorageRaw: storage,
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
		}},
		AppsRaw: caddy.ModuleMap{"http": json.RawMessage(`{"servers": {
			"a": {"listen": [":8080"], "routes": ` + routes + `}, "b": {"listen": [":8081"], "routes": ` + routes + `}}}`)},
	}
	parent, err := caddy.ProvisionContext(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(parent)
	defer cancel()
	app, err := app.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if shown := app.Overview(); len(shown) != 1 || !slices.Equal(shown[0].Warnings, []string{openDashboard}) {
		t.Errorf("overview: %+v", shown)
	}
}
