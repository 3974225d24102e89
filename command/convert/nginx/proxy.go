package nginx

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

var target = regexp.MustCompile(`^(https?|grpcs?)://(unix:[^:]+:?|\[[0-9a-fA-F:]+\](?::\d+)?|[^/:]+(?::\d+)?)(/.*)?$`)

// writeProxy writes a load_balancer for proxy_pass or grpc_pass, and returns the lines that change the path before it.
func (s *site) writeProxy(w *draft.Writer, at *scope, d *directive, loc *location) bool {
	d.line.Done()
	text := d.arg(0)
	grpc := d.name == "grpc_pass"
	if grpc && !strings.Contains(text, "://") {
		text = "grpc://" + text
	}
	if !loc.rewritten && len(s.at.here("rewrite")) == 0 {
		text = strings.TrimSuffix(text, "$request_uri") // Caddy passes on the path and query of the request anyway
	}
	withVariable := strings.Contains(text, "$")
	name, split := s.c.splitOf(text)
	if split != nil && !grpc {
		withVariable = false
		text = "http://" + name
	}
	if withVariable {
		resolved, ok := s.resolve(at, text)
		if !ok {
			d.line.Leave("the backend depends on a variable; see map and handle, or a canary")
			return false
		}
		text = resolved
	}
	m := target.FindStringSubmatch(text)
	if m == nil {
		d.line.Leave("the address is not understood")
		return false
	}
	scheme, host, uri := m[1], m[2], m[3]
	secure := scheme == "https" || scheme == "grpcs"
	body, u := new(draft.Writer), s.c.upstreams[host]
	if split != nil && !grpc {
		var why string
		if u, why = split.upstream(s.c, at); why != "" {
			split.leave(why)
			d.line.Leave("it depends on $%s, which is not converted", name)
			return false
		}
	}
	if u != nil {
		if u.none {
			d.line.Leave("no backend of %s is left that could serve", host)
			return false
		}
		text := u.body
		if secure && strings.Contains(text, ":80 {\n") || secure && strings.Contains(text, ":80\n") {
			d.line.Leave("Caddy has no TLS at port 80; give the servers of %s their port", host)
			return false
		}
		if secure {
			text = regexp.MustCompile(`(?m)^backend `).ReplaceAllString(text, "backend https://")
		}
		body.Add(text)
	} else {
		port := map[bool]string{false: "80", true: "443"}[secure]
		where, ok := address(host, port)
		if !ok {
			d.line.Leave("the address of the backend is not understood")
			return false
		}
		if secure && strings.HasSuffix(where, ":80") {
			d.line.Leave("Caddy has no TLS at port 80")
			return false
		}
		if secure {
			where = "https://" + where
		}
		body.Line("to", where)
	}
	if uri != "" && !withVariable && !loc.rewritten {
		if !s.writeURI(w, d, loc, uri) {
			return false
		}
	} else if uri != "" && withVariable && uri != "/" {
		d.line.Leave("with a variable the path is replaced as a whole")
		return false
	}
	s.proxyHeaders(body, at, host, grpc)
	s.proxyRest(body, at)
	s.proxyRetry(body, at)
	s.proxyTransport(body, at, u, host, secure, grpc)
	if split != nil && !grpc && len(u.used) > 0 && u.used[body.String()] == "" {
		d.line.Leave("$%s is used with other settings before; each use would be a pool that chooses its own clients", name)
		for _, other := range at.list {
			if strings.HasPrefix(other.name, "proxy_") {
				other.line.Leave("its proxy_pass is not converted")
			}
		}
		return false
	}
	w.Open("load_balancer")
	if u != nil {
		w.Line("name", u.pool(s.c, draft.Name(host), body.String()))
	}
	w.Add(body.String())
	w.Close()
	return true
}

// resolve replaces variables that have one constant value.
func (s *site) resolve(at *scope, text string) (string, bool) {
	ok := true
	for range 5 {
		text = variable.ReplaceAllStringFunc(text, func(found string) string {
			m := variable.FindStringSubmatch(found)
			constant, set := at.constant(m[1] + m[2])
			if !set {
				ok = false
				return found
			}
			return constant
		})
		if !ok || !strings.Contains(text, "$") {
			break
		}
	}
	// What follows the host may be the request's own path, which is passed on in any case.
	return text, ok && !strings.Contains(text, "$")
}

// writeURI replaces the part of the path that the location names with the path of proxy_pass.
func (s *site) writeURI(w *draft.Writer, d *directive, loc *location, uri string) bool {
	if loc.kind != prefix && loc.kind != firm && loc.kind != exact || !safe(uri) || strings.Contains(uri, "?") {
		d.line.Leave("the path of the address cannot be put in here")
		return false
	}
	if uri == loc.path {
		return true
	}
	if strings.HasSuffix(loc.path, "/") && uri == "/" {
		w.Line("uri", "strip_prefix", strings.TrimSuffix(loc.path, "/"))
		return true
	}
	w.Line("uri", "path_regexp", "^"+regexp.QuoteMeta(loc.path), uri)
	return true
}

