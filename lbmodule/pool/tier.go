package pool

import (
	"slices"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// The members of a view are grouped into tiers, two for each backup level: the members of the preferred zone (or all members if none is
// preferred), and those of other zones. The level in use is the first that has an eligible member in either tier. Within it each of the two
// tiers has a share of the requests, so that the choice between them takes constant time.

const (
	inZone = iota // offsets of the two tiers of a level
	elsewhere
	zones
)

// overprovisioned is the multiple of its usual load that a zone is assumed to be able to take: it keeps all its requests while at least
// 1/1.4 of it is usable (the overprovisioning factor of Envoy, 140 %).
const overprovisioned = 1.4

// tier is a set of members with equal precedence. The policy chooses among them.
type tier struct {
	members []int          // positions in the view, ascending
	warmth  []float64      // of each, relative to the warmest of the level
	picker  balance.Picker // picks an index of members; nil without a policy
	keyed   balance.Keyed  // picker, if it uses the request's key; otherwise nil
	timed   balance.Timed  // picker, if it uses the time; otherwise nil
}

func (t *tier) setPicker(p balance.Picker) {
	t.picker = p
	t.keyed, _ = p.(balance.Keyed)
	t.timed, _ = p.(balance.Timed)
}

// like reports whether other has the same members, with the same weights.
func (t *tier) like(other *tier) bool {
	return slices.Equal(t.members, other.members) && slices.Equal(t.warmth, other.warmth)
}

// place is a member's tier and its index there.
type place struct {
	tier  int8
	index int32
}

// nowhere is the place of a member that is not eligible.
var nowhere = place{tier: -1}

// tierOf returns the tier of a backend.
func (v *View) tierOf(b *Backend) int8 {
	t := b.Backup * zones
	if v.settings.PreferZone != "" && b.Zone != v.settings.PreferZone {
		t += elsewhere
	}
	return int8(t)
}

// tierCount returns the number of tiers.
func tierCount(backends []Backend) int {
	levels := 1
	for _, b := range backends {
		levels = max(levels, b.Backup+1)
	}
	return levels * zones
}

// settleTiers finds the level in use and the share of the preferred zone in it. The tiers must already have their members.
func (v *View) settleTiers(s *Snapshot) {
	for t := 0; t < len(s.tiers); t += zones {
		normalize(&s.tiers[t], &s.tiers[t+elsewhere])
	}
	s.first = slices.IndexFunc(s.tiers, func(t tier) bool { return len(t.members) > 0 })
	if s.first < 0 {
		s.first = len(s.tiers)
		return
	}
	s.first -= s.first % zones
	local, others := &s.tiers[s.first+inZone], &s.tiers[s.first+elsewhere]
	switch {
	case len(others.members) == 0:
		s.local = 1
	case len(local.members) == 0:
		s.local = 0
	default:
		usable, all := 0.0, 0.0
		for k, i := range local.members {
			usable += float64(v.backends[i].Weight) * local.warmth[k]
		}
		for i := range v.backends {
			if b := &v.backends[i]; int(v.tierOf(b)) == s.first {
				all += float64(b.Weight)
			}
		}
		s.local = min(1, overprovisioned*usable/all)
	}
}

// normalize makes the warmth of a level's members relative to the warmest, because a ramp makes no sense if all members are ramped up
// together.
func normalize(tiers ...*tier) {
	warmest := 0.0
	for _, t := range tiers {
		for _, w := range t.warmth {
			warmest = max(warmest, w)
		}
	}
	for _, t := range tiers {
		for k := range t.warmth {
			t.warmth[k] /= warmest
		}
	}
}

// Eligible returns the positions of the members that the next request may go to: those of the preferred zone while these suffice, otherwise
// all of the level in use. The slice must not be modified.
func (s *Snapshot) Eligible() []int {
	if s.first == len(s.tiers) {
		return nil
	}
	local, others := s.tiers[s.first].members, s.tiers[s.first+elsewhere].members
	switch {
	case s.local == 1:
		return local
	case len(local) == 0:
		return others
	}
	all := slices.Concat(local, others)
	slices.Sort(all)
	return all
}

// zone returns the tier that a request goes to first, one of the two of the level in use, always the same one for the same key.
func (s *Snapshot) zone(key Key, dice *balance.Dice) int {
	if s.local == 1 {
		return s.first
	}
	at := dice.Float64()
	if key.Known {
		const bits = 53
		at = float64(balance.Mix(key.Hash)>>(64-bits)) / (1 << bits)
	}
	if at < s.local {
		return s.first
	}
	return s.first + elsewhere
}

// Home returns the position of the member that a request with that key goes to if the member is not full; -1 if the policy does not use
// keys, or no member is eligible.
func (s *Snapshot) Home(key Key) int {
	if s.first == len(s.tiers) || !key.Known {
		return -1
	}
	t := &s.tiers[s.zone(key, s.dice)]
	if t.keyed == nil {
		return -1
	}
	i := t.keyed.Home(key.Hash)
	if i < 0 {
		return -1
	}
	return t.members[i]
}

// pick picks among the members of the level in use. If the zone chosen for the request is full, it picks from the other.
func (s *Snapshot) pick(key Key) int {
	t := s.zone(key, s.dice)
	if i := s.tiers[t].pick(key, nil); i >= 0 {
		return i
	}
	return s.tiers[t^elsewhere].pick(key, nil)
}

// pickUntried picks among the members that are not in tried, level by level. It returns -1 if there is none.
func (s *Snapshot) pickUntried(key Key, tried []int) int {
	first := s.zone(key, s.dice)
	for level := s.first; level < len(s.tiers); level += zones {
		for _, t := range [zones]int{level + first%zones, level + (first+1)%zones} {
			if i := s.pickUntriedOf(t, key, tried); i >= 0 {
				return i
			}
		}
	}
	return -1
}

func (s *Snapshot) pickUntriedOf(t int, key Key, tried []int) int {
	var buf [8]int
	here := buf[:0]
	for _, i := range tried {
		if s.at[i].tier == int8(t) {
			here = append(here, int(s.at[i].index))
		}
	}
	return s.tiers[t].pick(key, here)
}

// pick returns the position of the member that was picked, -1 if there is none.
func (t *tier) pick(key Key, tried []int) int {
	if len(t.members) == 0 {
		return -1
	}
	var i int
	switch {
	case t.keyed != nil && key.Known:
		i = t.keyed.PickFor(key.Hash, tried)
	case t.timed != nil && !key.Now.IsZero():
		i = t.timed.PickAt(key.Now, tried)
	default:
		i = t.picker.Pick(tried)
	}
	if i < 0 {
		return -1
	}
	return t.members[i]
}
