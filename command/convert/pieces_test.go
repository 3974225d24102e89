package convert_test

import (
	"strings"
	"testing"

	"github.com/ballastlb/ballast/command/convert"
)

const (
	inFrontend = "defaults\nmode http\nfrontend f\nbind :80\n%s\ndefault_backend b\nbackend b\nserver s 10.0.0.1:80\n"
	inBackend  = "defaults\nmode http\nfrontend f\nbind :80\ndefault_backend b\nbackend b\n%s\n"
	inServer   = "server {\nlisten 80;\n%s\n}\n"
	inMap      = "map $http_x_forwarded_proto $proto {\n%s\n}\nserver { location / { proxy_pass http://10.0.0.1; proxy_set_header X-Scheme $proto; } }\n"
	inSplit    = "%s\nupstream a { server 10.0.0.1:80; server 10.0.0.2:80; }\nupstream b { server 10.0.0.3:80; }\nupstream c { least_conn; server 10.0.0.4:80; }\nupstream d { server 10.0.0.1:80; }\n" +
		"server { proxy_set_header Host $host; location / { proxy_pass http://$v; } }\n"
	inUpstream = "upstream u {\n%s\n}\nserver { location / { proxy_pass http://u; proxy_set_header Host $host; } }\n"
)

// TestPieces converts single lines, and looks for the expected text in the output.
func TestPieces(t *testing.T) {
	for _, test := range []struct{ frame, text, want string }{
		{inFrontend, "acl a path_beg /x\nacl a path_end .js\nhttp-request deny if a", "path /x* *.js\n"},
		{inFrontend, "http-request deny if { path_beg /a } { method POST }", "method POST\n"},
		{inFrontend, "http-request deny unless { src 10.0.0.0/8 127.0.0.1 }", "not remote_ip 10.0.0.0/8 127.0.0.1\n"},
		{inFrontend, "http-request deny if { path_beg /a } or !{ hdr(host) b.c }", "expression `path('/a*') || !host('b.c')`\n"},
		{inFrontend, "http-request deny if { path_reg ^/a\\'[0-9]+ } or { path /b }", `path_regexp('^/a\'[0-9]+') || path('/b')`},
		{inFrontend, "http-request deny if { hdr_dom(host) -i b.c }", "header_regexp host `(?i)(^|[./?:])b\\.c([./?:]|$)`"},
		{inFrontend, "http-request deny if { hdr(x) -m beg 1 }", "header_regexp x ^1\n"},
		{inFrontend, "http-request deny if { urlp(a) b }", "query a=b\n"},
		{inFrontend, "http-request deny if { cook(a) b }", "header_regexp Cookie `(^|;\\s*)a=b(;|$)`"},
		{inFrontend, "http-request deny if { nbsrv(b) lt 1 }", "not converted: http-request deny if { nbsrv(b) lt 1 } (nbsrv(b) has no equivalent in Caddy)"},
		{inFrontend, "redirect scheme https if !{ ssl_fc }", "redir @line_5 https://{hostport}{uri} 302"},
		{inFrontend, "redirect prefix https://b.c code 301", "redir https://b.c{uri} 301"},
		{inFrontend, "http-request return status 200 content-type text/plain string \"ok {a}\" if { path /p }", "respond @line_5 `ok \\{a\\}` 200"},
		{inFrontend, "http-request set-path /x%[path]", "rewrite * /x{path}"},
		{inFrontend, "http-request replace-path (.*)/old(.*) \\1/new\\2", "uri path_regexp ^.*?(?:(.*)/old(.*)).*$ $1/new$2"},
		{inFrontend, "http-request auth unless { http_auth(u) }", "route {\n\t\t# haproxy.cfg:5: not converted: http-request auth unless { http_auth(u) } (closed until"},
		{inFrontend, "http-request auth unless { http_auth(u) }", "\t\trespond 403\n"},
		{inFrontend, "acl in http_auth(u)\nhttp-request auth realm x if !in", "\t\trespond 403\n"},
		{inFrontend, "acl in http_auth(u)\nhttp-request auth if { path_beg /a } !in", "@line_6 path /a*\n\t\trespond @line_6 403\n"},
		{inFrontend, "http-request auth if !{ http_auth(u) } { path_beg /a }", "@line_5 path /a*\n\t\trespond @line_5 403\n"},
		{inFrontend, "http-request auth if !{ http_auth(u) } or { path_beg /a }", "\t\trespond 403\n"},
		{inFrontend, "http-request auth if !{ http_auth(u) } { nbsrv(b) gt 1 }", "\t\trespond 403\n"},
		{inFrontend, "http-request redirect location /up", "redir * /up 302"},
		{inFrontend, "http-request return string /a", "respond * /a 200"},
		{inFrontend, "errorloc 503 /sorry", "redir * /sorry 302"},
		{inFrontend, "errorfile 503 /etc/haproxy/errors/503.http", "save what follows its first empty line as /etc/haproxy/errors/503.html, and write handle_errors 503 with root * /etc/haproxy/errors, rewrite * /503.html and file_server"},
		{inFrontend, "errorfile 408 /dev/null", "not converted: errorfile 408 /dev/null (handle_errors 408 with abort"},
		{inFrontend, "errorfile 503 $DIR/503.http", "write handle_errors with respond, or with root"},
		{inFrontend, "monitor-uri /up", "respond @line_5 200"},
		{inFrontend, "bind :81-82", "http://:80, http://:81, http://:82 {"},
		{inFrontend, "bind :443 ssl crt /c.pem verify required ca-file /ca.pem", "trust_pool file /ca.pem"},
		{inFrontend, "bind :443 ssl crt /c.pem", "tls /c.pem /c.pem"},
		{inFrontend, "unknown word", "haproxy.cfg:5: not converted: unknown word (it has no equivalent here)"},
		{inFrontend, "compression algo gzip", "encode gzip"},
		{inFrontend, "stats enable\nstats auth a:b", "route {\n\t\t\t\trespond 403\n\t\t\t\tload_balancer_dashboard\n"},
		{inBackend, "http-request set-header X-Forwarded-Host a.b\nserver s 10.0.0.1:80", "header_up X-Forwarded-Host a.b\n"},
		{inBackend, "balance uri\nserver s 10.0.0.1:80", "lb_policy hash {path}\n"},
		{inBackend, "balance random(3)\nserver s 10.0.0.1:80", "lb_policy p2c 3\n"},
		{inBackend, "balance url_param id\nhash-type consistent\nhash-balance-factor 150\nserver s 10.0.0.1:80", "lb_policy hash {query.id} {\n\t\t\tbounded_load 150%\n\t\t\tfallback round_robin\n"},
		{inBackend, "server s 10.0.0.1:80 check inter 500 fall 4", "interval 500ms\n\t\t\tfast_interval 500ms\n\t\t\tfall 4\n"},
		{inBackend, "server s 10.0.0.256:80\nserver t 10.0.0.1:80", "not converted: server s 10.0.0.256:80"},
		{inBackend, "server s ::1:80", "backend [::1]:80 {"},
		{inBackend, "server s /run/a.sock", "backend unix//run/a.sock {"},
		{inBackend, "server s 10.0.0.1:80 send-proxy-v2", "proxy_protocol v2"},
		{inBackend, "server s 10.0.0.1:8443 ssl verify none", "tls_insecure_skip_verify"},
		{inBackend, "server s 10.0.0.1:8443 ssl\nserver t 10.0.0.2:80", "(a pool has backends with TLS or without, not both; make two pools)"},
		{inBackend, "server s 10.0.0.1:80 maxconn 5\ntimeout queue 3s", "queue 10000 3s"},
		{inBackend, "server-template s 1-5 web.local:80 resolvers d\nresolvers d\nnameserver n 127.0.0.11:53", "dynamic a web.local 80 {\n\t\t\tresolvers 127.0.0.11:53"},
		{inBackend, "server s 10.0.0.1:80\nretries 2\nretry-on all-retryable-errors", "on connect reset timeout 500 502 503 504"},
		{inBackend, "server s 10.0.0.1:80 ssl", "(Caddy has no TLS at port 80)"},
		{inBackend, "server s 10.0.0.1:80 frobnicate", "word frobnicate"},

		{inBackend, "option httpchk\ntimeout check 10s\nserver s 10.0.0.1:80 check", "(a check has 1.6s, less than timeout check:"},
		{inFrontend, "http-request deny if { path /a }\ntcp-request connection reject if !{ src 10.0.0.0/8 }", "abort @line_6\n\t\t@line_5 path /a\n"},
		{inFrontend, "tcp-request content accept if { src 10.0.0.1 }\ntcp-request content reject", "not converted: tcp-request content reject (it has no equivalent here)"},
		{inFrontend, "tcp-request inspect-delay 5s", "not needed: tcp-request inspect-delay 5s"},
		{inFrontend, "stats enable\nhttp-request deny if { path_beg /haproxy } !{ src 10.0.0.1 }", "respond @line_6 403\n\t\t@stats {"},
		{inFrontend, "bind :444 ssl crt-list /l verify required ca-file /ca.pem", "tls internal {\n\t\tclient_auth {\n\t\t\tmode require_and_verify\n"},
		{inFrontend, "bind :444 ssl crt /c.pem verify required ca-file /ca.pem\nbind :445 ssl crt /d.pem verify required ca-file /ca.pem", "\t\t\ttrust_pool file /ca.pem\n\t\t}\n\t}\n\ttls /d.pem /d.pem"},
		{inFrontend, "bind :444 ssl crt /c.pem verify required ca-file /ca.pem\nbind :445 ssl crt /c.pem verify optional ca-file /ca.pem", "tls /c.pem /c.pem {\n\t\tclient_auth {\n\t\t\tmode require_and_verify\n\t\t\ttrust_pool file /ca.pem\n\t\t}\n\t}\n"},
		{inFrontend, "bind :444 ssl crt /c.pem verify optional ca-file /a.pem\nbind :445 ssl crt /c.pem verify required ca-file /ca.pem", "tls /c.pem /c.pem {\n\t\tclient_auth {\n\t\t\tmode require_and_verify\n\t\t\ttrust_pool file /ca.pem\n\t\t}\n\t}\n"},
		{inFrontend, "http-request redirect location https://a.b%[capture.req.uri]", "redir https://a.b{http.request.orig_uri} 302"},
		{inFrontend, "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]", "not needed: http-request set-header X-Forwarded-Proto"},

		{inServer, "location /a/ { proxy_pass http://10.0.0.1/; }", "uri strip_prefix /a\n"},
		{inServer, "location /a { proxy_pass http://10.0.0.1/b; }", "uri path_regexp ^/a /b\n"},
		{inServer, "location /a/ { proxy_pass http://10.0.0.1; }", "redir /a /a/{http.request.uri.prefixed_query} 301"},
		{inServer, "location ^~ /a/ { proxy_pass http://10.0.0.1/; }", "uri strip_prefix /a\n"},
		{inServer, "location / { proxy_pass http://10.0.0.1; expires 1d; add_header Cache-Control public; }", "header >Cache-Control \"max-age=86400, public\"\n"},
		{inServer, "location / { proxy_pass http://10.0.0.1; proxy_set_header Authorization $http_authorization; }", "not needed: proxy_set_header Authorization $http_authorization"},
		{inServer, "location / { proxy_pass http://10.0.0.1; proxy_cache_bypass $http_upgrade; }", "(no proxy_cache is on here)"},
		{inServer, "proxy_cache c; proxy_cache_bypass $http_upgrade;", "not converted: proxy_cache_bypass"},
		{inServer, "server_name a.b www.a.b; return 301 https://$server_name$request_uri;", "redir https://a.b{http.request.orig_uri} 301"},
		{inServer, "server_name _; return 301 https://$server_name$request_uri;", "redir https://{host}{http.request.orig_uri} 301"},
		{inServer, "set $bad 0; if ($http_x ~ y) { set $bad 1; } if ($bad = 1) { return 403; }", "not converted: if ($bad = 1) ($bad has no equivalent in Caddy)"},
		{inServer, "location ~ ^/(a)/(.*) { set $p $2; rewrite ^(.*)$ /x/$p break; proxy_pass http://10.0.0.1; }", "not converted: rewrite ^(.*)$ /x/$p break ($p has no equivalent in Caddy)"},
		{inServer, "location / { proxy_pass http://10.0.0.1; }", "header_up Host 10.0.0.1\n"},
		{inServer, "location / { proxy_pass https://a.b; proxy_ssl_verify on; proxy_ssl_trusted_certificate /ca.pem; }", "tls_trust_pool file /ca.pem\n"},
		{inServer, "location / { proxy_pass https://a.b; }", "tls_insecure_skip_verify"},
		{inServer, "set $up 10.0.0.1:80; location / { proxy_pass http://$up; }", "to 10.0.0.1:80\n"},
		{inServer, "location / { proxy_pass http://$arg_x; }", "respond 502"},
		{inServer, "location / { return 200 \"a\\n\"; }", "respond a 200"},
		{inServer, "location / { return 308 /a/; }", "redir * /a/ 308"},
		{inServer, "location / { return 200 @a; }", "respond * @a 200"},
		{inServer, "location / { proxy_pass http://10.0.0.1; proxy_set_header X-A $http_b; }", "nearly: proxy_set_header X-A $http_b"},
		{inServer, "location / { return 444; }", "abort\n"},
		{inServer, "location ~ ^/u/(\\d+)$ { return 302 /user?id=$1; }", "redir * /user?id={re.location_3.1} 302"},
		{inServer, "if ($request_method = POST) { return 405; }", "@if_3 method POST\n"},
		{inServer, "if ($http_x ~* \"bot\") { return 403; }", "expression {header.X}.matches('(?i)bot')"},
		{inServer, "if ($request_method = POST) { proxy_pass http://10.0.0.1; }", "proxy_pass in an if has no equivalent in Caddy"},
		{inServer, "deny 10.0.0.1; allow 10.0.0.0/8; deny all;", "not converted: allow 10.0.0.0/8"},
		{inServer, "location / { deny 10.0.0.1; proxy_pass http://10.0.0.2; }", "@denied remote_ip 10.0.0.1\n"},
		{inServer, "location / { auth_basic x; proxy_pass http://10.0.0.2; }", "respond 403\n"},
		{inServer, "location ^~ /a { return 201; } location /a/b { return 202; } location ~ x$ { return 203; }", "not path /a/b*"},
		{inServer, "root /srv; try_files $uri /index.html =404;", "try_files {path} /index.html =404"},
		{inServer, "set $public /srv/p; root $public; location / { try_files $uri =404; }", "root * /srv/p\n"},
		{inServer, "root /srv; location ~ ^/c/(.*)$ { try_files /x/$1 =404; }", "try_files /x/{re.location_3.1} =404\n"},
		{inServer, "location ~ ^/git { error_page 418 = @git; return 418; } location @git { client_max_body_size 0; proxy_pass http://10.0.0.1; }", "path_regexp location_3 ^/git\n\t\thandle @location_3 {\n\t\t\tload_balancer {"},
		{inServer, "add_header X-A 1; location / { error_page 418 = @git; if ($arg_x) { return 418; } root /srv; } location @git { proxy_pass http://10.0.0.1; }", "handle @if_3 {\n\t\t\t\t\theader +X-A 1\n\t\t\t\t\tload_balancer {"},
		{inServer, "if ($request_method = OPTIONS) { return 204; add_header X-A b; add_header Content-Length 0; }", "header @if_3 +X-A b\n\t\t"},
		{inServer, "if ($request_method = OPTIONS) { return 204; add_header X-A b; }", "respond @if_3 204\n"},
		{inServer, "if ($request_method = OPTIONS) { add_header X-A b; }", "(add_header without return in an if has no equivalent in Caddy)"},
		{inServer, "rewrite ^/a /b?c=d last; root /srv;", "rewrite @rewrite_3 /b?c=d&{query}\n"},
		{inServer, "rewrite ^/a /b?c=d? last; root /srv;", "rewrite @rewrite_3 /b?c=d"},
		{inServer, "location /p/ { internal; alias /srv/; }", "nearly: internal (it answers 404;"},
		{inFrontend, "default_backend b\nfrontend g\nhttp-request deny if { nbsrv(b) lt 1 }\nuse_backend none", "haproxy.cfg:7: not converted: http-request deny if { nbsrv(b) lt 1 } (nbsrv(b) has no equivalent in Caddy)"},
		{inServer, "} server { listen 443; if ($remote_addr ~ a`) { return 403; }", "not converted: if ($remote_addr ~ a`) ($remote_addr ~ a` has no equivalent in Caddy; its server has no address here)"},
		{inServer, "if ($remote_addr != 10.0.0.1) { return 403; }", "expression `!({remote_host} == '10.0.0.1')`"},
		{inServer, "if ($http_x !~ y) { return 403; }", "expression !({header.X}.matches('y'))"},
		{inServer, "if ($http_x = \"\") { return 403; }", "expression `{header.X} == ''`"},
		{inServer, "if ( $http_x = y ) { return 403; }", "@if_3 header X y\n"},
		{inServer, "if ( $http_x ) { return 403; }", "expression `!({header.X} == '')`"},
		{inServer, "location ~ /\\.(?!ab) { deny all; }", "path_regexp location_3 `/\\.(?:$|[^a]|a(?:$|[^b]))`"},
		{inServer, "location ~ /\\.(?!a(b)) { deny all; }", "not converted: location ~ /\\.(?!a(b))"},
		{inServer, "location / { proxy_pass http://10.0.0.1$request_uri; }", "to 10.0.0.1:80\n"},
		{inServer, "location / { rewrite ^/a /b break; proxy_pass http://10.0.0.1$request_uri; }", "respond 502"},
		{inServer, "frobnicate on;", "nginx.conf:3: not converted: frobnicate on (it has no equivalent here)"},
		{inSplit, "split_clients $remote_addr $v { 5% b; * a; }", "backend 10.0.0.1:80\n\t\t\t\tbackend 10.0.0.2:80\n\t\t\t\tbackend 10.0.0.3:80\n\t\t\t\tlb_policy round_robin\n\t\t\t\tcanary 10.0.0.3:80 5% {\n\t\t\t\t\tguard off\n"},
		{inSplit, "split_clients \"${binary_remote_addr}salt\" $v { 0.5% b; * a; }", "canary 10.0.0.3:80 0.5% {\n\t\t\t\t\tguard off\n"},
		{inSplit, "split_clients $cookie_id $v { 90.05% b; * a; }", "canary 10.0.0.1:80 10.0.0.2:80 9.95% {\n\t\t\t\t\tby cookie id\n"},
		{inSplit, "split_clients $http_x_user $v { 50% b; * a; }", "canary 10.0.0.3:80 50% {\n\t\t\t\t\tby header X-User\n"},
		{inSplit, "split_clients $remote_addr $v { 5% b; * a; }", "nearly: split_clients $remote_addr $v (other clients are chosen"},
		{inSplit, "split_clients $remote_addr $v { 5% c; * a; }", "not converted: split_clients $remote_addr $v (the upstreams have other settings"},
		{inSplit, "split_clients $remote_addr $v { 5% d; * a; }", "(both upstreams have a backend in common"},
		{inSplit, "split_clients $remote_addr $v { 5% b; 10% c; * a; }", "(only a share of one upstream and the rest (*) of another"},
		{inSplit, "split_clients $remote_addr $v { 5% b; 95% a; }", "(only a share of one upstream and the rest (*) of another"},
		{inSplit, "split_clients $remote_addr $v { 5% x.y; * a; }", "(only upstreams are converted"},
		{inSplit, "split_clients $remote_addr $v { 0% b; * a; }", "(the share is 0;"},
		{inSplit, "split_clients $remote_addr $v { 5.125% b; * a; }", "(the share is not understood;"},
		{inSplit, "split_clients $request_id $v { 5% b; * a; }", "not by $request_id;"},
		{inSplit, "split_clients $remote_addr$http_user_agent $v { 5% b; * a; }", "(the key is not one variable;"},
		{inSplit, "split_clients $remote_addr $v { 5% c; * a; }", "not converted: proxy_pass http://$v (it depends on $v, which is not converted)"},
		{inSplit, "split_clients $remote_addr $v { 5% c; * a; }", "respond 502"},
		{inSplit, "split_clients $remote_addr $v { 5% b; * a; }\nupstream v { server 10.0.0.9:80; }", "(an upstream has the name of the variable;"},
		{inServer, "location / { return 200 $v; } } split_clients $remote_addr $v { 5% b; * a;", "(no proxy_pass to its variable is converted;"},
		{inUpstream, "server 10.0.0.1; server 10.0.0.2:81 weight=2 max_conns=3 backup;", "backend 10.0.0.2:81 {\n\t\t\t\t\tweight 2\n\t\t\t\t\tmax_requests 3\n\t\t\t\t\tbackup\n"},
		{inMap, "default $http_x_forwarded_proto; '' $scheme;", "\"\" {scheme}\n\t\tdefault {header.X-Forwarded-Proto}\n"},
		{inMap, "default a; ~^h(.*) $scheme;", "(the value is not one text"},
		{inUpstream, "ip_hash; server a:1;", "lb_policy ip_hash\n"},
		{inUpstream, "random two least_conn; server a:1;", "lb_policy p2c\n"},
		{inUpstream, "server a:1 max_fails=0;", "breaker off\n"},
		{inUpstream, "server a:1 fail_timeout=0;", "breaker off\n"},
		{inUpstream, "server a:1 fail_timeout=5;", "fail_duration 5s\n"},
		{inUpstream, "server unix:/run/;", "not converted: server unix:/run/ (the address is not understood)"},
		{inUpstream, "server a:1 down;", "respond 502"},
	} {
		from, file := convert.HAProxy, "haproxy.cfg"
		if test.frame == inServer || test.frame == inMap || test.frame == inSplit || test.frame == inUpstream {
			from, file = convert.Nginx, "nginx.conf"
		}
		t.Run(test.text, func(t *testing.T) {
			r := must(t, file, strings.Replace(test.frame, "%s", test.text, 1), from)
			if !strings.Contains(r.Caddyfile, test.want) {
				t.Errorf("%q is not in\n%s", test.want, r.Caddyfile)
			}
		})
	}
}

