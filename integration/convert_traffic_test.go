package integration

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/command/convert"
)

// migration is a configuration of another program, which is run beside what it is converted to. LISTEN is where it listens; A and B are
// its backends.
type migration struct {
	name, from, text string
	questions        []question
}

// question is a request, and what is to differ.
type question struct {
	method, host, path string
	header             string // one field, Name: value
	times              int    // how often it is sent; once if it is 0
	closed             bool   // the login is not converted, and nobody comes in
	aside              string // what may differ
	stays              bool   // each program chooses a backend, and stays with it
}

var migrations = []migration{
	{"haproxy routes", convert.HAProxy, `
defaults
	mode http
	timeout connect 2s
	timeout client 10s
	timeout server 10s
frontend site
	bind LISTEN
	acl api path_beg /api/
	acl old path_beg /old
	acl beta req.hdr(X-Beta) -m found
	http-request deny deny_status 405 if { method DELETE }
	http-request deny if { path_end .bak } || { url_param(debug) 1 }
	http-request redirect scheme https code 301 if { path_beg /secure }
	http-request redirect location https://new.example.com/x code 302 if old
	http-request redirect prefix https://files.example.com code 308 if { path_beg /files }
	http-request return status 200 content-type text/plain string "up" if { path /ping }
	http-request set-header X-Client %[src]
	http-request set-header X-Path %[path]
	http-request del-header X-Secret
	http-response set-header X-Frame-Options DENY
	http-response del-header X-Backend
	use_backend shop if { hdr(host) -i shop.example.com }
	use_backend api if api !beta
	default_backend web
backend web
	server a A
backend api
	http-request replace-path /api/(.*) /v1/\1
	http-request set-header X-Forwarded-Host api.example.com
	server b B
backend shop
	http-request set-path /shop%[path]
	server b B
`, []question{
		{path: "/"}, {path: "/a/b?c=d&e=f"}, {path: "/api/users?id=1"}, {path: "/api/"}, {path: "/api"}, {path: "/api/users", header: "X-Beta: 1"},
		{path: "/", host: "shop.example.com"}, {path: "/cart?n=1", host: "SHOP.example.com"}, {path: "/a%20b%3Fc/d?x=%2F", host: "shop.example.com", aside: "> X-Path"}, {path: "/api/x", host: "shop.example.com"},
		{path: "/old/page?q=1"}, {path: "/secure/page?q=1"}, {path: "/secure", host: "secure.example.com"}, {path: "/files/a?b=c"}, {path: "/ping"}, {path: "/ping/x"},
		{path: "/site.bak"}, {path: "/?debug=1"}, {path: "/?debug=2"}, {method: "DELETE", path: "/"}, {method: "POST", path: "/api/x"},
		{path: "/", header: "X-Secret: s"}, {path: "/", header: "X-Client: spoofed"}, {path: "/a%20b/c%2Fd?x=%2F", aside: "> X-Path"}, {path: "/", header: "Cookie: a=b; c=d"},
	}},
	{"haproxy limits and sessions", convert.HAProxy, `
defaults
	mode http
	timeout connect 2s
	timeout client 10s
	timeout server 10s
userlist people
	user ann insecure-password secret
frontend site
	bind LISTEN
	stick-table type ip size 1k expire 2h store http_req_rate(1h)
	http-request track-sc0 src
	http-request deny deny_status 429 if { path_beg /limited } { sc_http_req_rate(0) gt 5 }
	use_backend inside if { path_beg /admin }
	default_backend web
backend web
	balance roundrobin
	cookie SRV insert indirect nocache
	server a A cookie a
	server b B cookie b
backend inside
	http-request auth unless { http_auth(people) }
	server a A
`, []question{
		{path: "/limited/x", times: 8, stays: true}, {path: "/", times: 5, stays: true},
		{path: "/admin", closed: true}, {path: "/admin/x", header: "Authorization: Basic YW5uOnNlY3JldA==", closed: true}, {path: "/adm", stays: true},
	}},
	{"nginx routes", convert.Nginx, `
map $http_x_scheme $shown {
	default $http_x_scheme;
	'' $scheme;
}
upstream web {
	server A;
}
server {
	listen LISTEN;
	server_name example.com www.example.com;
	add_header X-Frame-Options DENY always;
	location / {
		proxy_pass http://web;
		proxy_set_header Host $host;
		proxy_set_header X-Real-IP $remote_addr;
		proxy_set_header X-Shown $shown;
		proxy_set_header X-Debug "";
		proxy_set_header Authorization $http_authorization;
		proxy_hide_header X-Backend;
	}
	location /api/ {
		proxy_pass http://B/;
	}
	location ^~ /deep/ {
		proxy_pass http://B/v2/;
	}
	location /plain {
		proxy_pass http://B/other;
		proxy_set_header Host $http_host;
		proxy_set_header X-From $http_referer;
	}
	location = /exact {
		return 200 "exact";
	}
	location = /moved {
		return 301 https://$server_name$request_uri;
	}
	location /gone { return 410; }
	location ~* \.(css|js)$ {
		proxy_pass http://web;
		expires 1h;
		add_header Cache-Control "public";
	}
	location ~ ^/user/(\d+)$ {
		return 302 /people?id=$1;
	}
	location /cut {
		rewrite ^/cut/(.*)$ /$1 break;
		proxy_pass http://B;
	}
	rewrite ^/blog/(.*)$ https://blog.example.com/$1 permanent;
	rewrite ^/in/(.*)$ /out/$1 redirect;
}
`, []question{
		{path: "/"}, {path: "/a/b?c=d"}, {path: "/api/users?id=1"}, {path: "/api/"}, {path: "/api?x=1"}, {path: "/deep/x?y=z"}, {path: "/deep/a.css"}, {path: "/plain", aside: "> X-From"},
		{path: "/plain/x?y=1", aside: "> X-From"}, {path: "/plainer", header: "Referer: http://r.example.com/"}, {path: "/exact"}, {path: "/exact/x"}, {path: "/moved?a=b", host: "www.example.com"}, {path: "/gone/x"}, {path: "/style.CSS?v=1"},
		{path: "/user/42"}, {path: "/user/x"}, {path: "/cut/a/b?c=d"}, {path: "/cut"}, {path: "/blog/a?b=c"}, {path: "/in/x?y=z"}, {path: "/", header: "X-Debug: 1"},
		{path: "/", header: "X-Scheme: https"}, {path: "/", header: "Authorization: Basic YTpi"}, {path: "/a%20b/c?x=%2F"},
	}},
	{"nginx limits and logins", convert.Nginx, `
limit_req_zone $binary_remote_addr zone=perip:1m rate=1r/m;
upstream web {
	ip_hash;
	server A;
	server B;
}
server {
	listen LISTEN;
	client_max_body_size 1k;
	if ($http_x_bad ~ yes) {
		return 403;
	}
	if ($request_method = TRACE) {
		return 405;
	}
	location / {
		proxy_pass http://A;
	}
	location /sticky {
		proxy_pass http://web;
		proxy_set_header Host $host;
	}
	location /limited {
		limit_req zone=perip burst=4 nodelay;
		limit_req_status 429;
		proxy_pass http://A;
	}
	location /admin {
		auth_basic "in here";
		auth_basic_user_file passwords;
		proxy_pass http://A;
	}
	location /office {
		allow 127.0.0.1;
		deny all;
		proxy_pass http://A;
	}
	location /nobody {
		allow 10.0.0.0/8;
		deny all;
		proxy_pass http://A;
	}
	location ~ /\. {
		deny all;
	}
}
`, []question{
		{path: "/"}, {path: "/", header: "X-Bad: yes!"}, {path: "/", header: "X-Bad: no"}, {path: "/sticky", times: 5, stays: true}, {path: "/limited", times: 8},
		{path: "/admin", closed: true}, {path: "/admin/x", header: "Authorization: Basic YW5uOnNlY3JldA==", closed: true}, {path: "/office"}, {path: "/nobody"}, {path: "/.git/config"},
		{path: "/a/.env"}, {method: "OPTIONS", path: "/"}, {method: "PUT", path: "/x"},
	}},
	{"nginx names", convert.Nginx, `
server {
	listen LISTEN default_server;
	server_name _;
	return 404;
}
server {
	listen LISTEN;
	server_name www.example.com;
	return 301 http://example.com$request_uri;
}
server {
	listen LISTEN;
	server_name example.com;
	location / {
		proxy_pass http://A;
		proxy_set_header Host $host;
	}
}
server {
	listen LISTEN;
	server_name *.shop.example.com;
	if ($http_user_agent ~* (bot|spider)) {
		return 444;
	}
	location / {
		proxy_pass http://B;
		proxy_set_header X-Shop $host;
	}
}
`, []question{
		{path: "/", host: "other.example.com"}, {path: "/x?y=z", host: "www.example.com"}, {path: "/x?y=z", host: "example.com"},
		{path: "/", host: "one.shop.example.com"}, {path: "/"}, {path: "/", host: "one.shop.example.com", header: "User-Agent: some-Bot/1"},
	}},
	{"nginx split", convert.Nginx, `
split_clients $cookie_id $side {
	40% new;
	* old;
}
upstream old {
	server A;
}
upstream new {
	server B;
}
server {
	listen LISTEN;
	proxy_set_header Host $host;
	location / {
		proxy_pass http://$side;
	}
	location /x/ {
		proxy_pass http://$side;
	}
}
`, []question{
		{path: "/", header: "Cookie: id=a", times: 5, stays: true}, {path: "/y?z", header: "Cookie: id=b", times: 5, stays: true}, {path: "/x/y", method: "POST", header: "Cookie: id=c", times: 3, stays: true},
	}},
}

