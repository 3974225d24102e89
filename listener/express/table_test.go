package express

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A site as the Caddyfile adapter makes it, with most of what the express lane understands.
const site = `[{"match": [{"host": ["example.com", "*.example.org"]}], "terminal": true, "handle": [{"handler": "subroute", "routes": [
	{"handle": [{"handler": "ip_rate_limit", "zone": "z", "rate": "1000/s"}]},
	{"group": "g", "match": [{"path": ["/api/*"]}], "handle": [{"handler": "subroute", "routes": [
		{"handle": [{"handler": "rewrite", "strip_path_prefix": "/api"}]},
		{"match": [{"not": [{"method": ["GET", "HEAD"]}]}], "handle": [{"handler": "request_body", "max_size": 100}]},
		{"match": [{"path": ["/v1/*"]}], "handle": [{"handler": "balancer_double", "name": "v1"}]},
		{"handle": [{"handler": "balancer_double", "name": "api"}]}]}]},
	{"group": "g", "match": [{"path": ["*.php", "/old", "*/wp/*"]}], "handle": [{"handler": "foreign"}]},
	{"group": "g", "match": [{"protocol": "https"}], "handle": [{"handler": "balancer_double", "name": "tls"}]},
	{"group": "g", "match": [{"path": ["/odd*"], "foreign": {}}], "handle": [{"handler": "balancer_double", "name": "odd"}]},
	{"group": "g", "match": [{"header": {"X-Beta": ["1*"]}}], "handle": [{"handler": "balancer_double", "name": "beta"}]},
	{"group": "g", "handle": [{"handler": "balancer_double", "name": "main"}]}]}]},
	{"match": [{"host": ["static.example.net"]}], "terminal": true, "handle": [{"handler": "foreign"}]},
	{"match": [{"host": ["refusing.example.net"]}], "terminal": true, "handle": [{"handler": "balancer_double", "name": "x", "why": "mirror"}]}]`

func TestFind(t *testing.T) {
	ctx := newContext(t)
	s := serverOf(t, ctx, site)
	table, w := Compile(s, ctx), NewWay()
	for _, c := range []struct {
		asked
		pool, why string
		strip     int
	}{
		{asked: get("example.com", "/"), pool: "main"},
		{asked: get("EXAMPLE.com:8080", "/x?y=/api/"), pool: "main"},
		{asked: get("a.example.org", "/api"), pool: "main"},
		{asked: get("a.example.org", "/API/v1/x"), pool: "v1", strip: 4},
		{asked: get("example.com", "/api/"), pool: "api", strip: 4},
		{asked: asked{method: "POST", host: "example.com", target: "/api/x", length: 100}, pool: "api", strip: 4},
		{asked: asked{method: "POST", host: "example.com", target: "/api/x", length: 101}, why: "request_body"},
		{asked: get("example.com", "/index.PHP"), why: "foreign"},
		{asked: get("example.com", "/a/wp/b"), why: "foreign"},
		{asked: get("example.com", "/old"), why: "foreign"},
		{asked: get("example.com", "/old/"), pool: "main"},
		{asked: get("example.com", "/a%20b"), why: "path"},
		{asked: get("example.com", "/a//b"), why: "path"},
		{asked: asked{method: "GET", host: "example.com", target: "/", tls: true}, pool: "tls"},
		{asked: get("example.com", "/odd/even"), why: "foreign"},
		{asked: asked{method: "GET", host: "example.com", target: "/", fields: "X-Beta: 12\r\n"}, pool: "beta"},
		{asked: get("static.example.net", "/"), why: "foreign"},
		{asked: get("refusing.example.net", "/"), why: "mirror"},
		{asked: get("a.b.example.org", "/"), why: reasonEmpty},
		{asked: get("other.example.net", "/"), why: reasonEmpty},
		{asked: get(strings.Repeat("a", maxHost+1), "/"), why: "host"},
	} {
		if why := table.Find(c.head(), stateOf(c.tls), w); why != c.why {
			t.Errorf("%+v: %q, want %q", c.asked, why, c.why)
			continue
		}
		if c.why != "" {
			continue
		}
		if got := w.Plan.Pool.Name(); got != c.pool || w.Strip != c.strip {
			t.Errorf("%+v: pool %s, strip %d, want %s, %d", c.asked, got, w.Strip, c.pool, c.strip)
		}
		if len(w.Limits) != 1 || w.Limits[0].Zone != "z" {
			t.Errorf("%+v: limits %v", c.asked, w.Limits)
		}
		if want := []Matched{{0, "subroute"}}; !slices.Equal(w.Routes, want) {
			t.Errorf("%+v: routes %v, want %v", c.asked, w.Routes, want)
		}
	}
}

