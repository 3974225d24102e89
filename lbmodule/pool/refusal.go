package pool

import "sync/atomic"

// Refusal is the cause why the pool refused a request, so that the answer came from no backend.
type Refusal uint8

const (
	// RefusedNoBackend means that no backend was usable.
	RefusedNoBackend Refusal = iota
	// RefusedLimit means that all usable backends were at max_requests and there is no queue.
	RefusedLimit
	// RefusedQueueFull means that the queue was full.
	RefusedQueueFull
	// RefusedQueueTimeout means that the request waited in the queue for the maximum time.
	RefusedQueueTimeout
	// RefusedSession means that the backend of the session was not usable or full, and that no other backend may serve the session.
	RefusedSession
	// RefusedDrained means that the request was ended because its backend had been draining for drain_timeout.
	RefusedDrained
	// RefusedShutdown means that the process was about to exit.
	RefusedShutdown
	// RefusedSource means that no dynamic source had named any backends.
	RefusedSource
	// Refusals is the number of causes.
	Refusals
)

// String returns the cause as the API and metrics show it.
func (r Refusal) String() string {
	return [Refusals]string{"no_backend", "limit", "queue_full", "queue_timeout", "session", "drained", "shutdown", "source"}[r]
}

// refusals counts refused requests by their cause.
type refusals [Refusals]atomic.Uint64

// CountRefusal counts a request that was refused.
func (p *Pool) CountRefusal(r Refusal) { p.refusals[r].Add(1) }

// Refused returns how many requests have been refused for that cause.
func (p *Pool) Refused(r Refusal) uint64 { return p.refusals[r].Load() }
