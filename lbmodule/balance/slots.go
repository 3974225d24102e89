package balance

import "sync"

// optimism is how often a pick is tried without the lock before it takes the lock. More than one try fails only while
// other picks fill members at the same moment.
const optimism = 4

// slots reserves slots for policies that choose a position and, if that is full, go on to the next free one. Positions
// number the members with a weight above 0, so that those without a weight do not disturb a rotation. Embedded in a
// picker, slots provides Changed and Sync.
//
// A bitmap holds the free members, so that full ones are skipped without being read. The bitmap is a hint, and the
// compare-and-swap on Load decides. The hint never hides a free member for good: code that clears a bit reads the load
// again afterwards, and code that changes a load reads the bit afterwards, so at least one of the two sees what the
// other did.
type slots struct {
	members []Member // those with a weight, by position
	index   []int    // index of the member at a position
	pos     []int32  // position of the member with an index; -1 if it has no weight

	// mu guards changes of free. It is taken when a member becomes full or free, and by a pick that found no free member.
	mu   sync.Mutex
	free *bitmap // positions; nil if no member has a cap, in which case none of the above is done
}

// init fills s, which is the zero value.
func (s *slots) init(members []Member) {
	s.pos = make([]int32, len(members))
	s.members = make([]Member, 0, len(members))
	s.index = make([]int, 0, len(members))
	caps := false
	for i, m := range members {
		s.pos[i] = -1
		if m.weight() == 0 {
			continue
		}
		s.pos[i] = int32(len(s.members))
		s.members = append(s.members, m)
		s.index = append(s.index, i)
		caps = caps || m.capped()
	}
	if caps {
		s.free = newBitmap(len(s.members))
		s.Sync()
	}
}

// Changed implements [Picker]. It takes the lock only if the member became full or free.
func (s *slots) Changed(i int) {
	if s.free == nil || s.pos[i] < 0 {
		return
	}
	p := int(s.pos[i])
	if s.stale(p) {
		s.mu.Lock()
		s.refresh(p)
		s.mu.Unlock()
	}
}

// Sync implements [Picker].
func (s *slots) Sync() {
	if s.free == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.members {
		if s.stale(p) {
			s.refresh(p)
		}
	}
}

// stale reports whether the bit of position p is wrong. It reads the bit before the load; see refresh.
func (s *slots) stale(p int) bool {
	return s.free.has(p) == s.members[p].full()
}

// refresh corrects the bit of position p. It reads the load after clearing the bit: a slot released before that is seen
// here, and a later release finds no bit, so that its Changed takes the lock. The caller holds mu.
func (s *slots) refresh(p int) {
	s.free.remove(p)
	if !s.members[p].full() {
		s.free.add(p)
	}
}

// at reserves a slot at position p and reports whether there was one.
func (s *slots) at(p int) bool {
	m := &s.members[p]
	load, ok := m.reserve()
	if ok && m.fullWith(load) {
		s.mu.Lock()
		s.refresh(p)
		s.mu.Unlock()
	}
	return ok
}

// from reserves a slot at the first free position whose member is not in tried, from start on and wrapping around once.
// It returns the position, or -1.
func (s *slots) from(start int, tried []int) int {
	n := len(s.members)
	p := start
	if s.free == nil {
		// Bound: only members in tried are skipped, so one of the first len(tried)+1 is taken, if there are that many.
		for range min(n, len(tried)+1) {
			if !excluded(tried, s.index[p]) {
				s.members[p].Load.Add(1)
				return p
			}
			if p++; p == n {
				p = 0
			}
		}
		return -1
	}
	for range optimism + len(tried) {
		q := s.free.next(p)
		if q < 0 {
			if q = s.free.next(0); q < 0 {
				break
			}
		}
		if !excluded(tried, s.index[q]) && s.at(q) {
			return q
		}
		p = q + 1 // next accepts n
	}
	return s.fromLocked(start, tried)
}

// fromLocked is from under the lock, so that no bit is set meanwhile: a member that is released during the search
// counts as free only when its Changed has returned, which is after this. So -1 means that no member was free at the
// end.
func (s *slots) fromLocked(start int, tried []int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range [2][2]int{{start, len(s.members)}, {0, start}} {
		// Bound: p rises.
		for p := s.free.next(part[0]); p >= 0 && p < part[1]; p = s.free.next(p + 1) {
			if excluded(tried, s.index[p]) {
				continue
			}
			// As in refresh: clear the bit first, then read the load.
			s.free.remove(p)
			load, ok := s.members[p].reserve()
			if !ok {
				continue
			}
			if !s.members[p].fullWith(load) {
				s.free.add(p)
			}
			return p
		}
	}
	return -1
}
