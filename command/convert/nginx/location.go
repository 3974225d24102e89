package nginx

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

type kind int

const (
	exact kind = iota
	firm       // a prefix with ^~, which has priority over regular expressions
	pattern
	prefix
	named
	root // the server itself
)

// location is a location, or the server itself for requests that no location matches.
type location struct {
	kind      kind
	path      string
	re        string
	captures  string // name of the regular expression with the captures
	inside    bool   // it is a location, not the server
	rewritten bool
	used      bool // for a named location
	alone     bool // a return leads to this named location, before any other setting of its location applies
	sized     bool // the requests of this named location have a limit of their bodies already
	d         *directive
}

// locations returns the locations of a block in the order in which they must be tried.
func (s *site) locations(list []*directive) (sorted []*location) {
	seen := map[string]bool{}
	for _, d := range list {
		if d.name != "location" {
			continue
		}
		l := &location{d: d, inside: true, kind: prefix, path: d.arg(0)}
		d.line.Done()
		switch d.arg(0) {
		case "=":
			l.kind, l.path = exact, d.arg(1)
		case "^~":
			l.kind, l.path = firm, d.arg(1)
		case "~", "~*":
			l.kind, l.re = pattern, d.arg(1)
			if d.arg(0) == "~*" {
				l.re = "(?i)" + l.re
			}
			l.captures = s.unique("location_" + strconv.Itoa(d.line.Number))
		default:
			if strings.HasPrefix(l.path, "@") {
				continue // written where it is used
			}
			for _, sign := range []string{"=", "^~", "~*", "~"} { // the space after them may be missing
				if rest, ok := strings.CutPrefix(l.path, sign); ok && len(d.args) == 1 && strings.HasPrefix(rest, "/") && (sign == "=" || sign == "^~") {
					l.kind, l.path = map[string]kind{"=": exact, "^~": firm}[sign], rest
					break
				}
			}
		}
		l.re = withoutLookahead(l.re)
		wrong := l.kind == pattern && !s.usable(l.re) || l.kind != pattern && (!safe(l.path) || strings.ContainsAny(l.path, "?# %") || !strings.HasPrefix(l.path, "/"))
		key := strconv.Itoa(int(l.kind)) + l.path + "|" + l.re
		if wrong || seen[key] {
			for _, inner := range append([]*directive{d}, flat(d.block)...) {
				inner.line.Guards = inner.name == "deny" || inner.name == "return"
				inner.line.Leave("the location cannot be written as a matcher, or is there twice")
			}
			continue
		}
		seen[key] = true
		sorted = append(sorted, l)
	}
	slices.SortStableFunc(sorted, func(a, b *location) int {
		if a.kind != b.kind || a.kind == pattern {
			return cmp.Compare(a.kind, b.kind)
		}
		return cmp.Compare(len(b.path), len(a.path))
	})
	return sorted
}

// formula returns the condition on which a location serves a request, if the locations before it do not. A nil
// formula is always true.
func (l *location) formula(all []*location) draft.Formula {
	path := func(arg string) draft.Atom { return draft.Atom{Kind: "path", Args: []string{arg}} }
	switch l.kind {
	case exact:
		return draft.One(false, path(l.path))
	case pattern:
		return draft.Formula{{{Atoms: []draft.Atom{{Kind: "path_regexp", Args: []string{l.re}}}}}}
	}
	if l.path == "/" && l.kind == prefix {
		return nil
	}
	f := draft.One(false, path(l.path+"*"))
	if l.kind == firm {
		// A longer prefix without ^~ wins, and regular expressions then have priority over it.
		for _, other := range all {
			if other.kind == prefix && other != l && strings.HasPrefix(other.path, l.path) && len(other.path) > len(l.path) {
				f = f.And(draft.One(true, path(other.path+"*")))
			}
		}
	}
	return f
}

