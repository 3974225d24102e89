package integration

import (
	"fmt"
	"slices"
	"strings"
)

// usual are exchanges that are made whatever a site is configured with.
func usual() []exchange {
	fields := []string{"Set-Cookie: a=b", "Set-Cookie: c=d", "X-Backend: one", "X-Backend: two", "Server: inner", "Location: http://inner/there", "Etag: \"e\"", "X-Count: 7"}
	return []exchange{
		{name: "GET", request: get("/usual/path?q=1&r=a%20b", "X-A: a", "X-A: aa", "X-B: b", "Cookie: k=v; l=w", "X-Forwarded-For: 192.0.2.1", "Accept-Encoding: gzip"), answer: answer("200 OK", "some text", fields...)},
		{name: "POST", request: sized("POST", "name=value", "X-A: 1", "Referer: http://SITE/form"), answer: answer("201 Created", "made", fields...)},
		{name: "HEAD", request: requestHead("HEAD /usual HTTP/1.1"), answer: answerHead("200 OK", typed, "Content-Length: 9", "X-Backend: one")},
		{name: "chunks and trailers", request: chunkedRequest("PUT", withTrailers("some text", "X-T: 1"), "Trailer: X-T", "TE: trailers"), answer: chunkedAnswer("200 OK", withTrailers("more text", "X-U: 2"), "Trailer: X-U", "X-Backend: one")},
		{name: "not found", request: get("/missing"), answer: answer("404 Not Found", "nothing here", fields...)},
		{name: "moved", request: get("/old"), answer: answerHead("302 Found", "Location: /new", "Content-Length: 0")},
		{name: "not modified", request: get("/same", "If-None-Match: \"e\""), answer: answerHead("304 Not Modified", "Etag: \"e\"")},
		{name: "gzip", request: get("/packed"), answer: answer("200 OK", inGzip("unpacked"), "Content-Encoding: gzip", "X-Backend: one")},
		{name: "hop-by-hop", request: get("/hop", "Connection: X-B", "X-A: a", "X-B: b", "Keep-Alive: x"), answer: answer("200 OK", "text", "Connection: X-Backend, keep-alive", "X-Backend: one", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "X-Count: 7")},
		{name: "informed", request: get("/hints"), answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Backend: one\r\n\r\n" + answer("200 OK", "text", "X-Backend: two")},
	}
}

// configSites are configured in many ways. At each there are the usual exchanges, and some more.
func configSites() []site {
	return named(headerSites(), forwardedSites(), rewriteSites(), handlingSites(), bufferSites(), retrySites(), transportSites(), backendSites(), aroundSites())
}

// named fills in what sites leave to be filled in: the usual exchanges, and a name where all that there is is settings.
func named(groups ...[]site) (all []site) {
	for _, group := range groups {
		for _, s := range group {
			if s.exchanges == nil || s.name == "" {
				s.exchanges = append(usual(), s.exchanges...)
			}
			if s.name == "" {
				s.name = siteName(s.settings + s.route)
			}
			all = append(all, s)
		}
	}
	return all
}

// siteName is a name for what a site is configured with.
func siteName(settings string) string {
	var name strings.Builder
	for _, r := range strings.ToLower(settings) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			name.WriteRune(r)
		case r == '+':
			name.WriteString("plus")
		case r == '?':
			name.WriteString("default")
		case r == '>':
			name.WriteString("deferred")
		case r == '*':
			name.WriteString("any")
		case name.Len() > 0 && !strings.HasSuffix(name.String(), "-"):
			name.WriteByte('-')
		}
	}
	return strings.Trim(name.String()[:min(60, name.Len())], "-")
}

// settingsOf are sites with these settings.
func settingsOf(all ...string) (sites []site) {
	for _, settings := range all {
		sites = append(sites, site{settings: settings})
	}
	return sites
}

