package express

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// end tells how a part of a way ended.
type end int

const (
	passed  end = iota // the way goes on
	arrived            // at a load balancer
	left               // Caddy gets the request
)

// compiler turns Caddy's provisioned routes into a Table's.
type compiler struct {
	ctx    caddy.Context
	groups map[string]int // numbers of the groups of routes
}

// list is a list of routes. Large ones are indexed by host.
type list struct {
	routes []route
	byHost map[string][]int // indexes of the routes that are for certain hosts only; nil if the list is small
	others []int            // the indexes of other routes, if there is byHost
}

// route is a route. As in Caddy the next route follows, unless one of its handlers answers or it is terminal.
type route struct {
	index    int // in the server's list; -1 for routes of a subroute
	handler  string
	group    int // 0 for none
	sets     []set
	handlers []handler
	terminal bool
}

// small is the longest list without an index.
const small = 4

func (c *compiler) list(routes caddyhttp.RouteList, top bool) list {
	var l list
	for i, r := range routes {
		compiled := c.route(r)
		if compiled.index = -1; top {
			compiled.index = i
		}
		l.routes = append(l.routes, compiled)
	}
	if len(l.routes) > small {
		l.index()
	}
	return l
}

func (c *compiler) route(r caddyhttp.Route) route {
	compiled := route{sets: c.sets(r.MatcherSets), terminal: r.Terminal}
	if r.Group != "" {
		if c.groups[r.Group] == 0 {
			c.groups[r.Group] = len(c.groups) + 1
		}
		compiled.group = c.groups[r.Group]
	}
	if len(r.Handlers) > 0 {
		compiled.handler = caddy.GetModuleName(r.Handlers[0])
	}
	for _, h := range r.Handlers {
		compiled.handlers = append(compiled.handlers, c.handler(h))
	}
	return compiled
}

// index builds the index by host.
func (l *list) index() {
	l.byHost = make(map[string][]int)
	for i := range l.routes {
		hosts, only := l.routes[i].hosts()
		if !only {
			l.others = append(l.others, i)
		}
		for _, host := range hosts {
			l.byHost[host] = append(l.byHost[host], i)
		}
	}
}

// hosts returns the hosts that the route is for, if it is for certain hosts only.
func (r *route) hosts() (all []string, only bool) {
	for _, s := range r.sets {
		i := slices.IndexFunc(s, func(m matcher) bool { h, ok := m.(*hosts); return ok && h.exact() })
		if i < 0 {
			return nil, false
		}
		for _, host := range s[i].(*hosts).names {
			if !slices.Contains(all, host) {
				all = append(all, host)
			}
		}
	}
	return all, len(all) > 0
}

// follow follows the request's way through the list.
func (l *list) follow(w *Way) (end, string) {
	if l.byHost == nil || !w.hosted {
		return l.followFrom(0, w)
	}
	some, others := l.byHost[string(w.host)], l.others
	for len(some) > 0 || len(others) > 0 {
		var next int
		if len(others) == 0 || len(some) > 0 && some[0] < others[0] {
			next, some = some[0], some[1:]
		} else {
			next, others = others[0], others[1:]
		}
		if end, why := l.routes[next].follow(w); end != passed {
			return end, why
		}
		if !w.hosted { // a handler has changed it
			return l.followFrom(next+1, w)
		}
	}
	return passed, ""
}

// followFrom follows the request's way through the rest of the list, without the index.
func (l *list) followFrom(i int, w *Way) (end, string) {
	for ; i < len(l.routes); i++ {
		if end, why := l.routes[i].follow(w); end != passed {
			return end, why
		}
	}
	return passed, ""
}

// follow follows the request's way through the route, as caddyhttp's wrapRoute does.
func (r *route) follow(w *Way) (end, string) {
	if r.group != 0 && slices.Contains(w.groups, r.group) {
		return passed, ""
	}
	matches, why := matchAny(r.sets, w)
	if why != "" {
		return left, why
	}
	if !matches {
		return passed, ""
	}
	if r.group != 0 {
		if len(w.groups) == mostGroups {
			return left, reasonMany
		}
		w.groups = append(w.groups, r.group)
	}
	if r.index >= 0 {
		if w.renamed != "" {
			return left, w.renamed // metrics count each of the server's routes under the host that it has seen
		}
		if len(w.Routes) == mostMatched {
			return left, reasonMany
		}
		w.Routes = append(w.Routes, Matched{Index: r.index, Handler: r.handler})
	}
	for _, h := range r.handlers {
		if end, why := h.follow(w); end != passed {
			return end, why
		}
	}
	if r.terminal {
		return left, reasonEmpty // this applies to the routes around a subroute as well
	}
	return passed, ""
}
