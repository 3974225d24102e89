package balance

import "sync/atomic"

// trials schedules trials: requests that avoided members get to find out whether there is still a reason to avoid them. A slow trial is
// slow for a client, so trials are few: one in 128 choices that avoid a member, however many members are avoided, and the next trial of a
// member only after it has answered the last one. A member that has had no trial for a minute gets its first one sooner. After a trial that
// goes well, the next one follows at once, until the member is no longer avoided.
type trials struct {
	avoiding atomic.Uint32 // choices that have avoided a member since the last trial
	since    atomic.Uint32 // tick of the first of those choices, or of that trial
}

const (
	// A trial is due after slowTrial choices that avoided a member, or after firstTrial if it is the first one. For a member that fails, it is
	// due after firstFailing choices, doubled with each failure, up to mostFailing, because a failure is worse for a client than a wait.
	firstTrial, slowTrial, firstFailing, mostFailing = 16, 128, 8, 256
	// restTicks is how long a member gets no trial after its last answer. freshTicks is the time without a trial after which the next one
	// counts as a first one. silentTicks is the interval between trials of a member that does not answer its requests.
	restTicks, freshTicks, silentTicks = ticksPerMinute / 240, ticksPerMinute, ticksPerMinute / 6
	// slowFaded and failingFaded are approximately how long a member that gives no more answers still counts as slower, or as failing.
	slowFaded, failingFaded = ticksPerMinute / 2, ticksPerMinute
)

// due counts a choice that avoids the member with this latency, and reports whether the member gets the request anyway, as a trial. It is
// called once per choice.
func (s *trials) due(l *Latency, cause Cause, t uint32) bool {
	n := s.avoiding.Add(1)
	if n == 1 {
		s.since.Store(t)
	}
	tried := l.tried.Load()
	switch {
	case cause == Silent || l.trialPending():
		// If several choices get here at the same moment, only one of them makes the trial.
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

// every returns how many choices that avoid a member there are between two trials of this one.
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

// next returns in how many seconds the member's next trial is due, if choices keep avoiding members at the recent rate. It is no later than
// the time when what is known against the member has faded.
func (s *trials) next(l *Latency, cause Cause, t uint32) float64 {
	rested := since(l.tried.Load(), t)
	left := func(ticks uint32) float64 { return secondsOf(since(rested, ticks)) }
	if cause == Silent || l.trialPending() {
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
