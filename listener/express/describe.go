package express

import (
	"slices"

	"github.com/ballastlb/ballast/lbmodule/app"
)

// describe tells what becomes of the requests of each route that ends a way: with why, nothing is served.
func describe(l *list, why string) []app.ExpressRoute {
	d := description{all: []app.ExpressRoute{}}
	d.list(l, scope{why: why})
	return d.all
}

// scope is where a description is.
type scope struct {
	hosts, paths []string
	why          string // what is here is not served; "" if it is
}

type description struct{ all []app.ExpressRoute }

// list describes the routes of l. It returns why nothing behind l is served, "" if it may be.
func (d *description) list(l *list, in scope) string {
	for i := range l.routes {
		in.why = d.route(&l.routes[i], in)
	}
	return in.why
}

// route describes r, and returns why nothing behind it is served.
func (d *description) route(r *route, in scope) string {
	inside, behind := in, in.why
	understood := len(r.sets) == 0 // one of the sets
	for _, s := range r.sets {
		inside.narrow(s)
		understood = understood || s.foreign() == ""
		// All requests that get here and have matched no set so far go to Caddy.
		if behind == "" && len(s) > 0 {
			behind = s[0].foreign()
		}
	}
	if inside.why == "" && !understood {
		inside.why = r.sets[0].foreign()
	}
	other, ends := "", false // a handler that was not understood; whether what the route does is described
	for _, h := range r.handlers {
		switch h := h.(type) {
		case *list:
			inside.why, ends = d.list(h, inside), true
		case *target:
			d.add(inside, h.name, h.plan.Pool.Name())
			ends = true
		case stranger:
			other = h.name
			if inside.why == "" {
				inside.why = h.why
			}
		}
	}
	if other != "" && !ends {
		d.add(inside, other, "")
	}
	if len(r.sets) == 0 {
		behind = inside.why
	}
	return behind
}

func (d *description) add(in scope, handler, pool string) {
	d.all = append(d.all, app.ExpressRoute{
		Hosts: append([]string{}, in.hosts...), Paths: append([]string{}, in.paths...),
		Handler: handler, Pool: pool, Served: in.why == "", Reason: in.why,
	})
}

// narrow adds the hosts and paths of a set.
func (in *scope) narrow(s set) {
	for _, m := range s {
		switch m := m.(type) {
		case *hosts:
			in.hosts = slices.Concat(in.hosts, m.written)
		case *paths:
			in.paths = slices.Concat(in.paths, m.written)
		}
	}
}

// foreign returns the name of what was not understood of the set, "" if all was.
func (s set) foreign() string { return not{s}.foreign() }
