package nginx

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// zone is a limit_req_zone or limit_conn_zone.
type zone struct {
	d    *directive
	key  string // "" for the address
	rate string
	used map[string]string
}

var rates = regexp.MustCompile(`^(\d{1,8})r/([sm])$`)

func (c *converter) seeZone(d *directive) {
	z := &zone{d: d, used: map[string]string{}}
	if k := strings.Trim(d.arg(0), "${}"); k != "binary_remote_addr" && k != "remote_addr" {
		s := &scope{around: c.top}
		key, unknown := s.value(d.arg(0), "")
		if unknown != "" || !strings.Contains(key, "{") {
			d.line.Leave("the key is not understood")
			return
		}
		z.key = key
	}
	name := ""
	for _, arg := range d.args[min(1, len(d.args)):] {
		key, v, _ := strings.Cut(arg, "=")
		switch key {
		case "zone":
			name, _, _ = strings.Cut(v, ":")
		case "rate":
			m := rates.FindStringSubmatch(v)
			if m == nil || m[1] == "0" {
				d.line.Leave("the rate is not understood")
				return
			}
			z.rate = m[1] + "/" + m[2]
		case "sync":
			d.line.Near("see redis of ip_rate_limit")
		default:
			d.line.Leave("%s", arg)
		}
	}
	if name == "" || d.name == "limit_req_zone" && z.rate == "" {
		d.line.Leave("the zone has no name or no rate")
		return
	}
	d.line.Done()
	c.zones[name] = z
	if name := draft.Name(name); c.limits[name] == nil {
		c.limits[name] = z
	}
}

// writeLimits writes the limits of requests and connections.
func (s *site) writeLimits(w *draft.Writer, at *scope) {
	dry := at.on("limit_req_dry_run")
	if d := at.one("limit_req_dry_run"); d != nil {
		d.line.Done()
	}
	for _, name := range []string{"limit_req_status", "limit_conn_status"} {
		if d := at.one(name); d != nil {
			d.line.Done()
			if d.arg(0) != "429" {
				d.line.Near("refused requests get 429")
			}
		}
	}
	for _, d := range at.all("limit_req") {
		name, burst, delay := "", 0, true
		for _, arg := range d.args {
			key, v, _ := strings.Cut(arg, "=")
			switch key {
			case "zone":
				name = v
			case "burst":
				burst, _ = whole(v, 0, 1<<29)
			case "nodelay":
				delay = false
			case "delay":
			default:
				d.line.Leave("%s", arg)
			}
		}
		z := s.c.zones[name]
		d.line.Guards = true
		if z == nil || z.rate == "" {
			d.line.Leave("there is no such zone here")
			continue
		}
		d.line.Done()
		if at.one("limit_req_status") == nil {
			d.line.Near("refused requests get 429, not nginx's 503")
		}
		if delay && burst > 0 {
			d.line.Near("nginx makes requests beyond the rate wait; here they pass at once, up to burst")
		}
		b := new(draft.Writer)
		b.Line("rate", z.rate)
		b.Line("burst", strconv.Itoa(burst+1))
		s.writeLimit(w, z, name, b, dry)
	}
	for _, d := range at.all("limit_conn") {
		z := s.c.zones[d.arg(0)]
		n, ok := whole(d.arg(1), 1, 1048576)
		d.line.Guards = true
		if z == nil || !ok {
			d.line.Leave("there is no such zone here, or no number")
			continue
		}
		d.line.Near("it bounds requests in flight, and with HTTP/2 so does nginx")
		b := new(draft.Writer)
		b.Line("concurrency", strconv.Itoa(n))
		s.writeLimit(w, z, d.arg(0), b, dry)
	}
}

func (s *site) writeLimit(w *draft.Writer, z *zone, name string, b *draft.Writer, dry bool) {
	if z.key != "" {
		b.Line("key", z.key)
	}
	if dry {
		b.Line("dry_run")
	}
	body := b.String()
	if z.used[body] == "" {
		if len(z.used) > 0 {
			z.d.line.Near("it is used with several bursts: each counts for itself")
		}
		free := draft.Name(name)
		for n := len(z.used) + 1; s.c.limits[free] != nil && (s.c.limits[free] != z || len(z.used) > 0); n++ {
			free = draft.Name(name) + "-" + strconv.Itoa(max(n, 2))
		}
		s.c.limits[free] = z
		z.used[body] = free
	}
	w.Open("ip_rate_limit")
	w.Line("zone", z.used[body])
	w.Add(body)
	w.Close()
}

