package nginx

import (
	"slices"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// converter holds the parts of a configuration that other parts refer to.
type converter struct {
	ledger    *draft.Ledger
	upstreams map[string]*upstream
	maps      map[string]*directive
	zones     map[string]*zone
	limits    map[string]*zone // by the name of the limit: the name of the zone if it is free
	splits    map[string]*split
	realIP    bool
	trusted   []string
	timeouts  map[string]time.Duration
	pools     map[string]*upstream // by the name of the pool: the name of the upstream if it is free
	servers   []*site
	taken     map[string]bool
	first     map[string]bool // ports that have a server already
	top       *scope
}

// Convert returns a Caddyfile for a configuration: a whole one, or a file that is included in one.
func Convert(text string, ledger *draft.Ledger) (string, error) {
	list, err := parse(text, ledger)
	if err != nil {
		return "", err
	}
	c := &converter{
		ledger: ledger, upstreams: map[string]*upstream{}, maps: map[string]*directive{}, zones: map[string]*zone{}, limits: map[string]*zone{}, splits: map[string]*split{}, timeouts: map[string]time.Duration{},
		pools: map[string]*upstream{}, taken: map[string]bool{}, first: map[string]bool{},
	}
	var http []*directive
	for _, d := range list {
		switch {
		case d.name == "http" && d.opens:
			d.line.Done()
			http = append(http, d.block...)
		case d.name == "events" && d.opens:
			d.line.Idle("Caddy's sockets need no settings")
			for _, e := range d.block {
				e.line.Idle("Caddy's sockets need no settings")
			}
		case d.name == "stream" || d.name == "mail":
			for _, e := range append([]*directive{d}, flat(d.block)...) {
				e.line.Leave("%s: load_balancer is for HTTP", d.name)
			}
		case d.name == "server" || d.name == "upstream" || d.name == "map" || d.name == "split_clients" || d.name == "location" || strings.HasPrefix(d.name, "limit_") || strings.HasPrefix(d.name, "proxy_"):
			http = append(http, d)
		default:
			if !idle(d) {
				http = append(http, d)
			}
		}
	}
	c.top = &scope{list: http}
	c.see(http)
	body := new(draft.Writer)
	for _, s := range c.servers {
		s.write(body)
	}
	head := new(draft.Writer)
	c.writeHead(head, list)
	head.Blank()
	return head.String() + body.String(), nil
}

// see reads the directives outside of servers.
func (c *converter) see(http []*directive) {
	for _, d := range http {
		switch d.name {
		case "upstream":
			if c.upstreams[d.arg(0)] != nil {
				d.line.Leave("there is an upstream of this name already")
				continue
			}
			u := c.upstream(d)
			c.upstreams[d.arg(0)] = u
			if name := draft.Name(d.arg(0)); c.pools[name] == nil {
				c.pools[name] = u
			}
		case "map":
			c.seeMap(d)
		case "split_clients":
			c.seeSplit(d)
		case "limit_req_zone", "limit_conn_zone":
			c.seeZone(d)
		case "set_real_ip_from":
			if safe(d.arg(0)) && strings.Trim(d.arg(0), "0123456789abcdefABCDEF.:/") == "" {
				c.trusted = append(c.trusted, d.arg(0))
				d.line.Done()
			}
		case "real_ip_header":
			c.realIP = true
			if strings.EqualFold(d.arg(0), "X-Forwarded-For") {
				d.line.Done()
			} else if headerName.MatchString(d.arg(0)) {
				d.line.Leave("write client_ip_headers %s in servers of the global options", d.arg(0))
			}
		case "real_ip_recursive":
			d.line.Idle("trusted_proxies_strict does it")
		}
	}
	for _, d := range http {
		if d.name == "server" && d.opens {
			d.line.Done()
			s := &site{c: c, d: d, maps: map[string]bool{}, names: map[string]bool{}}
			s.at = &scope{around: c.top, list: d.block, uses: s}
			s.listen()
			c.servers = append(c.servers, s)
		}
	}
	c.seeTimeouts(c.top)
	for _, s := range c.servers {
		c.seeTimeouts(&scope{list: s.d.block})
	}
}

// seeTimeouts reads the timeouts of clients, which Caddy sets for all sites.
func (c *converter) seeTimeouts(s *scope) {
	for name, key := range map[string]string{"keepalive_timeout": "idle", "client_header_timeout": "read_header"} {
		for _, d := range s.here(name) {
			t, ok := duration(d.arg(0))
			if !ok {
				if d.arg(0) == "0" {
					d.line.Leave("connections are kept")
				}
				continue
			}
			d.line.Done()
			if old, had := c.timeouts[key]; had && old != t {
				d.line.Near("it is for all sites; the first of several values is used")
				continue
			}
			c.timeouts[key] = t
		}
	}
}

func (c *converter) writeHead(w *draft.Writer, list []*directive) {
	w.Open()
	w.Line("auto_https", "disable_redirects")
	w.Open("servers")
	if len(c.trusted) > 0 && c.realIP {
		w.Line(append([]string{"trusted_proxies", "static"}, c.trusted...)...)
		w.Line("trusted_proxies_strict")
	}
	if len(c.timeouts) > 0 {
		w.Open("timeouts")
		for _, key := range draft.Sorted(c.timeouts) {
			w.Line(key, draft.Duration(c.timeouts[key]))
		}
		w.Close()
	}
	w.Open("listener_wrappers")
	w.Line("seamless")
	w.Close()
	w.Close()
	w.Close()
	w.Blank()
	// The lines that were not handled at their places.
	all := flat(list)
	caches := slices.ContainsFunc(all, func(d *directive) bool { return d.name == "proxy_cache" && d.arg(0) != "off" })
	for _, d := range all {
		switch {
		case d.line.State != draft.Unseen:
		case !caches && (d.name == "proxy_no_cache" || strings.HasPrefix(d.name, "proxy_cache") && d.name != "proxy_cache_path"):
			d.line.Idle("no proxy_cache is on here")
		default:
			idle(d)
		}
	}
	w.Comment(c.ledger.Comments(c.ledger.Lines...)...)
}
