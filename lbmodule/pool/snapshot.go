package pool

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Snapshot is the set of members that may be picked at one moment. It is immutable, except for the state of its pickers.
type Snapshot struct {
	tiers []tier
	first int     // the first tier of the level in use; len(tiers) when all are empty
	local float64 // the share of the preferred zone in that level
	at    []place // place of the view's backend i

	kept []int // positions of members that are not eligible, but keep their sessions

	halfOpen []int     // positions of half-open members
	probes   []int     // those of the half-open members that any request may probe, one at a time
	probing  time.Time // since when the first of probes has been half-open

	usable    int  // members that are usable
	total     int  // members that take new requests unless they fail: those that are ready and have a weight
	held      bool // some of them wait for their first probe
	panicking bool // members are eligible that are not usable
	ejected   int  // members that breakers take out, without dead ones

	gone    time.Time // since when all members in total have been dead; zero while one is not
	reopens time.Time // when the first open breaker turns half-open; zero if there is none or that is not known

	shadows []tier // the same members, with the pickers of the shadow policy; nil without one

	dice     *balance.Dice
	replaced chan struct{} // closed when another snapshot is in force
}

// Usable returns how many members are usable, and of how many.
func (s *Snapshot) Usable() (usable, total int) { return s.usable, s.total }

// Panicking reports whether too few members are usable, so that all members that are not dead are eligible.
func (s *Snapshot) Panicking() bool { return s.panicking }

// Held reports whether a member waits for its first probe.
func (s *Snapshot) Held() bool { return s.held }

// Hopeless reports whether no member can serve any request now, and none is waiting for its first probe.
func (s *Snapshot) Hopeless() bool {
	return s.first == len(s.tiers) && !s.held && len(s.probes) == 0 && len(s.kept) == 0
}

// Gone returns since when all members that could be usable have been dead; zero while one is not, or if there are none.
func (s *Snapshot) Gone() time.Time { return s.gone }

// Others reports whether a member other than these may be picked or probed.
func (s *Snapshot) Others(tried []int) bool {
	n := 0
	for t := range s.tiers {
		n += len(s.tiers[t].members)
	}
	for k, i := range tried {
		if s.Has(i) && !slices.Contains(tried[:k], i) {
			n--
		}
	}
	return n > 0 || slices.ContainsFunc(s.probes, func(i int) bool { return !slices.Contains(tried, i) })
}

// Probing reports whether there are half-open members, for [View.AcquireProbe].
func (s *Snapshot) Probing() bool { return len(s.probes) > 0 }

// Replaced is closed when another snapshot is in force.
func (s *Snapshot) Replaced() <-chan struct{} { return s.replaced }

// like reports whether other has the same members in the same places, with the same weights.
func (s *Snapshot) like(other *Snapshot) bool {
	if other == nil || s.usable != other.usable || s.total != other.total || s.held != other.held ||
		s.panicking != other.panicking || s.ejected != other.ejected || !s.gone.Equal(other.gone) || s.reopens != other.reopens || !slices.Equal(s.probes, other.probes) || !slices.Equal(s.halfOpen, other.halfOpen) || !slices.Equal(s.kept, other.kept) {
		return false
	}
	for t := range s.tiers {
		if !slices.Equal(s.tiers[t].members, other.tiers[t].members) || !slices.Equal(s.tiers[t].warmth, other.tiers[t].warmth) {
			return false
		}
	}
	return true
}

// Has reports whether the member at position i may be picked.
func (s *Snapshot) Has(i int) bool { return s.at[i] != nowhere }

// Warmth returns the share of its weight that the member at position i currently has, 1 if it is not being ramped up.
func (s *Snapshot) Warmth(i int) float64 {
	if at := s.at[i]; at != nowhere {
		return s.tiers[at.tier].warmth[at.index]
	}
	return 1
}

// InTurn reports whether the member at position i is eligible and belongs to the backup level in use.
func (s *Snapshot) InTurn(i int) bool {
	return s.Has(i) && int(s.at[i].tier) >= s.first && int(s.at[i].tier) < s.first+zones
}

// Spared reports whether the member at position i gets no requests because it is outside the preferred zone, which can take them all.
func (s *Snapshot) Spared(i int) bool {
	return s.InTurn(i) && s.local == 1 && int(s.at[i].tier) != s.first
}

// Zoned reports whether requests are divided between the preferred zone and the others, at random or by their key.
func (s *Snapshot) Zoned() bool { return s.first < len(s.tiers) && s.local > 0 && s.local < 1 }

// Score returns the policy's score of the member at position i; lower is better. ok is false if the policy has no scores.
func (s *Snapshot) Score(i int) (score float64, ok bool) {
	at := s.at[i]
	if at == nowhere {
		return 0, false
	}
	scored, ok := s.tiers[at.tier].picker.(balance.Scored)
	if !ok {
		return 0, false
	}
	return scored.Score(int(at.index)), true
}

// Avoided returns for each member, by position, whether the policy avoids it at that time because of its past answers, and why. It returns
// nil if no member is avoided. Members are compared only with those of their tier.
func (s *Snapshot) Avoided(now time.Time) []balance.Avoidance {
	var all []balance.Avoidance
	for t := range s.tiers {
		avoiding, ok := s.tiers[t].picker.(balance.Avoiding)
		if !ok {
			continue
		}
		for k, a := range avoiding.Avoided(now) {
			if a.Cause == balance.NotAvoided {
				continue
			}
			if all == nil {
				all = make([]balance.Avoidance, len(s.at))
			}
			all[s.tiers[t].members[k]] = a
		}
	}
	return all
}

// changed notifies the picker of member i that the member's load has changed.
func (s *Snapshot) changed(i int) {
	if at := s.at[i]; at != nowhere {
		if p := s.tiers[at.tier].picker; p != nil {
			p.Changed(int(at.index))
		}
	}
}

// sync makes the pickers read every load.
func (s *Snapshot) sync() {
	for _, t := range s.tiers {
		if t.picker != nil {
			t.picker.Sync()
		}
	}
	for _, t := range s.shadows {
		t.picker.Sync()
	}
}
