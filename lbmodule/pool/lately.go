package pool

import (
	"slices"
	"time"
)

const (
	// latelyLeast is the least time between two marks, and the least time that rates are taken over.
	latelyLeast = time.Second
	// latelyMost is the longest time that rates are taken over. It is more than two of the intervals at which [Pool.Look] is called, so that
	// there is always a mark.
	latelyMost = 15 * time.Second
)

// Answered counts the ended requests of clients by how they ended.
type Answered struct {
	Classes  [Classes]uint64 // by the class of the answer's status, without those in Canceled
	Canceled uint64          // the client left before the answer
	Refused  [Refusals]uint64
	BytesIn  uint64 // of the bodies of requests, sent to backends
	BytesOut uint64 // of the bodies of answers, received from backends
}

// Requests returns the number of all of them.
func (a *Answered) Requests() uint64 {
	all := a.Canceled
	for _, n := range a.Classes {
		all += n
	}
	return all
}

// minus returns the difference from before.
func (a Answered) minus(before *Answered) Answered {
	for i := range a.Classes {
		a.Classes[i] -= before.Classes[i]
	}
	for i := range a.Refused {
		a.Refused[i] -= before.Refused[i]
	}
	a.Canceled -= before.Canceled
	a.BytesIn -= before.BytesIn
	a.BytesOut -= before.BytesOut
	return a
}

// StatusCanceled is the status that is counted and logged for a client that left before the answer. reverse_proxy uses the same one.
const StatusCanceled = 499

// Answered returns the counts of the pool's requests. Requests in Refused are also included in Classes.
func (p *Pool) Answered() (a Answered) {
	for status, n := range p.Answers {
		if status == StatusCanceled {
			a.Canceled = n
			continue
		}
		a.Classes[Class(status)] += n
	}
	for r := range a.Refused {
		a.Refused[r] = p.refusals[r].Load()
	}
	a.BytesIn, a.BytesOut = p.bytes()
	return a
}

// Lately holds the counts of the last seconds.
type Lately struct {
	Answered
	Span time.Duration // the time that the counts cover; 0 if there are none yet
}

// PerSecond returns the rate of something that was counted n times.
func (l *Lately) PerSecond(n uint64) float64 {
	if l.Span == 0 {
		return 0
	}
	return float64(n) / l.Span.Seconds()
}

// latelyMark holds the counts at one time.
type latelyMark struct {
	at time.Time
	Answered
}

// lately holds the counts at several times of the last seconds, the oldest first. The number of marks is at most latelyMost divided by
// latelyLeast, plus one.
type lately struct {
	marks []latelyMark
}

// look adds a mark, unless there is a fresh one, and removes those that are too old.
func (l *lately) look(counted func() Answered, now time.Time) {
	if n := len(l.marks); n > 0 && now.Sub(l.marks[n-1].at) < latelyLeast {
		return
	}
	keep := 0
	for keep < len(l.marks) && now.Sub(l.marks[keep].at) > latelyMost {
		keep++
	}
	l.marks = append(slices.Delete(l.marks, 0, keep), latelyMark{now, counted()})
}

// Lately returns the counts of up to the last 15 seconds, depending on when [Pool.Look] was called.
func (p *Pool) Lately(now time.Time) (l Lately) {
	p.looking.Lock()
	defer p.looking.Unlock()
	for i := range p.lately.marks {
		m := &p.lately.marks[i]
		if span := now.Sub(m.at); span >= latelyLeast && span <= latelyMost {
			return Lately{p.Answered().minus(&m.Answered), span}
		}
	}
	return Lately{}
}
