package simulate

import (
	"context"
	"errors"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// ending is the result of a request for its client.
type ending uint8

const (
	answered      ending = iota // by a backend, with any status
	notConnected                // the last attempt could not connect
	timedOut                    // the last attempt was not answered within try_timeout
	broken                      // the connection of the last attempt broke
	refusedNone                 // no backend was usable
	refusedFull                 // all usable backends were at max_requests
	queueFull                   // as refusedFull, and the queue was full
	queueTimeout                // as refusedFull, and the request waited in the queue for the maximum time
	refusedSticky               // the backend of the session was not usable or full
	clientLeft                  // the client gave up
	endings
)

// endingNames are the names of endings in results.
var endingNames = [endings]string{
	"answered", "connect", "timeout", "reset", "no backend usable", "backends full", "queue full", "queue timeout", "session's backend unusable", "client gave up",
}

// failures are the endings of requests whose last attempt failed.
var failures = map[course.Kind]ending{course.NotConnected: notConnected, course.TimedOut: timedOut, course.Broken: broken}

// refusalOf returns the ending of a request that was refused because of err.
func refusalOf(err error) ending {
	switch {
	case errors.Is(err, pool.ErrQueueFull):
		return queueFull
	case errors.Is(err, pool.ErrQueueTimeout):
		return queueTimeout
	case errors.Is(err, pool.ErrFull):
		return refusedFull
	case errors.Is(err, course.ErrSessionGone), errors.Is(err, course.ErrSessionFull):
		return refusedSticky
	case errors.Is(err, context.Canceled):
		return clientLeft
	default:
		return refusedNone
	}
}

// Served is a request that has ended.
type Served struct {
	Due     time.Duration // since the end of the warm-up
	Took    time.Duration
	Attempt time.Duration // how long the last attempt took; 0 if there was none
	Backend int32         // the backend whose answer the client got, by its index in the result; -1 for none
	Status  uint16        // of that answer
	ending  ending
}

// failed reports whether the client was not served: it got no answer, or one with 429 or a status from 500 on.
func (s *Served) failed() bool { return s.ending != answered || s.Status >= 500 || s.Status == 429 }

// measuring collects the measurements of a simulation, which cover only requests that arrive after the warm-up.
type measuring struct {
	warmUp time.Duration

	arrived  bool // the last request has arrived
	open     int  // requests that have arrived and not ended
	requests []Served
	perBack  []attempts // by backend

	retries           int
	copies, copiesWon int
}

// attempts are the attempts at a backend.
type attempts struct{ n, failed int }

func (m *measuring) init(s *Scenario, backends int) {
	m.warmUp, m.perBack = time.Duration(s.WarmUp), make([]attempts, backends)
	if rate := s.Arrivals.Rate; rate > 0 {
		const slack = 1.05
		m.requests = make([]Served, 0, int(slack*rate*time.Duration(s.Duration).Seconds()))
	}
}

// count counts an attempt that has ended.
func (w *world) count(a *attempt, f *course.Facts) {
	if !a.of.counts() {
		return
	}
	n := &w.perBack[a.backend]
	n.n++
	if f.Kind != course.Answered || f.Status >= 500 || f.Status == 429 {
		n.failed++
	}
}

// record records a request that has ended.
func (w *world) record(q *request, backend int, how ending) {
	w.open--
	if !q.counts() {
		return
	}
	w.retries += max(q.sends-1, 0)
	attempt := time.Duration(0)
	if q.current != nil {
		attempt = w.clock.now - q.current.start
	}
	w.requests = append(w.requests, Served{
		Due: q.due - w.warmUp, Took: w.clock.now - q.due, Attempt: attempt, Backend: int32(backend), Status: uint16(q.answered), ending: how,
	})
}
