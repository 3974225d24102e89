package manage

import (
	"maps"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// Serve begins to act for the config owner, which serves from now on.
func (m *Manager) Serve(owner Owner) {
	m.mu.Lock()
	m.owners = append(m.owners, owner)
	m.keeper.use(owner.Storage())
	events := m.put(m.reconsider(owner), m.edits.Load().gone)
	events = append(events, m.finishRemovals(time.Now())...)
	m.settle()
	m.mu.Unlock()
	m.pool.Report(events)
}

// Unserve ends what [Manager.Serve] began. The last one waits for what is to be written, for a while.
func (m *Manager) Unserve(owner Owner) {
	m.mu.Lock()
	// A config that ends before the one that it was to replace was given up: nothing is to be left of it.
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
	m.settle()
	number := m.keeper.latest()
	m.mu.Unlock()
	if last {
		m.Written(number, lastWrite)
	}
}

// settle brings up to date what depends on which config serves. The caller holds m.mu.
func (m *Manager) settle() {
	m.nameBackends()
	m.schedule(time.Now())
	m.keeper.flush()
}

// Renamed is to be called when a dynamic source names other backends than before.
func (m *Manager) Renamed() {
	m.mu.Lock()
	events := m.finishRemovals(time.Now())
	m.settle()
	m.mu.Unlock()
	m.pool.Report(events)
}

// forgetRemoved is after which time it is forgotten that a backend was removed which a dynamic source does not name any more:
// addresses are used again.
const forgetRemoved = 24 * time.Hour

// reconsider returns the edits without the removals that the config owner, which is the latest, puts an end to: the config before
// it had dropped the backend, and this one has it again. The caller holds m.mu.
//
// Dropping the backend is not enough. An older config that has it may go on, here or on another node, when this one is given up.
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

// never is later than everything.
var never = time.Unix(1<<40, 0)

// DrainEnds is when the open requests of a backend that is drained are closed, if that is done after timeout; far in the future if it
// is 0.
func DrainEnds(b *overlay.Running, timeout time.Duration) time.Time {
	if timeout <= 0 {
		return never
	}
	return b.DrainingSince().Add(timeout)
}

// removalPoll is how often a removed backend is looked at, whether it still has requests.
const removalPoll = 100 * time.Millisecond

// schedule has tick called when time alone will change something. The caller holds m.mu.
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
	for _, b := range m.Running(g, now) {
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

// tick does what is due: edits are taken back, drained backends closed, removed ones taken away.
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

// endedDrains returns the addresses of the backends whose time to drain has ended, each once. The caller holds m.mu.
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