// TestMigrations runs configurations in HAProxy and nginx, what they are converted to in Caddy, and sends the same requests to both: the
// answers are alike, and so is what the backends see.
func TestMigrations(t *testing.T) {
	for _, m := range migrations {
		t.Run(m.name, func(t *testing.T) {
			if _, err := exec.LookPath(m.from); err != nil {
				t.Fatalf("no %s; .ci/deps installs it", m.from)
			}
			text := strings.NewReplacer("http://A", "http://"+echoBackend(t, "a"), "http://B", "http://"+echoBackend(t, "b"), "server A", "server "+echoBackend(t, "a"),
				"server B", "server "+echoBackend(t, "b"), "server a A", "server a "+echoBackend(t, "a"), "server b B", "server b "+echoBackend(t, "b")).Replace(m.text)
			theirs, ours := startOther(t, m.from, text), startConverted(t, m.from, text)
			for _, a := range m.questions {
				var at, here session
				for range max(a.times, 1) {
					want, got := a.send(t, theirs, &at), a.send(t, ours, &here)
					if a.closed {
						want = map[string]string{"status": "403"}
						got = map[string]string{"status": got["status"]}
					}
					if !maps.Equal(want, got) || want["moved"] != "" {
						t.Errorf("%+v\n%s: %v\nours: %v", a, m.from, want, got)
					}
				}
			}
		})
	}
}

