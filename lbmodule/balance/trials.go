package balance

import "sync/atomic"

// trials spaces out the requests that members get although they are avoided, to find out whether they are still to be. Slow answers of
// trials are answers to somebody, so they are few: less than one request of a hundred, whatever the rate and however many members are
// avoided, and then the member's next one only when it has answered. A trial that goes well is followed by the next at once, until the
// member is avoided no more.
type trials struct {
	avoiding atomic.Uint32 // picks that have avoided somebody since the last trial
	at       atomic.Uint32 // tick of the last trial
}

const (
	// slowTrial and failingTrial are how many picks avoid somebody between two trials: failures are worse than waiting. lateTrial is
	// how many at least, however long a member has been waiting for its turn.
	slowTrial, failingTrial, lateTrial = 160, 320, 16
	// restTicks is how long a member is left alone after its last answer, lateTicks when it is its turn whatever the rate, and
	// silentTicks when it is given another request although there are some that it does not answer.
	restTicks, lateTicks, silentTicks = ticksPerMinute / 240, ticksPerMinute / 6, ticksPerMinute / 2
)

// due counts a pick that avoids the member with this latency and tells whether it is its turn all the same. It is called once in a pick.
func (s *trials) due(l *Latency, cause Cause, t uint32) bool {
	n := s.avoiding.Add(1)
	rested := since(l.tried.Load(), t)
	switch {
	case l.waiting.total.Load() > 0:
		// Of those who find out at once that it has been so long, one goes on.
		if tried := l.tried.Load(); since(tried, t) < silentTicks || !l.tried.CompareAndSwap(tried, t) {
			return false
		}
	case l.hopeful.Load():
		if !l.hopeful.CompareAndSwap(true, false) {
			return false
		}
	case rested >= restTicks && n >= every(cause), rested >= lateTicks && n >= lateTrial:
		if !s.avoiding.CompareAndSwap(n, 0) {
			return false
		}
	default:
		return false
	}
	s.at.Store(t)
	l.tried.Store(t)
	l.trials.Add(1)
	return true
}

func every(cause Cause) uint32 {
	if cause == Failing {
		return failingTrial
	}
	return slowTrial
}

// next is in how many seconds the member's turn comes, at the rate at which picks have avoided somebody lately.
func (s *trials) next(l *Latency, cause Cause, t uint32) float64 {
	rested := since(l.tried.Load(), t)
	left := func(ticks uint32) float64 { return secondsOf(since(rested, ticks)) }
	if l.waiting.total.Load() > 0 {
		return left(silentTicks)
	}
	if l.hopeful.Load() {
		return 0
	}
	n, passed := s.avoiding.Load(), secondsOf(since(s.at.Load(), t))
	wait := func(picks uint32) float64 {
		if n >= picks {
			return 0
		}
		return float64(picks-n) * passed / float64(max(n, 1))
	}
	return min(max(left(restTicks), wait(every(cause))), max(left(lateTicks), wait(lateTrial)))
}
