package balance

import (
	"math"
	"slices"
	"sync/atomic"
	"testing"
)

// fuzzedPool is a pool that is read from bytes: the number of members, then the weight of each.
type fuzzedPool struct {
	weights []int
	ids     []uint64
}

func (p *fuzzedPool) members() []Member {
	all := make([]Member, len(p.weights))
	for i, w := range p.weights {
		all[i] = Member{Weight: w, Load: new(atomic.Int64), ID: p.ids[i]}
	}
	return all
}

// with is p with another weight of one member.
func (p *fuzzedPool) with(i, weight int) *fuzzedPool {
	next := &fuzzedPool{slices.Clone(p.weights), p.ids}
	next.weights[i] = weight
	return next
}

// homes returns the homes of keys in the pool.
func (p *fuzzedPool) homes(policy Hash, keys int) []int {
	picker := policy.Build(p.members(), nil, nil).(Keyed)
	all := make([]int, keys)
	for k := range all {
		all[k] = picker.Home(Mix(uint64(k)))
	}
	return all
}

// FuzzHash checks what a hash table promises, for pools of any weights, small ones and such that need a table: the shares of the weights;
// that keys move to or from the member that changes and to no other, or hardly; and that neither the order of members nor the scale of
// their weights matters.
func FuzzHash(f *testing.F) {
	f.Add([]byte{3, 5, 3, 2}, uint8(0), uint16(7))
	f.Add([]byte{20, 1, 1, 1, 1, 1, 1, 1, 1, 1}, uint8(3), uint16(0))
	f.Add([]byte{9, 255, 1, 1, 0, 0, 3}, uint8(0), uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, changed uint8, weight uint16) {
		const most = 16
		if len(data) == 0 {
			return
		}
		n := int(data[0]) % (most + 1)
		p := &fuzzedPool{make([]int, n), make([]uint64, n)}
		for i := range n {
			if p.ids[i] = Mix(uint64(i)); i+1 < len(data) {
				p.weights[i] = int(data[i+1])
			}
		}
		if n == 0 || !slices.ContainsFunc(p.weights, func(w int) bool { return w > 0 }) {
			if got := p.homes(Hash{}, 1)[0]; got != -1 {
				t.Fatalf("%v: a key goes to %d", p.weights, got)
			}
			return
		}
		ring, table := Hash{Members: n}, Hash{Members: max(n, smallPool+1), size: 16411}
		for _, policy := range []Hash{ring, table} {
			homes := p.homes(policy, fuzzedKeys)
			checkScale(t, p, policy, homes)
			checkOrder(t, p, policy, homes)
			checkPicks(t, p, policy)
		}
		checkTable(t, p, table.size)
		if n <= smallPool {
			checkRing(t, p, ring)
		}
		checkMoves(t, p, int(changed)%n, int(weight), ring, table)
	})
}

const fuzzedKeys = 64

// checkScale multiplies all weights, which moves nothing.
func checkScale(t *testing.T, p *fuzzedPool, policy Hash, homes []int) {
	t.Helper()
	scaled := &fuzzedPool{slices.Clone(p.weights), p.ids}
	for i := range scaled.weights {
		scaled.weights[i] *= MaxWeight / 255
	}
	if !slices.Equal(homes, scaled.homes(policy, fuzzedKeys)) {
		t.Fatalf("%+v, %v: keys moved because all weights were multiplied", policy, p.weights)
	}
}

// checkOrder turns the list of members round.
func checkOrder(t *testing.T, p *fuzzedPool, policy Hash, homes []int) {
	t.Helper()
	turned := &fuzzedPool{slices.Clone(p.weights), slices.Clone(p.ids)}
	slices.Reverse(turned.weights)
	slices.Reverse(turned.ids)
	there := turned.homes(policy, fuzzedKeys)
	for k, home := range homes {
		if there[k] != len(p.weights)-1-home {
			t.Fatalf("%+v, %v: key %d is at home at %d, but not in another order", policy, p.weights, k, home)
		}
	}
}

