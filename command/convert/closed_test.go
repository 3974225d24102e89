package convert_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/command/convert"
)

// TestClosed converts access rules beside content that could be served past them. order lists texts that must follow each other.
func TestClosed(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		order []string
	}{
		"a login around try_files": {
			"auth_basic x; root /srv; location / { try_files $uri @app; } location @app { proxy_pass http://10.0.0.1; }",
			[]string{"handle {\n\t\t\troute {", "respond 403", "handle @files", "file_server", "load_balancer"},
		},
		"a request for a login before try_files": {
			"root /srv; location / { auth_request /a; try_files $uri @app; } location @app { proxy_pass http://10.0.0.1; }",
			[]string{"handle {\n\t\t\troute {", "respond 403", "handle @files"},
		},
		"a denial around a location in a location": {
			"deny 10.0.0.1; location /a { location /a/b { proxy_pass http://10.0.0.1; } return 204; }",
			[]string{"@location_3 path /a*", "respond @denied 403", "load_balancer", "respond 204"},
		},
		"a login for requests that no location takes": {
			"auth_basic x; root /srv; location /a { proxy_pass http://10.0.0.1; }",
			[]string{"handle @location_3", "respond 403", "load_balancer", "handle {", "respond 403", "file_server"},
		},
		"a login at a named location, not at the one that leads there": {
			"auth_basic x; root /srv; location / { auth_basic off; try_files $uri @app; } location @app { proxy_pass http://10.0.0.1; }",
			[]string{"file_server", "respond 403", "load_balancer"},
		},
		"certificates of clients without one of the server": {
			"} server { listen 444 ssl; ssl_verify_client on; ssl_client_certificate /ca.pem; location / { proxy_pass http://10.0.0.1; }",
			[]string{"tls internal {", "mode require_and_verify", "trust_pool file /ca.pem"},
		},
		"methods": {
			"location / { limit_except GET POST { deny all; } root /srv; try_files $uri @app; } location @app { proxy_pass http://10.0.0.1; }",
			[]string{"@methods not method GET HEAD POST", "respond @methods 403", "handle @files"},
		},
		"methods for some clients": {
			"location / { limit_except GET { allow 10.0.0.1; deny all; } proxy_pass http://10.0.0.1; }",
			[]string{"not converted: limit_except GET (other methods are refused for all clients)", "@methods not method GET HEAD\n", "respond @methods 403"},
		},
		"files of an unknown folder": {
			"root $arg_x; location / { try_files $uri /index.html; }",
			[]string{"not converted: root $arg_x (the folder is not understood)", "handle {", "\t\t\trespond 404\n\t\t}\n"},
		},
		"files of an unknown folder before a named location": {
			"root $arg_x; location / { try_files $uri @app; } location @app { proxy_pass http://10.0.0.1; }",
			[]string{"handle {", "(the files are not looked up)\n\t\t\tload_balancer {"},
		},
		"files of unknown names": {
			"root /srv; location / { try_files /public$document_root =404; }",
			[]string{"handle {\n\t\t\t# nginx.conf:3: not converted: try_files", "root * /srv", "respond 404"},
		},
		"fields that are not to be passed on": {
			"location / { proxy_pass http://10.0.0.1; proxy_pass_request_headers off; }",
			[]string{"not converted: proxy_pass_request_headers off"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := must(t, "nginx.conf", strings.Replace(inServer, "%s", test.text, 1), convert.Nginx)
			rest := r.Caddyfile
			for _, want := range test.order {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("%q does not follow in\n%s", want, r.Caddyfile)
				}
				rest = after
			}
			if strings.Contains(name, "unknown") && strings.Contains(r.Caddyfile, "file_server") {
				t.Errorf("files are served\n%s", r.Caddyfile)
			}
			if strings.Contains(name, "not to be passed on") && !r.Left[0].Guards {
				t.Error("it is not said to protect something")
			}
		})
	}
}

// TestInnerLocations: a location has each inherited setting once, and none of those that the outer location has for its own requests.
func TestInnerLocations(t *testing.T) {
	r := must(t, "nginx.conf", strings.Replace(inServer, "%s", `location / { client_max_body_size 1m; add_header X-A 1; return 403; location /b { client_max_body_size 9m; proxy_pass http://10.0.0.1; } location /c { add_header X-B 1; proxy_pass http://10.0.0.1; } }`, 1), convert.Nginx)
	for text, n := range map[string]int{"max_size 9MiB": 1, "max_size 1MiB": 1, "header +X-A 1": 2, "header +X-B 1": 1, "respond 403": 1, "load_balancer {": 2} {
		if got := strings.Count(r.Caddyfile, text); got != n {
			t.Errorf("%q is there %d times, want %d\n%s", text, got, n, r.Caddyfile)
		}
	}
	if strings.Index(r.Caddyfile, "respond 403") < strings.LastIndex(r.Caddyfile, "load_balancer {") {
		t.Errorf("what is for other requests comes first\n%s", r.Caddyfile)
	}
}