// writeAccess writes which clients are served. If the rules cannot be expressed, it refuses all.
func (s *site) writeAccess(w *draft.Writer, at *scope) {
	for _, name := range []string{"auth_basic", "auth_request", "auth_jwt", "satisfy"} {
		d := at.one(name)
		if d == nil || d.arg(0) == "off" || name == "satisfy" && d.arg(0) == "all" {
			if d != nil {
				d.line.Done()
			}
			continue
		}
		d.line.Guards = true
		for _, file := range at.all("auth_basic_user_file") {
			file.line.Leave("make hashes by: caddy hash-password")
		}
		d.line.Leave("closed until basic_auth stands here with hashes of caddy hash-password, or forward_auth")
		w.Comment(s.comments(d.line)...)
		w.Line("respond", "403")
	}
	for _, d := range at.here("limit_except") {
		s.writeExcept(w, d)
	}
	var allowed, denied []string
	all := ""
	list := at.all("allow", "deny")
	for _, d := range list {
		d.line.Guards = true
		from := d.arg(0)
		switch {
		case all != "":
			d.line.Done() // never reached, after allow all or deny all
		case from == "all":
			all = d.name
			d.line.Done()
		case from == "unix:":
			d.line.Near("clients over unix sockets are not recognized")
		case strings.Trim(from, "0123456789abcdefABCDEF.:/") != "" || from == "":
			all = "unknown"
		case d.name == "allow":
			allowed = append(allowed, from)
			d.line.Done()
		default:
			denied = append(denied, from)
			d.line.Done()
		}
	}
	ip := "remote_ip"
	if s.c.realIP {
		ip = "client_ip"
	}
	switch {
	case len(list) == 0 || all == "allow" && len(denied) == 0:
	case all == "deny" && len(denied) == 0 && len(allowed) == 0:
		w.Line("respond", "403")
	case all == "deny" && len(denied) == 0:
		name := "@" + s.unique("denied")
		w.Line(append([]string{name, "not", ip}, allowed...)...)
		w.Line("respond", name, "403")
	case all != "deny" && all != "unknown" && len(allowed) == 0:
		name := "@" + s.unique("denied")
		w.Line(append([]string{name, ip}, denied...)...)
		w.Line("respond", name, "403")
	default:
		for _, d := range list {
			d.line.Leave("closed: write the order of allow and deny with matchers of %s", ip)
		}
		w.Comment(s.comments(lines(list)...)...)
		w.Line("respond", "403")
	}
}

var methods = regexp.MustCompile(`^[A-Z]+$`)

// writeExcept refuses all methods except the listed ones. It also refuses them for clients to which nginx would allow them.
func (s *site) writeExcept(w *draft.Writer, d *directive) {
	d.line.Guards = true
	d.line.Done()
	inner := flat(d.block)
	if len(inner) != 1 || inner[0].name != "deny" || inner[0].arg(0) != "all" {
		d.line.Leave("other methods are refused for all clients")
	}
	for _, b := range inner {
		if b.line.Done(); d.line.State == draft.Left {
			b.line.Leave("it is in limit_except")
		}
	}
	served := slices.Clone(d.args)
	if slices.Contains(served, "GET") {
		served = append(served, "HEAD") // nginx allows HEAD with GET
	}
	if len(served) == 0 || slices.ContainsFunc(served, func(m string) bool { return !methods.MatchString(m) }) {
		d.line.Leave("the methods are not understood; all requests are refused")
		w.Line("respond", "403")
		return
	}
	slices.Sort(served)
	name := "@" + s.unique("methods")
	w.Line(append([]string{name, "not", "method"}, slices.Compact(served)...)...)
	w.Line("respond", name, "403")
}

func lines(list []*directive) []*draft.Line {
	var found []*draft.Line
	for _, d := range list {
		found = append(found, d.line)
	}
	return found
}
