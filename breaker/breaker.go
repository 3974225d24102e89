package breaker

import "time"

// State is the state of a breaker.
type State uint8

const (
	// Closed lets all requests pass.
	Closed State = iota
	// Open lets no requests pass.
	Open
	// HalfOpen lets one request pass at a time, as a probe.
	HalfOpen
	// States is the number of states.
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

// Cause is why a state changed. The zero Cause means that none did.
type Cause uint8

const (
	_ Cause = iota
	// ConsecutiveFailures means that too many requests in a row failed.
	ConsecutiveFailures
	// FailureRatio means that too large a share of the window's requests failed.
	FailureRatio
	// SlowRatio means that too large a share of the window's requests was slow.
	SlowRatio
	// ProbeFailed means that a half-open probe failed.
	ProbeFailed
	// TimeOver means that the open time has passed.
	TimeOver
	// Unreachable means that no connection can be made.
	Unreachable
	// Reached means that a connection could be made again.
	Reached
	// Recovered means that enough probes succeeded.
	Recovered
	// WasReset means that [Breaker.Reset] was called.
	WasReset
)

// String returns the cause as logs and events show it.
func (c Cause) String() string {
	return [...]string{
		"", "consecutive failures", "failure ratio", "slow ratio", "probe failed", "open time over", "no connection can be made", "connection made", "recovered", "reset",
	}[c]
}

// Transition is a change of state. The zero Transition means that there was none.
type Transition struct {
	From, To State
	Cause    Cause
	OpenFor  time.Duration // how long it stays open; 0 if that does not depend on time
}

// Happened reports whether there was a transition.
func (t Transition) Happened() bool { return t.From != t.To }

// Settings configure a breaker. A threshold of 0 is disabled.
type Settings struct {
	ConsecutiveFailures int           // this many failures in a row open it
	FailureRatio        float64       // or this share of failures among the window's requests
	SlowRatio           float64       // or this share of slow ones
	Window              time.Duration // the time over which the ratios are measured
	MinRequests         int           // the number of requests from which on the ratios apply

	Open    time.Duration // the first open time; doubles each time it opens again
	MaxOpen time.Duration // the longest open time

	Probes       int           // the number of successes that close it
	ProbeTimeout time.Duration // after this time the slot of a lost probe is released
}

// openJitter is the share by which an open time is shortened at random, so that backends that failed together are not probed together.
const openJitter = 0.2

// Breaker is the circuit breaker of one backend. The zero Breaker is closed. It is not safe for concurrent use.
type Breaker struct {
	state      State
	cause      Cause     // why it opened last, except for failed probes
	generation uint32    // number of state changes: a request that ends in a later generation than it began in is not counted
	since      time.Time // when the current state began; zero if there was no change yet

	turned [States]uint64 // number of transitions into each state

	run    int     // failures in a row, while closed
	window *Window // while closed; nil before the first request

	trips     int           // how often it opened in a row, less the credit for time without failures: the exponent of the open time
	openedFor time.Duration // the last open time
	until     time.Time     // when open becomes half-open

	successes int       // while half-open
	probe     uint32    // number of the last admitted probe
	probing   bool      // that probe has not ended
	deadline  time.Time // when its slot is released anyway
}

// State returns the current state.
func (b *Breaker) State() State { return b.state }

// Generation returns the current generation. A request is admitted in one and recorded with it.
func (b *Breaker) Generation() uint32 { return b.generation }

// Since returns when the current state began, the zero time if there was no change yet.
func (b *Breaker) Since() time.Time { return b.since }

// Until returns when an open breaker becomes half-open, the zero time if that does not depend on time.
func (b *Breaker) Until() time.Time { return b.until }

// Cause returns why the breaker opened. Failed probes since then do not change it.
func (b *Breaker) Cause() Cause { return b.cause }

// Turned returns the number of transitions into each state.
func (b *Breaker) Turned() [States]uint64 { return b.turned }

// Run returns the number of consecutive failures.
func (b *Breaker) Run() int { return b.run }

// Record records how a request that was admitted in that generation ended. A closed breaker only counts it: see [Breaker.Due]. A
// half-open one may close, or open again. jitter is a random number from 0 to 1.
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
		// The backend was used in a panic. Why the breaker opened is known already.
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
	switch {
	case b.window == nil:
		fresh := NewWindow(s.Window, now)
		b.window = &fresh
	case b.window.Span() != spanOf(s.Window):
		*b.window = b.window.Resized(s.Window, now)
	}
	b.window.Add(failed, slow, now)
}

