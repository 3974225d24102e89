package pool

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how the request of a lease ended, as far as its member is concerned.
type Outcome uint8

const (
	// Ignored says nothing about the member: the client went away, or the request never reached it.
	Ignored Outcome = iota
	// Success is an answer the member is to be credited with.
	Success
	// Failure is an answer, or the lack of one, the member is to be blamed for.
	Failure
)

// Member is one backend of a pool, known by its address. It is shared by all views that hold the address and
// is safe for concurrent use.
type Member struct {
	address string
	pool    *Pool

	// load counts the requests in flight. Pickers raise it when they reserve a slot, a lease lowers it.
	load atomic.Int64

	// generation tells one life of the counters from the next, so that an answer to a request of an earlier
	// life is not booked in this one.
	generation atomic.Uint64
	requests   atomic.Uint64
	failures   atomic.Uint64

	// watchers are the views to tell when load changes. The slice is replaced, never written to; Pool.mu
	// guards the replacement.
	watchers atomic.Pointer[[]watcher]

	refused atomic.Int32 // connections that failed in a row

	mu     sync.Mutex // guards vitals; nothing else is locked while it is held
	vitals vitals

	refs int       // views that hold the member; guarded by Pool.mu
	left time.Time // when the last of them gave it up; guarded by Pool.mu
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

// Reset begins a new life of the counters. Requests in flight stay counted as such; how they end is no longer
// booked.
func (m *Member) Reset() {
	m.generation.Add(1)
	m.requests.Store(0)
	m.failures.Store(0)
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
func (m *Member) refresh(now time.Time) {
	watchers := m.watchers.Load()
	if watchers == nil {
		return
	}
	for _, w := range *watchers {
		w.view.Refresh(now)
	}
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

// Lease is a reserved slot on a member: one request in flight. The zero Lease holds nothing. A Lease belongs
// to one request and is not safe for concurrent use.
type Lease struct {
	member     *Member
	index      int
	generation uint64
}

// Held tells whether the lease holds a slot.
func (l *Lease) Held() bool { return l.member != nil }

// Member is the member the lease is on, nil if it holds none.
func (l *Lease) Member() *Member { return l.member }

// Index is the member's position among the backends of the view that granted the lease.
func (l *Lease) Index() int { return l.index }

// Release gives the slot back and books how the request ended. A second call does nothing.
func (l *Lease) Release(o Outcome) {
	m := l.member
	if m == nil {
		return
	}
	l.member = nil
	if m.generation.Load() == l.generation {
		m.requests.Add(1)
		if o == Failure {
			m.failures.Add(1)
		}
	}
	m.load.Add(-1)
	m.changed(nil)
}

// Abandon gives the slot back as if it had never been taken: nothing was sent to the member.
func (l *Lease) Abandon() {
	if m := l.member; m != nil {
		l.member = nil
		m.load.Add(-1)
		m.changed(nil)
	}
}
