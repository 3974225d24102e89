package healthcheck

import "time"

// Result is how one probe ended.
type Result struct {
	Time    time.Time     // when it began
	Took    time.Duration // until the verdict
	Code    int           // HTTP status or gRPC health status; 0 if there was no answer or it has none
	Err     error         // why the probe failed; nil if it passed
	Refused bool          // it failed because no connection could be made
}

// OK tells whether the probe passed.
func (r Result) OK() bool { return r.Err == nil }

// StatusRange is a range of HTTP status codes, both ends included.
type StatusRange struct{ First, Last int }

// Status is what is held of a backend.
type Status uint8

const (
	// Unknown is a backend that has not been probed yet.
	Unknown Status = iota
	// Up is a backend that may be used.
	Up
	// Down is a backend that may not be used.
	Down
)

// String returns the status as the API shows it.
func (s Status) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	default:
		return "unknown"
	}
}

// Thresholds are how many results in a row change a status. Values below 1 count as 1.
type Thresholds struct {
	Rise int // successes until a backend that is down is up
	Fall int // failures until a backend that is up is down
}

// State is a status and how far it is from turning over. The zero State is of a backend that has not been probed.
type State struct {
	Status Status
	Run    int // results in a row that speak against Status
}

// After returns the state after one more result. Only results in a row count: one that agrees with the status
// wipes out those that did not. The first result of all decides alone.
func (s State) After(ok bool, t Thresholds) State {
	said := Down
	if ok {
		said = Up
	}
	switch s.Status {
	case said:
		return State{Status: said}
	case Unknown:
		return State{Status: said}
	}
	needed := t.Fall
	if ok {
		needed = t.Rise
	}
	if s.Run+1 >= needed {
		return State{Status: said}
	}
	return State{Status: s.Status, Run: s.Run + 1}
}

// Pending tells whether a change is in the air.
func (s State) Pending() bool { return s.Run > 0 }
