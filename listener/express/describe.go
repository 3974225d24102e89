package express

import (
	"slices"

	"github.com/ballastlb/ballast/lbmodule/app"
)

// describe returns what happens to the requests of each route that can end a way. If why is not empty, nothing is served.
func describe(l *list, why string) []app.ExpressRoute {
	d := description{all: []app.ExpressRoute{}}
	d.list(l, scope{why: why})
	return d.all
}

// scope is the context of a route in a description.
type scope struct {
	hosts, paths []string
	why          string // why requests here are not served; "" if they are
}

type description struct{ all []app.ExpressRoute }

// list describes the routes of l. It returns why nothing after l is served, "" if it may be.
func (d *description) list(l *list, in scope) string {
	for i := range l.routes {
		in.why = d.route(&l.routes[i], in)
	}
	return in.why
}

// route describes r, and returns why nothing after it is served.
func (d *description) route(r *route, in scope) string {
	inside, behind := in, in.why
	understood := len(r.sets) == 0 // at least one of the sets was understood
	for _, s := range r.sets {
		inside.narrow(s)
		understood = understood || s.foreign() == ""
		// All requests that get here and have matched no earlier set go to Caddy.
		if behind == "" && len(s) > 0 {
			behind = s[0].foreign()
		}
	}
	if inside.why == "" && !understood {
		inside.why = r.sets[0].foreign()
	}
	other, ends := "", false // name of a handler that was not understood; whether the route is described already
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

// foreign returns the name of the part of the set that was not understood, "" if all was.
func (s set) foreign() string { return not{s}.foreign() }