// echoBackend starts a backend that answers with what it was asked.
func echoBackend(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields := map[string]string{"backend": name, "uri": r.RequestURI, "host": r.Host, "method": r.Method}
		for field, values := range r.Header {
			fields["> "+field] = strings.Join(values, "|")
		}
		w.Header().Set("X-Backend", name)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(fields)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// startOther runs HAProxy or nginx and returns the address where it listens.
func startOther(t *testing.T, program, text string) string {
	t.Helper()
	address, dir := freeAddress(t), t.TempDir()
	text = strings.ReplaceAll(text, "LISTEN", address)
	file := filepath.Join(dir, "config")
	cmd := exec.Command(program, "-db", "-f", file)
	if program == convert.Nginx {
		text = "daemon off;\nmaster_process off;\nerror_log stderr;\n" + nginxHTTP + text + "}\n"
		cmd = exec.Command(program, "-e", "stderr", "-p", dir, "-c", file)
		if err := os.WriteFile(filepath.Join(dir, "passwords"), []byte("ann:{PLAIN}secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startProgram(t, address, cmd)
	return address
}

// startConverted runs Caddy with what the configuration is converted to, and returns the address where it listens.
func startConverted(t *testing.T, from, text string) string {
	t.Helper()
	c := &caddy{t: t, site: freeAddress(t), admin: freeAddress(t), log: newLogFile(t), ended: make(chan struct{})}
	r, err := convert.Convert("config", strings.ReplaceAll(text, "LISTEN", c.site), from)
	if err != nil {
		t.Fatal(err)
	}
	c.run(strings.Replace(r.Caddyfile, "{\n", "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n", 1), nil)
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("caddy's log:\n%s\n%s", c.log, r.Caddyfile)
		}
	})
	if !c.serves() {
		t.Fatal("caddy ended")
	}
	return c.site
}

// Fields that are each program's own, and those of a request that Caddy sets for all backends.
var (
	ownFields  = []string{"Server", "Date", "Via", "Connection", "Keep-Alive", "Content-Length", "Retry-After", "Ratelimit", "Ratelimit-Policy", "Alt-Svc", "Expires"}
	moreFields = []string{"> X-Forwarded-For", "> X-Forwarded-Proto", "> X-Forwarded-Host", "> Via", "> Connection", "> Accept-Encoding"}
)

// session is what a client keeps between requests, and who has answered them.
type session struct{ cookie, backend string }

// send sends the request and returns what is to be compared.
func (a question) send(t *testing.T, address string, s *session) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), a.method, "http://"+address+a.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = cmp.Or(a.host, "example.com")
	req.Header.Set("User-Agent", "test")
	if name, value, ok := strings.Cut(a.header, ": "); ok {
		req.Header.Set(name, value)
	}
	if s.cookie != "" {
		req.Header.Set("Cookie", s.cookie)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return map[string]string{"status": "none"}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	passed := json.Unmarshal(body, &seen) == nil
	seen["status"] = res.Status[:3]
	for field, values := range res.Header {
		switch {
		case slices.Contains(ownFields, field):
		case field == "Location":
			to, err := url.Parse(values[0])
			if err != nil {
				t.Fatal(err)
			}
			if to.Port() == req.URL.Port() {
				to.Scheme, to.Host = "", "" // the site's own, which some leave out
			}
			seen[field] = to.String()
		case field == "Set-Cookie":
			s.cookie, _, _ = strings.Cut(values[0], ";")
			seen[field], _, _ = strings.Cut(values[0], "=")
		case !passed && (field == "Content-Type" || field == "Cache-Control" || field == "X-Frame-Options"): // its own answers are each program's own
		default:
			seen[field] = strings.Join(values, ", ")
		}
	}
	if !passed && res.StatusCode == http.StatusOK {
		seen["body"] = string(body)
	}
	if a.stays && passed {
		if s.backend != "" && s.backend != seen["backend"] {
			seen["moved"] = s.backend + " to " + seen["backend"]
		}
		s.backend = seen["backend"]
		delete(seen, "backend")
		delete(seen, "X-Backend")
		delete(seen, "> Cookie")
	}
	seen["host"] = strings.ReplaceAll(seen["host"], address, "SITE")
	maps.DeleteFunc(seen, func(field, _ string) bool { return slices.Contains(moreFields, field) || field == a.aside })
	return seen
}
