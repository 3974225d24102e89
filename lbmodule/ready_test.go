package lbmodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// validateServers does what `caddy validate` does with these servers.
func validateServers(t *testing.T, servers string) error {
	t.Helper()
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	quiet := &caddy.CustomLog{BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}}
	return caddy.Validate(&caddy.Config{
		Logging:    &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": quiet}},
		StorageRaw: storage,
		AppsRaw:    caddy.ModuleMap{"http": json.RawMessage(`{"servers": ` + servers + `}`)},
	})
}

// The pools that load_balancer_ready asks for are found wherever they are, before and behind it, and one that is nowhere is found while
// the config is validated. Caddy provisions servers in any order.
func TestReadyFindsPools(t *testing.T) {
	const (
		web   = `{"handler": "load_balancer", "name": "web", "upstreams": [{"dial": "127.0.0.1:1"}]}`
		plain = `{"handler": "load_balancer", "upstreams": [{"dial": "127.0.0.1:1"}]}`
		other = `{"handler": "load_balancer", "upstreams": [{"dial": "127.0.0.1:1"}, {"dial": "127.0.0.1:2"}]}`
	)
	ready := func(pools ...string) string {
		return fmt.Sprintf(`{"handler": "load_balancer_ready", "pools": ["%s"]}`, strings.Join(pools, `", "`))
	}
	routes := func(handlers ...string) string {
		return fmt.Sprintf(`[{"handle": [%s]}]`, strings.Join(handlers, `]}, {"handle": [`))
	}
	nested := func(handlers ...string) string {
		return fmt.Sprintf(`{"handler": "subroute", "routes": %s}`, routes(handlers...))
	}
	server := func(handlers ...string) string { return fmt.Sprintf(`{"a": {"routes": %s}}`, routes(handlers...)) }
	for name, test := range map[string]struct{ servers, want string }{
		"nowhere":            {server(ready("nopool"), web), "there is no pool named nopool"},
		"nowhere, no pools":  {server(ready("nopool")), "there is no pool named nopool"},
		"nowhere, last":      {server(web, ready("web", "nopool")), "there is no pool named nopool"},
		"before":             {server(web, ready("web")), ""},
		"behind":             {server(ready("web"), web), ""},
		"same route":         {`{"a": {"routes": [{"handle": [` + ready("web") + `, ` + web + `]}]}}`, ""},
		"nested":             {server(nested(nested(ready("web")), nested(web))), ""},
		"nested, nowhere":    {server(nested(nested(ready("nopool")), nested(web))), "there is no pool named nopool"},
		"other server":       {`{"a": {"routes": ` + routes(ready("web")) + `}, "b": {"routes": ` + routes(web) + `}}`, ""},
		"errors":             {`{"a": {"routes": ` + routes(ready("web")) + `, "errors": {"routes": ` + routes(web) + `}}}`, ""},
		"named route":        {`{"a": {"routes": ` + routes(ready("web")) + `, "named_routes": {"x": {"handle": [` + web + `]}}}}`, ""},
		"response":           {server(ready("web"), `{"handler": "load_balancer", "upstreams": [{"dial": "127.0.0.1:3"}], "handle_response": [{"routes": `+routes(web)+`}]}`), ""},
		"derived":            {server(ready("127.0.0.1:1"), plain), ""},
		"derived, second":    {server(ready("127.0.0.1:1-2"), plain, other), ""},
		"derived, shared":    {server(nested(ready("127.0.0.1:1-2"), plain), nested(plain)), "there is no pool named 127.0.0.1:1-2"},
		"derived, not third": {server(ready("127.0.0.1:1-3"), plain, other), "there is no pool named 127.0.0.1:1-3"},
		"wrong elsewhere":    {server(ready("web"), `{"handler": "load_balancer", "name": "web", "upstreams": 1}`), "upstreams 1: must be a list"},
		"wrong setting":      {server(ready("web"), `{"handler": "load_balancer", "name": "web"}`), "upstreams: none given"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 4 {
				err := validateServers(t, test.servers)
				if test.want != "" {
					expectError(t, err, test.want)
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
}
