package pool

import "sync/atomic"

// MirrorOutcome is the outcome of a copy of a request for a mirror.
type MirrorOutcome uint8

// The outcomes.
const (
	MirrorSuccess     MirrorOutcome = iota
	MirrorServerError               // the answer had a status from 500 on
	MirrorFailure                   // there was no answer, or it was incomplete
	MirrorTimeout                   // the timeout had passed
	MirrorDropped                   // the copy was not sent, or was abandoned because its config ended
	MirrorOutcomes
)

var mirrorOutcomes = [MirrorOutcomes]string{"success", "server_error", "failure", "timeout", "dropped"}

// String returns the outcome as metrics show it.
func (o MirrorOutcome) String() string { return mirrorOutcomes[o] }

// Mirrored counts the copies of requests for mirrors. Mirrors are not members of the pool, and their requests are counted nowhere else. The
// zero Mirrored is ready for use.
type Mirrored struct {
	Took Histogram // time until the answer's header

	inFlight atomic.Int64
	ended    [MirrorOutcomes]atomic.Uint64
}

// Begin begins a copy and returns true, unless the given maximum of copies is in flight. If it returns true, [Mirrored.End] must follow.
func (m *Mirrored) Begin(most int) bool {
	if m.inFlight.Add(1) > int64(most) {
		m.inFlight.Add(-1)
		m.Drop()
		return false
	}
	return true
}

// End ends a copy.
func (m *Mirrored) End(o MirrorOutcome) {
	m.ended[o].Add(1)
	m.inFlight.Add(-1)
}

// Drop counts a copy that was not made.
func (m *Mirrored) Drop() { m.ended[MirrorDropped].Add(1) }

// InFlight returns the number of copies in flight.
func (m *Mirrored) InFlight() int64 {
	return max(m.inFlight.Load(), 0)
}

// Ended returns how many copies had that outcome.
func (m *Mirrored) Ended(o MirrorOutcome) uint64 { return m.ended[o].Load() }