func headerSites() []site {
	return settingsOf(
		"header_up X-New value",
		"header_up X-A replaced",
		"header_up +X-A added",
		"header_up -X-A",
		"header_up -X-*",
		"header_up -*",
		"header_up X-B ^b$ c",
		"header_up Cookie (k)=(\\w+) $2={http.request.method}",
		"header_up Host inner.example",
		"header_up Host {http.reverse_proxy.upstream.hostport}",
		"header_up Host {upstream_hostport}\n header_up X-Up {http.reverse_proxy.upstream.address}",
		"header_up X-Host {http.reverse_proxy.upstream.host}:{http.reverse_proxy.upstream.port}",
		"header_up X-Req {http.request.header.X-A}/{http.request.uri.path}/{http.request.uri.query}/{http.request.host}/{http.request.remote.host}",
		"header_up X-Req {header.X-B}{cookie.k}{method}{uri}{path}{query.q}{scheme}{client_ip}",
		"header_up X-None {http.request.header.X-None}",
		"header_up X-Unknown {unknown.placeholder}",
		"header_up X-Load {http.reverse_proxy.upstream.requests}/{http.reverse_proxy.upstream.max_requests}/{http.reverse_proxy.upstream.fails}",
		"header_up -X-Forwarded-For", // httputil: TestXForwardedFor_Omit
		"header_up X-Forwarded-For {http.request.remote.host}",
		"header_up X-Forwarded-Proto https\n header_up X-Real-IP {remote_host}",
		"header_up -Via",
		"header_up -User-Agent",
		"header_up User-Agent agent/1",
		"header_up -Accept-Encoding",
		"header_up Accept-Encoding br",
		"header_up Connection close",
		"header_up Connection upgrade\n header_up Upgrade websocket",
		"header_up Te trailers",
		"header_up Content-Length 3",
		"header_up Transfer-Encoding chunked",
		"header_up Expect 100-continue",
		"header_up Trailer X-T",
		"header_up X-Empty \"\"",
		"header_up Authorization \"Basic {http.request.header.X-B}\"",
		"header_down X-New value", // httputil: TestReverseProxyModifyResponse
		"header_down X-Backend replaced",
		"header_down +X-Backend added",
		"header_down -X-Backend",
		"header_down -X-*",
		"header_down -Set-Cookie\n header_down -Server",
		"header_down Location ^http://inner/(.*)$ https://outer/$1",
		"header_down Set-Cookie (.*) \"$1; Secure\"",
		"header_down X-Up {http.reverse_proxy.upstream.hostport}",
		"header_down X-Status {http.reverse_proxy.status_code}/{http.reverse_proxy.status_text}/{http.reverse_proxy.header.X-Count}/{http.reverse_proxy.header.X-Backend}",
		"header_down X-Req {http.request.header.X-A}{http.request.uri}",
		"header_down -Content-Length",
		"header_down Content-Length 4",
		"header_down -Content-Encoding",
		"header_down Via ours",
		"header_down -Via",
		"header_down Date then",
		"header_down Connection close",
		"header_down Trailer X-V",
		"header_down X-Inner {http.reverse_proxy.header.Connection}|{http.reverse_proxy.header.Keep-Alive}|{http.reverse_proxy.header.Proxy-Authenticate}", // caddy: TestCopyResponseHeadersStripLeavesUpstreamHeader
		"header_up X-A 1\n header_up -X-B\n header_up X-A 1 2\n header_down X-Backend a b\n header_down +X-C {http.request.method}",
	)
}

