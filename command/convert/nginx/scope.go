package nginx

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// scope is a block that inherits from the blocks around it.
type scope struct {
	around *scope
	list   []*directive
	uses   *site // the site being written
}

// within returns the scope of a nested block.
func (s *scope) within(list []*directive) *scope { return &scope{s, list, s.uses} }

// here returns the directives of these names in the block itself.
func (s *scope) here(names ...string) []*directive {
	var found []*directive
	for _, d := range s.list {
		for _, name := range names {
			if d.name == name {
				found = append(found, d)
			}
		}
	}
	return found
}

// all returns the directives of these names from the nearest block that has any: nginx inherits lists as a whole.
func (s *scope) all(names ...string) []*directive {
	for at := s; at != nil; at = at.around {
		if found := at.here(names...); len(found) > 0 {
			return found
		}
	}
	return nil
}

// one returns the directive of a name that applies, nil if there is none.
func (s *scope) one(name string) *directive {
	if found := s.all(name); len(found) > 0 {
		return found[0]
	}
	return nil
}

// on reports whether a switch is on.
func (s *scope) on(name string) bool {
	d := s.one(name)
	return d != nil && d.arg(0) == "on"
}

// constant returns the value of a variable that is set once. A variable that an if sets, too, is not constant: a condition on it would be
// converted to one that is always or never true.
func (s *scope) constant(name string) (string, bool) {
	for at := s; at != nil; at = at.around {
		for _, d := range at.here("if") {
			if slices.ContainsFunc(flat(d.block), func(b *directive) bool { return b.name == "set" && b.arg(0) == "$"+name }) {
				return "", false
			}
		}
		var found []*directive
		for _, d := range at.here("set") {
			if d.arg(0) == "$"+name {
				found = append(found, d)
			}
		}
		if len(found) == 1 {
			found[0].line.Done()
			return found[0].arg(1), true
		}
		if len(found) > 1 {
			return "", false
		}
	}
	return "", false
}

var variable = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}|\$([A-Za-z0-9_]+)`)

// names are nginx's variables, and Caddy's placeholders.
var names = map[string]string{
	"host": "{host}", "http_host": "{hostport}", "remote_addr": "{remote_host}", "binary_remote_addr": "{remote_host}", "realip_remote_addr": "{remote_host}",
	"scheme": "{scheme}", "request_uri": "{http.request.orig_uri}", "uri": "{path}", "document_uri": "{path}", "args": "{query}", "query_string": "{query}", "server_name": "{host}",
	"server_port": "{http.request.local.port}", "server_addr": "{http.request.local.host}", "request_method": "{method}", "remote_port": "{remote_port}",
	"request_id": "{http.request.uuid}", "hostname": "{system.hostname}", "remote_user": "{http.auth.user.id}", "content_type": "{header.Content-Type}",
	"content_length": "{header.Content-Length}", "ssl_client_s_dn": "{tls_client_subject}", "ssl_protocol": "{tls_version}", "ssl_cipher": "{tls_cipher}",
	"ssl_server_name": "{http.request.tls.server_name}", "server_protocol": "{http.request.proto}", "msec": "{time.now.unix_ms}", "request_filename": "{path}",
	"status": "{http.response.status}", "is_args": "", "upstream_addr": "{http.reverse_proxy.upstream.hostport}", "proxy_host": "", "dollar": "$",
}

// value translates a text with variables to one with placeholders. If it does not know a variable, it returns that as unknown.
func (s *scope) value(text, captures string) (string, string) { return s.translate(text, captures, 0) }

func (s *scope) translate(text, captures string, depth int) (string, string) {
	text = strings.NewReplacer("$is_args$args", "\x01", "${is_args}${args}", "\x01", "?$args", "\x01", "?$query_string", "\x01").Replace(text)
	var b strings.Builder
	unknown, end := "", 0
	for _, at := range variable.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(draft.Plain(text[end:at[0]]))
		end = at[1]
		m := variable.FindStringSubmatch(text[at[0]:at[1]])
		name := m[1] + m[2]
		placeholder, ok := names[name]
		constant, set := s.constant(name)
		switch {
		case name == "proxy_host" || name == "is_args":
			ok = false
		case name == "server_name" && s.uses != nil && s.uses.firstName() != "":
			placeholder = s.uses.firstName()
		case name == "remote_addr" && s.uses != nil && s.uses.c.realIP:
			placeholder = "{client_ip}"
		case set && depth < 5:
			// Captures in the value are those of the location, not those of the rewrite that uses the variable.
			of := captures
			if !strings.HasPrefix(captures, "location_") {
				of = ""
			}
			placeholder, unknown = s.translate(constant, of, depth+1)
			ok = unknown == ""
		case len(name) == 1 && name[0] >= '1' && name[0] <= '9':
			placeholder, ok = "{re."+captures+"."+name+"}", captures != ""
		case ok:
		case strings.HasPrefix(name, "http_"):
			placeholder, ok = "{header."+field(name[5:])+"}", true
		case strings.HasPrefix(name, "cookie_"):
			placeholder, ok = "{cookie."+name[7:]+"}", true
		case strings.HasPrefix(name, "arg_"):
			placeholder, ok = "{query."+name[4:]+"}", true
		case s.uses != nil && s.uses.c.maps[name] != nil:
			placeholder, ok = s.uses.useMap(name)
		}
		if !ok {
			unknown = "$" + name
		}
		b.WriteString(placeholder)
	}
	b.WriteString(draft.Plain(text[end:]))
	result := strings.ReplaceAll(b.String(), "\x01", "{http.request.uri.prefixed_query}")
	if unknown == "" && (!draft.Quotable(result) || strings.ContainsAny(result, "\n\r")) {
		unknown = "the text"
	}
	return result, unknown
}

// field returns the header field of one of nginx's variables.
func field(name string) string {
	parts := strings.Split(name, "_")
	for i, p := range parts {
		if p != "" {
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "-")
}

var times = regexp.MustCompile(`^(\d{1,9})(ms|s|m|h|d|w|M|y)?$`)

// duration reads a time, in seconds if there is no unit.
func duration(text string) (time.Duration, bool) {
	m := times.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	unit := map[string]time.Duration{
		"ms": time.Millisecond, "s": time.Second, "": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
		"M": 30 * 24 * time.Hour, "y": 365 * 24 * time.Hour,
	}[m[2]]
	n, _ := strconv.ParseInt(m[1], 10, 64)
	if n <= 0 || n > int64(10*365*24*time.Hour/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

var sizes = regexp.MustCompile(`^(\d{1,9})([kKmMgG])?$`)

// bytes writes a size as Caddy reads it.
func bytes(text string) (string, bool) {
	m := sizes.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	return m[1] + map[string]string{"": "B", "k": "KiB", "m": "MiB", "g": "GiB"}[strings.ToLower(m[2])], true
}

func whole(text string, least, most int) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= least && n <= most
}

// safe reports whether a path or name has no special meaning in a Caddyfile.
func safe(text string) bool { return text != "" && !strings.ContainsAny(text, "{}\"`\\\n\r$*<>|") }
