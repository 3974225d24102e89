package pool

import "github.com/ballastlb/ballast/lbmodule/balance"

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
}

// tier is a set of members of which any is as good as the other, but for the policy.
type tier struct {
	members []int          // positions in the view, ascending
	picker  balance.Picker // picks an index of members; nil without a policy
}

// place is a member's tier and its index there.
type place struct {
	tier  int8
	index int32
}

// nowhere is the place of a member that is not eligible.
var nowhere = place{tier: -1}

// Eligible returns the positions of the members that the next request may go to: the primaries, or the
// backups when no primary is eligible. The slice must not be written to.
func (s *Snapshot) Eligible() []int {
	if s.first == len(s.tiers) {
		return nil
	}
	return s.tiers[s.first].members
}

func (t *tier) pick(tried []int) int {
	if i := t.picker.Pick(tried); i >= 0 {
		return t.members[i]
	}
	return -1
}

// pickUntried picks among the members that are not in tried, tier by tier; -1 when there is none.
func (s *Snapshot) pickUntried(tried []int) int {
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
		if i := s.tiers[t].pick(here); i >= 0 {
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
