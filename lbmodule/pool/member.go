package pool

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/limit"
)

// Member is one backend of a pool, known by its address. It is shared by all views that hold the address and
// is safe for concurrent use.
type Member struct {
	address string
	id      uint64 // hash of the address, which identifies the member to policies that choose by keys
	pool    *Pool

	// load counts the requests in flight. Pickers increment it when they reserve a slot, a lease decrements it.
	load atomic.Int64

	// generation counts the resets of the counters, so that an answer to a request from before a reset is not counted.
	generation atomic.Uint64
	requests   atomic.Uint64
	failures   atomic.Uint64

	latency balance.Latency

	// limit is the adaptive limit of requests in flight; nil until a view has Auto for the member. It is never removed.
	limit atomic.Pointer[limit.Limit]

	// shades holds the state that shadow policies keep for the member. Pool.mu guards its replacement.
	shades atomic.Pointer[shades]

	// watchers are the views to notify when load changes, the latest first. The list is immutable; Pool.mu guards its replacement.
	watchers atomic.Pointer[watcher]

	traffic *Traffic // the counters; members beyond maxNamed share one

	spared  atomic.Bool   // the breaker should have opened but was not allowed to
	refused atomic.Int32  // consecutive failed connections
	dead    atomic.Bool   // no connection can be made; written with mu held
	deaths  atomic.Uint32 // number of deaths; attempts that began before the last one say nothing about whether it can be connected to
	life    atomic.Uint32 // generation of vitals.breaker, copied into leases
	slot    atomic.Int64  // time until which the probe slot is taken, in Unix nanoseconds; 0 if it is free

	mu     sync.Mutex // guards vitals; no other lock is taken while it is held, but that of limit
	vitals *vitals    // allocated separately, so that the fields needed for a pick share cache lines

	refs int   // number of views that hold the member; guarded by Pool.mu
	left int64 // when the last view released it, in Unix nanoseconds; guarded by Pool.mu
	pace pace  // of requests that ended; guarded by Pool.looking
}

// watcher is a member's place in a view. It is a list, because nearly all members have one watcher.
type watcher struct {
	view  *View
	index int
	next  *watcher
}

// all yields w and those after it. The nil watcher is the empty list.
func (w *watcher) all(yield func(*watcher) bool) {
	for ; w != nil && yield(w); w = w.next {
	}
}

// without returns the list without the watchers of that view.
func (w *watcher) without(v *View) *watcher {
	switch {
	case w == nil:
		return nil
	case w.view == v:
		return w.next.without(v)
	default:
		return &watcher{w.view, w.index, w.next.without(v)}
	}
}

// Counts are a member's counters since it joined the pool or was last reset.
type Counts struct {
	InFlight int64  // requests in flight now
	Requests uint64 // requests that ended, whatever the outcome
	Failures uint64 // those of them that ended in Failure
}

// Address returns the address in the config, which is unique in the pool.
func (m *Member) Address() string { return m.address }

// InFlight returns the number of requests that the member is serving.
func (m *Member) InFlight() int64 { return m.load.Load() }

// Counts returns the member's counters.
func (m *Member) Counts() Counts {
	return Counts{InFlight: m.load.Load(), Requests: m.requests.Load(), Failures: m.failures.Load()}
}

// Latency returns the estimate of the member's latency.
func (m *Member) Latency() *balance.Latency { return &m.latency }

// Died returns when the member died; zero if it is not dead.
func (m *Member) Died() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vitals.died
}

// Reset resets the counters and closes the breaker. Requests in flight remain counted, but their outcomes are no longer recorded.
func (m *Member) Reset(now time.Time) {
	m.latency.Forget()
	m.forgetLimit()
	m.forgetShades()
	m.generation.Add(1)
	m.requests.Store(0)
	m.failures.Store(0)
	if m.Named() {
		m.traffic.begin()
	}
	m.refused.Store(0)
	m.mu.Lock()
	m.vitals.passive, m.vitals.blame = nil, nil
	m.vitals.died, m.vitals.outages = time.Time{}, outages{}
	m.dead.Store(false)
	m.disarm()
	turned := m.vitals.breaker.Reset(now)
	m.life.Store(m.vitals.breaker.Generation())
	m.noteSlot()
	m.mu.Unlock()
	m.tellBreaker(turned)
	m.refresh(now)
}

// changed notifies the views of m, except from, that its load has changed.
func (m *Member) changed(from *View) {
	for w := range m.watchers.Load().all {
		if w.view != from {
			w.view.snap.Load().changed(w.index)
		}
	}
}

// refresh makes the views of m examine it again.
func (m *Member) refresh(now time.Time) { m.pool.Report(m.refreshQuietly(now)) }

// refreshQuietly is refresh for callers that hold a lock: it returns the events to report.
func (m *Member) refreshQuietly(now time.Time) (events []Event) {
	for w := range m.watchers.Load().all {
		events = append(events, w.view.refreshSoon(now)...)
	}
	return events
}

// watch and unwatch are called with Pool.mu held.

func (m *Member) watch(v *View, index int) {
	m.watchers.Store(&watcher{v, index, m.watchers.Load()})
}

func (m *Member) unwatch(v *View) {
	m.watchers.Store(m.watchers.Load().without(v))
}
