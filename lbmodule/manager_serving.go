package lbmodule

import (
	"maps"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// serve begins to act for the config of a, which serves from now on.
func (m *manager) serve(a *App) {
	m.mu.Lock()
	m.apps = append(m.apps, a)
	m.keeper.use(a.ctx.Storage())
	events := m.put(m.reconsidered(a), m.edits.Load().gone)
	events = append(events, m.finishRemovals(time.Now())...)
	m.settled()
	m.mu.Unlock()
	m.pool.Report(events)
}

// unserve ends what serve began. The last one waits for what is to be written, for a while.
func (m *manager) unserve(a *App) {
	m.mu.Lock()
	// A config that ends before the one that it was to replace was given up: nothing is to be left of it.
	given := len(m.apps) > 1 && m.apps[len(m.apps)-1] == a
	m.apps = slices.DeleteFunc(m.apps, func(other *App) bool { return other == a })
	if given {
		maps.DeleteFunc(m.dropped, func(_ string, by *App) bool { return by == a })
		m.keeper.use(m.apps[len(m.apps)-1].ctx.Storage())
	}
	last := len(m.apps) == 0
	if last && m.timer != nil {
		m.timer.Stop()
	}
	m.settled()
	number := m.keeper.number
	m.mu.Unlock()
	if last {
		m.written(number, lastWrite)
	}
}

// settled brings up to date what depends on which config serves. The caller holds m.mu.
func (m *manager) settled() {
	m.nameBackends()
	m.schedule(time.Now())
	m.write()
}

// renamed brings up to date what depends on which backends a dynamic source names: it names others.
func (m *manager) renamed() {
	m.mu.Lock()
	events := m.finishRemovals(time.Now())
	m.settled()
	m.mu.Unlock()
	m.pool.Report(events)
}

// forgetRemoved is after which time it is forgotten that a backend was removed which a dynamic source does not name any more:
// addresses are used again.
const forgetRemoved = 24 * time.Hour

// reconsidered returns the edits without the removals that the config of a, which is the latest, puts an end to: the config before
// it had dropped the backend, and this one has it again. The caller holds m.mu.
//
// Dropping the backend is not enough. An older config that has it may go on, here or on another node, when this one is given up.
func (m *manager) reconsidered(a *App) *overlay.Overlay {
	o := m.edits.Load().Overlay
	h := m.latest()
	if h == nil || h.app != a {
		return o
	}
	has := make(map[string]bool)
	for _, b := range h.config() {
		has[b.Address] = true
	}
	next := o
	for address, e := range o.Backends {
		if e.Removed == nil || e.Added != nil {
			continue
		}
		switch dropped := m.dropped[address] != nil; {
		case h.dynamic != nil:
			if !has[address] && time.Since(e.Removed.Since) > forgetRemoved {
				next = next.Forget(address)
			}
		case has[address] && dropped:
			delete(m.dropped, address)
			next = next.Forget(address)
		case !has[address] && !dropped:
			if m.dropped == nil {
				m.dropped = make(map[string]*App)
			}
			m.dropped[address] = a
		}
	}
	return next
}
