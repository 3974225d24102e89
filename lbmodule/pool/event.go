package pool

import (
	"slices"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/canary"
)

// EventKind is the kind of an event.
type EventKind uint8

const (
	// BackendDown means that checks found a backend unhealthy.
	BackendDown EventKind = iota
	// BackendUp means that checks found a backend healthy again.
	BackendUp
	// PanicBegan means that too few backends of a pool are usable, so that all backends that are not dead are used.
	PanicBegan
	// PanicEnded means that enough backends are usable again.
	PanicEnded
	// BreakerTurned means that a backend's circuit breaker has changed its state.
	BreakerTurned
	// CanaryMoved means that the canary gets another share of the clients. Its Reason says why.
	CanaryMoved
)

// Reasons of events.
const (
	ReasonCheck   = "active check"
	ReasonPassive = "passive check"
	// ReasonConnected means that a connection could be made, and nothing else had been wrong.
	ReasonConnected = "connection made"
)

// Event is a change of a pool's state. It is reported once, when it happens.
type Event struct {
	Kind    EventKind
	Pool    string
	Backend string // address; "" for events of the whole pool
	Reason  string
	Err     error // of the last probe; nil if there is none
	Usable  int   // of pool events: number of usable backends
	Total   int   // of pool events: number of all backends

	Breaker breaker.Transition // of BreakerTurned
	DryRun  bool               // of BreakerTurned: the backend is still used

	Canary canary.Report // of CanaryMoved
}

// Notify subscribes f to the pool's events until the returned function is called. Only the latest subscriber is called, possibly
// concurrently and with no lock of the pool held: if a config is given up, its predecessor's subscriber takes over again.
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

// Report sends events to the subscriber. The caller must hold no lock.
func (p *Pool) Report(events []Event) {
	for _, e := range events {
		p.report(e)
	}
}