// Due returns why a closed breaker must open, 0 if it need not. Call it after a request that failed or was slow: a success never opens a
// breaker.
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
	var c Counts
	if b.window != nil {
		c = b.window.Counts(now)
	}
	switch {
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

// Trip opens a closed breaker that is due. The caller may decide not to, for example if too many breakers are open already.
func (b *Breaker) Trip(s *Settings, cause Cause, now time.Time, jitter float64) Transition {
	if b.state != Closed {
		return Transition{}
	}
	// Staying closed for as long as the last open time takes one doubling back.
	if b.trips > 0 && b.openedFor > 0 {
		b.trips = max(b.trips-int(min(now.Sub(b.since)/b.openedFor, time.Duration(b.trips))), 0)
	}
	return b.open(s, cause, now, jitter)
}

func (b *Breaker) open(s *Settings, cause Cause, now time.Time, jitter float64) Transition {
	d := s.Open
	for range b.trips {
		if d >= s.MaxOpen {
			break // avoids an overflow
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

// Lose opens a closed breaker because no connection can be made. It stays open until [Breaker.Reach].
func (b *Breaker) Lose(now time.Time) Transition {
	if b.state != Closed {
		return Transition{}
	}
	b.until, b.cause = time.Time{}, Unreachable
	return b.become(Open, Unreachable, now)
}

// Explain says that the breaker has opened, in that generation, because no connection can be made, as is known only now. It then stays
// open until [Breaker.Reach], and the opening does not count for the next open time. It reports false if the breaker is not open any more.
func (b *Breaker) Explain(generation uint32) bool {
	if b.state != Open || b.generation != generation {
		return false
	}
	b.until, b.cause = time.Time{}, Unreachable
	b.trips = max(b.trips-1, 0)
	return true
}

// Reach closes a breaker that is open only because no connection could be made. Probes would find out nothing more.
func (b *Breaker) Reach(now time.Time) Transition {
	if b.state != Open || b.cause != Unreachable {
		return Transition{}
	}
	return b.become(Closed, Reached, now)
}

// Tick makes an open breaker half-open when its open time has passed.
func (b *Breaker) Tick(now time.Time) Transition {
	if b.state != Open || b.until.IsZero() || now.Before(b.until) {
		return Transition{}
	}
	return b.become(HalfOpen, TimeOver, now)
}

// Reset closes the breaker and clears its counters, including how often it has opened.
func (b *Breaker) Reset(now time.Time) Transition {
	b.trips, b.run, b.window = 0, 0, nil
	if b.state == Closed {
		return Transition{}
	}
	return b.become(Closed, WasReset, now)
}

// Admit takes the probe slot of a half-open breaker for a request, if it is free. The caller passes the probe's number to [Breaker.Done]
// when the request has ended.
func (b *Breaker) Admit(s *Settings, now time.Time) (probe uint32, ok bool) {
	if b.state != HalfOpen || b.probing && now.Before(b.deadline) {
		return 0, false
	}
	b.probe++
	b.probing, b.deadline = true, now.Add(s.ProbeTimeout)
	return b.probe, true
}

// Done releases the slot of that probe. It does nothing if another probe has the slot by now.
func (b *Breaker) Done(probe uint32) {
	if b.probe == probe {
		b.probing = false
	}
}

// Busy returns the time until which the probe slot is taken, the zero time if it is free.
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
	b.run, b.window = 0, nil
	b.successes, b.probing = 0, false
	return t
}
