package nginx

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// site is a server.
type site struct {
	c       *converter
	d       *directive
	at      *scope
	binds   []*bind
	log     bool
	named   map[string]*location
	maps    map[string]bool
	mapText draft.Writer
	names   map[string]bool
	depth   int
}

// bind is an address where a server listens.
type bind struct {
	line     *draft.Line
	host     string
	port     string
	secure   bool
	standard bool // default_server
}

func (s *site) comments(lines ...*draft.Line) []string { return s.c.ledger.Comments(seen(lines)...) }

// seen returns the lines that were handled. The others in a block may be used later.
func seen(lines []*draft.Line) []*draft.Line {
	return slices.DeleteFunc(slices.Clone(lines), func(l *draft.Line) bool { return l.State == draft.Unseen })
}

// matcher writes a named matcher and returns its name.
func (s *site) matcher(w *draft.Writer, name string, f draft.Formula) string {
	name = "@" + name
	draft.WriteMatcher(w, name, f)
	return name
}

// unique returns a name for a matcher that is unique in the site.
func (s *site) unique(name string) string {
	for n, first := 2, name; s.names[name]; n++ {
		name = first + "_" + strconv.Itoa(n)
	}
	s.names[name] = true
	return name
}

// listen reads the addresses where the server listens.
func (s *site) listen() {
	found := s.at.here("listen")
	if len(found) == 0 {
		found = []*directive{{name: "listen", args: []string{"80"}, line: s.d.line}}
	}
	oldTLS := s.at.here("ssl")
	for _, d := range oldTLS {
		d.line.Done()
	}
	for _, d := range found {
		d.line.Done()
		host, port := "", d.arg(0)
		if i := strings.LastIndexByte(port, ':'); i >= 0 && !strings.HasSuffix(port, "]") {
			host, port = strings.Trim(port[:i], "[]"), port[i+1:]
		} else if strings.Contains(port, ".") || strings.Contains(port, "]") {
			host, port = strings.Trim(port, "[]"), "80"
		}
		if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() || host == "*" {
			host = ""
		} else if host != "" && err != nil && host != "localhost" {
			port = ""
		}
		if host == "localhost" {
			host = "127.0.0.1"
		}
		if portNumber(port) == 0 {
			d.line.Leave("the address is not understood")
			continue
		}
		b := &bind{line: d.line, host: host, port: port, secure: len(oldTLS) > 0 && oldTLS[0].arg(0) == "on"}
		for _, arg := range d.args[min(1, len(d.args)):] {
			key, _, _ := strings.Cut(arg, "=")
			switch key {
			case "ssl":
				b.secure = true
			case "default_server", "default":
				b.standard = true
			case "http2", "spdy", "deferred", "reuseport", "backlog", "rcvbuf", "sndbuf", "ipv6only", "so_keepalive", "fastopen", "bind", "setfib":
			case "quic", "http3":
				b.secure = true
			case "proxy_protocol":
				d.line.Guards = true
				d.line.Leave("proxy_protocol: write listener_wrappers { proxy_protocol { allow <ranges> } } in the global options, before seamless and tls")
			default:
				d.line.Leave("%s", arg)
			}
		}
		if b.port == "80" && b.secure || b.port == "443" && !b.secure {
			d.line.Leave("Caddy serves HTTP at port 80, and HTTPS at 443")
			continue
		}
		if slices.ContainsFunc(s.binds, func(o *bind) bool { return o.host == b.host && o.port == b.port }) {
			continue // 80 and [::]:80
		}
		s.binds = append(s.binds, b)
	}
	for _, b := range s.binds {
		key := b.host + "|" + b.port
		if !s.c.first[key] && !slices.ContainsFunc(s.c.servers, func(o *site) bool { return o.has(key, true) }) {
			s.c.first[key] = true
		}
	}
}

// has reports whether the server listens at an address; with standard, as its default_server.
func (s *site) has(key string, standard bool) bool {
	return slices.ContainsFunc(s.binds, func(b *bind) bool { return b.host+"|"+b.port == key && (b.standard || !standard) })
}

// standard reports whether the server is the default of an address: the default_server, or else the first one.
func (s *site) standard(b *bind) bool {
	key := b.host + "|" + b.port
	for _, o := range s.c.servers {
		if o.has(key, true) {
			return o == s
		}
	}
	for _, o := range s.c.servers {
		if o.has(key, false) {
			return o == s
		}
	}
	return true
}

