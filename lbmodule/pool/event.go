package pool

import (
	"slices"

	"github.com/ballastlb/ballast/breaker"
)

// EventKind is what happened.
type EventKind uint8

const (
	// BackendDown is that checks found a backend unfit.
	BackendDown EventKind = iota
	// BackendUp is that checks found a backend fit again.
	BackendUp
	// PanicBegan is that too few backends of a pool are usable, so that all are used that are not dead.
	PanicBegan
	// PanicEnded is that enough are usable again.
	PanicEnded
	// BreakerTurned is that the circuit breaker of a backend is in another state.
	BreakerTurned
)

// The reasons of events.
const (
	ReasonCheck   = "active check"
	ReasonPassive = "passive check"
	// ReasonConnected is that a connection could be made, where that was all that was wrong.
	ReasonConnected = "connection made"
)

// Event is a change of a pool's state, told once, when it happens.
type Event struct {
	Kind    EventKind
	Pool    string
	Backend string // address; "" where the event is about the pool
	Reason  string
	Err     error // of the last probe; nil if there is none to tell
	Usable  int   // of events about the pool: how many backends are usable
	Total   int   // and of how many

	Breaker breaker.Transition // of BreakerTurned
	DryRun  bool               // of BreakerTurned: the backend is used all the same
}

// Notify has the pool's events told to f, maybe several at once, with no lock of the pool held. The latest listener
// hears them, until the returned function is called: if a config is given up again, the one before hears them.
func (p *Pool) Notify(f func(Event)) (end func()) {
	l := &listener{f}
	p.listening.Lock()
	defer p.listening.Unlock()
	p.listeners = append(p.listeners, l)
	return func() {
		p.listening.Lock()
		defer p.listening.Unlock()
		p.listeners = slices.DeleteFunc(p.listeners, func(other *listener) bool { return other == l })
	}
}

type listener struct{ hear func(Event) }

func (p *Pool) report(e Event) {
	p.listening.Lock()
	var l *listener
	if n := len(p.listeners); n > 0 {
		l = p.listeners[n-1]
	}
	p.listening.Unlock()
	if l != nil {
		l.hear(e)
	}
}

// Report tells of what has happened. It is called with no lock held.
func (p *Pool) Report(events []Event) {
	for _, e := range events {
		p.report(e)
	}
}
