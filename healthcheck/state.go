package healthcheck

import "time"

// Result is the result of one probe.
type Result struct {
	Time    time.Time     // when the probe began
	Took    time.Duration // time until the verdict
	Code    int           // HTTP status or gRPC health status; 0 if there was no answer or it has no status
	Err     error         // why the probe failed; nil if it passed
	Refused bool          // it failed because no connection could be made
}

// OK reports whether the probe passed.
func (r Result) OK() bool { return r.Err == nil }

// StatusRange is a range of HTTP status codes, inclusive at both ends.
type StatusRange struct{ First, Last int }

// Status is the health of a backend.
type Status uint8

const (
	// Unknown means that the backend has not been probed yet.
	Unknown Status = iota
	// Up means that the backend may be used.
	Up
	// Down means that the backend must not be used.
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

// Thresholds are the numbers of consecutive results that change a status. Values below 1 count as 1.
type Thresholds struct {
	Rise int // successes until a backend that is down is up
	Fall int // failures until a backend that is up is down
}

// State is a status and the progress towards a change. The zero State belongs to a backend that has not been probed.
type State struct {
	Status Status
	Run    int // consecutive results that contradict Status
}

// After returns the state after one more result. Only consecutive results count: a result that agrees with the status resets Run. The
// first result alone decides.
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

// Pending reports whether a change has begun.
func (s State) Pending() bool { return s.Run > 0 }