func TestFindOfManyHosts(t *testing.T) {
	ctx := newContext(t)
	table, w := Compile(serverOf(t, ctx, manySites(200)), ctx), NewWay()
	for i := range 200 {
		if why := table.Find(get(fmt.Sprintf("site%d.example.com", i), "/").head(), nil, w); why != "" {
			t.Fatal(why)
		}
		want := []Matched{{0, "ip_rate_limit"}, {i + 1, "subroute"}}
		if got := w.Plan.Pool.Name(); got != fmt.Sprint(i) || !slices.Equal(w.Routes, want) {
			t.Errorf("site %d: pool %s, routes %v, want %v", i, got, w.Routes, want)
		}
	}
	if why := table.Find(get("x.wild.example.com", "/").head(), nil, w); why != "" || w.Plan.Pool.Name() != "wild" {
		t.Errorf("wildcard: %q", why)
	}
	if why := table.Find(get(strings.Repeat("a", maxHost+1), "/").head(), nil, w); why != "host" {
		t.Errorf("an unknown host: %q", why)
	}
}

// manySites are so many sites, each of its host, behind a limit for all and before one of a wildcard.
func manySites(n int) string {
	routes := []string{`{"handle": [{"handler": "ip_rate_limit", "zone": "z", "rate": "1000/s"}]}`}
	for i := range n {
		routes = append(routes, fmt.Sprintf(`{"match": [{"host": ["site%d.example.com"]}], "terminal": true, "handle": [{"handler": "subroute", "routes": [
			{"handle": [{"handler": "balancer_double", "name": "%d"}]}]}]}`, i, i))
	}
	routes = append(routes, `{"match": [{"host": ["*.wild.example.com"]}], "handle": [{"handler": "balancer_double", "name": "wild"}]}`)
	return "[" + strings.Join(routes, ",") + "]"
}

// A way that needs more room than there is goes to Caddy.
func TestFindIsBounded(t *testing.T) {
	ctx := newContext(t)
	const end = `{"handle": [{"handler": "balancer_double", "name": "x"}]}`
	for name, c := range map[string]struct {
		route string
		most  int
	}{
		"limits":            {`{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "ip_rate_limit", "zone": "z", "rate": "1/s"}]}]}]}`, mostLimits},
		"header operations": {`{"handle": [{"handler": "subroute", "routes": [{"handle": [` + strings.Repeat(`{"handler": "headers"},`, mostEdits-1) + `{"handler": "headers"}]}]}]}`, 1},
		"routes":            {`{"handle": [{"handler": "request_body", "max_size": 1}]}`, mostMatched - 1},
	} {
		for _, more := range []bool{false, true} {
			n := c.most
			want := ""
			if more {
				n, want = n+1, reasonMany
			}
			table, w := Compile(serverOf(t, ctx, "["+strings.Repeat(c.route+",", n)+end+"]"), ctx), NewWay()
			if why := table.Find(get("a", "/").head(), nil, w); why != want {
				t.Errorf("%d %s: %q, want %q", n, name, why, want)
			}
		}
	}
	var groups []string
	for i := range mostGroups + 1 {
		groups = append(groups, fmt.Sprintf(`{"group": "g%d"}`, i))
	}
	nested := `[{"handle": [{"handler": "subroute", "routes": [` + strings.Join(groups, ",") + "," + end + `]}]}]`
	if why := Compile(serverOf(t, ctx, nested), ctx).Find(get("a", "/").head(), nil, NewWay()); why != reasonMany {
		t.Errorf("%d groups: %q", len(groups), why)
	}
}

// A host that was changed is not known to the matchers behind, in a list with an index, either.
func TestFindWithAnotherHost(t *testing.T) {
	ctx := newContext(t)
	const sets = `{"handle": [{"handler": "headers", "request": {"set": {"Host": ["b"]}}}]}`
	const b = `{"match": [{"host": ["b"]}], "handle": [{"handler": "foreign"}]}`
	const end = `{"handle": [{"handler": "balancer_double", "name": "x"}]}`
	for routes, want := range map[string]string{
		sets + "," + b + "," + end:                  "host",
		sets + "," + strings.Repeat(b+",", 5) + end: "host",
		sets + "," + end:                            "",
		strings.Repeat(b+",", 5) + sets + "," + end: "",
	} {
		nested := `[{"handle": [{"handler": "subroute", "routes": [` + routes + `]}]}]`
		if why := Compile(serverOf(t, ctx, nested), ctx).Find(get("a", "/").head(), nil, NewWay()); why != want {
			t.Errorf("%s: %q, want %q", routes, why, want)
		}
	}
	top := "[" + sets + "," + end + "]"
	if why := Compile(serverOf(t, ctx, top), ctx).Find(get("a", "/").head(), nil, NewWay()); why != "headers" {
		t.Errorf("%s: %q", top, why) // each of the server's routes is measured
	}
}