// TestSplitUsedTwice checks that two uses of a split with the same settings share one pool, whose name decides how clients are split. A use
// with other settings would split them differently, and is left.
func TestSplitUsedTwice(t *testing.T) {
	text := strings.NewReplacer("%s", "split_clients $remote_addr $v { 5% b; * a; }", "location / {", "location /x { proxy_pass http://${v}; } location /longer { proxy_read_timeout 9s; proxy_pass http://$v; } location / {").Replace(inSplit)
	r := must(t, "nginx.conf", text, convert.Nginx)
	if strings.Count(r.Caddyfile, "name v\n") != 1 || strings.Contains(r.Caddyfile, "name v-2") {
		t.Errorf("two pools\n%s", r.Caddyfile)
	}
	for _, want := range []string{"not converted: proxy_pass http://$v ($v is used with other settings before", "not converted: proxy_pass http://${v} ($v is used with other settings before"} {
		if !strings.Contains(r.Caddyfile, want) {
			t.Errorf("%q is not in\n%s", want, r.Caddyfile)
		}
	}
	text = strings.Replace(text, "proxy_read_timeout 9s;", "", 1)
	if r := must(t, "nginx.conf", text, convert.Nginx); strings.Count(r.Caddyfile, "name v\n") != 3 || len(r.Left) > 0 {
		t.Errorf("left: %v\n%s", r.Left, r.Caddyfile)
	}
	// Without proxy_set_header Host, each side would get another Host.
	text = strings.Replace(text, "proxy_set_header Host $host;", "", 1)
	if r := must(t, "nginx.conf", text, convert.Nginx); strings.Contains(r.Caddyfile, "canary 10") || !strings.Contains(r.Caddyfile, "(Host is the name of the upstream, which differs;") {
		t.Errorf("the default Host is lost\n%s", r.Caddyfile)
	}
}

