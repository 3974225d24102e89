package manage

import (
	"maps"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// Serve starts acting for the config owner, which serves from now on.
func (m *Manager) Serve(owner Owner) {
	m.mu.Lock()
	m.owners = append(m.owners, owner)
	m.keeper.use(owner.Storage())
	events := m.put(m.reconsider(owner), m.edits.Load().gone)
	events = append(events, m.finishRemovals(time.Now())...)
	m.ownersChanged()
	m.mu.Unlock()
	m.pool.Report(events)
}

// Unserve undoes [Manager.Serve]. For the last owner, it waits a limited time for pending writes.
func (m *Manager) Unserve(owner Owner) {
	m.mu.Lock()
	// A config that ends before its predecessor was rolled back: none of its effects must remain.
	given := len(m.owners) > 1 && m.owners[len(m.owners)-1] == owner
	m.owners = slices.DeleteFunc(m.owners, func(other Owner) bool { return other == owner })
	if given {
		maps.DeleteFunc(m.dropped, func(_ string, by Owner) bool { return by == owner })
		m.keeper.use(m.owners[len(m.owners)-1].Storage())
	}
	last := len(m.owners) == 0
	if last {
		m.keeper.rest()
		if m.timer != nil {
			m.timer.Stop()
		}
	}
	m.ownersChanged()
	number := m.keeper.latest()
	m.mu.Unlock()
	if last {
		m.Written(number, lastWrite)
	}
}

// Flush waits a limited time for pending writes, unless another config serves as well.
func (m *Manager) Flush() {
	m.mu.Lock()
	last, number := len(m.owners) == 1, m.keeper.latest()
	m.mu.Unlock()
	if last {
		m.Written(number, lastWrite)
	}
}

// ownersChanged updates everything that depends on which config serves. The caller holds m.mu.
func (m *Manager) ownersChanged() {
	now := time.Now()
	m.nameBackends()
	m.settleStreams(now)
	m.schedule(now)
	m.keeper.flush()
}

// Renamed must be called when the backends of a dynamic source have changed.
func (m *Manager) Renamed() {
	m.mu.Lock()
	events := m.finishRemovals(time.Now())
	m.ownersChanged()
	m.mu.Unlock()
	m.pool.Report(events)
}

// forgetRemoved is how long the removal of a backend is remembered after the dynamic source has stopped listing the backend. Addresses are
// reused.
const forgetRemoved = 24 * time.Hour

// reconsider returns the edits without the removals that owner, the latest config, has ended: the previous config had dropped the backend,
// and owner has it again. The caller holds m.mu.
//
// A config that only drops the backend does not end the removal: an older config that has the backend may continue, here or on another
// node, if the new one is rolled back.
func (m *Manager) reconsider(owner Owner) *overlay.Overlay {
	o := m.edits.Load().Overlay
	g := m.latest()
	if g == nil || g.Owner() != owner {
		return o
	}
	has := make(map[string]bool)
	for _, b := range g.Config() {
		has[b.Address] = true
	}
	next := o
	for address, e := range o.Backends {
		if e.Removed == nil || e.Added != nil {
			continue
		}
		switch dropped := m.dropped[address] != nil; {
		case g.Dynamic():
			if !has[address] && time.Since(e.Removed.Since) > forgetRemoved {
				next = next.Forget(address)
			}
		case has[address] && dropped:
			delete(m.dropped, address)
			next = next.Forget(address)
		case !has[address] && !dropped:
			if m.dropped == nil {
				m.dropped = make(map[string]Owner)
			}
			m.dropped[address] = owner
		}
	}
	return next
}

// never is later than every other time.
var never = time.Unix(1<<40, 0)

// DrainEnds returns when the open requests of a draining backend are closed: after timeout, or in the far future if timeout is 0.
func DrainEnds(b *overlay.Running, timeout time.Duration) time.Time {
	if timeout <= 0 {
		return never
	}
	return b.DrainingSince().Add(timeout)
}

// removalPoll is the interval at which a removed backend is checked for remaining requests.
const removalPoll = 100 * time.Millisecond

// schedule arranges for tick to run when the passage of time will change something. The caller holds m.mu.
func (m *Manager) schedule(now time.Time) {
	g := m.latest()
	if len(m.owners) == 0 || g == nil {
		return
	}
	due := m.edits.Load().Due()
	soon := func(at time.Time) {
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	var running []overlay.Running
	if len(m.edits.Load().Backends) > 0 { // otherwise no backend drains, and the list may be long
		running = m.Running(g, now)
	}
	for _, b := range running {
		if b.Removed != nil {
			soon(now.Add(removalPoll))
		}
		if at := DrainEnds(&b, g.DrainTimeout()); b.State == overlay.Drain && at != never && !m.closed[b.Address].Equal(b.DrainingSince()) {
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

// tick does what is due: it ends timed edits, closes the requests of drained backends, and removes backends from the pool.
func (m *Manager) tick() {
	now := time.Now()
	m.mu.Lock()
	g := m.latest()
	if len(m.owners) == 0 || g == nil {
		m.mu.Unlock()
		return
	}
	e := m.edits.Load()
	next, expired := e.Expire(now)
	events := m.put(next, e.gone)
	closing := m.endedDrains(g, now)
	if len(closing) > 0 {
		events = append(events, m.install(m.edits.Load())...)
	}
	events = append(events, m.finishRemovals(now)...)
	m.schedule(now)
	owner := m.owners[len(m.owners)-1]
	m.mu.Unlock()
	m.pool.Report(events)
	for _, address := range closing {
		m.pool.Live.EndAt(address)
	}
	for _, x := range expired {
		owner.Tell(Expired{Pool: m.pool.Name(), Backend: m.Name(x.Address), Edit: x.Edit})
	}
}

// endedDrains returns the addresses of the backends whose drain timeout has passed, each once. The caller holds m.mu.
func (m *Manager) endedDrains(g Group, now time.Time) (ended []string) {
	closed := make(map[string]time.Time)
	for _, b := range m.Running(g, now) {
		if b.State != overlay.Drain || DrainEnds(&b, g.DrainTimeout()).After(now) {
			continue
		}
		since := b.DrainingSince()
		if closed[b.Address] = since; !m.closed[b.Address].Equal(since) {
			ended = append(ended, b.Address)
		}
	}
	m.closed = closed
	return ended
}
