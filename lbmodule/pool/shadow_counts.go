package pool

import "time"

// ShadowResult is what a decision of a shadow policy came to.
type ShadowResult uint8

// The results of decisions.
const (
	ShadowAgreed   ShadowResult = iota // the member is the one that the request was given to
	ShadowDiffered                     // it is another one
	ShadowFull                         // no member was free, as it would have them
	ShadowDropped                      // it had too many requests to keep count of
	ShadowResults
)

// String returns the result as metrics show it.
func (r ShadowResult) String() string {
	return [ShadowResults]string{"agreed", "differed", "full", "dropped"}[r]
}

// Decisions is how many decisions came to that.
func (s *Shadow) Decisions(r ShadowResult) uint64 {
	switch r {
	case ShadowAgreed:
		return s.agreed.Load()
	case ShadowDiffered:
		return s.differed.Load()
	case ShadowFull:
		return s.full.Load()
	default:
		return s.dropped.Load()
	}
}

// Durations returns how long requests would have taken, and how long the same ones took.
func (s *Shadow) Durations() (expected, took *Distribution) {
	return s.expected.Distribution(), s.took.Distribution()
}

// Quantiles returns the same of the recent requests, as durations that these shares of them did not exceed; nil if there were
// none in the last minute.
func (s *Shadow) Quantiles(now time.Time, shares ...float64) (expected, took []time.Duration) {
	return s.recently.expected.Quantiles(now, shares...), s.recently.took.Quantiles(now, shares...)
}

// ShadowShare is what was counted of a member, of the requests that were decided on.
type ShadowShare struct {
	Chosen   uint64 // that the shadow policy would have given to it
	Given    uint64 // that it was given
	InFlight int64  // that it would be serving now
}

func (c *ShadowShare) add(more ShadowShare) {
	c.Chosen += more.Chosen
	c.Given += more.Given
	c.InFlight += more.InFlight
}

func (s *shade) share() ShadowShare {
	return ShadowShare{s.chosen.Load(), s.given.Load(), s.load.Load()}
}

// Share returns what has been counted of a member; zero if the Shadow does not know it.
func (s *Shadow) Share(m *Member) ShadowShare {
	if sh := m.shadeOf(s); sh != nil {
		return sh.share()
	}
	return ShadowShare{}
}

// Others is the sum of all members without counters of their own, also of those that the pool has deleted.
func (s *Shadow) Others() ShadowShare {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	sum := s.forgotten
	sum.InFlight = 0 // what they were serving ends unseen
	for _, m := range s.pool.members {
		if sh := m.shadeOf(s); sh != nil && !m.Named() {
			sum.add(sh.share())
		}
	}
	return sum
}

// Look ends the requests that would have ended by now. Without it only decisions do that.
func (s *Shadow) Look(now time.Time) { s.ends.Settle(now.UnixNano(), s.ended) }

// ShadowFairness is [View.Fairness] of the shadow policy; 1 without one.
func (v *View) ShadowFairness() float64 {
	if v.shadow == nil {
		return 1
	}
	return v.fairness(func(i int) *pace { return &v.shades[i].pace })
}