// TestBodies: the location that leads to a named location limits the body, and the named one does not limit it again.
func TestBodies(t *testing.T) {
	const app = "location @app { client_max_body_size 1m; proxy_pass http://10.0.0.1; } root /srv; "
	for text, want := range map[string]string{
		"client_max_body_size 9m; location / { try_files $uri @app; }":               "max_size 9MiB",
		"location / { client_max_body_size 9m; try_files $uri @app; }":               "max_size 9MiB",
		"location / { try_files $uri @app; }":                                        "max_size 1MiB",
		"client_max_body_size 9m; error_page 418 = @app; location / { return 418; }": "max_size 1MiB",
	} {
		if r := must(t, "nginx.conf", strings.Replace(inServer, "%s", app+text, 1), convert.Nginx); strings.Count(r.Caddyfile, "max_size") != 1 || !strings.Contains(r.Caddyfile, want) {
			t.Errorf("%q is not the only size in\n%s", want, r.Caddyfile)
		}
	}
}

// TestPoolNames: the name of an additional pool is that of no upstream.
func TestPoolNames(t *testing.T) {
	const body = "server { location /a { proxy_pass http://u; } location /b { proxy_pass http://u; proxy_read_timeout 5s; } location /c { proxy_pass http://u-2; } location /d { proxy_pass http://u-2; proxy_read_timeout 6s; } }\n"
	for _, text := range []string{
		"upstream u { server 10.0.0.1:80; }\nupstream u-2 { server 10.0.0.2:80; }\n" + body,
		"upstream u-2 { server 10.0.0.2:80; }\nupstream u { server 10.0.0.1:80; }\n" + body,
	} {
		r := must(t, "nginx.conf", text, convert.Nginx)
		for _, want := range []string{"name u\n", "name u-3\n", "name u-2\n", "name u-2-2\n"} {
			if strings.Count(r.Caddyfile, want) != 1 {
				t.Errorf("%q is not there once in\n%s", want, r.Caddyfile)
			}
		}
	}
	// The same with two zones.
	r := must(t, "nginx.conf", "limit_req_zone $remote_addr zone=z:1m rate=1r/s;\nlimit_req_zone $remote_addr zone=z-2:1m rate=2r/s;\nserver { location /a { limit_req zone=z; return 200; root /a; } location /b { limit_req zone=z; root /a; } "+
		"location /c { limit_req zone=z burst=5; root /a; } location /d { limit_req zone=z-2; root /a; } }\n", convert.Nginx)
	for want, n := range map[string]int{"zone z\n": 1, "zone z-3\n": 1, "zone z-2\n": 1} {
		if strings.Count(r.Caddyfile, want) != n {
			t.Errorf("%q is not there %d times in\n%s", want, n, r.Caddyfile)
		}
	}
}

// TestNoLookahead compares the expression that replaces a lookahead with the lookahead.
func TestNoLookahead(t *testing.T) {
	r := must(t, "nginx.conf", strings.Replace(inServer, "%s", `location ~ /\.(?!well-known).* { deny all; }`, 1), convert.Nginx)
	_, text, _ := strings.Cut(r.Caddyfile, "path_regexp location_3 `")
	text, _, _ = strings.Cut(text, "`")
	re := regexp.MustCompile(text)
	for path, want := range map[string]bool{
		"/.git": true, "/.": true, "/.w": true, "/.well": true, "/.well_known/x": true, "/.well-know": true, "/.well-knowx": true, "/a/.env": true,
		"/.well-known": false, "/.well-known/acme": false, "/.well-known.x": false, "/a.b": false, "/": false, "/.well-known/.git": true,
	} {
		if got := re.MatchString(path); got != want {
			t.Errorf("%s: %v, want %v, by %s", path, got, want, text)
		}
	}
}

func TestDetect(t *testing.T) {
	for text, want := range map[string]string{
		"frontend f\n\thttp-response set-header A b;\\ c;\n": convert.HAProxy,
		"proxy_read_timeout 5s;\n":                           convert.Nginx,
		"server {\n}\n":                                      convert.Nginx,
		"something\n":                                        "",
		"backend b\nserver {\n":                              "",
	} {
		if got := convert.Detect(text); got != want {
			t.Errorf("%q is taken for %q, want %q", text, got, want)
		}
	}
}
