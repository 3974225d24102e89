package lbmodule

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// removalPoll is how often a removed backend is looked at, whether it still has requests.
const removalPoll = 100 * time.Millisecond

// schedule has tick called when time alone will change something. The caller holds m.mu.
func (m *manager) schedule(now time.Time) {
	h := m.latest()
	if len(m.apps) == 0 || h == nil {
		return
	}
	due := m.edits.Load().Due()
	soon := func(at time.Time) {
		if due.IsZero() || at.Before(due) {
			due = at
		}
	}
	for _, b := range h.running(now) {
		if b.Removed != nil {
			soon(now.Add(removalPoll))
		}
		if at := h.drainEnds(&b); b.State == overlay.Drain && at != never && !m.closed[b.Address].Equal(b.DrainingSince()) {
			soon(at)
		}
	}
	switch {
	case m.timer == nil:
		if !due.IsZero() {
			m.timer = time.AfterFunc(due.Sub(now), m.tick)
		}
	case due.IsZero():
		m.timer.Stop()
	default:
		m.timer.Reset(due.Sub(now))
	}
}

// tick does what is due: edits are taken back, drained backends closed, removed ones taken away.
func (m *manager) tick() {
	now := time.Now()
	m.mu.Lock()
	h := m.latest()
	if len(m.apps) == 0 || h == nil {
		m.mu.Unlock()
		return
	}
	e := m.edits.Load()
	next, expired := e.Expire(now)
	events := m.put(next, e.gone)
	closing := m.drainsEnded(h, now)
	if len(closing) > 0 {
		events = append(events, m.install(m.edits.Load())...)
	}
	events = append(events, m.finishRemovals(now)...)
	m.schedule(now)
	app := m.apps[len(m.apps)-1]
	m.mu.Unlock()
	m.pool.Report(events)
	for _, address := range closing {
		m.pool.Live.EndAt(address)
	}
	for _, x := range expired {
		app.tellExpired(m, x)
	}
}

// drainsEnded returns the addresses of the backends whose time to drain has ended, each once. The caller holds m.mu.
func (m *manager) drainsEnded(h *Handler, now time.Time) (ended []string) {
	closed := make(map[string]time.Time)
	for _, b := range h.running(now) {
		if b.State != overlay.Drain || h.drainEnds(&b).After(now) {
			continue
		}
		since := b.DrainingSince()
		if closed[b.Address] = since; !m.closed[b.Address].Equal(since) {
			ended = append(ended, b.Address)
		}
	}
	m.closed = closed
	return ended
}
