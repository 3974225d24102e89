package admin

import (
	"encoding/json"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ballastlb/ballast/lbmodule/fleet"
)

// What the API tells of the fleet is what openapi.yaml describes, with backends and without.
func TestFleetIsDescribed(t *testing.T) {
	b := fleet.Backend{
		Name: "a", Address: "a:1", State: "ready", Reason: "breaker is open: too many failures", Health: "down", Error: "status 500", Breaker: "open", Weight: 1,
		Edited: true, Ejections: 1, InFlight: 1, Requests: 1.5, Failures: 0.5, P50: 1.5, P99: 2.5,
	}
	n := &fleet.Node{
		ID: "i", Name: "n", Started: time.Now().UTC(), Written: time.Now().UTC(), Pools: []fleet.Pool{{Name: "web", State: "ok", Backends: []fleet.Backend{b}}},
	}
	full := fleet.View{
		Nodes: []fleet.Seen{{Node: n, Label: "n", This: true, State: fleet.Alive}},
		Differences: []fleet.Difference{
			{Kind: fleet.DiffersUsable, Pool: "web", Backend: "a", Values: []fleet.Value{{Value: "usable", Nodes: []string{"n"}}}},
			{Kind: fleet.DiffersConfig, Values: []fleet.Value{}},
		},
		Error: "reading: refused",
	}
	document := readOpenAPI(t)
	schema := document["components"].(map[string]any)["schemas"].(map[string]any)["Fleet"].(map[string]any)
	for name, view := range map[string]*fleet.View{"full": &full, "brief": full.Brief()} {
		text, err := json.Marshal(view)
		if err != nil {
			t.Fatal(err)
		}
		var told map[string]any
		if err := yaml.Unmarshal(text, &told); err != nil {
			t.Fatal(err)
		}
		fits(t, document, name, schema, told)
	}
	if len(full.Nodes[0].Pools[0].Backends) != 1 {
		t.Error("a brief view has taken the backends from the full one")
	}
}
