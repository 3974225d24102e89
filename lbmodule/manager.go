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
	live liveRequests

	edits atomic.Pointer[edits]             // what requests go by
	names atomic.Pointer[map[string]string] // of backends that have one of their own, by address

	// mu guards the replacement of what is above, and what follows. Nobody is called out to while it is held.
	mu       sync.Mutex
	handlers []*Handler  // of all configs that use the pool, the latest last
	apps     []*App      // of the configs that serve, the latest last
	timer    *time.Timer // calls tick
	ticked   time.Time   // when it last did
	keeper   keeper
}

// running returns the backends that follow from those of the config and the edits.
func (m *manager) running(config []overlay.Backend, now time.Time) []overlay.Running {
	e := m.edits.Load()
	return slices.DeleteFunc(e.Merge(config, now), func(r overlay.Running) bool { return r.Removed != nil && e.gone[r.Address] })
}

// attach puts the edits in force in h, from now on.
func (m *manager) attach(h *Handler) {
	m.mu.Lock()
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
	before := h.static.Load()
	if a := h.assemble(h.roster, true); before != nil || len(a.backends) > 0 && (h.dynamic == nil || len(h.roster.backends) > 0) {
		var set *memberSet
		set, events = newMemberSet(h.pool, a, h.poolSettings(true))
		h.static.Store(set)
		h.watchingStatic.follow(h, set)
		if before != nil {
			before.supersede()
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
	return append(all, slices.DeleteFunc(h.dynamic.sets.config(), func(b overlay.Backend) bool {
		_, twice := h.roster.byAddress[b.Address]
		return twice
	})...)
}

// nameBackends notes the names of the backends. The caller holds m.mu.
func (m *manager) nameBackends() {
	names := make(map[string]string)
	for _, h := range m.handlers {
		for _, b := range m.running(h.config(), time.Now()) {
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

// serve begins to act for the config of a, which serves from now on.
func (m *manager) serve(a *App) {
	m.mu.Lock()
	m.apps = append(m.apps, a)
	m.keeper.use(a.ctx.Storage())
	next := m.edits.Load().Overlay
	if h := m.latest(); h != nil && h.dynamic == nil {
		next = next.Settle(h.roster.config())
	}
	now := time.Now()
	events := append(m.put(next, m.edits.Load().gone), m.finishRemovals(now)...)
	m.schedule(now)
	m.write()
	m.mu.Unlock()
	m.pool.Report(events)
}

// unserve ends what serve began. The last one waits for what is to be written, for a while.
func (m *manager) unserve(a *App) {
	m.mu.Lock()
	m.apps = slices.DeleteFunc(m.apps, func(other *App) bool { return other == a })
	last := len(m.apps) == 0
	if last && m.timer != nil {
		m.timer.Stop()
	}
	version := m.edits.Load().Version
	m.mu.Unlock()
	if last {
		m.written(version, lastWrite)
	}
}

// put makes these the edits, if they are others, and has them written. The caller holds m.mu.
func (m *manager) put(next *overlay.Overlay, gone map[string]bool) (events []pool.Event) {
	now := m.edits.Load()
	if next == now.Overlay && maps.Equal(gone, now.gone) {
		return nil
	}
	events = m.install(&edits{next, gone})
	m.write()
	return events
}

// change makes the edits that alter returns of those that are in force, which take effect on the next request, and returns their
// version. What alter is given stays as it is until change returns.
func (m *manager) change(alter func(*edits, *Handler) (*overlay.Overlay, error)) (version uint64, err error) {
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
	version = m.edits.Load().Version
	m.mu.Unlock()
	m.pool.Report(events)
	return version, nil
}

// dropRemoved takes a removed backend away whatever it is doing, and returns the version of the edits then. Its requests end by
// themselves.
func (m *manager) dropRemoved(address string) (version uint64) {
	m.mu.Lock()
	events := m.takeAway(time.Now(), func(b *overlay.Running) bool { return b.Address == address })
	version = m.edits.Load().Version
	m.mu.Unlock()
	m.pool.Report(events)
	return version
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
	for _, b := range m.running(h.config(), now) {
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

// removalPoll is how often a removed backend is looked at, whether it still has requests.
const removalPoll = 100 * time.Millisecond

// schedule has tick called when time alone will change something. The caller holds m.mu.
func (m *manager) schedule(now time.Time) {
	h := m.latest()
	if len(m.apps) == 0 || h == nil {
		return
	}
	due := m.edits.Load().Due()
	soon := func(at time.Time) {
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	for _, b := range m.running(h.config(), now) {
		if b.Removed != nil {
			soon(now.Add(removalPoll))
		}
		if at := h.drainEnds(&b); b.State == overlay.Drain && at.After(now) && at != never {
			soon(at)
		}
	}
	switch {
	case m.timer == nil:
		if !due.IsZero() {
			m.timer = time.AfterFunc(due.Sub(now), m.tick)
		}
	case due.IsZero():
		m.timer.Stop()
	default:
		m.timer.Reset(due.Sub(now))
	}
}

// tick does what is due: edits are taken back, drained backends closed, removed ones taken away.
func (m *manager) tick() {
	now := time.Now()
	m.mu.Lock()
	h := m.latest()
	if len(m.apps) == 0 || h == nil {
		m.mu.Unlock()
		return
	}
	e := m.edits.Load()
	next, expired := e.Expire(now)
	events := m.put(next, e.gone)
	closing := m.drainsEnded(h, now)
	if len(closing) > 0 {
		events = append(events, m.install(m.edits.Load())...)
	}
	events = append(events, m.finishRemovals(now)...)
	m.ticked = now
	m.schedule(now)
	app := m.apps[len(m.apps)-1]
	m.mu.Unlock()
	m.pool.Report(events)
	for _, address := range closing {
		m.live.closeAll(address)
	}
	for _, x := range expired {
		app.tellExpired(m, x)
	}
}

// drainsEnded returns the addresses of the backends whose time to drain has ended since the last tick. The caller holds m.mu.
func (m *manager) drainsEnded(h *Handler, now time.Time) (ended []string) {
	for _, b := range m.running(h.config(), now) {
		if b.State != overlay.Drain {
			continue
		}
		if at := h.drainEnds(&b); at.After(m.ticked) && !at.After(now) {
			ended = append(ended, b.Address)
		}
	}
	return ended
}