// hosts returns the names of the server, without those that Caddy does not accept.
func (s *site) hosts() []string {
	var found []string
	for _, d := range s.at.here("server_name") {
		d.line.Done()
		for _, name := range d.args {
			rest, dotted := strings.CutPrefix(name, ".")
			star, wild := strings.CutPrefix(name, "*.")
			switch {
			case name == "_" || name == "" || name == "*" || name == "\"\"":
			case dotted && hostName.MatchString(rest):
				found = append(found, rest, "*."+rest)
			case wild && hostName.MatchString(star):
				found = append(found, name)
				d.line.Near("a star stands for one part of a name")
			case hostName.MatchString(name) && !strings.Contains(name, "$"):
				found = append(found, strings.ToLower(name))
			default:
				d.line.Leave("%s is no name that a site can have", name)
			}
		}
	}
	return slices.Compact(found)
}

// firstName returns the value of $server_name, the first name, whatever name the client has used; "" if it is not a host name.
func (s *site) firstName() string {
	found := s.at.here("server_name")
	if len(found) == 0 || found[0].arg(0) == "_" || !hostName.MatchString(found[0].arg(0)) {
		return ""
	}
	return found[0].arg(0)
}

// addresses returns the addresses of the site by TLS and by the host that it is bound to.
func (s *site) addresses() map[[2]string][]string {
	found := map[[2]string][]string{}
	hosts := s.hosts()
	for _, b := range s.binds {
		scheme := map[bool]string{false: "http", true: "https"}[b.secure]
		add := func(host string) {
			address := scheme + "://" + host + ":" + b.port
			if host != "" && b.port == map[bool]string{false: "80", true: "443"}[b.secure] {
				address = scheme + "://" + host
			}
			taken := host + "|" + b.host + "|" + b.port
			if s.c.taken[taken] {
				b.line.Leave("another server has this name there already")
				return
			}
			s.c.taken[taken] = true
			key := [2]string{scheme, b.host}
			found[key] = append(found[key], address)
		}
		standard := s.standard(b)
		if !standard || b.secure {
			for _, host := range hosts {
				add(host)
			}
		}
		if standard {
			add("")
		}
	}
	return found
}

func (s *site) write(w *draft.Writer) {
	s.named = map[string]*location{}
	for _, d := range s.at.list {
		if d.name == "location" && strings.HasPrefix(d.arg(0), "@") {
			s.named[d.arg(0)] = &location{d: d, kind: named, inside: true}
		}
	}
	sites := s.addresses()
	for _, d := range s.at.list {
		if d.name == "access_log" && d.arg(0) != "off" {
			s.log = true
		}
	}
	if d := s.at.one("access_log"); d != nil && d.arg(0) != "off" {
		s.log = true
		d.line.Near("Caddy's access log is JSON; log says where it goes")
	}
	body := new(draft.Writer)
	s.writeBody(body)
	head := new(draft.Writer)
	head.Comment(s.comments(append(lines(s.at.list), s.d.line)...)...)
	if len(sites) == 0 {
		w.Blank()
		w.Comment("a server without an address is left out")
		w.Add(head.String())
		for _, d := range flat(s.d.block) {
			d.line.Leave("its server has no address here") // also if the site, which is not written, has given the reason
		}
		return
	}
	snippet := "server_" + strconv.Itoa(s.d.line.Number)
	if len(sites) > 1 {
		w.Blank()
		w.Open("(" + snippet + ")")
		w.Add(head.String())
		w.Add(body.String())
		w.Close()
	}
	for _, scheme := range []string{"http", "https"} {
		for _, b := range s.binds {
			key := [2]string{scheme, b.host}
			list := sites[key]
			if list == nil {
				continue
			}
			delete(sites, key)
			w.Blank()
			for i := range list[:len(list)-1] {
				list[i] += ","
			}
			w.Open(list...)
			if b.host != "" {
				w.Line("bind", b.host)
			}
			if scheme == "https" {
				s.writeTLS(w)
			}
			if body := body.String(); s.d.line.Number > 0 && w != nil && strings.Contains(w.String(), "("+snippet+") {") {
				w.Line("import", snippet)
			} else {
				w.Add(head.String())
				w.Add(body)
			}
			w.Close()
		}
	}
}

