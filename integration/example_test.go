package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestExampleConfig tries what Caddyfile.example promises.
func TestExampleConfig(t *testing.T) {
	config, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	backends, _ := startBackends(t, 3)
	c := startCaddyConfig(t, string(config), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS", "CORS_ORIGIN=https://good.example",
		"BACKEND_1="+backends[0].addr, "BACKEND_2="+backends[1].addr, "BACKEND_3="+backends[2].addr)
	ask := func(method, origin string, header ...string) *http.Response {
		t.Helper()
		r := c.request(method, nil, header...)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = discard(res.Body)
		res.Body.Close()
		return res
	}
	expect := func(name string, res *http.Response, status int, header ...string) {
		t.Helper()
		if res.StatusCode != status {
			t.Errorf("%s: status %d, want %d", name, res.StatusCode, status)
		}
		for i := 0; i < len(header); i += 2 {
			if got := strings.Join(res.Header.Values(header[i]), ", "); got != header[i+1] {
				t.Errorf("%s: %s = %q, want %q", name, header[i], got, header[i+1])
			}
		}
	}
	const preflight = "Access-Control-Request-Method"
	security := []string{"X-Content-Type-Options", "nosniff", "X-Frame-Options", "DENY", "Vary", "Origin"}
	expect("plain", ask("GET", ""), 200, append(security, "Access-Control-Allow-Origin", "")...)
	expect("allowed origin", ask("GET", "https://good.example"), 200, append(security, "Access-Control-Allow-Origin", "https://good.example")...)
	expect("other origin", ask("GET", "https://evil.example"), 200, append(security, "Access-Control-Allow-Origin", "")...)
	expect("preflight", ask("OPTIONS", "https://good.example", preflight, "PUT"), 204,
		append(security, "Access-Control-Allow-Origin", "https://good.example", "Access-Control-Max-Age", "600")...)
	expect("preflight of another origin", ask("OPTIONS", "https://evil.example", preflight, "PUT"), 200, "Access-Control-Allow-Methods", "")
	if served, left := c.laneServed(); *express && (served != 4 || left["static_response"] != 1) {
		t.Errorf("the express lane served %d requests and left %v to Caddy", served, left)
	}
	status, header := c.upload(11 << 20)
	expect("body too large", &http.Response{StatusCode: status, Header: header}, 413, security[:4]...)
	expect("header too large", ask("GET", "", "X-Large", strings.Repeat("a", 64<<10)), 431)

	for i := range 6 {
		r, err := http.NewRequest(http.MethodPost, c.url("/login"), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := 200
		if i == 5 {
			want = 429
		}
		if status, _ := c.ask(r); status != want {
			t.Errorf("login %d: status %d, want %d", i+1, status, want)
		}
	}

	ready := func() int {
		t.Helper()
		status, _, _ := c.get("/ready")
		return status
	}
	if status := ready(); status != 200 {
		t.Errorf("/ready: status %d, want 200", status)
	}
	backends[0].kill()
	backends[1].kill()
	for range 20 {
		expect("two of three backends gone", ask("GET", ""), 200)
	}
	backends[2].kill()
	waitFor(t, "503 from /ready when all are gone", func() bool { return ready() == 503 })
	waitFor(t, "an access log in JSON", func() bool {
		for line := range strings.Lines(c.log.String()) {
			var entry struct {
				Logger string `json:"logger"`
				Status int    `json:"status"`
			}
			if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Logger, "http.log.access") && entry.Status == 413 {
				return true
			}
		}
		return false
	})
}

// TestExampleFleet: balancers that have one config, and differ by their environment, use different backends.
func TestExampleFleet(t *testing.T) {
	config, err := os.ReadFile("../examples/fleet.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	_, addresses := startBackends(t, 4)
	used := make(map[string]bool)
	for _, ordinal := range []string{"0", "1"} {
		c := startCaddyConfig(t, string(config), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS", "BACKENDS="+addresses, "SUBSET=2",
			"ORDINAL="+ordinal, "PEERS=2")
		for _, b := range c.poolNamed("web").Backends {
			used[b.Address] = true
		}
		if n := len(c.poolNamed("web").Backends); n != 2 {
			t.Errorf("balancer %s uses %d backends, want 2", ordinal, n)
		}
	}
	if len(used) != 4 {
		t.Errorf("both use %d backends, want 4", len(used))
	}
}

// TestExampleMirror: the new version gets copies, and clients get answers of the old one.
func TestExampleMirror(t *testing.T) {
	config, err := os.ReadFile("../examples/mirror.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	old, next := startBackend(t), startBackend(t)
	c := startCaddyConfig(t, string(config), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS", "BACKENDS="+old.addr, "NEW_VERSION="+next.addr)
	for range 200 {
		if status, _, body := c.get("/"); status != http.StatusOK || body != old.addr {
			t.Fatalf("%d %s", status, body)
		}
	}
	waitFor(t, "copies", func() bool { return next.requests.Load() >= 4 })
	if n := next.requests.Load(); n > 16 {
		t.Errorf("%d copies of 200 requests", n)
	}
}