// proxyHeaders writes the header fields that backends get.
func (s *site) proxyHeaders(w *draft.Writer, at *scope, host string, grpc bool) {
	hasHost := false
	for _, d := range at.all("proxy_set_header", "grpc_set_header") {
		if strings.HasPrefix(d.name, "grpc") != grpc {
			continue
		}
		name, text := d.arg(0), d.arg(1)
		plain := strings.NewReplacer("{", "", "}", "").Replace(text)
		switch lower := strings.ToLower(name); {
		case lower == "host":
			hasHost = true
			if plain == "$host" || plain == "$http_host" {
				d.line.Done() // Caddy passes it on
				continue
			}
			if plain == "$host:$server_port" {
				d.line.Near("Host is passed on as the client sent it")
				continue
			}
			if plain == "$proxy_host" {
				hasHost = false
				d.line.Done()
				continue
			}
		case lower == "upgrade" || lower == "connection":
			d.line.Idle("WebSockets and kept connections need no header")
			continue
		case lower == "x-forwarded-for" && (plain == "$proxy_add_x_forwarded_for" || plain == "$remote_addr"):
			d.line.Idle("Caddy sets it by itself; what a client sends counts only if it is one of trusted_proxies")
			continue
		case lower == "x-forwarded-proto" && (plain == "$scheme" || plain == "https" || plain == "http"),
			lower == "x-forwarded-host" && (plain == "$host" || plain == "$http_host" || plain == "$server_name"):
			d.line.Idle("Caddy sets it by itself")
			continue
		case plain == "$http_"+strings.ReplaceAll(lower, "-", "_") && !strings.HasPrefix(lower, "x-forwarded-"):
			d.line.Idle("it is passed on as the client sent it")
			continue
		}
		if !headerName.MatchString(name) {
			d.line.Leave("the field is not understood")
			continue
		}
		if plain == "$proxy_add_x_forwarded_for" {
			d.line.Leave("use header_up with {http.request.header.X-Forwarded-For}")
			continue
		}
		v, unknown := at.value(text, "")
		if unknown != "" {
			d.line.Leave("%s has no equivalent in Caddy", unknown)
			continue
		}
		d.line.Done()
		if ofClient.MatchString(v) {
			d.line.Near("if it has no value, an empty field is sent; nginx leaves the field out")
		}
		if v == "" {
			w.Line("header_up", "-"+name)
		} else {
			w.Line("header_up", name, v)
		}
	}
	if !hasHost && !strings.HasPrefix(host, "unix:") {
		w.Line("header_up", "Host", host) // nginx's default
	}
	for _, d := range at.all("proxy_hide_header", "grpc_hide_header") {
		if headerName.MatchString(d.arg(0)) {
			d.line.Done()
			w.Line("header_down", "-"+d.arg(0))
		}
	}
}

// ofClient is a placeholder that may have no value.
var ofClient = regexp.MustCompile(`^\{(header|cookie|query|tls_client)[._][^{}]*\}$`)

var headerName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func (s *site) proxyRest(w *draft.Writer, at *scope) {
	if d := at.one("proxy_buffering"); d != nil {
		if d.arg(0) == "off" {
			w.Line("flush_interval", "-1")
			d.line.Done()
		} else {
			d.line.Idle("answers are passed on as they come, and not kept")
		}
	}
	for _, name := range []string{"proxy_pass_request_headers", "proxy_pass_request_body"} {
		if d := at.one(name); d != nil {
			if d.line.Guards = d.arg(0) == "off"; d.line.Guards {
				d.line.Leave("the backend gets the header and the body of the client; remove fields by header_up -<field>")
			} else {
				d.line.Idle("it is the default")
			}
		}
	}
	for _, d := range at.all("proxy_redirect") {
		switch d.arg(0) {
		case "off":
			d.line.Done()
		case "default":
			d.line.Near("Location is passed on as the backend sent it")
		default:
			d.line.Leave("write header_down Location <regular expression> <text>")
		}
	}
}

// nextWords are the words of proxy_next_upstream, with those of Ballast.
var nextWords = map[string][]string{
	"error": {"connect", "reset"}, "timeout": {"timeout"}, "invalid_header": {"reset"}, "http_500": {"500"}, "http_502": {"502"}, "http_503": {"503"}, "http_504": {"504"},
	"http_403": {"403"}, "http_404": {"404"}, "http_429": {"429"},
}

