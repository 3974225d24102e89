// Package manage holds what people change about the backends of a pool while it runs: it puts the changes in force in every load
// balancer that uses the pool, keeps them in storage, shares them with the nodes that have the same storage, and takes them back when
// their time is over.
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

// Group is what one load balancer makes of a pool: which backends its config gives the pool, and how the edits are put in force there.
// Groups are told apart by ==. Config and Apply are called with the manager's lock held and must not call its methods that change
// something.
type Group interface {
	// Config returns the backends that the config, or the dynamic source, names.
	Config() []overlay.Backend
	// Apply puts the edits as they are now in force and returns what there is to report.
	Apply() []pool.Event
	// Dynamic tells whether a dynamic source names backends.
	Dynamic() bool
	// DrainTimeout is after which time the requests of a drained backend are ended; 0 for never.
	DrainTimeout() time.Duration
	// Owner is the config that the load balancer belongs to.
	Owner() Owner
}

// Owner is a config. Owners are told apart by ==.
type Owner interface {
	// Storage is where the config keeps things.
	Storage() certmagic.Storage
	// Tell tells the config what has happened by itself. It is called with no lock held.
	Tell(Notice)
}

// Notice is something that an [Owner] is told: an [Expired] or a [Synced].
type Notice interface{ isNotice() }

// Expired tells that an edit, or a backend that was added for a time, is over.
type Expired struct {
	Pool    string
	Backend string        // its name
	Edit    *overlay.Edit // nil if it is the backend
}

func (Expired) isNotice() {}

// Synced tells how the edits of this node and those in storage were brought together.
type Synced struct {
	Pool      string
	Err       error    // why they were not; nil if they were
	Writing   Turn     // whether edits can be written
	Reading   Turn     // whether the edits of other nodes can be read
	Aside     string   // where a document was put that nobody can read; "" if there was none
	Cause     error    // why nobody can
	Conflicts []string // names of backends that another node has edited at the same time; the last to write wins
}

func (Synced) isNotice() {}

// Turn is how something is that may fail for a while.
type Turn uint8

const (
	// Unchanged is as it was before.
	Unchanged Turn = iota
	// Began is that it fails, and did not before.
	Began
	// Ended is that it fails no more.
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

// Edits are what was changed about a pool's backends while it ran. They are replaced, never written to.
type Edits struct {
	*overlay.Overlay
	gone map[string]bool // addresses of removed backends that have no requests any more
}

// Running returns the backends of a config as they are with the edits, but for those that are gone.
func (e *Edits) Running(config []overlay.Backend, now time.Time) []overlay.Running {
	return e.Merge(config, e.gone, now)
}

// Manager holds the edits of one pool. It lives as long as the pool does: over config reloads. Its methods may be called by several
// goroutines at a time.
type Manager struct {
	pool   *pool.Pool
	keeper *keeper

	edits atomic.Pointer[Edits]             // what requests go by
	names atomic.Pointer[map[string]string] // of backends that have one of their own, by address

	mu      sync.Mutex           // guards the replacement of edits and names, and what follows
	groups  []Group              // of all configs that use the pool, the latest last
	owners  []Owner              // the configs that serve, the latest last
	dropped map[string]Owner     // addresses of removed backends, with the config that was the first not to have them
	closed  map[string]time.Time // addresses of backends that drain, and when that began, whose requests have been closed
	timer   *time.Timer          // calls tick
}

// pools holds the state of all pools, over config reloads.
var pools pool.Registry

// newManager returns the manager of the pool of that name, which it acquires.
func newManager(name string) *Manager {
	m := &Manager{pool: pools.Acquire(name)}
	m.keeper = newKeeper(name, m.endRound)
	m.edits.Store(&Edits{Overlay: new(overlay.Overlay)})
	m.names.Store(new(map[string]string))
	return m
}

// registry knows the managers of the pools in use by name. The zero registry is ready for use.
type registry struct {
	mu   sync.Mutex
	used map[string]*usedManager
}

type usedManager struct {
	*Manager
	refs int
	load sync.Once
}

// managers hold the edits of all pools, over config reloads.
var managers registry

// Acquire returns the manager of the pool of that name. If nobody uses it yet it begins with what is in storage; if that cannot be
// read, without edits. Every Acquire wants one [Manager.Release].
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

// Release takes back one [Acquire]; the last one forgets the manager and its pool.
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

// Pool is the pool whose edits m holds.
func (m *Manager) Pool() *pool.Pool { return m.pool }

// Edits returns the edits that are in force.
func (m *Manager) Edits() *Edits { return m.edits.Load() }

// Running returns the backends of g as they are with the edits that are in force, but for those that are gone.
func (m *Manager) Running(g Group, now time.Time) []overlay.Running {
	return m.edits.Load().Running(g.Config(), now)
}

// Groups returns the load balancers that use the pool, the latest last.
func (m *Manager) Groups() []Group {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.groups)
}