// writeLocations writes the locations of a block, and the answer to requests that match none of them.
func (s *site) writeLocations(w *draft.Writer, at *scope, around *location) {
	all := s.locations(at.list)
	catchAll := false
	for _, l := range all {
		inner := at.within(l.d.block)
		f := l.formula(all)
		w.Comment(s.comments(l.d.line)...)
		if slash, ok := strings.CutSuffix(l.path, "/"); ok && slash != "" && l.kind != exact && len(inner.here("proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass")) > 0 &&
			!slices.ContainsFunc(all, func(o *location) bool { return o.path == slash && o.kind != pattern }) {
			// nginx redirects requests without the slash there.
			w.Line("redir", slash, l.path+"{http.request.uri.prefixed_query}", "301")
		}
		if f == nil {
			catchAll = true
			w.Open("handle")
		} else {
			name := l.captures
			if name == "" {
				name = s.unique("location_" + strconv.Itoa(l.d.line.Number))
			}
			w.Open("handle", s.matcher(w, name, f))
		}
		s.writeContent(w, inner, l)
		w.Close()
	}
	if catchAll {
		return
	}
	if len(all) > 0 {
		w.Open("handle")
		defer w.Close()
	}
	s.writeOwn(w, at, around)
}

// writeOwn writes how a block handles requests that match no location in it. Inner locations write the settings that they inherit
// themselves, because nginx applies only the innermost location.
func (s *site) writeOwn(w *draft.Writer, at *scope, l *location) {
	if l.inside && s.writeRewrites(w, at, l) {
		return
	}
	// A location that try_files names has the inherited settings already; only access rules are written again.
	if l.kind != named || l.alone || len(at.here("add_header", "expires", "limit_req", "limit_conn", "client_max_body_size")) > 0 {
		s.writeSettings(w, at, l)
	} else {
		s.writeAccess(w, at)
	}
	s.writeAnswer(w, at, l)
}

// writeContent writes the content of a location.
func (s *site) writeContent(w *draft.Writer, at *scope, l *location) {
	body := new(draft.Writer)
	switch {
	case len(at.here("internal")) > 0:
		at.here("internal")[0].line.Near("it answers 404; a file that a backend names by X-Accel-Redirect is not sent")
		body.Line("respond", "404")
	case len(at.here("location")) > 0:
		s.writeLocations(body, at, l)
	default:
		s.writeOwn(body, at, l)
	}
	said := new(draft.Writer)
	said.Comment(s.comments(lines(at.list)...)...)
	w.Add(said.String())
	if needsOrder(at) {
		w.Open("route")
		w.Add(body.String())
		w.Close()
		return
	}
	w.Add(body.String())
}

// needsOrder reports whether Caddy must keep the order of the directives. Otherwise it would serve an inner handle before it refuses a client.
func needsOrder(at *scope) bool {
	return len(at.here("if", "rewrite", "location", "limit_except")) > 0 ||
		len(at.all("allow", "deny", "limit_req", "limit_conn", "auth_basic", "auth_request", "auth_jwt", "satisfy")) > 0
}

// writeSettings writes the settings that apply to all requests.
func (s *site) writeSettings(w *draft.Writer, at *scope, l *location) {
	s.writeLimits(w, at)
	s.writeAccess(w, at)
	if d := at.one("client_max_body_size"); d != nil && l.sized {
		d.line.Near("the settings of the location that leads here apply")
	} else if d != nil {
		if size, ok := bytes(d.arg(0)); ok {
			d.line.Done()
			if d.arg(0) != "0" {
				w.Open("request_body")
				w.Line("max_size", size)
				w.Close()
			}
		}
	}
	s.writeHeaders(w, at)
	if d := at.one("access_log"); d != nil && d.arg(0) == "off" && s.log {
		d.line.Done()
		w.Line("log_skip")
	}
}

