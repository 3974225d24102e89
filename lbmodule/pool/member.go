package pool

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Member is one backend of a pool, known by its address. It is shared by all views that hold the address and
// is safe for concurrent use.
type Member struct {
	address string
	id      uint64 // hash of the address: what policies that go by keys know the member by
	pool    *Pool

	// load counts the requests in flight. Pickers raise it when they reserve a slot, a lease lowers it.
	load atomic.Int64

	// generation tells one life of the counters from the next, so that an answer to a request of an earlier
	// life is not booked in this one.
	generation atomic.Uint64
	requests   atomic.Uint64
	failures   atomic.Uint64

	latency balance.Latency

	// watchers are the views to tell when load changes. The slice is replaced, never written to; Pool.mu
	// guards the replacement.
	watchers atomic.Pointer[[]watcher]

	traffic *Traffic // what is counted for good; shared by those beyond maxNamed

	spared  atomic.Bool   // its breaker should have opened, and was not let
	refused atomic.Int32  // connections that failed in a row
	dead    atomic.Bool   // so many that there can be none; mu is held when it is written
	deaths  atomic.Uint32 // how often it was; what began before the last time says nothing about whether it can be connected to
	life    atomic.Uint32 // generation of vitals.breaker, for those who are admitted
	slot    atomic.Int64  // until when its probe slot is taken, in Unix nanoseconds; 0 if it is free

	mu     sync.Mutex // guards vitals; nothing else is locked while it is held
	vitals *vitals    // apart, so that many members fit into the cache of who only chooses among them

	refs int       // views that hold the member; guarded by Pool.mu
	left time.Time // when the last of them gave it up; guarded by Pool.mu
	rate trend     // of requests that ended; guarded by Pool.looking
}

// watcher is a member's place in a view.
type watcher struct {
	view  *View
	index int
}

// Counts are a member's counters since it joined the pool or was last reset.
type Counts struct {
	InFlight int64  // requests in flight now
	Requests uint64 // requests that ended, whatever the outcome
	Failures uint64 // those of them that ended in Failure
}

// Address is the address the member was configured with; within its pool it is unique.
func (m *Member) Address() string { return m.address }

// InFlight is the number of requests the member is serving.
func (m *Member) InFlight() int64 { return m.load.Load() }

// Counts returns the member's counters.
func (m *Member) Counts() Counts {
	return Counts{InFlight: m.load.Load(), Requests: m.requests.Load(), Failures: m.failures.Load()}
}

// Latency is what is known of how soon the member answers.
func (m *Member) Latency() *balance.Latency { return &m.latency }

// Died is since when the member has been dead; zero if it is not.
func (m *Member) Died() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vitals.died
}

// Reset begins a new life of the counters and closes the breaker, whatever it has found. Requests in flight stay counted as
// such; how they end is no longer booked.
func (m *Member) Reset(now time.Time) {
	m.latency.Forget()
	m.generation.Add(1)
	m.requests.Store(0)
	m.failures.Store(0)
	if m.Named() {
		m.traffic.begin()
	}
	m.refused.Store(0)
	m.mu.Lock()
	m.vitals.passive, m.vitals.blame = breaker.Window{}, blame{}
	m.vitals.died = time.Time{}
	m.dead.Store(false)
	m.disarm()
	turned := m.vitals.breaker.Reset(now)
	m.life.Store(m.vitals.breaker.Generation())
	m.noteSlot()
	m.mu.Unlock()
	m.tellBreaker(turned)
	m.refresh(now)
}

// changed tells the views of m, but not from itself, that its load is another.
func (m *Member) changed(from *View) {
	watchers := m.watchers.Load()
	if watchers == nil {
		return
	}
	for _, w := range *watchers {
		if w.view != from {
			w.view.snap.Load().changed(w.index)
		}
	}
}

// refresh has the views of m look at it anew.
func (m *Member) refresh(now time.Time) { m.pool.Report(m.refreshQuietly(now)) }

// refreshQuietly is refresh for those who hold a lock: it returns what there is to report.
func (m *Member) refreshQuietly(now time.Time) (events []Event) {
	watchers := m.watchers.Load()
	if watchers == nil {
		return nil
	}
	for _, w := range *watchers {
		events = append(events, w.view.refreshSoon(now)...)
	}
	return events
}

// watch and unwatch are called with Pool.mu held.

func (m *Member) watch(v *View, index int) {
	var next []watcher
	if old := m.watchers.Load(); old != nil {
		next = slices.Clone(*old)
	}
	next = append(next, watcher{v, index})
	m.watchers.Store(&next)
}

func (m *Member) unwatch(v *View) {
	next := slices.DeleteFunc(slices.Clone(*m.watchers.Load()), func(w watcher) bool { return w.view == v })
	m.watchers.Store(&next)
}
