package balance

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"
)

// Avoidance is why a member is given fewer requests than its share, by what is known of its answers. The zero Avoidance says that it
// is not.
type Avoidance struct {
	Cause  Cause
	Takes  time.Duration // what its answers take; of a silent member, how long it has answered nothing
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

// String tells people why a member is avoided, and when it is tried again; "" if it is not.
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

// Avoiding is implemented by pickers that avoid members by what is known of their answers.
type Avoiding interface {
	// Avoided tells of each member whether it is avoided at that time, and why.
	Avoided(now time.Time) []Avoidance
}

// Avoided implements [Avoiding]. Each member is compared with the one at the 25th percentile of the costs, so that it shows also when half
// of them are slow.
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
	const dearerThan = 4 // one in so many
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
			continue // it may be a page that fails everywhere, and the next choice tries it
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

// shownSilence is how many seconds of silence are worth telling of. Shorter ones come and go on any machine.
const shownSilence = 1

// cost is what an answer of that position costs, whatever it has to do.
func (p *peakEWMA) cost(at int, c *clock) float64 {
	l := p.members[at].Latency
	return (unscale(l.takes.mean()) + grain) * l.penalty(c.now())
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// roughly writes a duration with two significant digits at most: in milliseconds below a second, and whole seconds from a hundred on.
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

// inSeconds writes a time to wait to the tenth of a second, which is the least.
func inSeconds(d time.Duration) string {
	return plainNumber(max(math.Round(d.Seconds()*10), 1)/10) + " s"
}

// twoDigits rounds x to two significant digits.
func twoDigits(x float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'e', 1, 64), 64)
	return rounded
}

func plainNumber(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
