package lbmodule

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// group is a handler as the manager of its pool sees it.
type group struct{ h *Handler }

// Config implements [manage.Group].
func (g group) Config() []overlay.Backend {
	all := g.h.roster.config()
	if g.h.dynamic == nil {
		return all
	}
	return append(all, slices.DeleteFunc(g.h.dynamic.config(), func(b overlay.Backend) bool {
		_, twice := g.h.roster.byAddress[b.Address]
		return twice
	})...)
}

// Apply implements [manage.Group].
func (g group) Apply() (events []pool.Event) {
	h := g.h
	if len(h.roster.backends) > 0 {
		before := h.static.Load()
		var set *memberSet
		set, events = newMemberSet(h.pool, h.assemble(h.roster), h.poolSettings(true))
		h.static.Store(set)
		h.watchingStatic.follow(h, set)
		if before != nil {
			before.supersede(h)
		}
	}
	if h.dynamic != nil {
		events = append(events, h.dynamic.edited()...)
	}
	return events
}

// Dynamic implements [manage.Group].
func (g group) Dynamic() bool { return g.h.dynamic != nil }

// DrainTimeout implements [manage.Group].
func (g group) DrainTimeout() time.Duration { return time.Duration(g.h.DrainTimeout) }

// Owner implements [manage.Group].
func (g group) Owner() manage.Owner { return g.h.app }

// running are the backends of the handler as they are in force.
func (h *Handler) running(now time.Time) []overlay.Running { return h.manager.Running(group{h}, now) }

var _ manage.Group = group{}
