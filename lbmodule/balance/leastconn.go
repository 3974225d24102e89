package balance

import "sync"

// LeastConn picks the member with the least load for its weight, load/weight: the weighted least connections of
// LVS (ip_vs_wlc). Among equals it draws in proportion to the weights, so that an idle pool follows them too, and
// several balancers do not all start with the same member.
//
// An idle member would be the least loaded however small its weight is. So a member that is being ramped up is passed
// over at random, and picked anyway if no other member is free.
//
// It is exact under concurrency: members are kept in order under a short lock, so every decision sees all
// reservations made before it, and all other changes of load whose Changed has returned. Both cost O(log n).
type LeastConn struct{ dice *Dice }

// With implements [Drawing].
func (p LeastConn) With(d *Dice) Policy {
	p.dice = d
	return p
}

// Build implements [Policy].
func (p LeastConn) Build(members []Member, _ Picker, _ []int) Picker {
	l := &leastConn{members: members, dice: p.dice, tree: newTree(len(members))}
	l.Sync()
	return l
}

// leastConn is the picker of LeastConn.
type leastConn struct {
	members []Member
	dice    *Dice

	mu   sync.Mutex // guards tree
	tree tree       // ordered by load/weight
}

// Pick implements [Picker].
func (l *leastConn) Pick(tried []int) int {
	l.mu.Lock()
	for _, i := range tried {
		if i >= 0 && i < len(l.members) {
			l.tree.set(i, never, 0)
		}
	}
	picked := l.pickLocked()
	for _, i := range tried {
		if i >= 0 && i < len(l.members) {
			l.refresh(i)
		}
	}
	l.mu.Unlock()
	return picked
}

// Score implements [Scored].
func (l *leastConn) Score(i int) float64 { return l.members[i].loadPerWeight() }

// pickLocked picks among the members that are in the tree. The caller holds mu.
func (l *leastConn) pickLocked() int {
	var buf [warmUp]int
	passed := buf[:0]
	picked := -1
	// Bound: a member that turns out to be full, or is passed over, leaves the tree, and none is added while mu is held.
	for picked < 0 {
		i := l.least()
		if i < 0 {
			break
		}
		if len(passed) < warmUp && l.members[i].cold(l.dice) {
			l.tree.set(i, never, 0)
			passed = append(passed, i)
			continue
		}
		if l.reserve(i) {
			picked = i
		}
	}
	for _, i := range passed {
		l.refresh(i)
		if picked < 0 && l.reserve(i) {
			picked = i
		}
	}
	return picked
}

// least draws one of the members with the least load/weight, -1 if there is none. The caller holds mu.
func (l *leastConn) least() int {
	best := l.tree.best()
	if best.key == never {
		return -1
	}
	return l.tree.find(l.dice.Uint64N(best.tied))
}

// reserve takes a slot on member i and updates its place in the tree. The caller holds mu.
func (l *leastConn) reserve(i int) bool {
	load, ok := l.members[i].reserve()
	l.place(i, load)
	return ok
}

// Changed implements [Picker].
func (l *leastConn) Changed(i int) {
	l.mu.Lock()
	l.refresh(i)
	l.mu.Unlock()
}

// Sync implements [Picker].
func (l *leastConn) Sync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tree.setAll(func(i int) (key, w uint64) { return l.members[i].rank(l.members[i].Load.Load()) })
}

// refresh updates the place of member i in the tree to its current load. The caller holds mu, so the last call reads
// the latest load.
func (l *leastConn) refresh(i int) {
	l.place(i, l.members[i].Load.Load())
}

// place puts member i where that load belongs in the tree. The caller holds mu.
func (l *leastConn) place(i int, load int64) {
	key, w := l.members[i].rank(load)
	l.tree.set(i, key, w)
}

// rank returns the key of a member with that load, and its weight among equals. While the member is ramped up, that is
// its full weight, because cold already reduces its share.
func (m *Member) rank(load int64) (key, w uint64) {
	w = uint64(m.weight())
	if w == 0 || m.fullWith(load) {
		return never, 0
	}
	key = ratio(load, w)
	if m.Warmth > 0 && m.Warmth < 1 {
		w = max(uint64(float64(w)/m.Warmth), 1)
	}
	return key, w
}

// ratio returns load/w as a fixed-point number that is exact for comparisons: different fractions with denominators of
// at most MaxWeight differ by at least 1/MaxWeight², which is more than 1/unit. So comparing two ratios gives the same
// result as cross-multiplying. Loads of 2³¹ and more count as 2³¹-1.
func ratio(load int64, w uint64) uint64 {
	return uint64(min(max(load, 0), 1<<31-1)) * unit / w
}