// Attach puts the edits in force in g, from now on.
func (m *Manager) Attach(g Group) {
	m.mu.Lock()
	m.groups = append(m.groups, g)
	events := g.Apply()
	m.nameBackends()
	m.mu.Unlock()
	m.pool.Report(events)
}

// Detach ends what [Manager.Attach] began.
func (m *Manager) Detach(g Group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups = slices.DeleteFunc(m.groups, func(other Group) bool { return other == g })
	m.nameBackends()
}

// nameBackends notes the names of the backends. The caller holds m.mu.
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

// Name is the name of the backend with that address.
func (m *Manager) Name(address string) string {
	if name, named := (*m.names.Load())[address]; named {
		return name
	}
	return address
}

// latest is the group whose config rules: that of the latest config that serves. It is nil if none does. The caller holds m.mu.
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

// ErrEnded is why a pool cannot be changed that no config uses which serves.
var ErrEnded = errors.New("its config has ended")

// Change makes the edits that alter returns of those that are in force, which take effect on the next request. It returns their number,
// for [Manager.Written]. alter is given the load balancer whose config rules; what it is given stays as it is until Change returns.
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
	// An address that is edited again is not gone any more.
	gone := maps.Clone(e.gone)
	maps.DeleteFunc(gone, func(address string, _ bool) bool {
		return next.Backends[address].Removed != e.Backends[address].Removed
	})
	events := m.put(next, gone)
	now := time.Now()
	events = append(events, m.finishRemovals(now)...)
	m.schedule(now)
	number = m.keeper.latest()
	m.mu.Unlock()
	m.pool.Report(events)
	return number, nil
}

// DropRemoved takes a removed backend away whatever it is doing, and returns the number of the edits then. Its requests end by
// themselves.
func (m *Manager) DropRemoved(address string) (number uint64) {
	m.mu.Lock()
	events := m.takeAway(time.Now(), func(b *overlay.Running) bool { return b.Address == address })
	number = m.keeper.latest()
	m.mu.Unlock()
	m.pool.Report(events)
	return number
}

// put makes these the edits, if they are others, and has them written. The caller holds m.mu.
func (m *Manager) put(next *overlay.Overlay, gone map[string]bool) (events []pool.Event) {
	now := m.edits.Load()
	if next == now.Overlay && maps.Equal(gone, now.gone) {
		return nil
	}
	events = m.install(&Edits{next, gone})
	m.keeper.keep(next)
	return events
}

// install puts other edits in force and returns what there is to report. The caller holds m.mu.
func (m *Manager) install(next *Edits) (events []pool.Event) {
	m.edits.Store(next)
	for _, g := range m.groups {
		events = append(events, g.Apply()...)
	}
	m.pool.Wake()
	m.nameBackends()
	return events
}

// finishRemovals takes removed backends away that have no requests any more. The caller holds m.mu.
func (m *Manager) finishRemovals(now time.Time) (events []pool.Event) {
	return m.takeAway(now, func(b *overlay.Running) bool { return m.pool.InFlight(b.Address) == 0 })
}

// takeAway takes those removed backends away. The caller holds m.mu.
func (m *Manager) takeAway(now time.Time, those func(*overlay.Running) bool) (events []pool.Event) {
	g := m.latest()
	if g == nil {
		return nil
	}
	e := m.edits.Load()
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
