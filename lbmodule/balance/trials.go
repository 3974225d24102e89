package balance

import "sync/atomic"

// trials spaces out the requests that members get although they are avoided, to find out whether they are still to be. A trial
// that is slow is slow for a client, so trials are few: one of 128 choices that avoid somebody, however many members are avoided, and the
// next one of a member only when it has answered. A member that has had no trial for a minute has its first one sooner. One that goes
// well is followed by the next at once, until the member is avoided no more.
type trials struct {
	avoiding atomic.Uint32 // choices that have avoided somebody since the last trial
	since    atomic.Uint32 // tick of the first of them, or of that trial
}

const (
	// A trial is due after slowTrial choices that avoided somebody, or firstTrial if it is the first one. Where a member fails it is
	// firstFailing, and twice as many with each failure, up to mostFailing: a failure is worse for a client than a wait.
	firstTrial, slowTrial, firstFailing, mostFailing = 16, 128, 8, 256
	// restTicks is how long a member is left alone after its last answer, freshTicks after how long without a trial the next one is a
	// first one, and silentTicks when a member is given another request although there are some that it does not answer.
	restTicks, freshTicks, silentTicks = ticksPerMinute / 240, ticksPerMinute, ticksPerMinute / 6
	// slowFaded and failingFaded are about how long a member without an answer stays slower than others, or blamed.
	slowFaded, failingFaded = ticksPerMinute / 2, ticksPerMinute
)

// due counts a choice that avoids the member with this latency and reports whether it is its turn all the same. It is called once in a
// choice.
func (s *trials) due(l *Latency, cause Cause, t uint32) bool {
	n := s.avoiding.Add(1)
	if n == 1 {
		s.since.Store(t)
	}
	tried := l.tried.Load()
	switch {
	case cause == Silent || l.untold():
		// If several choices see this at the same moment, only one of them makes the trial.
		if since(tried, t) < silentTicks || !l.tried.CompareAndSwap(tried, t) {
			return false
		}
	case l.hopeful.Load():
		if !l.hopeful.CompareAndSwap(true, false) {
			return false
		}
	case since(tried, t) < restTicks || n < every(l, cause, t) || !s.avoiding.CompareAndSwap(n, 0):
		return false
	}
	s.since.Store(t)
	l.tried.Store(t)
	l.lastTrial.Store(t)
	l.trials.Add(1)
	return true
}

// every is how many choices avoid somebody until a trial of that member.
func every(l *Latency, cause Cause, t uint32) uint32 {
	switch {
	case cause == Failing:
		return uint32(min(firstFailing*l.penalty(t), mostFailing))
	case l.trials.Load() == 0 || since(l.lastTrial.Load(), t) > freshTicks:
		return firstTrial
	default:
		return slowTrial
	}
}

// next is in how many seconds the member's turn comes, if choices go on avoiding somebody as often as of late. After a time without an
// answer nothing is known any more that would speak against it.
func (s *trials) next(l *Latency, cause Cause, t uint32) float64 {
	rested := since(l.tried.Load(), t)
	left := func(ticks uint32) float64 { return secondsOf(since(rested, ticks)) }
	if cause == Silent || l.untold() {
		return left(silentTicks)
	}
	if l.hopeful.Load() {
		return 0
	}
	wait, faded := left(restTicks), left(slowFaded)
	if cause == Failing {
		faded = left(failingFaded)
	}
	if n, needed := s.avoiding.Load(), every(l, cause, t); n < needed {
		wait = max(wait, float64(needed-n)*secondsOf(since(s.since.Load(), t))/float64(max(n, 2)-1))
	}
	return min(wait, faded)
}