// writeHeaders writes the header fields of answers.
func (s *site) writeHeaders(w *draft.Writer, at *scope) {
	cache := s.expires(at)
	for _, d := range at.all("add_header") {
		if v, unknown := at.value(d.arg(1), ""); len(cache) > 0 && strings.EqualFold(d.arg(0), "Cache-Control") && unknown == "" && v != "" {
			d.line.Near("answers of all statuses get it, as with always")
			cache = append(cache, v) // a list in two fields is one list
			continue
		}
		s.writeHeader(w, at, d, nil)
	}
	if len(cache) > 0 {
		// expires replaces the Cache-Control of a backend.
		name := "Cache-Control"
		if len(at.here("proxy_pass", "grpc_pass")) > 0 {
			name = ">" + name
		}
		w.Line("header", name, strings.Join(cache, ", "))
	}
}

// writeHeader writes a header field for answers.
func (s *site) writeHeader(w *draft.Writer, at *scope, d *directive, matcher []string) {
	v, unknown := at.value(d.arg(1), "")
	if unknown != "" || !headerName.MatchString(d.arg(0)) || v == "" {
		d.line.Leave("%s has no equivalent in Caddy", cmp.Or(unknown, "the field"))
		return
	}
	if strings.EqualFold(d.arg(0), "Content-Length") {
		d.line.Idle("Caddy sets it by itself")
		return
	}
	d.line.Done()
	if d.arg(2) != "always" {
		d.line.Near("answers of all statuses get it, as with always")
	}
	name := "+" + d.arg(0)
	if strings.EqualFold(d.arg(0), "Content-Type") {
		name = d.arg(0)
	}
	w.Line(draft.Words("header", matcher, name, v)...)
}

// expires returns the value of Cache-Control for expires.
func (s *site) expires(at *scope) []string {
	d := at.one("expires")
	if d == nil {
		return nil
	}
	t, ok := duration(d.arg(0))
	var value string
	switch {
	case ok:
		value = "max-age=" + strconv.Itoa(int(t.Seconds()))
	case d.arg(0) == "off":
		d.line.Done()
		return nil
	case d.arg(0) == "max":
		value = "max-age=315360000"
	case d.arg(0) == "-1" || d.arg(0) == "epoch":
		value = "no-cache"
	default:
		return nil
	}
	d.line.Near("Cache-Control is set instead of Expires")
	return []string{value}
}

// writeAnswer writes the handler that answers: a proxy or files, or 502 if the handler cannot be converted.
func (s *site) writeAnswer(w *draft.Writer, at *scope, l *location) {
	for _, name := range []string{"proxy_pass", "grpc_pass"} {
		if found := at.here(name); len(found) > 0 {
			for _, try := range at.here("try_files") {
				try.line.Leave("files beside proxy_pass are not looked for; see try_files and handle")
			}
			if !s.writeProxy(w, at, found[0], l) {
				w.Comment(s.comments(found[0].line)...)
				w.Line("respond", "502")
			}
			return
		}
	}
	for _, name := range []string{"fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass", "stub_status", "content_by_lua_block", "content_by_lua_file", "api", "mirror"} {
		if found := at.here(name); len(found) > 0 {
			hint := "it is not HTTP"
			if name == "fastcgi_pass" {
				hint = "see php_fastcgi"
			}
			found[0].line.Leave("%s", hint)
			w.Comment(s.comments(found[0].line)...)
			w.Line("respond", "502")
			return
		}
	}
	s.writeFiles(w, at, l)
}

