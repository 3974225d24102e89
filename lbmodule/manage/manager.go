// Package manage holds the edits of a pool's backends that are made while it runs: it applies them in every load balancer of the pool,
// stores them, shares them with the nodes that use the same storage, and ends them when they expire.
package manage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Group is one load balancer of a pool: the backends that its config has, and the application of edits to them. Groups are compared with
// ==. Config and Apply are called with the manager's lock held and must not call methods of the manager that change its state.
type Group interface {
	// Config returns the backends that the config or the dynamic source names.
	Config() []overlay.Backend
	// Apply applies the current edits and returns the events to report.
	Apply() []pool.Event
	// Dynamic reports whether there is a dynamic source.
	Dynamic() bool
	// DrainTimeout returns the time after which the requests of a draining backend are closed; 0 for never.
	DrainTimeout() time.Duration
	// Owner returns the config that the load balancer belongs to.
	Owner() Owner
}

// Owner is a config. Owners are compared with ==.
type Owner interface {
	// Storage returns the config's storage.
	Storage() certmagic.Storage
	// Tell notifies the config. It is called with no lock held.
	Tell(Notice)
}

// Notice is the argument of [Owner.Tell]: an [Expired] or a [Synced].
type Notice interface{ isNotice() }

// Expired reports that an edit, or a temporarily added backend, has expired.
type Expired struct {
	Pool    string
	Backend string        // its name
	Edit    *overlay.Edit // nil if the backend itself expired
}

func (Expired) isNotice() {}

// Synced reports the result of merging the edits of this node with those in storage.
type Synced struct {
	Pool      string
	Err       error    // why it failed; nil if it succeeded
	Writing   Turn     // whether edits can be written
	Reading   Turn     // whether the edits of other nodes can be read
	Aside     string   // where an unreadable document was moved to; "" if there was none
	Cause     error    // why the document is unreadable
	Conflicts []string // names of backends that another node has edited at the same time; the last write wins
}

func (Synced) isNotice() {}

// Turn tells whether a failure has begun or ended.
type Turn uint8

const (
	// Unchanged means that nothing began or ended.
	Unchanged Turn = iota
	// Began means that an operation fails that worked before.
	Began
	// Ended means that it works again.
	Ended
)

func turn(before, after bool) Turn {
	switch {
	case before == after:
		return Unchanged
	case after:
		return Began
	default:
		return Ended
	}
}

// Edits are the changes made to a pool's backends while it runs. They are immutable.
type Edits struct {
	*overlay.Overlay
	gone map[string]bool // addresses of removed backends that have no more requests
}

// Running returns a config's backends with the edits applied, without those that are gone.
func (e *Edits) Running(config []overlay.Backend, now time.Time) []overlay.Running {
	return e.Merge(config, e.gone, now)
}

// stillGone returns the addresses that remain gone when next replaces e, without those of backends that were removed again or are back.
func (e *Edits) stillGone(next *overlay.Overlay) map[string]bool {
	gone := maps.Clone(e.gone)
	maps.DeleteFunc(gone, func(address string, _ bool) bool {
		is, was := next.Backends[address].Removed, e.Backends[address].Removed
		return is != was && (is == nil || was == nil || !is.Since.Equal(was.Since))
	})
	return gone
}

// Manager holds the edits of one pool. It lives as long as the pool does, across config reloads. Its methods are safe for concurrent use.
type Manager struct {
	pool   *pool.Pool
	keeper *keeper

	canaries canaries

	edits atomic.Pointer[Edits]             // the edits in force; requests read them
	names atomic.Pointer[map[string]string] // of backends with a name of their own, by address

	mu      sync.Mutex           // guards replacing edits and names, and the fields below
	groups  []Group              // of all configs that use the pool, the latest last
	owners  []Owner              // the configs that serve, the latest last
	dropped map[string]Owner     // addresses of removed backends, with the first config that did not have them
	closed  map[string]time.Time // addresses of draining backends whose requests have been closed, with the start of the drain
	timer   *time.Timer          // calls tick
	drain   time.Duration        // the drain timeout of the config that served last
}

// pools holds the state of all pools, across config reloads.
var pools pool.Registry

// newManager returns a manager for the pool with this name, and acquires the pool.
func newManager(name string) *Manager {
	m := &Manager{pool: pools.Acquire(name)}
	m.keeper = newKeeper(name, m.endRound)
	m.edits.Store(&Edits{Overlay: new(overlay.Overlay)})
	m.names.Store(new(map[string]string))
	return m
}

// registry holds the managers of the pools in use, by name. The zero registry is ready for use.
type registry struct {
	mu   sync.Mutex
	used map[string]*usedManager
}

type usedManager struct {
	*Manager
	refs int
	load sync.Once
}

// managers holds the edits of all pools, across config reloads.
var managers registry

// Acquire returns the manager of the pool with this name. A new manager starts with the edits in storage or, if these cannot be read,
// without edits. Every Acquire needs one [Manager.Release].
func Acquire(ctx context.Context, name string, storage certmagic.Storage, logger *zap.Logger) *Manager {
	managers.mu.Lock()
	used := managers.used[name]
	if used == nil {
		used = &usedManager{Manager: newManager(name)}
		if managers.used == nil {
			managers.used = make(map[string]*usedManager)
		}
		managers.used[name] = used
	}
	used.refs++
	managers.mu.Unlock()
	used.load.Do(func() {
		used.edits.Store(&Edits{Overlay: used.keeper.load(ctx, storage, logger)})
	})
	return used.Manager
}

