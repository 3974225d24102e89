package pool

import "time"

// What follows is for members whose max_requests is [Auto]. Package limit decides; here it is told of answers, and pickers and the queue are
// told when it has decided.

// Limit returns how many requests the backend at position i is given at a time; 0 if that is not found out.
func (v *View) Limit(i int) int {
	if v.backends[i].MaxRequests != Auto {
		return 0
	}
	return v.members[i].limit.Load().Current()
}

// Auto reports whether there is a backend whose limit is found out.
func (v *View) Auto() bool { return v.auto }

// limited reports whether the limit of the lease's member is found out.
func (l *Lease) limited() bool {
	return l.member != nil && l.view.backends[l.index].MaxRequests == Auto
}

// Answered records how long a good answer took, in what is known of the member's answers, and for its limit, if that is found out.
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

// Overloaded records that the member said that it is overloaded, did not answer in time, or broke the connection.
func (l *Lease) Overloaded(now time.Time) {
	if l.limited() && l.member.limit.Load().Lost(now) {
		l.member.roomChanged()
	}
}

// Stream records that the request may last for as long as its client likes. From now on it does not count for the member's limit.
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

// forgetLimit drops what is known of the member's limit, because it has been away. The caller makes the views look at it again.
func (m *Member) forgetLimit() {
	if l := m.limit.Load(); l != nil {
		l.Forget()
	}
}

// roomChanged tells pickers and the queue that the member may have another number of free slots.
func (m *Member) roomChanged() {
	m.changed(nil)
	m.pool.free(true)
}
