package nginx

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// upstream is a group of servers with its converted text.
type upstream struct {
	d    *directive
	body string // backends and settings
	none bool   // no backend could be converted
	idle string // keepalive
	wait string // keepalive_timeout
	used map[string]string

	backends  string
	addresses []string
	settings  string // policy and other settings that do not depend on the use
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// address reads the address of a server. A missing port is that of the scheme.
func address(text, port string) (string, bool) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		path = strings.TrimSuffix(path, ":")
		return "unix/" + path, strings.HasPrefix(path, "/") && !strings.HasSuffix(path, "/") && safe(path) && !strings.ContainsAny(path, " ?")
	}
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.String(), a.Port() > 0 && !a.Addr().IsUnspecified()
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(a, uint16(portNumber(port))).String(), !a.IsUnspecified()
	}
	host, given, found := strings.Cut(text, ":")
	if found {
		port = given
	}
	if !hostName.MatchString(host) || portNumber(port) == 0 || strings.Trim(host, "0123456789.") == "" {
		return "", false
	}
	return host + ":" + port, true
}

func portNumber(text string) int {
	n, _ := whole(text, 1, 65535)
	return n
}

func (c *converter) upstream(d *directive) *upstream {
	u := &upstream{d: d, used: map[string]string{}}
	d.line.Done()
	w := new(draft.Writer)
	policy := []string{"round_robin"}
	fails, before := map[string]int{}, 0
	slow, ports := "", map[string]bool{}
	for _, s := range d.block {
		if s.name != "server" {
			u.other(s, &policy)
			continue
		}
		s.line.Done()
		where, ok := address(s.arg(0), "80")
		if !ok {
			s.line.Leave("the address is not understood")
			continue
		}
		if ports[where] {
			s.line.Leave("the address is there already; give one backend the weight of both")
			continue
		}
		b := new(draft.Writer)
		down, maxFails, failTime := false, "", ""
		for _, arg := range s.args[1:] {
			key, v, _ := strings.Cut(arg, "=")
			switch key {
			case "weight":
				if n, ok := whole(v, 1, 65535); ok {
					if n != 1 {
						b.Line("weight", v)
					}
				} else {
					s.line.Leave("%s", arg)
				}
			case "max_conns":
				if n, ok := whole(v, 0, 10000000); ok && n > 0 {
					b.Line("max_requests", v)
				} else if !ok {
					s.line.Leave("%s", arg)
				}
			case "backup":
				b.Line("backup")
			case "down":
				down = true
			case "drain":
				b.Line("weight", "0")
			case "max_fails":
				maxFails = v
			case "fail_timeout":
				failTime = v
			case "slow_start":
				slow = v
			case "resolve":
				s.line.Near("the name is looked up whenever a connection is made, and is one backend; dynamic a makes one of each address")
			case "id", "route":
			default:
				s.line.Leave("%s", arg)
			}
		}
		if down {
			s.line.Leave("it is down; write it as a backend when it is to serve, or add it by: caddy lb add")
			continue
		}
		ports[where] = true
		u.addresses = append(u.addresses, where)
		before++
		fails[maxFails+"|"+failTime]++
		if b.Len() > 0 {
			w.Open("backend", where)
			w.Add(b.String())
			w.Close()
		} else {
			w.Line("backend", where)
		}
	}
	u.none = before == 0
	u.backends = w.String()
	w = new(draft.Writer)
	w.Line(append([]string{"lb_policy"}, policy...)...)
	u.passive(w, fails, before)
	if t, ok := duration(slow); ok {
		w.Line("slow_start", draft.Duration(t))
	}
	u.settings = w.String()
	u.body = u.backends + u.settings
	return u
}

// never matches a duration of zero: backends are never down.
var never = regexp.MustCompile(`^0(ms|s|m|h|d)?$`)

