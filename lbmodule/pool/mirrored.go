package pool

import "sync/atomic"

// MirrorOutcome is what became of a copy of a request that is meant for a mirror.
type MirrorOutcome uint8

// The outcomes.
const (
	MirrorSuccess     MirrorOutcome = iota
	MirrorServerError               // the answer had a status from 500 on
	MirrorFailure                   // there was no answer, or it broke off
	MirrorTimeout                   // the time was up
	MirrorDropped                   // it was not sent, or given up because its config has ended
	MirrorOutcomes
)

var mirrorOutcomes = [MirrorOutcomes]string{"success", "server_error", "failure", "timeout", "dropped"}

// String is the outcome in a word.
func (o MirrorOutcome) String() string { return mirrorOutcomes[o] }

// Mirrored counts the copies of requests that were meant for mirrors. Mirrors are no members of the pool: nothing of them counts anywhere
// else. The zero Mirrored is ready for use.
type Mirrored struct {
	Took Histogram // until the answer's header

	inFlight atomic.Int64
	ended    [MirrorOutcomes]atomic.Uint64
}

// Begin begins a copy, unless that many are in flight. If it returns true, [Mirrored.End] must follow.
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
