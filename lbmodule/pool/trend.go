package pool

import (
	"math"
	"time"
)

// TrendWindows are the times over which averages are taken.
var TrendWindows = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

// trend holds moving averages of the rate of an event and of its failures, as load averages do: older events decay exponentially with the
// time constant of each window. Events between two calls of look are assumed to be spread evenly. The zero trend is one before its first
// look.
type trend struct {
	at             time.Time
	seen, bad      uint64                     // counts at that time
	rate, failures [len(TrendWindows)]float64 // per second
}

// pace is a moving average of the rate of an event, computed as the first window of a trend is.
type pace struct {
	seen   uint64 // the count at the last look
	rate   float64
	looked bool
}

// look updates c. seen is the total count, and passed the time since the last look.
func (c *pace) look(seen uint64, passed time.Duration) {
	switch {
	case !c.looked:
	case passed <= 0:
		return
	default:
		if seen < c.seen {
			c.seen = 0 // the counter was reset
		}
		kept := math.Exp(-passed.Seconds() / TrendWindows[0].Seconds())
		c.rate = c.rate*kept + float64(seen-c.seen)/passed.Seconds()*(1-kept)
	}
	c.seen, c.looked = seen, true
}

// negligible is the rate per second below which ratios are not computed.
const negligible = 1e-6

// look updates t. seen and bad are the total counts of events and of failures.
func (t *trend) look(seen, bad uint64, now time.Time) {
	passed := now.Sub(t.at)
	if t.at.IsZero() {
		t.at, t.seen, t.bad = now, seen, bad
		return
	}
	if passed <= 0 {
		return
	}
	if seen < t.seen || bad < t.bad {
		t.seen, t.bad = 0, 0 // the counters were reset
	}
	for i, window := range TrendWindows {
		kept := math.Exp(-passed.Seconds() / window.Seconds())
		t.rate[i] = t.rate[i]*kept + float64(seen-t.seen)/passed.Seconds()*(1-kept)
		t.failures[i] = t.failures[i]*kept + float64(bad-t.bad)/passed.Seconds()*(1-kept)
	}
	t.at, t.seen, t.bad = now, seen, bad
}

// ratio returns the share of events that failed, 0 if there are none.
func (t *trend) ratio(window int) float64 {
	if t.rate[window] < negligible {
		return 0
	}
	return t.failures[window] / t.rate[window]
}

// Look updates the pool's averages. It must be called every few seconds.
func (p *Pool) Look(now time.Time) {
	seen, bad := uint64(0), uint64(0)
	for status, n := range p.Answers {
		if seen += n; status >= 500 {
			bad += n
		}
	}
	members := p.Members()
	p.looking.Lock()
	defer p.looking.Unlock()
	passed := now.Sub(p.trend.at)
	p.trend.look(seen, bad, now)
	p.lately.look(p.Answered, now)
	for _, m := range members {
		m.pace.look(m.requests.Load(), passed)
		for s := range m.shades.Load().all {
			s.pace.look(s.chosen.Load(), passed)
		}
	}
}

// ErrorRatios returns the share of requests that were answered with 5xx, for each of the TrendWindows.
func (p *Pool) ErrorRatios() (ratios [len(TrendWindows)]float64) {
	p.looking.Lock()
	defer p.looking.Unlock()
	for i := range ratios {
		ratios[i] = p.trend.ratio(i)
	}
	return ratios
}

// Shares returns the share of the requests of the last minute that each member of the view got; nil if there were none.
func (v *View) Shares() []float64 {
	shares, sum := make([]float64, len(v.members)), 0.0
	v.pool.looking.Lock()
	for i, m := range v.members {
		shares[i] = m.pace.rate
		sum += m.pace.rate
	}
	v.pool.looking.Unlock()
	if sum < negligible {
		return nil
	}
	for i := range shares {
		shares[i] /= sum
	}
	return shares
}

// Fairness returns how evenly the requests of the last minute were spread over the members in use, relative to their current weights: 1 if
// evenly, 1/n if one of n members got all of them (R. Jain, D. Chiu and W. Hawe, 1984).
func (v *View) Fairness() float64 {
	return v.fairness(func(i int) *pace { return &v.members[i].pace })
}

// fairness is Fairness for the paces that of returns, which Pool.looking guards.
func (v *View) fairness(of func(i int) *pace) float64 {
	s := v.snap.Load()
	eligible := s.Eligible()
	sum, squares := 0.0, 0.0
	v.pool.looking.Lock()
	defer v.pool.looking.Unlock()
	for _, i := range eligible {
		x := of(i).rate / (float64(v.backends[i].Weight) * s.Warmth(i))
		sum += x
		squares += x * x
	}
	if sum < negligible {
		return 1
	}
	return sum * sum / (float64(len(eligible)) * squares)
}

// Utilization returns the share of slots in use on the eligible members that have a max_requests; 0 if none has.
func (v *View) Utilization() float64 {
	taken, slots := int64(0), int64(0)
	for _, i := range v.snap.Load().Eligible() {
		if limit := v.bound(i); limit > 0 {
			slots += limit
			taken += v.members[i].load.Load()
		}
	}
	if slots == 0 {
		return 0
	}
	return float64(taken) / float64(slots)
}