// forwardedSites are about who is trusted to say who the client is.
func forwardedSites() (sites []site) {
	var forwarded []exchange
	for _, fields := range [][]string{ // httputil: TestXForwardedFor, TestReverseProxyRewriteStripsForwarded
		nil,
		{"X-Forwarded-For: 192.0.2.1"},
		{"X-Forwarded-For: 192.0.2.1, 198.51.100.2"},
		{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 198.51.100.2"},
		{"X-Forwarded-For:"},
		{"X-Forwarded-For: nonsense, 127.0.0.1"},
		{"X-Forwarded-For: [2001:db8::1]:80, 10.0.0.1"},
		{"X-Forwarded-Proto: https", "X-Forwarded-Host: outer.example"},
		{"X-Forwarded-Proto: http", "X-Forwarded-Proto: https", "X-Forwarded-Host: a", "X-Forwarded-Host: b"},
		{"X-Forwarded-Proto:", "X-Forwarded-Host:"},
		{"x-forwarded-for: 192.0.2.1", "x-forwarded-port: 443", "X-Real-IP: 192.0.2.9", "Forwarded: for=192.0.2.1"},
		{"X-Forwarded-For: 192.0.2.1", "Connection: X-Forwarded-For"},
		{"CF-Connecting-IP: 192.0.2.3", "X-Client: 192.0.2.4"},
	} {
		forwarded = append(forwarded, exchange{name: "forwarded " + strings.Join(fields, "; "), request: get("/forwarded", fields...)})
	}
	who := "header_up X-Who {client_ip}/{remote_host}"
	for _, s := range []site{
		{name: "trusts-nobody", settings: who},
		{name: "trusts-handler", settings: who + "\n trusted_proxies 127.0.0.0/8 ::1"},
		{name: "trusts-handler-private", settings: who + "\n trusted_proxies private_ranges"},
		{name: "trusts-handler-others", settings: who + "\n trusted_proxies 10.0.0.0/8 192.0.2.7"},
		{name: "trusts-server", settings: who, server: "trusted_proxies static 127.0.0.1/32 10.0.0.0/8"},
		{name: "trusts-server-strict", settings: who, server: "trusted_proxies static 127.0.0.1/32\n trusted_proxies_strict"},
		{name: "trusts-server-by-header", settings: who, server: "trusted_proxies static private_ranges 127.0.0.1/32\n client_ip_headers CF-Connecting-IP X-Client X-Forwarded-For"},
		{name: "trusts-server-proxy-protocol", settings: "transport http {\n proxy_protocol v1\n }", server: "trusted_proxies static 127.0.0.0/8", ordered: true},
		{name: "socket-trusts-nobody", socket: true, settings: who}, // caddy: TestAddForwardedHeaders_UnixSocket*
		{name: "socket-trusts-handler", socket: true, settings: who + "\n trusted_proxies 127.0.0.0/8"},
		{name: "socket-trusts-server", socket: true, settings: who, server: "trusted_proxies_unix"},
		{name: "no-forwarded", settings: "header_up -X-Forwarded-*", route: "request_header X-Forwarded-For 203.0.113.1\n PROXY"},
	} {
		s.exchanges = forwarded
		if s.route != "" {
			s.route = "route {\n" + s.route + "\n}"
		}
		sites = append(sites, s)
	}
	return sites
}

// rewriteSites ask backends for something else. httputil: TestSetURL, TestReverseProxyRewriteReplacesOut
func rewriteSites() []site {
	return settingsOf(
		"method GET", "method HEAD", "method POST", "method {http.request.header.X-A}",
		"rewrite /elsewhere", "rewrite /elsewhere?x=y", "rewrite ?only=query", "rewrite {path}?added=1&{query}", "rewrite /a%2Fb", "rewrite /pre{uri}",
		"method GET\n rewrite /check?uri={uri}\n header_up X-Original-URI {uri}\n header_up X-Original-Method {method}",
		"rewrite \"/with space?a=b c\"", "rewrite relative", "rewrite //double",
	)
}

// handlingSites have handle_response and what else looks at answers.
func handlingSites() []site {
	return named([]site{
		{settings: "@bad status 404\n handle_response @bad {\n respond \"sorry {http.reverse_proxy.status_code} {http.reverse_proxy.status_text} {http.reverse_proxy.header.X-Count}\" 410\n }"},
		{settings: "@bad status 4xx\n handle_response @bad {\n copy_response\n }"},
		{settings: "@bad status 4xx\n handle_response @bad {\n copy_response 418\n }"},
		{settings: "@all status 2xx 3xx 4xx\n handle_response @all {\n header X-Before 1\n copy_response\n }"},
		{settings: "handle_response {\n copy_response_headers\n respond \"own\" 203\n }"},
		{settings: "handle_response {\n copy_response_headers {\n include X-Backend Etag\n }\n respond \"own\"\n }"},
		{settings: "handle_response {\n copy_response_headers {\n exclude X-Backend Set-Cookie\n }\n copy_response\n }"},
		{settings: "@count header X-Count 7\n handle_response @count {\n header X-Handled yes\n copy_response_headers\n copy_response\n }"},
		{settings: "@count header X-Count *\n replace_status @count 299"},
		{settings: "replace_status 2{http.reverse_proxy.header.X-Count}8"},
		{settings: "replace_status 203"},
		{settings: "replace_status {http.reverse_proxy.header.X-Backend}"}, // caddy: TestHandleResponseInvalidStatusCodeClosesBody
		{name: "original-request", settings: "header_up X-A changed\n header_up Host other\n header_up -Cookie\n rewrite /elsewhere\n handle_response {\n" + // httputil: TestClonesRequestHeaders, TestServeHTTPDeepCopy
			" respond \"{method} {host} {uri} {header.X-A} {header.Cookie} {header.Connection} {header.Via} {header.X-Forwarded-For} {http.request.body}\"\n }"},
		{name: "unread-answer", settings: "handle_response {\n respond own\n }", exchanges: []exchange{ // httputil: TestModifyResponseClosesBody
			{name: "and one more", request: get("/1"), more: []string{get("/2")}},
			{name: "of nothing, and one more", request: get("/1"), more: []string{get("/2")}, answer: answerHead("204 No Content")},
			{name: "HEAD, and one more", request: requestHead("HEAD /1 HTTP/1.1"), more: []string{get("/2")}, answers: []string{answerHead("200 OK", typed, "Content-Length: 2"), ok200}},
		}},
		{settings: "@bad status 404\n replace_status @bad 200\n header_down X-Status {http.reverse_proxy.status_code}"},
		{settings: "handle_response {\n error \"made an error\" 419\n }"},
		{settings: "@ok status 200\n handle_response @ok {\n redir /login 303\n }"},
		{settings: "handle_response {\n root * /nonexistent\n file_server\n }"},
		{settings: "handle_response {\n }", route: "route {\n PROXY\n respond \"behind\" 202\n }"},
		{settings: "@ok status 200\n handle_response @ok {\n request_header X-User {http.reverse_proxy.header.X-Backend}\n }", route: "route {\n PROXY\n respond \"user {http.request.header.X-User}\"\n }"},
		{name: "answers-of-another", settings: "handle_response {\n DIRECTIVE OTHER {\n header_up X-First {http.reverse_proxy.header.X-Count}\n }\n }", exchanges: withoutBodies(usual())},
		{settings: "@moved status 302\n handle_response @moved {\n rewrite {http.reverse_proxy.header.Location}\n DIRECTIVE OTHER\n }\n @bad status 404\n handle_response @bad {\n method POST\n DIRECTIVE OTHER {\n header_down +X-Second yes\n }\n }"},
		{name: "forward-auth", route: forwardAuth("OTHER"), exchanges: authorized()},
		{name: "forward-auth-same-backend", route: forwardAuth("BACKEND"), exchanges: []exchange{
			{name: "let in", request: get("/private"), answers: []string{answer("200 OK", "", "Remote-User: eve"), ok200}},
			{name: "let in with a body", request: sized("POST", "body"), answers: []string{answer("200 OK", "", "Remote-User: eve"), ok200}},
			{name: "kept out", request: get("/private"), answers: []string{answer("401 Unauthorized", "no", "Www-Authenticate: Basic"), ok200}},
		}},
		{name: "intercept", route: "intercept {\n @bad status 404\n handle_response @bad {\n header X-Intercepted {http.intercept.status_code}\n respond \"intercepted {http.intercept.header.X-Count}\" 404\n }\n @moved status 302\n replace_status @moved 200\n }\n PROXY"},
	})
}

// withoutBodies are those of the exchanges whose requests have no body: one that was sent cannot be sent again.
func withoutBodies(all []exchange) []exchange {
	return slices.DeleteFunc(all, func(x exchange) bool {
		return !strings.HasSuffix(x.request, "\r\n\r\n") || strings.Contains(x.request, "Transfer-Encoding:")
	})
}

// forwardAuth is what forward_auth is made of, and a proxy behind it.
func forwardAuth(gate string) string {
	return "route {\n DIRECTIVE " + gate + " {\n method GET\n rewrite /check?a=b\n header_up X-Forwarded-Method {method}\n header_up X-Forwarded-Uri {uri}\n" +
		" @good status 2xx\n handle_response @good {\n request_header -Remote-User\n request_header Remote-User {http.reverse_proxy.header.Remote-User}\n }\n }\n PROXY\n }"
}

func authorized() []exchange {
	in := answerHead("204 No Content", "Remote-User: eve", "Set-Cookie: session=1")
	return []exchange{
		{name: "let in", request: get("/private?q", "Remote-User: forged"), other: in},
		{name: "let in with a body", request: sized("POST", "some body"), other: in},
		{name: "let in with chunks", request: chunkedRequest("POST", inChunks("some body")), other: in},
		{name: "let in without a name", request: get("/private", "Remote-User: forged"), other: ok200},
		{name: "kept out", request: get("/private"), other: answer("401 Unauthorized", "no", "Www-Authenticate: Basic")},
		{name: "sent to the login", request: get("/private"), other: answerHead("302 Found", "Location: /login", "Content-Length: 0", "Set-Cookie: back=1")},
	}
}

func bufferSites() []site {
	large := []exchange{
		{name: "trailers both ways", request: chunkedRequest("PUT", withTrailers("some text", "X-T: 1"), "Trailer: X-T"), answer: chunkedAnswer("200 OK", withTrailers("more text", "X-U: 2"), "Trailer: X-U")}, // caddy: TestRequestTrailersNetwork
		{name: "body of nothing in chunks, with trailers", request: chunkedRequest("PUT", "0\r\nX-T: 1\r\n\r\n", "Trailer: X-T")},
		{name: "as much as the buffer", request: sized("POST", filled(4<<10)), answer: answer("200 OK", filled(4<<10))}, // caddy: TestBufferingBoundary
		{name: "one more than the buffer", request: sized("POST", filled(4<<10+1)), answer: answer("200 OK", filled(4<<10+1))},
		{name: "one less than the buffer", request: chunkedRequest("POST", inChunks(filled(4<<10-1))), answer: chunkedAnswer("200 OK", inChunks(filled(4<<10-1)))},
		{name: "large body", request: sized("POST", filled(70<<10)), answer: answer("200 OK", filled(70<<10))},
		{name: "large chunks", request: chunkedRequest("POST", inChunks(filled(5000), filled(70<<10))), answer: chunkedAnswer("200 OK", inChunks(filled(5000), filled(9000)))},
		{name: "to the end", request: get("/"), answer: answerHead("200 OK", typed) + filled(3000), then: hangsUp},
		{name: "incremental request", request: sized("POST", "body", "Incremental: ?1")},
		{name: "incremental request in chunks", request: chunkedRequest("POST", inChunks("body"), "Incremental: ?1")},
		{name: "incremental request without a body", request: get("/", "Incremental: ?1")},
		{name: "incremental answer", request: get("/"), answer: answer("200 OK", "text", "Incremental: ?1", "Proxy-Status: inner; error=x")},
		{name: "incremental answer without a body", request: get("/"), answer: answerHead("204 No Content", "Incremental: ?1")},
		{name: "incremental answer to HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", "Incremental: ?1", "Content-Length: 4")},
	}
	pieces := []exchange{
		{name: "pieces, sized", answer: answerHead("200 OK", typed, "Content-Length: 9") + "abc", pieces: []string{"def", "ghi"}},
		{name: "pieces, in chunks", answer: chunkedAnswer("200 OK", chunk("abc")), pieces: []string{chunk("def"), "0\r\n\r\n"}},
		{name: "pieces of an incremental answer", answer: answerHead("200 OK", typed, "Content-Length: 6", "Incremental: ?1") + "abc", pieces: []string{"def"}}, // caddy: TestFlushIntervalIncremental
	}
	var sites []site
	for _, s := range []site{ // caddy: buffering_test.go, incremental_test.go
		{settings: "request_buffers 4KiB"}, {settings: "request_buffers 100KiB"}, {settings: "request_buffers unlimited"}, {settings: "request_buffers 4"},
		{settings: "response_buffers 4KiB"}, {settings: "response_buffers 100KiB"}, {settings: "response_buffers unlimited"}, {settings: "response_buffers 4"},
		{settings: "request_buffers 4KiB\n response_buffers 4KiB\n proxy_status_name proxy-3.example.com"},
		{settings: "request_buffers 4KiB\n header_up Incremental ?1"}, {settings: "response_buffers 4KiB\n header_down Incremental ?1"},
		{settings: "request_buffers unlimited\n method GET"}, {settings: "proxy_status_name \"a b\"\n request_buffers unlimited"},
		{settings: "response_buffers 1MiB\n handle_response {\n copy_response\n }"},
	} {
		s.exchanges = large
		sites = append(sites, s)
	}
	for _, settings := range []string{"flush_interval -1", "flush_interval 1ms"} {
		sites = append(sites, site{settings: settings, exchanges: pieces})
	}
	return append(sites, settingsOf("stream_timeout 1h", "stream_close_delay 1m", "stream_buffer_size 4KiB", "verbose_logs", "flush_interval 1h")...)
}

