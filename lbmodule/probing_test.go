package lbmodule

import (
	"fmt"
	"strings"
	"testing"
)

// A port for checks says nothing where backends are at sockets.
func TestCheckPortOfSockets(t *testing.T) {
	const port, elsewhere = `"port": 81`, `"port": 81, "upstream": "check.internal:82"`
	for _, test := range []struct {
		address, settings string
		unused            bool
	}{
		{"a:80", port, false}, {"[::1]:80", port, false}, {"unix//run/app.sock", port, true}, {"unix/@app", port, true}, {"fd/3", port, true},
		{"unix//run/app.sock", elsewhere, false}, {"unix//run/app.sock", `"type": "tcp"`, false},
	} {
		c := newConfig(t)
		c.mustLoad(fmt.Sprintf(`{"upstreams": [{"dial": %q}], "health_check": {%s}}`, test.address, test.settings))
		if warned := strings.Contains(c.logged(), "health check port is ignored"); warned != test.unused {
			t.Errorf("%s {%s}: warned %v, want %v", test.address, test.settings, warned, test.unused)
		}
		c.cancel()
	}
}
