package haproxy

import (
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// converter holds the parts of a configuration that other parts refer to.
type converter struct {
	ledger    *draft.Ledger
	sections  []*section
	backends  map[string]*backend
	order     []*backend
	tables    map[string]*table
	resolvers map[string][]string // addresses of name servers
	taken     map[string]bool     // addresses at which a site listens
	zones     map[string]int
	caBase    string
	crtBase   string
	insecure  bool // ssl-server-verify none
	timeouts  map[string]time.Duration
	from      map[string]string // HAProxy's timeout that a timeout comes from
}

// Convert returns a Caddyfile for a configuration.
func Convert(text string, ledger *draft.Ledger) string {
	c := &converter{
		ledger: ledger, sections: read(text, ledger), backends: map[string]*backend{}, tables: map[string]*table{}, resolvers: map[string][]string{},
		taken: map[string]bool{}, zones: map[string]int{}, timeouts: map[string]time.Duration{}, from: map[string]string{},
	}
	frontends := c.see()
	body := new(draft.Writer)
	c.write(body, frontends)
	head := new(draft.Writer)
	c.writeHead(head)
	head.Blank()
	return head.String() + body.String()
}

// tcp reports whether a section is not in mode http.
func tcp(s *section) bool {
	mode := "tcp"
	for _, d := range s.all() {
		if d.word(0) == "mode" {
			mode = d.word(1)
		}
	}
	return mode != "http"
}

// see reads all sections. It writes nothing, because any section may use a line of defaults.
func (c *converter) see() []*frontend {
	for _, s := range c.sections {
		switch s.kind {
		case "global":
			c.global(s)
		case "resolvers":
			c.resolver(s)
		}
	}
	for _, s := range c.sections {
		if s.kind != "backend" && s.kind != "listen" {
			continue
		}
		for _, d := range s.all() {
			if d.word(0) == "stick-table" {
				if t := readTable(d); t != nil {
					c.tables[s.name] = t
				}
			}
		}
		if tcp(s) || s.kind == "listen" {
			continue
		}
		if c.backends[s.name] != nil {
			s.line.Leave("there is a backend of this name already")
			continue
		}
		b := newBackend(c, s)
		c.backends[s.name] = b
		c.order = append(c.order, b)
	}
	for _, b := range c.order {
		for _, d := range b.section.all() {
			c.common(d)
			b.see(d)
			b.rules.see(d)
		}
	}
	var frontends []*frontend
	for _, s := range c.sections {
		if s.kind != "frontend" && s.kind != "listen" || tcp(s) {
			continue
		}
		f := &frontend{section: s, c: c}
		if s.kind == "listen" {
			f.pool = newBackend(c, s)
			f.rules = f.pool.rules
		} else {
			f.rules = newRules(c, s, "")
		}
		for _, d := range s.all() {
			c.common(d)
			f.see(d)
			if f.pool != nil {
				f.pool.see(d)
			}
			f.rules.see(d)
		}
		frontends = append(frontends, f)
	}
	c.leaveOthers()
	return frontends
}

// leaveOthers marks sections that are not converted, with the reason.
func (c *converter) leaveOthers() {
	why := map[string]string{
		"userlist": "Caddy's basic_auth has its users in the site; make hashes by: caddy hash-password",
		"peers":    "ip_rate_limit shares its buckets by Redis", "mailers": "see the alerts in deploy/", "cache": "Caddy has no cache of its own",
		"program": "Caddy starts no programs", "ring": "Caddy logs by itself", "http-errors": "see handle_errors", "log-forward": "Caddy forwards no logs",
		"fcgi-app": "see php_fastcgi", "crt-store": "name certificates in tls",
	}
	for _, s := range c.sections {
		reason := why[s.kind]
		switch {
		case reason != "":
			s.line.Leave("%s", reason)
		case (s.kind == "frontend" || s.kind == "backend" || s.kind == "listen") && tcp(s):
			reason = "mode tcp: load_balancer is for HTTP"
			s.line.Leave("%s", reason)
		default:
			continue
		}
		for _, d := range s.own {
			if d.line.State == draft.Unseen {
				d.line.Leave("%s", reason)
			}
		}
	}
}

func (c *converter) resolver(s *section) {
	for _, d := range s.own {
		switch d.word(0) {
		case "nameserver":
			host, _, _ := strings.Cut(d.word(2), "@")
			if host != d.word(2) {
				host = strings.TrimPrefix(d.word(2), host+"@")
			}
			if a, err := netip.ParseAddrPort(host); err == nil {
				c.resolvers[s.name] = append(c.resolvers[s.name], a.String())
				d.line.Done()
			} else {
				d.line.Leave("the address is not understood")
			}
		case "parse-resolv-conf":
			d.line.Idle("Caddy asks the system's name servers")
		default:
			d.line.Idle("names are looked up when a connection is made, or by dynamic, which has its own times")
		}
	}
}

// file returns the path of a certificate.
func (c *converter) file(name, base string) (string, bool) {
	if name == "" || strings.ContainsAny(name, "{}\"`\\\n\r\x00") {
		return "", false
	}
	if !path.IsAbs(name) && base != "" {
		name = path.Join(base, name)
	}
	return name, true
}

// zone returns a unique name for a rate limit.
func (c *converter) zone(name string) string {
	c.zones[name]++
	if n := c.zones[name]; n > 1 {
		return name + "-" + strconv.Itoa(n)
	}
	return name
}

// clientTimeout adds a timeout of clients, which Caddy sets for all sites.
func (c *converter) clientTimeout(kind, key string, t time.Duration, line *draft.Line) {
	line.Done()
	if kind == "client" {
		line.Near("it limits how long a connection may be idle between requests; Caddy's other timeouts are for whole bodies")
		if c.from[key] == "http-keep-alive" {
			return
		}
	}
	if old, ok := c.timeouts[key]; ok && old != t && c.from[key] == kind {
		line.Near("it is for all sites; the first of several values is used")
		return
	}
	c.timeouts[key], c.from[key] = t, kind
}

// writeMatcher writes a named matcher.
func (c *converter) writeMatcher(w *draft.Writer, name string, f draft.Formula) {
	draft.WriteMatcher(w, name, f)
}

// writeImport writes the use of a backend.
func (c *converter) writeImport(w *draft.Writer, b *backend) {
	w.Line("import", "backend_"+draft.Name(b.section.name))
}

func (c *converter) write(w *draft.Writer, frontends []*frontend) {
	snippets := map[string]bool{}
	for _, b := range c.order {
		name := "backend_" + draft.Name(b.section.name)
		if snippets[name] {
			b.section.line.Leave("two names are alike in Caddy")
			continue
		}
		snippets[name] = true
		body := new(draft.Writer)
		if len(b.rules.steps) > 0 {
			body.Open("route")
			b.rules.write(body)
			b.writePool(body)
			body.Close()
		} else {
			b.writePool(body)
		}
		w.Blank()
		w.Open("(" + name + ")")
		w.Comment(c.ledger.Comments(append(linesOf(b.section.own), b.section.line)...)...)
		w.Add(body.String())
		w.Close()
	}
	for _, f := range frontends {
		f.write(w)
	}
	// The remaining lines belong to no site: other sections, and those in mode tcp.
	var rest []*draft.Line
	for _, s := range c.sections {
		if s.kind != "global" && s.kind != "defaults" {
			rest = append(append(rest, s.line), linesOf(s.own)...)
		}
	}
	if said := c.ledger.Comments(rest...); len(said) > 0 {
		w.Blank()
		w.Comment(said...)
	}
}

func (c *converter) writeHead(w *draft.Writer) {
	w.Open()
	w.Line("auto_https", "disable_redirects")
	w.Open("servers")
	if len(c.timeouts) > 0 {
		w.Open("timeouts")
		for _, key := range draft.Sorted(c.timeouts) {
			w.Line(key, written(c.timeouts[key]))
		}
		w.Close()
	}
	w.Open("listener_wrappers")
	w.Line("seamless")
	w.Close()
	w.Close()
	w.Close()
	w.Blank()
	for _, s := range c.sections {
		for _, d := range s.own {
			if s.kind == "defaults" && d.line.State == draft.Unseen {
				d.line.Leave("no section here uses it, or it is not understood")
			}
		}
	}
	w.Comment(c.ledger.Comments(c.ledger.Lines...)...)
}
