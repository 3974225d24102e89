package lbmodule

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// edits are what was changed about a pool's backends while it ran. They are replaced, never written to.
type edits struct {
	*overlay.Overlay
	gone map[string]bool // addresses of removed backends that have no requests any more
}

// manager holds the edits of one pool. It sees to it that they are in force in all handlers of the pool, kept in storage, and
// taken back when their time is over. It lives as long as the pool does: over config reloads.
type manager struct {
	pool *pool.Pool

	edits atomic.Pointer[edits]             // what requests go by
	names atomic.Pointer[map[string]string] // of backends that have one of their own, by address

	// mu guards the replacement of what is above, and what follows. Nobody is called out to while it is held.
	mu       sync.Mutex
	handlers []*Handler           // of all configs that use the pool, the latest last
	apps     []*App               // of the configs that serve, the latest last
	dropped  map[string]*App      // addresses of removed backends, with the config that was the first not to have them
	closed   map[string]time.Time // addresses of backends that drain, and when that began, whose requests have been closed
	timer    *time.Timer          // calls tick
	keeper   keeper
}

// newManager returns the manager of the pool of that name, which it acquires.
func newManager(name string) *manager {
	m := &manager{pool: pools.Acquire(name), keeper: newKeeper(name)}
	m.edits.Store(&edits{Overlay: m.keeper.base})
	m.names.Store(new(map[string]string))
	return m
}

// attach puts the edits in force in h, from now on.
func (m *manager) attach(h *Handler) {
	m.mu.Lock()
	if h.dynamic != nil {
		h.dynamic.inherit(m.handlers)
	}
	m.handlers = append(m.handlers, h)
	events := h.edited()
	m.nameBackends()
	m.mu.Unlock()
	m.pool.Report(events)
}

// detach ends what attach began.
func (m *manager) detach(h *Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers = slices.DeleteFunc(m.handlers, func(other *Handler) bool { return other == h })
	m.nameBackends()
}

// install puts other edits in force and returns what there is to report. The caller holds m.mu.
func (m *manager) install(next *edits) (events []pool.Event) {
	m.edits.Store(next)
	for _, h := range m.handlers {
		events = append(events, h.edited()...)
	}
	m.pool.Wake()
	m.nameBackends()
	return events
}

// edited puts the edits as they are now in force in h, and returns what there is to report.
func (h *Handler) edited() (events []pool.Event) {
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

// config returns the backends that the config, or the dynamic source, names.
func (h *Handler) config() []overlay.Backend {
	all := h.roster.config()
	if h.dynamic == nil {
		return all
	}
	return append(all, slices.DeleteFunc(h.dynamic.config(), func(b overlay.Backend) bool {
		_, twice := h.roster.byAddress[b.Address]
		return twice
	})...)
}

// nameBackends notes the names of the backends. The caller holds m.mu.
func (m *manager) nameBackends() {
	names := make(map[string]string)
	h := m.latest()
	if h == nil && len(m.handlers) > 0 {
		h = m.handlers[len(m.handlers)-1]
	}
	if h != nil {
		for _, b := range h.running(time.Now()) {
			if b.Name != b.Address {
				names[b.Address] = b.Name
			}
		}
	}
	m.names.Store(&names)
}

// name is the name of the backend with that address.
func (m *manager) name(address string) string {
	if name, named := (*m.names.Load())[address]; named {
		return name
	}
	return address
}

// latest is the handler whose config rules: that of the latest config that serves. It is nil if none does. The caller holds m.mu.
func (m *manager) latest() *Handler {
	for _, app := range slices.Backward(m.apps) {
		for _, h := range slices.Backward(m.handlers) {
			if h.app == app {
				return h
			}
		}
	}
	return nil
}

// put makes these the edits, if they are others, and has them written. The caller holds m.mu.
func (m *manager) put(next *overlay.Overlay, gone map[string]bool) (events []pool.Event) {
	now := m.edits.Load()
	if next == now.Overlay && maps.Equal(gone, now.gone) {
		return nil
	}
	if next != now.Overlay {
		m.keeper.number++
	}
	events = m.install(&edits{next, gone})
	m.write()
	return events
}

// change makes the edits that alter returns of those that are in force, which take effect on the next request, and returns their
// number, for [manager.written]. What alter is given stays as it is until change returns.
func (m *manager) change(alter func(*edits, *Handler) (*overlay.Overlay, error)) (number uint64, err error) {
	m.mu.Lock()
	e, h := m.edits.Load(), m.latest()
	if h == nil {
		m.mu.Unlock()
		return 0, apiError(http.StatusServiceUnavailable, "pool %s: its config has ended", m.pool.Name())
	}
	next, err := alter(e, h)
	if err != nil {
		m.mu.Unlock()
		return 0, err
	}
	// An address that is edited again is not gone any more.
	gone := maps.Clone(e.gone)
	maps.DeleteFunc(gone, func(address string, _ bool) bool {
		return next.Backends[address].Removed != e.Backends[address].Removed
	})
	events := m.put(next, gone)
	now := time.Now()
	events = append(events, m.finishRemovals(now)...)
	m.schedule(now)
	number = m.keeper.number
	m.mu.Unlock()
	m.pool.Report(events)
	return number, nil
}

// dropRemoved takes a removed backend away whatever it is doing, and returns the number of the edits then. Its requests end by
// themselves.
func (m *manager) dropRemoved(address string) (number uint64) {
	m.mu.Lock()
	events := m.takeAway(time.Now(), func(b *overlay.Running) bool { return b.Address == address })
	number = m.keeper.number
	m.mu.Unlock()
	m.pool.Report(events)
	return number
}

// finishRemovals takes removed backends away that have no requests any more. The caller holds m.mu.
func (m *manager) finishRemovals(now time.Time) (events []pool.Event) {
	return m.takeAway(now, func(b *overlay.Running) bool { return m.pool.InFlight(b.Address) == 0 })
}

// takeAway takes those removed backends away. The caller holds m.mu.
func (m *manager) takeAway(now time.Time, those func(*overlay.Running) bool) (events []pool.Event) {
	h := m.latest()
	if h == nil {
		return nil
	}
	e := m.edits.Load()
	next, gone := e.Overlay, maps.Clone(e.gone)
	for _, b := range h.running(now) {
		switch {
		case b.Removed == nil || !those(&b):
		case b.Config == nil:
			next = next.Forget(b.Address)
		default:
			if gone == nil {
				gone = make(map[string]bool)
			}
			gone[b.Address] = true
		}
	}
	return m.put(next, gone)
}