// writeFiles writes how files are served.
func (s *site) writeFiles(w *draft.Writer, at *scope, l *location) {
	folder, alias := at.one("root"), at.here("alias")
	var try *directive
	if found := at.here("try_files"); len(found) > 0 {
		try = found[0]
	} else if l.inside && l.kind == prefix {
		try = nil // try_files of the server does not apply in locations
	}
	rooted := true
	var root string
	if folder != nil {
		root, _ = at.value(folder.arg(0), "")
	}
	switch {
	case len(alias) > 0:
		if l.kind == pattern || !safe(alias[0].arg(0)) {
			alias[0].line.Leave("the files cannot be found by this path")
			w.Line("respond", "404")
			return
		}
		alias[0].line.Done()
		if strip := strings.TrimSuffix(l.path, "/"); strip != "" {
			w.Line("uri", "strip_prefix", strip)
		}
		w.Line("root", "*", alias[0].arg(0))
	case safe(root):
		folder.line.Done()
		w.Line("root", "*", root)
	default:
		if folder != nil {
			folder.line.Leave("the folder is not understood")
		}
		if try == nil {
			w.Comment("nginx has default files here")
			w.Line("respond", "404")
			return
		}
		rooted = false // without a root, Caddy would serve the folder in which it was started
	}
	if try != nil && !s.writeTry(w, at, try, l, rooted) {
		return
	}
	var words [][]string
	if d := at.one("index"); d != nil {
		d.line.Done()
		if !slices.ContainsFunc(d.args, func(a string) bool { return !safe(a) }) {
			words = append(words, append([]string{"index"}, d.args...))
		}
	}
	if d := at.one("autoindex"); d != nil {
		d.line.Done()
		if d.arg(0) == "on" {
			words = append(words, []string{"browse"})
		}
	}
	if len(words) == 0 {
		w.Line("file_server")
		return
	}
	w.Open("file_server")
	for _, line := range words {
		w.Line(line...)
	}
	w.Close()
}

var status = regexp.MustCompile(`^=[1-5]\d\d$`)

// writeTry writes try_files, and reports whether files are served after it. If the files are unknown, the fallback answers: nginx would not
// serve all files of the folder.
func (s *site) writeTry(w *draft.Writer, at *scope, d *directive, l *location, rooted bool) bool {
	if len(d.args) < 2 {
		d.line.Leave("it has too few files")
		w.Line("respond", "404")
		return false
	}
	d.line.Done()
	last := d.args[len(d.args)-1]
	var files []string
	for _, arg := range d.args[:len(d.args)-1] {
		v, unknown := at.value(arg, l.captures)
		if unknown != "" {
			d.line.Leave("%s has no equivalent in Caddy", unknown)
			rooted = false
		}
		files = append(files, v)
	}
	if strings.HasPrefix(last, "@") {
		target := s.named[last]
		if target == nil || s.depth > 3 {
			d.line.Leave("there is no location %s here", last)
			w.Line("respond", "404")
			return false
		}
		if !rooted {
			d.line.Near("the files are not looked up")
			s.writeNamed(w, at, target, false)
			return false
		}
		name := "@" + s.unique("files_"+strconv.Itoa(d.line.Number))
		w.Line(append([]string{name, "file"}, files...)...)
		w.Open("handle", name)
		w.Line("rewrite", "*", "{file_match.relative}")
		w.Line("file_server")
		w.Close()
		w.Open("handle")
		s.writeNamed(w, at, target, false)
		w.Close()
		return false
	}
	if !rooted {
		d.line.Near("nginx has default files here")
		w.Line("respond", "404")
		return false
	}
	if status.MatchString(last) {
		files = append(files, last)
	} else {
		v, unknown := at.value(last, l.captures)
		if unknown != "" {
			d.line.Leave("%s has no equivalent in Caddy", unknown)
			w.Line("respond", "404")
			return false
		}
		files = append(files, v)
	}
	w.Line(append([]string{"try_files"}, files...)...)
	return true
}

// writeNamed writes a named location in the place that leads to it.
func (s *site) writeNamed(w *draft.Writer, at *scope, target *location, alone bool) {
	s.depth++
	target.d.line.Done()
	target.used = true
	here := *target
	here.alone, here.sized = alone, !alone && at.one("client_max_body_size") != nil
	s.writeContent(w, at.serverScope().within(target.d.block), &here)
	s.depth--
}

// serverScope returns the scope of the enclosing server.
func (s *scope) serverScope() *scope {
	for at := s; at != nil; at = at.around {
		if at.uses != nil && at == at.uses.at {
			return at
		}
	}
	return s
}
