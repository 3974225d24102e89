package pool

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// The tiers of a snapshot, in the order of their use.
const (
	primary int8 = iota
	backup
	tierCount
)

// Snapshot is the set of members that may be picked at one moment. It is immutable, but for what its pickers
// count.
type Snapshot struct {
	tiers [tierCount]tier
	first int     // the first tier that is not empty; tierCount when all are
	at    []place // where the view's backend i stands

	probes  []int     // positions of half-open members, which take one request at a time
	probing time.Time // since when the first of them is half-open

	usable    int  // members that are usable
	total     int  // members that could be: those with a weight
	held      bool // some of them wait for their first probe
	panicking bool // members are eligible that are not usable
	ejected   int  // members that breakers take out, the dead not counted

	reopens time.Time // when the first open breaker turns half-open; zero if there is none or that is not known

	replaced chan struct{} // closed when another snapshot is in force
}

// Usable is how many members are usable, and of how many.
func (s *Snapshot) Usable() (usable, total int) { return s.usable, s.total }

// Panicking tells whether too few members are usable, so that all are eligible that are not dead.
func (s *Snapshot) Panicking() bool { return s.panicking }

// Held tells whether a member waits for its first probe.
func (s *Snapshot) Held() bool { return s.held }

// Hopeless tells whether there is nobody to choose, and nobody to wait for.
func (s *Snapshot) Hopeless() bool { return s.first == len(s.tiers) && !s.held && len(s.probes) == 0 }

// Probing tells whether there are half-open members, for [View.AcquireProbe].
func (s *Snapshot) Probing() bool { return len(s.probes) > 0 }

// Replaced is closed when another snapshot is in force.
func (s *Snapshot) Replaced() <-chan struct{} { return s.replaced }

// like tells whether other has the same members in the same places, with the same weights.
func (s *Snapshot) like(other *Snapshot) bool {
	if other == nil || s.usable != other.usable || s.total != other.total || s.held != other.held ||
		s.panicking != other.panicking || s.ejected != other.ejected || s.reopens != other.reopens || !slices.Equal(s.probes, other.probes) {
		return false
	}
	for t := range s.tiers {
		if !slices.Equal(s.tiers[t].members, other.tiers[t].members) || !slices.Equal(s.tiers[t].warmth, other.tiers[t].warmth) {
			return false
		}
	}
	return true
}

// Has tells whether the member at position i may be picked.
func (s *Snapshot) Has(i int) bool { return s.at[i] != nowhere }

// Warmth is the share of its weight that the member at position i is to get, 1 if it is not being ramped up.
func (s *Snapshot) Warmth(i int) float64 {
	if at := s.at[i]; at != nowhere {
		return s.tiers[at.tier].warmth[at.index]
	}
	return 1
}

// tier is a set of members of which any is as good as the other, but for the policy.
type tier struct {
	members []int          // positions in the view, ascending
	warmth  []float64      // of each, relative to the warmest
	picker  balance.Picker // picks an index of members; nil without a policy
	keyed   balance.Keyed  // picker, if it goes by the request's key
}

// place is a member's tier and its index there.
type place struct {
	tier  int8
	index int32
}

// nowhere is the place of a member that is not eligible.
var nowhere = place{tier: -1}

// InTurn tells whether the member at position i is one of those that come first: no backup while there are others.
func (s *Snapshot) InTurn(i int) bool { return s.Has(i) && int(s.at[i].tier) == s.first }

// Score is what the policy makes of the member at position i, the lower the better; ok is false if it does not go by such.
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

// Eligible returns the positions of the members that the next request may go to: the primaries, or the
// backups when no primary is eligible. The slice must not be written to.
func (s *Snapshot) Eligible() []int {
	if s.first == len(s.tiers) {
		return nil
	}
	return s.tiers[s.first].members
}

// normalize makes the warmth of members relative to the warmest: those that are ramped up together need not wait for
// anybody.
func (t *tier) normalize() {
	if len(t.warmth) == 0 {
		return
	}
	warmest := slices.Max(t.warmth)
	for k := range t.warmth {
		t.warmth[k] /= warmest
	}
}

func (t *tier) pick(key Key, tried []int) int {
	var i int
	if t.keyed != nil && key.Known {
		i = t.keyed.PickFor(key.Hash, tried)
	} else {
		i = t.picker.Pick(tried)
	}
	if i < 0 {
		return -1
	}
	return t.members[i]
}

// pickUntried picks among the members that are not in tried, tier by tier; -1 when there is none.
func (s *Snapshot) pickUntried(key Key, tried []int) int {
	var buf [8]int
	for t := s.first; t < len(s.tiers); t++ {
		if len(s.tiers[t].members) == 0 {
			continue
		}
		here := buf[:0]
		for _, i := range tried {
			if s.at[i].tier == int8(t) {
				here = append(here, int(s.at[i].index))
			}
		}
		if i := s.tiers[t].pick(key, here); i >= 0 {
			return i
		}
	}
	return -1
}

// changed tells the picker that knows member i that the member's load is another.
func (s *Snapshot) changed(i int) {
	if at := s.at[i]; at != nowhere {
		if p := s.tiers[at.tier].picker; p != nil {
			p.Changed(int(at.index))
		}
	}
}

// sync makes the pickers look at every load.
func (s *Snapshot) sync() {
	for _, t := range s.tiers {
		if t.picker != nil {
			t.picker.Sync()
		}
	}
}