// Release undoes one [Acquire]; the last one drops the manager and its pool.
func (m *Manager) Release() {
	managers.mu.Lock()
	defer managers.mu.Unlock()
	name := m.pool.Name()
	used := managers.used[name]
	if used == nil || used.Manager != m {
		return
	}
	if used.refs--; used.refs == 0 {
		delete(managers.used, name)
		pools.Release(m.pool)
	}
}

// Pool returns the pool whose edits m holds.
func (m *Manager) Pool() *pool.Pool { return m.pool }

// Edits returns the edits that are in force.
func (m *Manager) Edits() *Edits { return m.edits.Load() }

// Running returns the backends of g with the edits in force, without those that are gone.
func (m *Manager) Running(g Group, now time.Time) []overlay.Running {
	return m.edits.Load().Running(g.Config(), now)
}

// Groups returns the load balancers that use the pool, the latest last.
func (m *Manager) Groups() []Group {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.groups)
}

// Attach applies the edits in g, now and whenever they change.
func (m *Manager) Attach(g Group) {
	m.mu.Lock()
	m.groups = append(m.groups, g)
	events := g.Apply()
	m.nameBackends()
	m.mu.Unlock()
	m.pool.Report(events)
}

// Refresh makes g apply the edits in force again, because their effect has changed.
func (m *Manager) Refresh(g Group) {
	var events []pool.Event
	m.mu.Lock()
	if slices.Contains(m.groups, g) {
		events = g.Apply()
		m.pool.Wake()
	}
	m.mu.Unlock()
	m.pool.Report(events)
}

// Detach undoes [Manager.Attach].
func (m *Manager) Detach(g Group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups = slices.DeleteFunc(m.groups, func(other Group) bool { return other == g })
	m.nameBackends()
}

// nameBackends records the names of the backends. The caller holds m.mu.
func (m *Manager) nameBackends() {
	names := make(map[string]string)
	g := m.latest()
	if g == nil && len(m.groups) > 0 {
		g = m.groups[len(m.groups)-1]
	}
	if g != nil {
		for _, b := range m.Running(g, time.Now()) {
			if b.Name != b.Address {
				names[b.Address] = b.Name
			}
		}
	}
	m.names.Store(&names)
}

// Name returns the name of the backend with this address.
func (m *Manager) Name(address string) string {
	if name, named := (*m.names.Load())[address]; named {
		return name
	}
	return address
}

// latest returns the group of the latest config that serves, which is authoritative; nil if none serves. The caller holds m.mu.
func (m *Manager) latest() Group {
	for _, owner := range slices.Backward(m.owners) {
		for _, g := range slices.Backward(m.groups) {
			if g.Owner() == owner {
				return g
			}
		}
	}
	return nil
}

// ErrEnded is returned for a change of a pool that no serving config uses.
var ErrEnded = errors.New("its config has ended")

// Change replaces the edits with what alter returns. They apply from the next request on. It returns the number of the new edits, for
// [Manager.Written]. alter gets the edits in force and the authoritative load balancer, neither of which changes until Change returns.
func (m *Manager) Change(alter func(*Edits, Group) (*overlay.Overlay, error)) (number uint64, err error) {
	m.mu.Lock()
	e, g := m.edits.Load(), m.latest()
	if g == nil {
		m.mu.Unlock()
		return 0, fmt.Errorf("pool %s: %w", m.pool.Name(), ErrEnded)
	}
	next, err := alter(e, g)
	if err != nil {
		m.mu.Unlock()
		return 0, err
	}
	events := m.put(next, e.stillGone(next))
	now := time.Now()
	events = append(events, m.finishRemovals(now)...)
	m.schedule(now)
	number = m.keeper.latest()
	m.mu.Unlock()
	m.pool.Report(events)
	return number, nil
}

// DropRemoved takes a removed backend out of the pool even if it has requests in flight, which run to their end. It returns the number of
// the edits.
func (m *Manager) DropRemoved(address string) (number uint64) {
	m.mu.Lock()
	events := m.dropGone(time.Now(), func(b *overlay.Running) bool { return b.Address == address })
	number = m.keeper.latest()
	m.mu.Unlock()
	m.pool.Report(events)
	return number
}

// put puts next in force if it differs, and starts writing it. The caller holds m.mu.
func (m *Manager) put(next *overlay.Overlay, gone map[string]bool) (events []pool.Event) {
	now := m.edits.Load()
	if next == now.Overlay && maps.Equal(gone, now.gone) {
		return nil
	}
	events = m.install(&Edits{next, gone})
	m.keeper.keep(next)
	return events
}

// install puts next in force and returns the events to report. The caller holds m.mu.
func (m *Manager) install(next *Edits) (events []pool.Event) {
	m.edits.Store(next)
	for _, g := range m.groups {
		events = append(events, g.Apply()...)
	}
	m.pool.Wake()
	m.nameBackends()
	if g := m.latest(); g != nil {
		m.pool.KeepStreams(m.has(g, time.Now()))
	}
	return events
}

// finishRemovals takes removed backends without requests out of the pool. The caller holds m.mu.
func (m *Manager) finishRemovals(now time.Time) (events []pool.Event) {
	return m.dropGone(now, func(b *overlay.Running) bool { return m.pool.InFlight(b.Address) == 0 })
}

// dropGone takes the removed backends that those selects out of the pool. The caller holds m.mu.
func (m *Manager) dropGone(now time.Time, those func(*overlay.Running) bool) (events []pool.Event) {
	g := m.latest()
	if g == nil {
		return nil
	}
	e := m.edits.Load()
	if len(e.Backends) == 0 {
		return nil // no backend is removed, and the list of backends may be long
	}
	next, gone := e.Overlay, maps.Clone(e.gone)
	for _, b := range m.Running(g, now) {
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