func (s *site) proxyRetry(w *draft.Writer, at *scope) {
	next, tries := at.one("proxy_next_upstream"), at.one("proxy_next_upstream_tries")
	if d := at.one("proxy_next_upstream_timeout"); d != nil {
		d.line.Near("retries have no time of their own; budget bounds how many there are")
	}
	n := 0
	if tries != nil {
		var ok bool
		if n, ok = whole(tries.arg(0), 0, 100); ok {
			tries.line.Done()
		}
	}
	if next == nil && n == 0 {
		return
	}
	if next != nil && next.arg(0) == "off" {
		next.line.Done()
		w.Line("retry", "off")
		return
	}
	w.Open("retry")
	if n > 0 {
		w.Line("attempts", strconv.Itoa(n))
	}
	if next != nil {
		next.line.Done()
		var on []string
		nonIdempotent := false
		for _, word := range next.args {
			list, ok := nextWords[word]
			switch {
			case word == "non_idempotent":
				nonIdempotent = true
			case !ok:
				next.line.Leave("%s", word)
			}
			for _, o := range list {
				if !slices.Contains(on, o) {
					on = append(on, o)
				}
			}
		}
		if len(on) > 0 {
			w.Line(append([]string{"on"}, on...)...)
		}
		if nonIdempotent {
			w.Line("non_idempotent")
		}
		if n == 0 {
			next.line.Near("a request is tried twice in all, not once at each backend; attempts changes that")
		}
	}
	w.Close()
}

func (s *site) proxyTransport(w *draft.Writer, at *scope, u *upstream, host string, secure, grpc bool) {
	t := new(draft.Writer)
	kind := map[bool]string{false: "proxy_", true: "grpc_"}[grpc]
	times := func(name, word, note string) {
		d := at.one(kind + name)
		if d == nil {
			return
		}
		v, ok := duration(d.arg(0))
		if !ok {
			d.line.Leave("the time is not understood")
			return
		}
		d.line.Done()
		if note != "" {
			d.line.Near("%s", note)
		}
		t.Line(word, draft.Duration(draft.Between(v, time.Millisecond, 24*365*time.Hour)))
	}
	times("connect_timeout", "dial_timeout", "")
	times("read_timeout", "response_header_timeout", "it is until the header of an answer; an answer that stops later, and a silent WebSocket, are not cut off")
	times("send_timeout", "write_timeout", "")
	if u != nil && u.idle != "" {
		t.Line("keepalive_idle_conns_per_host", u.idle)
	}
	if u != nil && u.wait != "" {
		t.Line("keepalive", u.wait)
	}
	if d := at.one("proxy_bind"); d != nil {
		if a := d.arg(0); safe(a) && !strings.Contains(a, " ") && len(d.args) == 1 {
			t.Line("local_address", a)
			d.line.Done()
		}
	}
	if d := at.one("proxy_http_version"); d != nil {
		d.line.Idle("Caddy uses HTTP/1.1 and keeps connections")
	}
	if secure {
		s.proxyTLS(t, at, kind, host)
	}
	if grpc {
		t.Line("versions", map[bool]string{false: "h2c", true: "2"}[secure])
	}
	if t.Len() > 0 {
		w.Open("transport", "http")
		w.Add(t.String())
		w.Close()
	}
}

func (s *site) proxyTLS(t *draft.Writer, at *scope, kind, host string) {
	if !at.on(kind + "ssl_verify") {
		t.Line("tls_insecure_skip_verify") // nginx's default
		if d := at.one(kind + "pass"); d != nil {
			d.line.Near("nginx verifies no certificate of a backend unless proxy_ssl_verify is on; take tls_insecure_skip_verify out to verify it")
		}
	} else if d := at.one(kind + "ssl_verify"); d != nil {
		d.line.Done()
	}
	if d := at.one(kind + "ssl_trusted_certificate"); d != nil && safe(d.arg(0)) {
		d.line.Done()
		if at.on(kind + "ssl_verify") {
			t.Line("tls_trust_pool", "file", d.arg(0))
		}
	}
	name := ""
	if d := at.one(kind + "ssl_name"); d != nil {
		v, unknown := at.value(d.arg(0), "")
		if unknown == "" && v != "" {
			d.line.Done()
			name = v
		}
	} else if hostName.MatchString(host) && strings.Trim(host, "0123456789.") != "" {
		name, _, _ = strings.Cut(host, ":")
	}
	if name != "" {
		t.Line("tls_server_name", name)
	}
	if d := at.one(kind + "ssl_server_name"); d != nil {
		d.line.Near("the name is sent in any case")
	}
	cert, key := at.one(kind+"ssl_certificate"), at.one(kind+"ssl_certificate_key")
	if cert != nil && key != nil && safe(cert.arg(0)) && safe(key.arg(0)) {
		cert.line.Done()
		key.line.Done()
		t.Line("tls_client_auth", cert.arg(0), key.arg(0))
	}
}
