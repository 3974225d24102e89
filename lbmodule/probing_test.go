package lbmodule

import (
	"fmt"
	"strings"
	"testing"
)

// TestProbeTargets: where probes go, and what they are told to be for.
func TestProbeTargets(t *testing.T) {
	const port, elsewhere = `"port": 81`, `"port": 81, "upstream": "check.internal:82"`
	for _, test := range []struct{ address, settings, want, url string }{
		{"a:80", "", "tcp a:80", "http://a:80"},
		{"a:80", port, "tcp a:81", "http://a:81"},
		{"a:80", elsewhere, "tcp check.internal:82", "http://check.internal:82"},
		{"[::1]:80", port, "tcp [::1]:81", "http://[::1]:81"},
		{"tcp4/a:80", "", "tcp4 a:80", "http://a:80"},
		{"tcp6/[::1]:80", port, "tcp6 [::1]:81", "http://[::1]:81"},
		{"unix//run/app.sock", "", "unix /run/app.sock", "http://localhost"},
		{"unix//run/app.sock", port, "unix /run/app.sock", "http://localhost"},
		{"unix/@app", port, "unix @app", "http://localhost"},
		{"fd/3", port, "fd 3", "http://localhost"},
		{"unix//run/app.sock", elsewhere, "tcp check.internal:82", "http://check.internal:82"},
		{"a:80", `"upstream": "unix//run/check.sock"`, "unix /run/check.sock", "http://localhost"},
	} {
		for _, kind := range []string{"http", "tcp", "tls"} {
			c := newConfig(t)
			check := strings.TrimSuffix(fmt.Sprintf(`"type": %q, %s`, kind, test.settings), ", ")
			h := c.mustLoad(fmt.Sprintf(`{"upstreams": [{"dial": %q}], "health_check": {%s}}`, test.address, check))
			target, err := h.service.probing.target(test.address)
			if err != nil {
				t.Errorf("%s {%s}: %v", test.address, check, err)
				continue
			}
			if got := target.String(); got != test.want {
				t.Errorf("%s {%s}: %s, want %s", test.address, check, got, test.want)
			}
			if got := target.URL(h.stock.Transport.Configured()).String(); got != test.url {
				t.Errorf("%s {%s}: URL %s, want %s", test.address, check, got, test.url)
			}
			name := strings.Trim(target.URL(h.stock.Transport.Configured()).Hostname(), "[]")
			if got := target.TLSConfig(h.stock.Transport.Configured()).ServerName; got != name {
				t.Errorf("%s {%s}: server name %s, want %s", test.address, check, got, name)
			}
			unused := test.settings == port && (strings.HasPrefix(test.address, "unix") || strings.HasPrefix(test.address, "fd"))
			if warned := strings.Contains(c.logged(), "health check port is not used"); warned != unused {
				t.Errorf("%s {%s}: warned %v, want %v", test.address, check, warned, unused)
			}
			c.cancel()
		}
	}
}
