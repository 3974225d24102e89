package breaker

import "time"

// State is what a breaker makes of its backend.
type State uint8

const (
	// Closed lets requests pass.
	Closed State = iota
	// Open lets none pass.
	Open
	// HalfOpen lets one pass at a time, to see how it ends.
	HalfOpen
	// States is how many there are.
	States
)

// String returns the state as the API shows it.
func (s State) String() string {
	switch s {
	case Open:
		return "open"
	case HalfOpen:
		return "half_open"
	default:
		return "closed"
	}
}

// Cause is why a state turned into another. The zero Cause is none.
type Cause uint8

const (
	_ Cause = iota
	// ConsecutiveFailures in a row were too many.
	ConsecutiveFailures
	// FailureRatio of the window was too large.
	FailureRatio
	// SlowRatio of the window was too large.
	SlowRatio
	// ProbeFailed while half-open.
	ProbeFailed
	// TimeOver is that the open time has passed.
	TimeOver
	// Unreachable is that no connection can be made.
	Unreachable
	// Reached is that one could be made again.
	Reached
	// Recovered is that enough probes succeeded.
	Recovered
	// WasReset is that somebody said so.
	WasReset
)

// String returns the cause as logs and events show it.
func (c Cause) String() string {
	return [...]string{
		"", "consecutive failures", "failure ratio", "slow ratio", "probe failed", "open time over", "no connection can be made", "connection made", "recovered", "reset",
	}[c]
}

// Transition is a change of state. The zero Transition is none.
type Transition struct {
	From, To State
	Cause    Cause
	OpenFor  time.Duration // of a breaker that opened; 0 if that is not a matter of time
}

// Happened tells whether there was a transition.
func (t Transition) Happened() bool { return t.From != t.To }

// Settings are what a breaker goes by. A threshold of 0 is off.
type Settings struct {
	ConsecutiveFailures int           // so many in a row open it
	FailureRatio        float64       // or this share of the window's requests
	SlowRatio           float64       // or this share of them being slow
	Window              time.Duration // what the ratios are taken over
	MinRequests         int           // before they count

	Open    time.Duration // how long it stays open first; doubles when it opens again
	MaxOpen time.Duration // and at most

	Probes       int           // successes that close it
	ProbeTimeout time.Duration // after which a probe that nobody heard of again gives its slot to another
}

// openJitter is the share of the open time that chance takes off, so that backends which failed together are not
// probed together.
const openJitter = 0.2

// Breaker is the circuit breaker of one backend. The zero Breaker is closed. It is not safe for concurrent use.
type Breaker struct {
	state      State
	generation uint32    // counts states: what ends in a later one than it began in is not counted
	since      time.Time // when state began; zero if it was never another

	turned [States]uint64 // how often it went into each state

	run    int    // failures in a row, while closed
	window Window // while closed

	trips     int           // in a row, less what good behaviour has earned: the exponent of the open time
	openedFor time.Duration // last
	until     time.Time     // when open turns into half-open
	cause     Cause         // of the last time that it opened, but for failed probes

	successes int       // while half-open
	probe     uint32    // number of the probe that was admitted last
	probing   bool      // it has not ended
	deadline  time.Time // when its slot may be given to another
}

// State returns the state.
func (b *Breaker) State() State { return b.state }

// Generation numbers the lives of the breaker. A request is admitted in one and recorded with it.
func (b *Breaker) Generation() uint32 { return b.generation }

// Since is when the state began, the zero time if it was never another.
func (b *Breaker) Since() time.Time { return b.since }

// Until is when an open breaker turns half-open, the zero time if that is not a matter of time.
func (b *Breaker) Until() time.Time { return b.until }

// Cause is why it opened: what was wrong at first, not that a probe has failed since.
func (b *Breaker) Cause() Cause { return b.cause }

// Turned is how often the breaker went into each state.
func (b *Breaker) Turned() [States]uint64 { return b.turned }

// Run is how many failures there were in a row.
func (b *Breaker) Run() int { return b.run }

// Record books how a request ended that was admitted in that generation. While closed it only counts: see [Breaker.Due].
// While half-open it may close the breaker, or open it again. jitter is a random number from 0 to 1.
func (b *Breaker) Record(s *Settings, generation uint32, failed, slow bool, now time.Time, jitter float64) Transition {
	if generation != b.generation {
		return Transition{}
	}
	switch b.state {
	case Closed:
		b.count(s, failed, slow, now)
	case HalfOpen:
		if failed || slow && s.SlowRatio > 0 {
			return b.open(s, ProbeFailed, now, jitter)
		}
		if b.successes++; b.successes >= s.Probes {
			return b.become(Closed, Recovered, now)
		}
	case Open:
		// It was used all the same, in a panic. What opened it is known already.
	}
	return Transition{}
}