func TestSettingsOfServers(t *testing.T) {
	ctx := newContext(t)
	for want, change := range map[string]func(*caddyhttp.Server){
		"":                            func(*caddyhttp.Server) {},
		"protocols":                   func(s *caddyhttp.Server) { s.Protocols = []string{"h2"} },
		"expected_underscore_headers": func(s *caddyhttp.Server) { s.ExpectedUnderscoreHeaders = []string{"a_b"} },
		"expected_dot_headers":        func(s *caddyhttp.Server) { s.ExpectedDotHeaders = []string{"a.b"} },
		"enable_full_duplex":          func(s *caddyhttp.Server) { s.EnableFullDuplex = true },
		"trace":                       func(s *caddyhttp.Server) { s.Logs = &caddyhttp.ServerLogConfig{Trace: true} },
	} {
		s := serverOf(t, ctx, `[{"handle": [{"handler": "balancer_double", "name": "x"}]}]`)
		change(s)
		table := Compile(s, ctx)
		if why := table.Find(get("a", "/").head(), nil, NewWay()); why != want {
			t.Errorf("%q, want %q", why, want)
		}
		if shown := table.shown; shown.On != (want == "") || shown.Reason != want || len(shown.Routes) != 1 || shown.Routes[0].Reason != want {
			t.Errorf("%s: %+v", want, shown)
		}
	}
	if why := Off(serverOf(t, ctx, site)).Find(get("example.com", "/").head(), nil, NewWay()); why != reasonOff {
		t.Errorf("off: %q", why)
	}
}

// The settings for trusted proxies are gone when a server has been provisioned.
func TestProvisionedTrustedProxies(t *testing.T) {
	for proxies, want := range map[string]bool{"": false, `"trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8"]},`: true} {
		ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, AppsRaw: caddy.ModuleMap{
			"http": []byte(`{"servers": {"s": {"listen": ["127.0.0.1:0"], ` + proxies + `"routes": [{"handle": [{"handler": "balancer_double", "name": "x"}]}]}}}`)}})
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := ctx.App("http")
		if err != nil {
			t.Fatal(err)
		}
		table := Compile(loaded.(*caddyhttp.App).Servers["s"], ctx)
		if why := table.Find(get("a", "/").head(), nil, NewWay()); why != "" || table.Proxied() != want {
			t.Errorf("%q: %q, %v, want %v", proxies, why, table.Proxied(), want)
		}
		if table.shown.Server != "s" {
			t.Errorf("server %q", table.shown.Server)
		}
	}
}

// What is written with the level debug must be written.
func TestRewritesThatAreLogged(t *testing.T) {
	file, err := json.Marshal(map[string]string{"output": "file", "filename": filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin: &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{WriterRaw: file, Level: "DEBUG"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serverOf(t, ctx, `[{"handle": [{"handler": "rewrite", "strip_path_prefix": "/a"}, {"handler": "balancer_double", "name": "x"}]}]`)
	if why := Compile(s, ctx).Find(get("a", "/a/b").head(), nil, NewWay()); why != "rewrite" {
		t.Errorf("%q", why)
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	ctx := newContext(t)
	table, w := Compile(serverOf(t, ctx, site), ctx), NewWay()
	for _, a := range []asked{
		{method: "POST", host: "a.example.org:80", target: "/api/v2", length: 10, tls: true},
		{method: "GET", host: "a.example.org:80", target: "/", fields: "X-Beta: 12\r\n"},
	} {
		h, state := a.head(), stateOf(a.tls)
		if n := testing.AllocsPerRun(100, func() {
			if why := table.Find(h, state, w); why != "" {
				t.Fatal(why)
			}
		}); n != 0 {
			t.Errorf("%+v: %v allocations", a, n)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	for name, c := range map[string]struct {
		routes string
		asked
	}{
		"1 site":    {site, get("example.com", "/api/v1/x")},
		"200 sites": {manySites(200), get("site150.example.com", "/x")},
	} {
		b.Run(name, func(b *testing.B) {
			ctx := newContext(b)
			table, w, h := Compile(serverOf(b, ctx, c.routes), ctx), NewWay(), c.head()
			b.ReportAllocs()
			for b.Loop() {
				if why := table.Find(h, nil, w); why != "" {
					b.Fatal(why)
				}
			}
		})
	}
}

// A host must be the name of the handshake where Caddy asks for that, however it is written.
func TestStrictSNIHost(t *testing.T) {
	ctx := newContext(t)
	s := serverOf(t, ctx, `[{"handle": [{"handler": "balancer_double", "name": "x"}]}]`)
	yes := true
	for strict, hosts := range map[*bool]map[string]string{
		nil:       {"a.example": "", "other.example": ""},
		new(bool): {"a.example": "", "other.example": ""},
		&yes:      {"a.example": "", "A.example:443": "", "other.example": reasonSNI, "a.example.": reasonSNI, "[::1]": reasonSNI},
	} {
		s.StrictSNIHost = strict
		table := Compile(s, ctx)
		for host, want := range hosts {
			h := get(host, "/").head()
			if why := table.Find(h, &tls.ConnectionState{ServerName: "a.Example"}, NewWay()); why != want {
				t.Errorf("%s: %q, want %q", host, why, want)
			}
			if why := table.Find(h, nil, NewWay()); why != "" {
				t.Errorf("%s without TLS: %q", host, why)
			}
		}
	}
}