// retrySites have Caddy's words for retries. caddy: retries_test.go, TestReverseProxyRetryMatch*, TestRequestTrailersRetry
func retrySites() (sites []site) {
	busy, again := answer("503 Service Unavailable", "busy", "X-Retry: yes"), answer("200 OK", "again", "X-Retry: yes")
	for name, settings := range map[string]string{
		"retry-status":    "lb_retries 2\n lb_retry_match {\n expression `{rp.status_code} in [502, 503]`\n }",
		"retry-header":    "lb_retries 2\n lb_retry_match {\n expression `{rp.header.X-Retry} == \"yes\"`\n }",
		"retry-combined":  "lb_retries 1\n lb_retry_match {\n expression `path('/again*') && {rp.status_code} == 503`\n }",
		"retry-error":     "lb_retries 1\n lb_retry_match {\n expression `{rp.is_transport_error} || {rp.status_code} == 503`\n }",
		"retry-method":    "lb_retries 1\n lb_retry_match {\n method POST PUT\n }",
		"retry-plain":     "lb_retries 1",
		"retry-buffered":  "lb_retries 1\n request_buffers 4KiB\n lb_retry_match {\n expression `{rp.is_transport_error} || {rp.status_code} == 503`\n }",
		"retry-header-up": "lb_retries 1\n header_up X-Try {http.reverse_proxy.upstream.fails}\n lb_retry_match {\n expression `{rp.status_code} == 503`\n }",
	} {
		matches := strings.Contains(settings, "rp.") // what answers are
		s := site{name: name, settings: settings, ours: "breaker off\n hold off", exchanges: []exchange{
			{name: "busy, then not", request: get("/again"), answers: []string{busy, ok200}},
			{name: "busy, then not, elsewhere", request: get("/"), answers: []string{busy, ok200}},
			{name: "asked for again", request: get("/again"), answers: []string{again, ok200}},
			{name: "not found", request: get("/again"), answers: []string{answer("404 Not Found", "not here"), ok200}},
			{name: "busy all the time", request: get("/again"), answers: []string{busy, busy, busy, busy}},
			{name: "POST", request: sized("POST", "body"), answers: []string{busy, ok200}},
		}}
		if matches {
			s.exchanges[4].differs = []string{"last answer"}
		}
		if matches && name != "retry-combined" && name != "retry-buffered" {
			s.exchanges[5].differs = []string{"bodies of retries"}
		}
		sites = append(sites, s)
	}
	return append(sites,
		site{name: "retry-closed", settings: "lb_retries 1", ours: "breaker off\n hold off", exchanges: []exchange{
			{name: "GET", request: get("/again"), answer: none, then: hangsUp},
			{name: "POST", request: sized("POST", "body"), answer: none, then: hangsUp},
			{name: "POST in chunks", request: chunkedRequest("POST", inChunks("body")), answer: none, then: hangsUp},
			{name: "HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: none, then: resetsIt},
		}},
		site{name: "retry-closed-error", settings: "lb_retries 1\n lb_retry_match {\n expression `{rp.is_transport_error} == true`\n }", ours: "breaker off\n hold off", exchanges: []exchange{
			{name: "GET", request: get("/again"), answers: []string{none, ok200}, then: hangsUp},
			{name: "POST", request: sized("POST", "body"), answers: []string{none, ok200}, then: hangsUp, differs: []string{"bodies of retries"}},
			{name: "POST in chunks", request: requestHead("POST /blind HTTP/1.1", "Transfer-Encoding: chunked") + inChunks("body"), answer: none, then: hangsUp, blind: true},
		}},
	)
}

func transportSites() (sites []site) {
	for _, option := range []string{
		"keepalive off", "keepalive 10s", "keepalive_interval 5s", "keepalive_idle_conns 1", "keepalive_idle_conns_per_host 1", "compression off", "compression on", "versions 1.1", "read_buffer 512", "write_buffer 512",
		"max_response_header 64KiB", "dial_timeout 3s", "dial_fallback_delay -1s", "response_header_timeout 10s", "expect_continue_timeout 1s", "proxy_protocol v1", "proxy_protocol v2", "network_proxy none",
		"resolvers 127.0.0.1:1", "max_conns_per_host 2", "local_address 127.0.0.1", "read_timeout 10s", "write_timeout 10s",
	} {
		sites = append(sites, site{name: "transport-" + siteName(option), settings: "transport http {\n " + option + "\n }", exchanges: append(usual(),
			exchange{name: "two over one connection", request: get("/1"), more: []string{sized("POST", "2")}},
			exchange{name: "expects", request: requestHead("POST /upload HTTP/1.1", "Content-Length: 4", "Expect: 100-continue"), uploads: []string{"body"}, waits: true, continues: true},
		)})
	}
	return sites
}

// backendSites have other kinds of backends.
func backendSites() []site {
	some := func() []exchange {
		return append(usual(), exchange{name: "two over one connection", request: get("/1"), more: []string{get("/2")}})
	}
	return []site{
		{name: "unix-socket", backend: rawUnix, exchanges: some(), differs: []string{"order of fields"}}, // caddy: TestDialWithPlaceholderUnix
		{name: "unix-socket-host", backend: rawUnix, settings: "header_up X-Up {http.reverse_proxy.upstream.hostport}|{http.reverse_proxy.upstream.host}|{http.reverse_proxy.upstream.port}|{http.reverse_proxy.upstream.address}", exchanges: some(), differs: []string{"order of fields"}},
		{name: "tls", backend: rawTLS, settings: "transport http {\n tls_insecure_skip_verify\n }", exchanges: some()}, // caddy: TestHTTPTransport_RequestHeaderOps_TLS
		{name: "tls-host", backend: rawTLS, settings: "header_up Host {host}\n transport http {\n tls_insecure_skip_verify\n }", exchanges: some()},
		{name: "tls-server-name", backend: rawTLS, settings: "transport http {\n tls_insecure_skip_verify\n tls_server_name inner.example\n }", exchanges: some()},
		{name: "tls-server-name-placeholder", backend: rawTLS, settings: "transport http {\n tls_insecure_skip_verify\n tls_server_name {http.request.header.X-B}.example\n }", exchanges: some()}, // caddy: TestReverseProxySNIPlaceHolder
		{name: "tls-scheme", backend: rawTLS, route: "DIRECTIVE https://BACKEND {\n transport http {\n tls_insecure_skip_verify\n }\n }", exchanges: some()},
		{name: "h2c", backend: overH2C, settings: "transport http {\n versions h2c\n }", exchanges: httpLevel()},
		{name: "h2c-scheme", backend: overH2C, route: "DIRECTIVE h2c://BACKEND", exchanges: httpLevel()},
		{name: "fastcgi", backend: overFCGI, settings: "transport fastcgi {\n root /srv\n split .php\n env EXTRA {http.request.header.X-A}\n }", exchanges: httpLevel()},
		{name: "fastcgi-defaults", backend: overFCGI, settings: "transport fastcgi", exchanges: httpLevel()},
		{name: "placeholder", route: "route {\n vars up BACKEND\n DIRECTIVE {http.vars.up} {\n header_up X-Up {http.reverse_proxy.upstream.hostport}\n }\n }", exchanges: some()}, // caddy: TestReverseProxyWithPlaceholderDialAddress
		{name: "dynamic", route: "DIRECTIVE {\n dynamic a {\n name localhost\n port BACKENDPORT\n versions ipv4\n }\n header_up X-Up {http.reverse_proxy.upstream.hostport}\n }", exchanges: some()},
		{name: "forward-proxy", route: "DIRECTIVE inner.example:80 {\n transport http {\n network_proxy url http://BACKEND\n }\n }", exchanges: some()}, // caddy: TestForwardProxyDialErrorRetried
		{name: "scheme", route: "DIRECTIVE http://BACKEND", exchanges: some()},
		{name: "policy-first", settings: "lb_policy first", route: "DIRECTIVE BACKEND OTHER {\n lb_policy first\n }", exchanges: some()},
		{name: "policy-cookie", settings: "lb_policy cookie", exchanges: informedIsDifferent(some())}, // caddy: TestCookieHashPolicy
		{name: "policy-cookie-secret", settings: "lb_policy cookie session secret {\n fallback first\n }", exchanges: informedIsDifferent(some())},
		{name: "policy-header", settings: "lb_policy header X-A", exchanges: some()},
		{name: "policy-random", settings: "lb_policy random\n lb_retries 1\n lb_try_interval 10ms", exchanges: some()},
		{name: "policy-query", settings: "lb_policy query q", exchanges: some()},
	}
}

// informedIsDifferent are the exchanges at a site where choosing a backend sets a cookie.
func informedIsDifferent(all []exchange) []exchange {
	for i := range all {
		if all[i].name == "informed" {
			all[i].differs = []string{"cookie of a session"}
		}
	}
	return all
}

// httpLevel are exchanges with a backend that does not read and write bytes.
func httpLevel() []exchange {
	return []exchange{
		{name: "GET", request: get("/usual.php/info?q=1", "X-A: a", "X-A: aa", "Cookie: k=v", "Proxy: x", "Accept-Encoding: gzip"), answer: answer("200 OK", "some text", "Set-Cookie: a=b", "Set-Cookie: c=d", "X-Backend: one")},
		{name: "POST", request: sized("POST", "name=value"), answer: answer("201 Created", "made")},
		{name: "POST in chunks", request: chunkedRequest("POST", inChunks("name=", "value")), answer: answer("200 OK", "made")},
		{name: "large", request: sized("PUT", filled(100<<10)), answer: answer("200 OK", filled(100<<10))},
		{name: "not found", request: get("/"), answer: answer("404 Not Found", "nothing")},
		{name: "moved", request: get("/"), answer: answer("302 Found", "", "Location: /new")},
		{name: "HEAD", request: requestHead("HEAD / HTTP/1.1"), answer: answerHead("200 OK", typed, "Content-Length: 9")},
		{name: "trailers", request: chunkedRequest("PUT", withTrailers("some text", "X-T: 1"), "Trailer: X-T"), answer: chunkedAnswer("200 OK", withTrailers("more text", "X-U: 2"), "Trailer: X-U")},
		{name: "hop-by-hop", request: get("/", "Connection: X-Foo", "X-Foo: 1", "TE: trailers", "Keep-Alive: x")},
		{name: "escaped path", request: get("/a%2Fb.php/%20c?d=e%20f")},
		{name: "dots in the path", request: get("/dir/../script.php/info/../more")}, // caddy: TestBuildEnvDotSegmentsCannotSelectAnotherScript
		{name: "escaped dots in the path", request: get("/%2e%2e/secret.php%2fx")},  // caddy: TestBuildEnvEscapedPathCannotSelectAnotherScript
	}
}

// overHTTP2 are exchanges whose client speaks HTTP/2.
func overHTTP2() []exchange {
	all := append(usual(), httpLevel()...)
	all = append(all,
		exchange{name: "in chunks, to the end", answer: answerHead("200 OK", typed) + filled(3000), then: hangsUp},
		exchange{name: "hop-by-hop in the answer", answer: answer("200 OK", "text", "Connection: X-Foo, close", "X-Foo: 1", "Keep-Alive: x", "Proxy-Authenticate: y"), then: hangsUp},
		exchange{name: "early hints", answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" + ok200},
		exchange{name: "cookies", request: get("/", "Cookie: a=b; c=d; e=f")},
		exchange{name: "no user agent", request: bare("GET / HTTP/1.1", "Host: SITE", "User-Agent:")},
		exchange{name: "body cut", request: requestHead("DELETE / HTTP/1.1"), answer: answerHead("200 OK", typed, "Content-Length: 9") + "abc", then: hangsUp},
		exchange{name: "trailer unannounced", answer: chunkedAnswer("200 OK", withTrailers("abc", "X-T: 1"))},
	)
	for i := range all {
		all[i].name, all[i].http2 = "HTTP/2: "+all[i].name, true
		all[i].name += fmt.Sprintf(" (%d)", i)
	}
	return all
}

// aroundSites have other handlers around the proxy.
func aroundSites() []site {
	limits := []exchange{
		{name: "small", request: sized("POST", "small")},
		{name: "large", request: sized("POST", "much too large"), more: []string{get("/")}},
		{name: "large in chunks", request: requestHead("POST /blind HTTP/1.1", "Transfer-Encoding: chunked") + inChunks("much too ", "large"), blind: true},
	}
	return []site{
		{name: "encode", route: "encode gzip {\n minimum_length 10\n }\n PROXY", exchanges: append(usual(),
			exchange{name: "to be packed", request: get("/", "Accept-Encoding: gzip"), answer: answer("200 OK", filled(5000))},
			exchange{name: "to be packed, in chunks", packs: true, request: get("/", "Accept-Encoding: gzip"), answer: chunkedAnswer("200 OK", inChunks(filled(5000)), "Etag: \"e\"", "Vary: Origin")},
			exchange{name: "packed already", request: get("/", "Accept-Encoding: gzip"), answer: answer("200 OK", inGzip(filled(5000)), "Content-Encoding: gzip")},
		)},
		{name: "header-after", route: "header >X-Up {http.reverse_proxy.upstream.hostport}/{http.reverse_proxy.status_code}\n header >-X-Backend\n PROXY"},
		// caddy: TestInformationalResponseKeepsHandlerHeaders
		{name: "header-before", route: "header X-Backend zero\n header Server outer\n header Via other\n PROXY"},
		{name: "uri-and-path", route: "route {\n uri strip_prefix /usual\n uri replace /path /way\n PROXY\n }"},
		{name: "header-matcher", route: "@has header X-A *\n header @has X-Has yes\n @hasnot header !Cookie\n header @hasnot X-Has-Not yes\n @agent not header User-Agent *curl*\n request_header @agent X-Agent other\n PROXY"},
		{name: "request-header", route: "route {\n request_header X-A changed\n request_header -Cookie\n request_header Host other.example\n PROXY\n }"},
		{name: "method-directive", route: "route {\n method PATCH\n rewrite * /rewritten?{query}\n PROXY\n }"},
		{name: "body-limit", route: "request_body {\n max_size 10\n }\n PROXY", exchanges: limits},
		{name: "body-limit-buffers", route: "request_body {\n max_size 10\n }\n PROXY", settings: "request_buffers unlimited", exchanges: limits}, // caddy: TestReverseProxyUnlimitedRequestBuffersRespectMaxSize
		{name: "body-set", route: "request_body {\n set \"another {http.request.method}\"\n }\n PROXY"},
		{name: "templates", route: "templates\n PROXY"},
		{name: "matched", route: "@post method POST\n handle @post {\n PROXY\n }\n handle {\n PROXY\n }"},
		{name: "tls-client", tls: true, exchanges: append(usual(), overHTTP2()...)},
		{name: "http2", exchanges: overHTTP2()},
		{name: "http2-over-transport", settings: overTransport, ordered: true, exchanges: overHTTP2()},
		{name: "http2-to-http2", backend: overH2C, settings: "transport http {\n versions h2c\n }", exchanges: overHTTP2()},
		{name: "full-duplex", server: "enable_full_duplex"},
		{name: "errors", tail: "handle_errors {\n header X-Up {http.reverse_proxy.upstream.hostport}\n respond \"{err.status_code} {err.status_text}|{http.reverse_proxy.status_code}|{http.reverse_proxy.retries}\"\n }",
			settings: "@bad status 404\n handle_response @bad {\n error \"not there\" 404\n }"},
	}
}
