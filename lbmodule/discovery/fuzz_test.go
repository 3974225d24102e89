package discovery

import (
	"encoding/json"
	"errors"
	"strconv"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// FuzzList: whatever a list is, it is either refused with a reason that is about it, or what it names can be backends of one pool. What it
// names reads the same when it is written again.
func FuzzList(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte, yaml bool) {
		parse := Parse
		if yaml {
			parse = parseYAML
		}
		list, err := parse(text)
		if err != nil {
			if _, is := errors.AsType[*ContentError](err); !is || list != nil {
				t.Fatalf("%q: %v, %T", text, list, err)
			}
			return
		}
		backends := make([]*config.Backend, len(list.Backends))
		for i := range list.Backends {
			backends[i] = &list.Backends[i]
			if err := backends[i].Validate(); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
		if err := config.CheckUnique(backends); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := Parse(written(t, backends))
		if err != nil || !list.equal(again) {
			t.Fatalf("%q names %+v, and then %+v, %v", text, list, again, err)
		}
	})
}

// written is a list of these backends.
func written(t *testing.T, backends []*config.Backend) []byte {
	t.Helper()
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	var groups []group
	for _, b := range backends {
		g := group{[]string{b.Address}, map[string]string{"zone": b.Zone, "name": b.Name, "backup": strconv.Itoa(int(b.Backup))}}
		if b.Weight != nil {
			g.Labels["weight"] = strconv.Itoa(*b.Weight)
		}
		if b.MaxRequests > 0 {
			g.Labels["max_requests"] = b.MaxRequests.String()
		}
		groups = append(groups, g)
	}
	text, err := json.Marshal(groups)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
