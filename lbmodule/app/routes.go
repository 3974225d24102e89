package app

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Route is a chain of routes that leads from a server to a load balancer.
type Route struct {
	Server string   `json:"server"`
	Listen []string `json:"listen"`
	Way    []string `json:"way"` // the matchers of the routes, from the outermost to the innermost; empty if all requests match
}

// PoolRoutes lists the routes to a pool.
type PoolRoutes struct {
	Routes []Route `json:"routes"`
	More   int     `json:"more,omitempty"` // number of routes that are not listed
}

const (
	mostRoutes = 20     // listed per pool
	mostNames  = 5      // listed per matcher
	mostVisits = 50_000 // bounds the handlers that are visited: a named route may be invoked many times
)

// balancer is a load balancer.
type balancer interface{ PoolName() string }

// Routes returns the routes to a's pools, by the name of the pool. They are known once a has started. The caller must not change them.
func (a *App) Routes() map[string]PoolRoutes {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.routes
}

// findRoutes sets a.routes. It is called at the start, when the whole config is provisioned. The caller holds a.mu.
func (a *App) findRoutes() {
	if http, err := a.ctx.AppIfConfigured("http"); err == nil {
		a.routes = routesOf(http.(*caddyhttp.App))
	}
}

// routesOf returns the routes of http's servers that lead to load balancers, by pool. It follows subroutes and named routes. It does not
// see routes inside other handlers.
func routesOf(http *caddyhttp.App) map[string]PoolRoutes {
	f := finder{found: make(map[string]PoolRoutes), within: make(map[string]bool)}
	for _, name := range slices.Sorted(maps.Keys(http.Servers)) {
		server := http.Servers[name]
		f.server = server
		f.list(server.Routes, nil)
		if server.Errors != nil {
			f.list(server.Errors.Routes, []string{onErrors})
		}
	}
	return f.found
}

const onErrors = "on errors"

// finder searches the routes of a server.
type finder struct {
	found  map[string]PoolRoutes
	server *caddyhttp.Server
	within map[string]bool // the named routes that are being searched
	visits int
}

func (f *finder) list(routes caddyhttp.RouteList, way []string) {
	for i := range routes {
		f.route(&routes[i], way)
	}
}

func (f *finder) route(r *caddyhttp.Route, way []string) {
	if wants := describeSets(r.MatcherSets); wants != "" {
		way = append(slices.Clip(way), wants)
	}
	for _, h := range r.Handlers {
		if f.visits++; f.visits > mostVisits {
			return
		}
		switch h := h.(type) {
		case *caddyhttp.Subroute:
			f.list(h.Routes, way)
			if h.Errors != nil {
				f.list(h.Errors.Routes, append(slices.Clip(way), onErrors))
			}
		case *caddyhttp.Invoke:
			if named := f.server.NamedRoutes[h.Name]; named != nil && !f.within[h.Name] {
				f.within[h.Name] = true
				f.route(named, way)
				delete(f.within, h.Name)
			}
		case balancer:
			f.add(h.PoolName(), way)
		}
	}
}

func (f *finder) add(pool string, way []string) {
	of := f.found[pool]
	if slices.ContainsFunc(of.Routes, func(r Route) bool { return r.Server == f.server.Name() && slices.Equal(r.Way, way) }) {
		return
	}
	if len(of.Routes) < mostRoutes {
		of.Routes = append(of.Routes, Route{Server: f.server.Name(), Listen: slices.Clone(f.server.Listen), Way: append([]string{}, way...)})
	} else {
		of.More++
	}
	f.found[pool] = of
}

// describeSets describes the matchers of a route: `example.com /api/* (method) or /v1/*`.
func describeSets(sets caddyhttp.MatcherSets) string {
	var all []string
	for _, set := range sets {
		var parts, others []string
		for _, m := range set {
			switch m := m.(type) {
			case *caddyhttp.MatchHost:
				parts = append([]string{first(*m, ", ")}, parts...)
			case *caddyhttp.MatchPath:
				parts = append(parts, first(*m, ", "))
			case caddy.Module:
				others = append(others, m.CaddyModule().ID.Name())
			}
		}
		slices.Sort(others)
		if len(others) > 0 {
			parts = append(parts, "("+strings.Join(others, ", ")+")")
		}
		if len(parts) > 0 {
			all = append(all, strings.Join(parts, " "))
		}
	}
	return first(all, " or ")
}

// first joins the first few names, and adds how many more there are.
func first(names []string, by string) string {
	if len(names) <= mostNames {
		return strings.Join(names, by)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNames], by), len(names)-mostNames)
}
