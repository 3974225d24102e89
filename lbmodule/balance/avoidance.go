package balance

import (
	"slices"
	"time"
)

// Avoidance is why a member is given fewer requests than its share, by what is known of its answers. The zero Avoidance says that it
// is not.
type Avoidance struct {
	Cause  Cause
	Takes  time.Duration // what its answers take lately; of a silent member, how long it has answered nothing
	Others time.Duration // what the answers of the others take
	Again  time.Duration // until it is tried again
}

// Cause is what a member is avoided for.
type Cause uint8

// The causes of an [Avoidance].
const (
	NotAvoided Cause = iota
	Slow             // its answers take longer than the others'
	Failing          // its answers are failures or refusals
	Silent           // requests wait for far longer than its answers took, and it has answered none
)

// Avoiding is implemented by pickers that avoid members by what is known of their answers.
type Avoiding interface {
	// Avoided tells of each member whether it is avoided at that time, and why.
	Avoided(now time.Time) []Avoidance
}

// Avoided implements [Avoiding].
func (p *peakEWMA) Avoided(now time.Time) []Avoidance {
	all := make([]Avoidance, len(p.pos))
	var known []time.Duration
	for i := range p.members {
		if took := p.members[i].Latency.Estimate(now); took > 0 {
			known = append(known, took)
		}
	}
	if len(known) == 0 {
		return all
	}
	slices.Sort(known)
	typical := known[(len(known)-1)/2]
	for i := range p.members {
		l := p.members[i].Latency
		took, penalty := l.Estimate(now), l.Penalty(now)
		a := Avoidance{Takes: took, Others: typical, Again: time.Second}
		switch {
		case penalty > alike:
			a.Cause = Failing
		case l.silent(took.Seconds(), tickOf(now)):
			a.Cause = Silent
		case (took + 5*time.Millisecond).Seconds() > alike*(typical+5*time.Millisecond).Seconds():
			a.Cause = Slow
		default:
			continue
		}
		all[p.index[i]] = a
	}
	return all
}

// Avoided is how many picks have gone to another member for what is known of this one's answers, and Trials how many it was given all the
// same, to find out whether that still holds. Neither is ever less than before.
func (l *Latency) Avoided() uint64 { return l.avoided.Load() }

// Trials: see [Latency.Avoided].
func (l *Latency) Trials() uint64 { return l.trials.Load() }
