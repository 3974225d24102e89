package pool

import "time"

// This file is for members whose max_requests is [Auto]. It passes their answers to package limit, which decides on the limit, and notifies
// pickers and the queue when the limit changes.

// Limit returns the adaptive limit of the backend at position i; 0 if it has none.
func (v *View) Limit(i int) int {
	if v.backends[i].MaxRequests != Auto {
		return 0
	}
	return v.members[i].limit.Load().Current()
}

// Auto reports whether there is a backend with an adaptive limit.
func (v *View) Auto() bool { return v.auto }

// limited reports whether the lease's member has an adaptive limit.
func (l *Lease) limited() bool {
	return l.member != nil && l.view.backends[l.index].MaxRequests == Auto
}

// Answered records how long a good answer took, in the member's latency estimate and in its adaptive limit, if it has one.
func (l *Lease) Answered(took time.Duration, now time.Time) {
	l.member.latency.Answered(took, now)
	if s := l.shade(); s != nil {
		s.latency.Answered(took, now)
		l.shadowed.heard(now)
	}
	if !l.limited() {
		return
	}
	m := l.member
	if m.limit.Load().Answered(took, m.load.Load(), m.pool.queue.length.Load() > 0, now) {
		m.roomChanged()
	}
}

// Overloaded records that the member answered that it is overloaded, did not answer in time, or broke the connection.
func (l *Lease) Overloaded(now time.Time) {
	if l.limited() && l.member.limit.Load().Lost(now) {
		l.member.roomChanged()
	}
}

// Stream records that the request has become a stream, whose duration depends on the client. From then on it does not count for the
// member's limit.
func (l *Lease) Stream() {
	if l.limited() && !l.streaming {
		l.streaming = true
		l.member.limit.Load().Begin()
		l.member.roomChanged()
	}
}

// endStream undoes Stream.
func (l *Lease) endStream() {
	if l.streaming {
		l.streaming = false
		l.member.limit.Load().End()
	}
}

// forgetLimit resets the member's adaptive limit, because the member has been away. The caller makes the views examine the member again.
func (m *Member) forgetLimit() {
	if l := m.limit.Load(); l != nil {
		l.Forget()
	}
}

// roomChanged notifies pickers and the queue that the number of the member's free slots may have changed.
func (m *Member) roomChanged() {
	m.changed(nil)
	m.pool.free(true)
}
