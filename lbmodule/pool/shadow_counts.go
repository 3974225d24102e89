package pool

import "time"

// ShadowResult is the result of a shadow policy's decision.
type ShadowResult uint8

// The results of decisions.
const (
	ShadowAgreed   ShadowResult = iota // the policy chose the member that the request was given to
	ShadowDiffered                     // it chose another member
	ShadowFull                         // no member was free, given the loads under the shadow policy
	ShadowDropped                      // the decision was not tracked, because too many requests were
	ShadowResults
)

// String returns the result as metrics show it.
func (r ShadowResult) String() string {
	return [ShadowResults]string{"agreed", "differed", "full", "dropped"}[r]
}

// Decisions returns the number of decisions with that result.
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

// Durations returns the distributions of how long requests would have taken under the shadow policy, and of how long the same requests
// took.
func (s *Shadow) Durations() (expected, took *Distribution) {
	return s.expected.Distribution(), s.took.Distribution()
}

// Quantiles returns quantiles of the same durations for recent requests; nil if there were none in the last minute.
func (s *Shadow) Quantiles(now time.Time, shares ...float64) (expected, took []time.Duration) {
	return s.recently.expected.Quantiles(now, shares...), s.recently.took.Quantiles(now, shares...)
}

// ShadowShare holds the counts of a member for the requests on which a shadow policy decided.
type ShadowShare struct {
	Chosen   uint64 // requests that the shadow policy would have given to it
	Given    uint64 // requests that it was given
	InFlight int64  // requests that it would be serving now
}

func (c *ShadowShare) add(more ShadowShare) {
	c.Chosen += more.Chosen
	c.Given += more.Given
	c.InFlight += more.InFlight
}

func (s *shade) share() ShadowShare {
	return ShadowShare{s.chosen.Load(), s.given.Load(), s.load.Load()}
}

// Share returns the counts of a member; zero if the Shadow does not know it.
func (s *Shadow) Share(m *Member) ShadowShare {
	if sh := m.shadeOf(s); sh != nil {
		return sh.share()
	}
	return ShadowShare{}
}

// Others returns the sum over all members without their own counters, including deleted ones.
func (s *Shadow) Others() ShadowShare {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	sum := s.forgotten
	sum.InFlight = 0 // the ends of requests on deleted members are not counted
	for _, m := range s.pool.members {
		if sh := m.shadeOf(s); sh != nil && !m.Named() {
			sum.add(sh.share())
		}
	}
	return sum
}

// Look ends the requests that would have ended by now under the shadow policy. Otherwise only its decisions do that.
func (s *Shadow) Look(now time.Time) { s.ends.Settle(now.UnixNano(), s.ended) }

// ShadowFairness is [View.Fairness] of the shadow policy; 1 without one.
func (v *View) ShadowFairness() float64 {
	if v.shadow == nil {
		return 1
	}
	return v.fairness(func(i int) *pace { return &v.shades[i].pace })
}