// passive writes max_fails and fail_timeout, if they are the same for all backends.
func (u *upstream) passive(w *draft.Writer, fails map[string]int, servers int) {
	for said, n := range fails {
		maxFails, failTime, _ := strings.Cut(said, "|")
		if said == "|" {
			continue
		}
		if n < servers {
			for _, s := range u.d.block {
				if text := strings.Join(s.args, " "); strings.Contains(text, "max_fails") || strings.Contains(text, "fail_timeout") {
					s.line.Near("max_fails and fail_timeout differ between backends; the circuit breaker decides for each instead")
				}
			}
			return
		}
		if maxFails == "0" || never.MatchString(failTime) {
			w.Line("breaker", "off")
			return
		}
		t, ok := duration(failTime)
		if failTime == "" {
			t, ok = 10e9, true
		}
		if _, isNumber := whole(maxFails, 1, 1000000); (isNumber || maxFails == "") && ok {
			w.Line("fail_duration", draft.Duration(t))
			if maxFails != "" && maxFails != "1" {
				w.Line("max_fails", maxFails)
			}
			for _, s := range u.d.block {
				if s.name == "server" {
					s.line.Near("the circuit breaker is on, too")
				}
			}
			return
		}
		u.d.line.Leave("max_fails or fail_timeout is not understood")
	}
}

// other reads the directives that are not servers.
func (u *upstream) other(d *directive, policy *[]string) {
	switch d.name {
	case "least_conn":
		*policy = []string{"least_conn"}
		d.line.Done()
	case "ip_hash":
		*policy = []string{"ip_hash"}
		d.line.Near("the whole address counts; nginx takes three of the four parts of an IPv4 address")
	case "random":
		*policy = []string{"random"}
		if d.arg(0) == "two" {
			*policy = []string{"p2c"}
		}
		d.line.Done()
	case "least_time":
		*policy = []string{"peak_ewma"}
		d.line.Near("peak_ewma also considers how long answers take")
	case "hash":
		s := &scope{}
		key, unknown := s.value(d.arg(0), "")
		if unknown != "" || !strings.Contains(key, "{") {
			d.line.Leave("the key is not understood")
			return
		}
		key = strings.ReplaceAll(key, "{http.request.orig_uri}", "{uri}")
		*policy = append([]string{"hash"}, key)
		d.line.Near("keys go to other backends than with nginx")
	case "sticky":
		if d.arg(0) == "cookie" && regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(d.arg(1)) {
			*policy = []string{"cookie", d.arg(1)}
			d.line.Near("running sessions may move to another backend once; expires, domain and path are not converted")
			return
		}
		d.line.Leave("see sticky in docs/policies.md")
	case "keepalive":
		if n, ok := whole(d.arg(0), 1, 1000000); ok {
			u.idle = strconv.Itoa(n)
			d.line.Near("the bound is for each backend, nginx's for each of its workers")
		}
	case "keepalive_timeout":
		if t, ok := duration(d.arg(0)); ok {
			u.wait = draft.Duration(t)
			d.line.Done()
		}
	case "keepalive_requests", "keepalive_time":
		d.line.Idle("connections are kept as long as both sides allow")
	case "zone":
		d.line.Idle("Caddy is one process")
	case "resolver", "resolver_timeout":
		d.line.Near("names are looked up by the system's name servers")
	case "queue":
		d.line.Leave("write queue <size> <timeout>")
	case "include":
		d.line.Leave("convert the file by itself, and put its lines here")
	}
}

// pool returns the name of the pool for an upstream with these settings. Each combination of settings is a pool, with a unique name.
func (u *upstream) pool(c *converter, name, settings string) string {
	if u.used[settings] == "" {
		if len(u.used) > 0 {
			u.d.line.Near("it is used with different settings, and each use is a pool that counts for itself")
		}
		free := name
		for n := len(u.used) + 1; c.pools[free] != nil && (c.pools[free] != u || len(u.used) > 0); n++ {
			free = fmt.Sprintf("%s-%d", name, max(n, 2))
		}
		c.pools[free] = u
		u.used[settings] = free
	}
	return u.used[settings]
}