func (b *Breaker) count(s *Settings, failed, slow bool, now time.Time) {
	b.run++
	if !failed {
		b.run = 0
	}
	if s.FailureRatio <= 0 && s.SlowRatio <= 0 {
		return
	}
	switch b.window.Span() {
	case spanOf(s.Window):
	case 0:
		b.window = NewWindow(s.Window, now)
	default:
		b.window = b.window.Resized(s.Window, now)
	}
	b.window.Add(failed, slow, now)
}

// Due returns why a closed breaker has to open, 0 if it has not. It is to be asked after a request that failed or was
// slow: no success opens a breaker.
func (b *Breaker) Due(s *Settings, now time.Time) Cause {
	if b.state != Closed {
		return 0
	}
	if s.ConsecutiveFailures > 0 && b.run >= s.ConsecutiveFailures {
		return ConsecutiveFailures
	}
	if s.FailureRatio <= 0 && s.SlowRatio <= 0 {
		return 0
	}
	switch c := b.window.Counts(now); {
	case c.Requests == 0 || c.Requests < s.MinRequests:
		return 0
	case s.FailureRatio > 0 && float64(c.Failures) >= s.FailureRatio*float64(c.Requests):
		return FailureRatio
	case s.SlowRatio > 0 && float64(c.Slow) >= s.SlowRatio*float64(c.Requests):
		return SlowRatio
	default:
		return 0
	}
}

// Trip opens a closed breaker that is due. Whoever decides that may have reasons not to: others are open already.
func (b *Breaker) Trip(s *Settings, cause Cause, now time.Time, jitter float64) Transition {
	if b.state != Closed {
		return Transition{}
	}
	// Staying closed for as long as it was open takes one doubling back.
	if b.trips > 0 && b.openedFor > 0 {
		b.trips = max(b.trips-int(min(now.Sub(b.since)/b.openedFor, time.Duration(b.trips))), 0)
	}
	return b.open(s, cause, now, jitter)
}

func (b *Breaker) open(s *Settings, cause Cause, now time.Time, jitter float64) Transition {
	d := s.Open
	for range b.trips {
		if d >= s.MaxOpen {
			break // so that it cannot overflow
		}
		d *= 2
	}
	d = min(d, max(s.MaxOpen, s.Open))
	d -= time.Duration(openJitter * jitter * float64(d))
	b.trips++
	b.openedFor, b.until = d, now.Add(d)
	if cause != ProbeFailed {
		b.cause = cause
	}
	t := b.become(Open, cause, now)
	t.OpenFor = d
	return t
}

// Lose opens a closed breaker because no connection can be made, for as long as that is so: see [Breaker.Reach].
func (b *Breaker) Lose(now time.Time) Transition {
	if b.state != Closed {
		return Transition{}
	}
	b.until, b.cause = time.Time{}, Unreachable
	return b.become(Open, Unreachable, now)
}

// Reach closes a breaker that is open for no other reason than that no connection could be made. There is nothing to find
// out by probes then.
func (b *Breaker) Reach(now time.Time) Transition {
	if b.state != Open || b.cause != Unreachable {
		return Transition{}
	}
	return b.become(Closed, Reached, now)
}

// Tick turns an open breaker half-open when its time is over.
func (b *Breaker) Tick(now time.Time) Transition {
	if b.state != Open || b.until.IsZero() || now.Before(b.until) {
		return Transition{}
	}
	return b.become(HalfOpen, TimeOver, now)
}

// Reset closes the breaker and forgets what it has counted, and how often it had opened before.
func (b *Breaker) Reset(now time.Time) Transition {
	b.trips, b.run, b.window = 0, 0, Window{}
	if b.state == Closed {
		return Transition{}
	}
	return b.become(Closed, WasReset, now)
}

// Admit takes the probe slot of a half-open breaker for a request, if it is free. The probe's number is to be given to
// [Breaker.Done] when the request has ended.
func (b *Breaker) Admit(s *Settings, now time.Time) (probe uint32, ok bool) {
	if b.state != HalfOpen || b.probing && now.Before(b.deadline) {
		return 0, false
	}
	b.probe++
	b.probing, b.deadline = true, now.Add(s.ProbeTimeout)
	return b.probe, true
}

// Done gives the slot of that probe back. It does nothing if the slot is another's by now.
func (b *Breaker) Done(probe uint32) {
	if b.probe == probe {
		b.probing = false
	}
}

// Busy returns until when the probe slot is taken, the zero time if it is free.
func (b *Breaker) Busy() time.Time {
	if !b.probing {
		return time.Time{}
	}
	return b.deadline
}

func (b *Breaker) become(state State, cause Cause, now time.Time) Transition {
	t := Transition{From: b.state, To: state, Cause: cause}
	b.state, b.since = state, now
	b.generation++
	b.turned[state]++
	b.run, b.window = 0, Window{}
	b.successes, b.probing = 0, false
	return t
}