// TestEnvironment checks that environment variables stay variables.
func TestEnvironment(t *testing.T) {
	t.Setenv("HOST_OF_TEST", "10.0.0.7")
	t.Setenv("WHOLE_OF_TEST", "10.0.0.9:80")
	t.Setenv("PORT_OF_TEST", "8081")
	r := must(t, "haproxy.cfg", strings.Replace(inBackend, "%s", `server s "${HOST_OF_TEST}:80"`+"\n"+`server t ${MISSING_IN_TEST-10.0.0.8}:80`+"\n"+`server u "$WHOLE_OF_TEST"`, 1), convert.HAProxy)
	for _, want := range []string{"backend {$HOST_OF_TEST}:80 {", "backend {$WHOLE_OF_TEST} {", "backend {$MISSING_IN_TEST:10.0.0.8}:80 {"} {
		if !strings.Contains(r.Caddyfile, want) {
			t.Errorf("%q is not in\n%s", want, r.Caddyfile)
		}
	}
	r = must(t, "haproxy.cfg", strings.Replace(inFrontend, "%s", "bind :$PORT_OF_TEST", 1), convert.HAProxy)
	if want := "http://:80, http://:{$PORT_OF_TEST} {"; !strings.Contains(r.Caddyfile, want) {
		t.Errorf("%q is not in\n%s", want, r.Caddyfile)
	}
	// The value of a variable must not end a comment.
	t.Setenv("HOST_OF_TEST", "\n}")
	must(t, "haproxy.cfg", strings.Replace(inBackend, "%s", "server s 10.0.0.1:80\nfrobnicate {$HOST_OF_TEST} ${HOST_OF_TEST}", 1), convert.HAProxy)
}
