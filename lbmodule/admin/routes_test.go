package admin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/app"
)

// TestRoutes has load balancers in all the places where a config may have them, without an express lane.
func TestRoutes(t *testing.T) {
	balancer := func(name string) string {
		return `{"handler": "load_balancer", "name": "` + name + `", "upstreams": [{"dial": "127.0.0.1:1"}]}`
	}
	sub := func(routes string) string { return `{"handler": "subroute", "routes": [` + routes + `]}` }
	route := func(match, handle string) string { return `{"match": [` + match + `], "handle": [` + handle + `]}` }
	hosts := make([]string, 7)
	for i := range hosts {
		hosts[i] = fmt.Sprintf(`"h%d.example.com"`, i)
	}
	many := make([]string, 23)
	for i := range many {
		many[i] = route(fmt.Sprintf(`{"path": ["/%d"]}`, i), balancer("many"))
	}
	ctx := newContext(t, caddy.ModuleMap{"http": json.RawMessage(`{"servers": {
		"a": {"listen": [":8080"],
			"routes": [` + strings.Join([]string{
		route(`{"host": ["example.com"]}`, sub(route(`{"path": ["/api/*"]}, {"path": ["/v1/*"], "method": ["GET"], "not": [{"path": ["/v1/x"]}]}`, sub(`{"handle": [`+balancer("api")+`]}`)))),
		route(`{"host": [`+strings.Join(hosts, ",")+`]}`, `{"handler": "headers"}, `+balancer("hosts")),
		`{"handle": [{"handler": "invoke", "name": "shared"}]}`,
		route(`{"path": ["/again"]}`, `{"handler": "invoke", "name": "shared"}`),
		strings.Join(many, ","),
	}, ",") + `],
			"named_routes": {"shared": {"handle": [` + balancer("named") + `, {"handler": "invoke", "name": "shared"}]}},
			"errors": {"routes": [{"handle": [` + balancer("errors") + `]}]}},
		"b": {"listen": [":8081"], "routes": [{"handle": [` + balancer("api") + `]}]}}}`)})
	a, err := app.Load(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	all := a.Routes()
	for pool, want := range map[string]string{
		"api":    "a :8080 example.com > /api/* or /v1/* (method, not) | b :8081",
		"hosts":  "a :8080 h0.example.com, h1.example.com, h2.example.com, h3.example.com, h4.example.com and 2 more",
		"errors": "a :8080 on errors",
		"named":  "a :8080 | a :8080 /again", // though its route invokes itself
	} {
		var got []string
		for _, r := range all[pool].Routes {
			got = append(got, strings.TrimSpace(r.Server+" "+strings.Join(r.Listen, " ")+" "+strings.Join(r.Way, " > ")))
		}
		if strings.Join(got, " | ") != want {
			t.Errorf("%s: %s, want %s", pool, strings.Join(got, " | "), want)
		}
	}
	if got := all["many"]; len(got.Routes) != 20 || got.More != 3 {
		t.Errorf("of 23 routes %d are listed, and %d are not", len(got.Routes), got.More)
	}
	text, err := liveState{a}.Snapshot()
	var state snapshot
	if err != nil || json.Unmarshal(text, &state) != nil || len(state.Routes["api"].Routes) != 2 {
		t.Errorf("state: %v %.300s", err, text)
	}
}