// checkPicks goes from a key's home to its other members: each pick is the same each time, and all members come up.
func checkPicks(t *testing.T, p *fuzzedPool, policy Hash) {
	t.Helper()
	members := p.members()
	picker := policy.Build(members, nil, nil).(Keyed)
	for k := range uint64(2) {
		hash := Mix(k)
		var tried []int
		for {
			i, again := pickTwice(picker, members, hash, tried)
			switch {
			case i != again:
				t.Fatalf("%+v, %v: after %v a key goes to %d, then to %d", policy, p.weights, tried, i, again)
			case len(tried) == 0 && i != picker.Home(hash):
				t.Fatalf("%+v, %v: a key goes to %d, its home is %d", policy, p.weights, i, picker.Home(hash))
			case i >= 0 && (p.weights[i] == 0 || slices.Contains(tried, i)):
				t.Fatalf("%+v, %v: after %v a key goes to %d", policy, p.weights, tried, i)
			}
			if i < 0 {
				break
			}
			tried = append(tried, i)
		}
		for i, w := range p.weights {
			if w > 0 && !slices.Contains(tried, i) {
				t.Fatalf("%+v, %v: a key never comes to %d, only to %v", policy, p.weights, i, tried)
			}
		}
	}
}

func pickTwice(picker Keyed, members []Member, hash uint64, tried []int) (i, again int) {
	var picks [2]int
	for n := range picks {
		if picks[n] = picker.PickFor(hash, tried); picks[n] >= 0 {
			release(picker, members, picks[n])
		}
	}
	return picks[0], picks[1]
}

// checkTable expects slots by the method of Webster (Sainte-Laguë), which rounds all shares of the table by the same rule: no slot is due to another
// member more than to the one that has it. A heavy member among many light ones may so have a few slots less than its share.
func checkTable(t *testing.T, p *fuzzedPool, size int) {
	t.Helper()
	counts := slotsOf(p, size)
	for i, last := range counts {
		for j, others := range counts {
			if last > 0 && (2*last-1)*p.weights[j] > (2*others+1)*p.weights[i] {
				t.Fatalf("%v: member %d has %d slots, and %d only %d", p.weights, i, last, j, others)
			}
		}
	}
}

// checkRing expects that the homes of many keys follow the weights, as well as chance allows: within seven standard deviations.
func checkRing(t *testing.T, p *fuzzedPool, ring Hash) {
	t.Helper()
	const keys = 2000
	counts, total := make([]int, len(p.weights)), 0
	for _, home := range p.homes(ring, keys) {
		counts[home]++
	}
	for _, w := range p.weights {
		total += w
	}
	for i, w := range p.weights {
		share := float64(w) / float64(total)
		if off := math.Abs(float64(counts[i]) - keys*share); off > 7*math.Sqrt(keys*share*(1-share))+10 {
			t.Fatalf("%v: member %d is the home of %d of %d keys", p.weights, i, counts[i], keys)
		}
	}
}

// slotsOf returns how many slots each member of a pool has in a table of that size.
func slotsOf(p *fuzzedPool, size int) []int {
	var members []Member
	var at []int
	for i, m := range p.members() {
		if m.Weight > 0 {
			members, at = append(members, m), append(at, i)
		}
	}
	counts := make([]int, len(p.weights))
	for _, position := range maglev(members, size) {
		counts[at[position]]++
	}
	return counts
}

// checkMoves changes the weight of one member.
func checkMoves(t *testing.T, p *fuzzedPool, changed, weight int, ring, table Hash) {
	t.Helper()
	next := p.with(changed, weight)
	if !slices.ContainsFunc(next.weights, func(w int) bool { return w > 0 }) {
		return
	}
	heavier := weight > p.weights[changed]
	if len(p.weights) <= smallPool {
		before, after := p.homes(ring, fuzzedKeys), next.homes(ring, fuzzedKeys)
		for k := range before {
			if before[k] != after[k] && (heavier && after[k] != changed || !heavier && before[k] != changed) {
				t.Fatalf("%v: with a weight of %d for %d, key %d moved from %d to %d", p.weights, weight, changed, k, before[k], after[k])
			}
		}
	}
	// In a table, a change of weight also moves a few slots between other members: fewer than one in a hundred of a table of this size, which is
	// a quarter of a pool's. In much smaller tables it may be a fifth.
	before, after := p.homes(table, 8*fuzzedKeys), next.homes(table, 8*fuzzedKeys)
	moved := 0
	for k := range before {
		if before[k] != after[k] && before[k] != changed && after[k] != changed {
			moved++
		}
	}
	if most := 8 * fuzzedKeys / 20; moved > most {
		t.Fatalf("%v: with a weight of %d for %d, %d of %d keys moved between others, want at most %d", p.weights, weight, changed, moved, 8*fuzzedKeys, most)
	}
}
