package balance

import (
	"math"
	"sync"
)

// Smooth is smooth weighted round robin: over any run of picks as long as the sum of the weights (divided by their
// greatest common divisor), or a multiple of that, every member gets exactly its weight, and its turns are spread
// evenly over the run.
//
// It serves the earliest deadline first, as the weighted round robins of Envoy (edf_scheduler.h) and grpc-go
// (internal/wrr/edf.go) do; the idea is from Liu and Layland (1973). In those, each pick moves a deadline by 1/weight,
// and deadlines are floats or start anywhere. Here time runs in cycles of length 1. In each, a member of weight w has w
// turns with fixed deadlines, turn k at (k+phase)/w, so that all cycles are the same and the shares exact. Times are
// fixed-point integers: the upper 32 bits count cycles, the lower 32 bits are the fraction of a cycle.
//
// A member that is the only one with its weight has the phase 1/2. Deadlines in the middle of the k-th of w parts keep
// the counts closest to the ideal at all times (Inman and Bulfin, "Sequencing JIT mixed-model assembly lines",
// Management Science 37(7), 1991). Several members of the same weight get evenly spread phases; otherwise their turns
// would follow each other directly. Weights 5, 1, 1 give a b a a a c a. Deadlines at the ends, (k+1)/w, would give a a
// a a a b c.
//
// A full or tried member does not take part; the others keep their ratio. When it is available again, it continues with
// its next turn that is not yet past. It loses the turns that it missed, so there is no burst.
//
// A picker that replaces another takes over each member's progress between its last turn and its next, scaled to its
// new weight. New members get phases as above, spread among the new members only.
type Smooth struct{}

// Build implements [Policy].
func (Smooth) Build(members []Member, prev Picker, prevIndex []int) Picker {
	s := &smooth{
		members: members,
		turns:   make([]turn, len(members)),
		queue:   newQueue(len(members)),
	}
	divisor := 0
	for i := range members {
		divisor = gcd(members[i].weight(), divisor)
	}
	waits := inherit(len(members), prev, prevIndex)
	newcomer := func(i int) bool { return waits == nil || waits[i] == unknown }
	peers := make(map[int]uint64) // number of new members by weight
	for i := range members {
		if newcomer(i) {
			peers[members[i].weight()]++
		}
	}
	seen := make(map[int]uint64, len(peers))
	for i := range members {
		w := members[i].weight()
		if w == 0 {
			continue
		}
		t := &s.turns[i]
		t.weight = uint64(w / divisor)
		if newcomer(i) {
			t.phase = (2*seen[w] + 1) * (unit / 2) / peers[w]
			seen[w]++
		} else {
			t.phase = waits[i]
		}
		t.next(0)
	}
	s.queue.setAll(func(i int) uint64 {
		if s.turns[i].weight == 0 || members[i].full() {
			return never
		}
		return s.turns[i].deadline
	})
	return s
}

// smooth is the picker of Smooth.
type smooth struct {
	members []Member

	mu    sync.Mutex // guards what follows
	now   uint64     // the deadline of the last turn
	turns []turn
	queue queue // of the members that are not full
}

// turn is a member's next turn.
type turn struct {
	weight   uint64 // 0: the member has no turns
	phase    uint64 // 0 to unit
	cycle    uint64 // the start of the cycle
	k        uint64 // the turn within it
	deadline uint64 // cycle + (k+phase)/weight
}

// Pick implements [Picker].
func (s *smooth) Pick(tried []int) int {
	s.mu.Lock()
	picked, skipped := -1, false
	// Bound: a member that is full or in tried leaves the queue, and none is added while mu is held.
	for s.queue.first().deadline != never {
		i := s.queue.first().member
		if excluded(tried, i) {
			s.queue.set(i, never)
			skipped = true
			continue
		}
		load, ok := s.members[i].reserve()
		if !ok {
			s.queue.set(i, never)
			continue
		}
		s.advance(i, load)
		picked = i
		break
	}
	if skipped {
		for _, i := range tried {
			if i >= 0 && i < len(s.members) {
				s.refresh(i)
			}
		}
	}
	s.mu.Unlock()
	return picked
}

// advance sets now to the deadline of member i and moves the member on to its next turn. The caller holds mu.
func (s *smooth) advance(i int, load int64) {
	t := &s.turns[i]
	s.now = t.deadline
	t.next(t.k + 1)
	if s.members[i].fullWith(load) {
		s.queue.set(i, never)
	} else {
		s.queue.set(i, t.deadline)
	}
	if s.now >= math.MaxInt64 {
		s.rebase()
	}
}

// Changed implements [Picker].
func (s *smooth) Changed(i int) {
	if !s.members[i].capped() {
		return
	}
	s.mu.Lock()
	s.refresh(i)
	s.mu.Unlock()
}

// Sync implements [Picker].
func (s *smooth) Sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.members {
		s.refresh(i)
	}
}

// refresh takes member i out of the queue if it is full and puts it back if it is not. The caller holds mu.
func (s *smooth) refresh(i int) {
	t := &s.turns[i]
	switch out := s.queue.deadline(i) == never; {
	case t.weight == 0:
	case s.members[i].full():
		if !out {
			s.queue.set(i, never)
		}
	case out:
		t.catchUp(s.now)
		s.queue.set(i, t.deadline)
	}
}

// rebase subtracts the past cycles from all times, so that they never overflow. It runs once in 2³¹ cycles. The caller
// holds mu.
func (s *smooth) rebase() {
	over := (s.now/unit - 1) * unit // keeps one cycle: a turn of the previous cycle may be due at the very start of this one
	for i := range s.turns {
		t := &s.turns[i]
		if t.weight == 0 {
			continue
		}
		t.catchUp(s.now)
		t.cycle -= over
		t.deadline -= over
		if s.queue.deadline(i) != never {
			s.queue.set(i, t.deadline)
		}
	}
	s.now -= over
}

// waits implements rotation.
func (s *smooth) waits() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	waits := make([]uint64, len(s.turns))
	for i := range s.turns {
		t := s.turns[i]
		if t.weight == 0 {
			waits[i] = unknown
			continue
		}
		t.catchUp(s.now)
		waits[i] = min((t.deadline-s.now)*t.weight, unit)
	}
	return waits
}

// next moves to turn k. k may equal the weight, which means the first turn of the next cycle.
func (t *turn) next(k uint64) {
	if k == t.weight {
		k = 0
		t.cycle += unit
	}
	t.k = k
	t.deadline = t.cycle + (k*unit+t.phase)/t.weight
}

// catchUp moves on to the first turn with a deadline of now or later. It does nothing if the current turn has one.
func (t *turn) catchUp(now uint64) {
	if t.deadline >= now {
		return
	}
	t.cycle = now / unit * unit
	done := now % unit * t.weight // turns of the cycle up to now, including the phase
	k := uint64(0)
	if done > t.phase {
		k = (done - t.phase + unit - 1) / unit
	}
	t.next(k)
}

// gcd returns the greatest common divisor of a and b; gcd(a, 0) is a. Bound: logarithmic (Euclid).
func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
