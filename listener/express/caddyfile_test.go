package express

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/ballastlb/ballast/caddyfile"
)

// compiled is the table of the first server of a Caddyfile.
func compiled(t *testing.T, text string) *Table {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range warnings {
		if !strings.Contains(w.Message, "not formatted") {
			t.Error(w)
		}
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	return Compile(loaded.(*caddyhttp.App).Servers["srv0"], ctx)
}

const global = `{
	admin off
	auto_https off
	storage file_system %s
}
`

// What the Caddyfile makes of the usual words is understood.
func TestCaddyfile(t *testing.T) {
	table := compiled(t, fmt.Sprintf(global, t.TempDir())+`
http://example.com, http://www.example.com {
	ip_rate_limit {
		rate 1000/s
	}
	request_body {
		max_size 1MB
	}
	@writes not method GET HEAD
	handle @writes {
		load_balancer 127.0.0.1:1 {
			name writes
		}
	}
	handle_path /api/* {
		load_balancer 127.0.0.1:1 {
			name api
		}
	}
	handle /files/* {
		encode
		load_balancer 127.0.0.1:1 {
			name encoded
		}
	}
	handle /static/* {
		file_server
	}
	@beta header X-Beta 1
	handle @beta {
		load_balancer 127.0.0.1:1 {
			name beta
		}
	}
	@named query name=*
	handle @named {
		load_balancer 127.0.0.1:1 {
			name named
		}
	}
	handle {
		load_balancer 127.0.0.1:1 {
			name rest
		}
	}
}
http://plain.example.com {
	route {
		load_balancer /a/* 127.0.0.1:1 {
			name a
		}
		load_balancer 127.0.0.1:1 {
			name b
		}
	}
}
http://keyed.example.com {
	ip_rate_limit {
		rate 1/s
		key {header.X-Key}
	}
	load_balancer 127.0.0.1:1 {
		name keyed
	}
}
http://edited.example.com {
	header {
		Strict-Transport-Security max-age=31536000
		-Server
		>X-Deferred yes
	}
	request_header X-Site edited
	handle /odd {
		header X-Uri {uri}
		load_balancer 127.0.0.1:1 {
			name odd
		}
	}
	handle /named {
		load_balancer 127.0.0.1:1 {
			name named
			header_up X-Uri {uri}
		}
	}
	handle {
		load_balancer 127.0.0.1:1 {
			name edited
			header_up Host {upstream_hostport}
			header_up X-Real-IP {client_ip}
			header_down -Server
		}
	}
}
http://moved.example.com {
	redir https://example.com{uri}
}
`)
	var shown strings.Builder
	for _, r := range table.shown.Routes {
		fmt.Fprintf(&shown, "%v %v %s %s %v %s\n", r.Hosts, r.Paths, r.Handler, r.Pool, r.Served, r.Reason)
	}
	const want = `[keyed.example.com] [] load_balancer keyed false ip_rate_limit_key
[edited.example.com] [/odd] load_balancer odd false headers
[edited.example.com] [/named] load_balancer  false header_up
[edited.example.com] [] load_balancer edited true 
[plain.example.com] [/a/*] load_balancer a true 
[plain.example.com] [] load_balancer b true 
[moved.example.com] [] static_response  false static_response
[example.com www.example.com] [] load_balancer writes true 
[example.com www.example.com] [/api/*] load_balancer api true 
[example.com www.example.com] [/files/*] load_balancer encoded false encode
[example.com www.example.com] [/static/*] file_server  false file_server
[example.com www.example.com] [] load_balancer beta true 
[example.com www.example.com] [] load_balancer named false query
[example.com www.example.com] [] load_balancer rest false query
`
	if got := sortedLines(shown.String()); got != sortedLines(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	w := NewWay()
	for _, c := range []struct {
		asked
		pool, why string
	}{
		{asked: asked{method: "POST", host: "example.com", target: "/static/x", length: 1000}, pool: "writes"},
		{asked: asked{method: "POST", host: "example.com", target: "/static/x", length: 1000001}, why: "request_body"},
		{asked: get("www.example.com", "/api/x"), pool: "api"},
		{asked: get("example.com", "/files/x"), why: "encode"},
		{asked: get("example.com", "/static/x"), why: "file_server"},
		{asked: asked{method: "GET", host: "example.com", target: "/x", fields: "x-beta: 1\r\n"}, pool: "beta"},
		{asked: get("example.com", "/x"), why: "query"},
		{asked: get("plain.example.com", "/a/x"), pool: "a"},
		{asked: get("plain.example.com", "/x"), pool: "b"},
		{asked: get("keyed.example.com", "/x"), why: "ip_rate_limit_key"},
		{asked: get("edited.example.com", "/"), pool: "edited"},
		{asked: get("edited.example.com", "/odd"), why: "headers"},
		{asked: get("edited.example.com", "/named"), why: "header_up"},
		{asked: get("moved.example.com", "/x"), why: "static_response"},
		{asked: get("other.example.com", "/x"), why: reasonEmpty},
	} {
		if why := table.Find(c.head(), nil, w); why != c.why {
			t.Errorf("%+v: %q, want %q", c.asked, why, c.why)
		} else if c.why == "" && (w.Plan.Pool.Name() != c.pool || w.Front == nil || w.Service == nil) {
			t.Errorf("%+v: %s, want %s", c.asked, w.Plan.Pool.Name(), c.pool)
		}
	}
}

func sortedLines(text string) string {
	lines := strings.SplitAfter(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}
