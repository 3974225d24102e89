package lbmodule

import (
	"sync"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// lifetime is how long a set's view is kept open and its dead members are tried: while its config serves, and after that while requests
// wait with it. Those requests came before the config ended, and the one after it may have other backends, or call the pool by
// another name.
type lifetime struct {
	mu      sync.Mutex // guards what follows
	waiting int
	stopped bool     // the config does not try the dead any more
	closed  bool     // nor does it use the view
	stops   []func() // end that the dead are tried for those who wait
}

// stay keeps the request's set alive until leave is called: when the request has an answer, or is to have none.
func (q *request) stay() {
	if q.stays == q.set {
		return
	}
	events := q.set.wait(q.h) // before it leaves another: what they share is to be tried without a gap
	q.leave()
	q.stays = q.set
	q.h.pool.Report(events)
}

// leave ends what stay began.
func (q *request) leave() {
	if q.stays != nil {
		q.stays.done()
		q.stays = nil
	}
}

// wait keeps the set alive until done is called. It returns what there is to report.
func (s *memberSet) wait(h *Handler) (events []pool.Event) {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting++; l.waiting > 1 {
		return nil
	}
	if l.closed {
		events = s.view.Reopen()
	}
	if l.stopped {
		l.stops = h.redial(s, true)
	}
	return events
}

// done ends what wait began.
func (s *memberSet) done() {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting--; l.waiting > 0 {
		return
	}
	for _, stop := range l.stops {
		stop()
	}
	l.stops = nil
	if l.closed {
		s.view.Close()
	}
}

// stop is called before the config stops trying the dead, so that there is no gap.
func (s *memberSet) stop(h *Handler) {
	if s == nil {
		return
	}
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(s, h)
}

// close is stop where the config does not use the set any more, either.
func (s *memberSet) close(h *Handler) {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(s, h)
	l.closed = true
	if l.waiting == 0 {
		s.view.Close()
	}
}

// stop is called with l.mu held.
func (l *lifetime) stop(s *memberSet, h *Handler) {
	if l.stopped {
		return
	}
	l.stopped = true
	if l.waiting > 0 {
		l.stops = h.redial(s, true)
	}
}
