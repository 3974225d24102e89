package balance

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"
)

// Avoidance says why a member gets fewer requests than its share, because of its past answers. The zero Avoidance means that it is not
// avoided.
type Avoidance struct {
	Cause  Cause
	Takes  time.Duration // how long its answers take; for a silent member, how long it has answered nothing
	Others time.Duration // how long the answers of the others take
	Again  time.Duration // time until it is tried again
}

// Cause is the reason why a member is avoided.
type Cause uint8

// The causes of an [Avoidance].
const (
	NotAvoided Cause = iota
	Slow             // its answers take longer than the others'
	Failing          // its answers are failures or refusals
	Silent           // requests have been waiting for far longer than its answers took, without any answer
)

// String describes why a member is avoided and when it is tried again. It returns "" if the member is not avoided.
func (a Avoidance) String() string {
	again := "; tried again with the next request"
	if a.Again > 0 {
		again = "; tried again in " + inSeconds(a.Again)
	}
	switch a.Cause {
	case Slow:
		return "its answers take " + roughly(a.Takes) + ", the others' " + roughly(a.Others) + again
	case Failing:
		return "it fails" + again
	case Silent:
		return "it has answered nothing for " + roughly(a.Takes) + again
	default:
		return ""
	}
}

// Avoiding is implemented by pickers that avoid members because of their past answers.
type Avoiding interface {
	// Avoided returns for each member whether it is avoided at that time, and why.
	Avoided(now time.Time) []Avoidance
}

// Avoided implements [Avoiding]. Each member is compared with the one at the 25th percentile of the costs, so that slow members are found
// even if half of them are slow.
func (p *peakEWMA) Avoided(now time.Time) []Avoidance {
	all := make([]Avoidance, len(p.pos))
	c := &clock{tickOf(now), true}
	known := make([]int, 0, len(p.members))
	for at := range p.members {
		if l := p.members[at].Latency; l.takes.known() && !l.silent(c.now()) {
			known = append(known, at)
		}
	}
	if len(known) == 0 {
		return all
	}
	const dearerThan = 4 // one in four members costs no more than the one compared with
	slices.SortFunc(known, func(a, b int) int {
		return cmp.Compare(p.cost(a, c), p.cost(b, c))
	})
	usual := known[(len(known)-1)/dearerThan]
	others := p.members[usual].Latency.Estimate()
	for at := range p.members {
		l := p.members[at].Latency
		ratio, cause := p.dearer(at, usual, c)
		if cause == Silent && l.waiting.silentFor(c.now()) < shownSilence {
			continue
		}
		if cause == Failing && l.hopeful.Load() {
			continue // the page may fail on every member, and the next choice tries this one
		}
		if at == usual || cause == NotAvoided || ratio <= 1 {
			continue
		}
		a := Avoidance{Cause: cause, Takes: l.Estimate(), Others: others, Again: seconds(p.trials.next(l, cause, c.now()))}
		if cause == Silent {
			a.Takes = seconds(l.waiting.silentFor(c.now()))
		}
		all[p.index[at]] = a
	}
	return all
}

// shownSilence is how many seconds of silence are reported. Shorter ones occur on any machine.
const shownSilence = 1

// cost returns how expensive an answer of that position is, regardless of its load.
func (p *peakEWMA) cost(at int, c *clock) float64 {
	l := p.members[at].Latency
	return (unscale(l.takes.mean()) + grain) * l.penalty(c.now())
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// roughly formats a duration with at most two significant digits: in milliseconds below a second, in whole seconds from a hundred seconds
// on.
func roughly(d time.Duration) string {
	if ms := twoDigits(d.Seconds() * 1000); ms < 1000 {
		return plainNumber(ms) + " ms"
	}
	seconds := d.Seconds()
	if seconds < 100 {
		return plainNumber(twoDigits(seconds)) + " s"
	}
	return plainNumber(math.Round(seconds)) + " s"
}

// inSeconds formats a waiting time in tenths of a second, one tenth at least.
func inSeconds(d time.Duration) string {
	return plainNumber(max(math.Round(d.Seconds()*10), 1)/10) + " s"
}

// twoDigits rounds x to two significant digits.
func twoDigits(x float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'e', 1, 64), 64)
	return rounded
}

func plainNumber(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