func (s *site) writeTLS(w *draft.Writer) {
	certs, keys := s.at.all("ssl_certificate"), s.at.all("ssl_certificate_key")
	var options []string
	if d := s.at.one("ssl_protocols"); d != nil {
		d.line.Done()
		if !slices.Contains(d.args, "TLSv1.2") && slices.Contains(d.args, "TLSv1.3") {
			options = append(options, "protocols tls1.3")
		}
		if slices.Contains(d.args, "TLSv1") || slices.Contains(d.args, "TLSv1.1") {
			d.line.Near("Caddy serves TLS 1.2 and newer")
		}
	}
	if d := s.at.one("ssl_verify_client"); d != nil && d.arg(0) != "off" {
		d.line.Guards = true
		ca := s.at.one("ssl_client_certificate")
		if ca == nil || !safe(ca.arg(0)) {
			d.line.Leave("clients' certificates are not verified without ssl_client_certificate")
		} else {
			d.line.Done()
			ca.line.Done()
			mode := "require_and_verify"
			if d.arg(0) != "on" {
				mode = "verify_if_given"
			}
			options = append(options, "client_auth {", "\tmode "+mode, "\ttrust_pool file "+draft.Quote(ca.arg(0)), "}")
		}
	}
	pairs := min(len(certs), len(keys))
	wrote := false
	for i := range pairs {
		if !safe(certs[i].arg(0)) || !safe(keys[i].arg(0)) {
			certs[i].line.Leave("the name of the file is not understood")
			keys[i].line.Leave("the name of the file is not understood")
			continue
		}
		certs[i].line.Done()
		keys[i].line.Done()
		words := []string{"tls", certs[i].arg(0), keys[i].arg(0)}
		if len(options) > 0 && !wrote {
			w.Open(words...)
			for _, o := range options {
				w.Add(o + "\n")
			}
			w.Close()
		} else {
			w.Line(words...)
		}
		wrote = true
	}
	if !wrote {
		w.Comment("there is no certificate; without this line Caddy gets one for each name of the site")
		if len(options) == 0 {
			w.Line("tls", "internal")
			return
		}
		w.Open("tls", "internal")
		for _, o := range options {
			w.Add(o + "\n")
		}
		w.Close()
	}
}

func (s *site) writeBody(w *draft.Writer) {
	if s.log {
		w.Line("log")
	}
	if s.at.on("gzip") {
		s.at.one("gzip").line.Done()
		w.Line("encode", "gzip")
	}
	top := &location{kind: root, path: "/"}
	inner := new(draft.Writer)
	if !s.writeRewrites(inner, s.at, top) {
		s.writeLocations(inner, s.at, top)
	}
	for _, l := range s.named {
		if !l.used {
			for _, d := range append([]*directive{l.d}, flat(l.d.block)...) {
				if d.line.State == draft.Unseen {
					d.line.Leave("nothing that is converted leads to this location")
				}
			}
		}
	}
	s.writeErrors(w)
	w.Add(s.mapText.String())
	w.Open("route")
	w.Add(inner.String())
	w.Close()
}

// writeErrors writes error pages, which are files or URLs.
func (s *site) writeErrors(w *draft.Writer) {
	for _, d := range s.at.all("error_page") {
		if len(d.args) < 2 {
			continue
		}
		page := d.args[len(d.args)-1]
		var codes []string
		wrong := ""
		for _, arg := range d.args[:len(d.args)-1] {
			if _, ok := whole(arg, 300, 599); ok {
				codes = append(codes, arg)
			} else {
				wrong = arg
			}
		}
		switch {
		case wrong != "" || len(codes) == 0 || !safe(page) || strings.HasPrefix(page, "@"):
			d.line.Leave("write handle_errors with what is to be answered")
		case strings.HasPrefix(page, "http://") || strings.HasPrefix(page, "https://"):
			d.line.Done()
			w.Open(append([]string{"handle_errors"}, codes...)...)
			w.Line("redir", page, "302")
			w.Close()
		default:
			d.line.Near("it is for errors of Caddy itself, such as backends that cannot be reached, as without proxy_intercept_errors")
			at := s.at
			for _, l := range s.at.here("location") {
				if l.arg(0) == "=" && l.arg(1) == page || l.arg(0) == page {
					at = s.at.within(l.block)
				}
			}
			folder := at.one("root")
			if folder == nil || !safe(folder.arg(0)) {
				d.line.Leave("there is no root with the page")
				continue
			}
			folder.line.Done()
			w.Open(append([]string{"handle_errors"}, codes...)...)
			w.Line("root", "*", folder.arg(0))
			w.Line("rewrite", "*", page)
			w.Line("file_server")
			w.Close()
		}
	}
}
