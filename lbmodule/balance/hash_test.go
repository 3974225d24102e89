package balance

import (
	"flag"
	"math"
	"os"
	"strings"
	"sync/atomic"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// assignments returns the member of each of that many keys with a table, and ringAssignments with rendezvous hashing in a small pool.
func assignments(members []Member, keys int) []int {
	return assigned(Hash{Members: smallPool + 1}, members, keys)
}

func ringAssignments(members []Member, keys int) []int { return assigned(Hash{}, members, keys) }

func assigned(policy Hash, members []Member, keys int) []int {
	p := policy.Build(members, nil, nil).(Keyed)
	all := make([]int, keys)
	for k := range all {
		all[k] = p.PickFor(uint64(k), nil)
		release(p, members, all[k])
	}
	return all
}

func TestHashShares(t *testing.T) {
	for _, weights := range [][]int{{1, 1, 1}, {5, 3, 2}, {0, 1, 0, 100, 7}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}} {
		members := weighted(weights...)
		total := 0
		for _, w := range weights {
			total += w
		}
		for how, assign := range map[string]func([]Member, int) []int{"table": assignments, "ring": ringAssignments} {
			counts := count(t, assign(members, 100_000), len(weights))
			for i, w := range weights {
				want := float64(w) / float64(total)
				if got := float64(counts[i]) / 100_000; math.Abs(got-want) > 0.006 {
					t.Errorf("%s, weights %v: member %d has a share of %.4f, want %.4f", how, weights, i, got, want)
				}
			}
		}
		checkShares(t, Hash{}.Build(members, nil, nil), members, weights) // requests without a key
	}
}

// The mapping of keys to members must not change unnoticed: caches behind would be cold after an update. The files have a letter for each
// of 10,000 keys; of the large pool, whose members are more than there are letters, a letter stands for many.
func TestHashGolden(t *testing.T) {
	few := weighted(5, 1, 3, 0, 2, 1, 1)
	many := weighted(same(700, 1)...)
	for i := range many {
		many[i].Weight = 1 + i%5
	}
	for file, all := range map[string][]int{
		"testdata/hash_assignments":       assignments(few, 10_000),
		"testdata/hash_assignments_ring":  ringAssignments(few, 10_000),
		"testdata/hash_assignments_large": assignments(many, 10_000),
	} {
		var got strings.Builder
		for _, i := range all {
			got.WriteByte(byte('a' + i%26))
		}
		if *update {
			if err := os.WriteFile(file, []byte(got.String()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != strings.TrimSpace(string(want)) {
			t.Errorf("%s: keys are assigned to other members than before", file)
		}
	}
}

// In a large pool, too, every member has the share of its weight, to the precision of a hundred slots.
func TestHashLargePool(t *testing.T) {
	members := weighted(same(660, 1)...)
	slots := make([]int, len(members))
	total := 0
	for i := range members {
		members[i].Weight = 1 + i%10
		members[i].ID = Mix(uint64(i))
		total += members[i].Weight
	}
	whole := Hash{}.Build(members, nil, nil).(*hashPicker)
	for _, p := range whole.table {
		slots[p]++
	}
	for i, n := range slots {
		want := largeTable * members[i].Weight / total
		if n < want-2 || n > want+2 {
			t.Errorf("member %d of weight %d has %d slots, want %d", i, members[i].Weight, n, want)
		}
	}
	// A member that is down does not change the size, and so does not move the keys of the others.
	const left, keys = 6, 50_000
	rest := Hash{}.For(len(members)).Build(members[left:], nil, nil).(Keyed)
	changed := 0
	for k := range uint64(keys) {
		if before := whole.PickFor(k, nil); before >= left && before != rest.PickFor(k, nil)+left {
			changed++
		}
	}
	if changed > keys*3/100 {
		t.Errorf("%d of %d keys moved between members that stayed when %d left", changed, keys, left)
	}
}

// With rendezvous hashing every change moves the minimum of keys.
func TestHashRingMovesNoKeyInVain(t *testing.T) {
	const keys = 50_000
	whole := ringAssignments(weighted(5, 1, 3, 2, 1, 1), keys)
	less := weighted(5, 1, 3, 2, 1, 1)
	less[2].Weight = 0
	if got := moved(whole, ringAssignments(less, keys), func(k int) bool { return whole[k] == 2 }); got > 0 {
		t.Errorf("%d keys moved between members that stayed", got)
	}
	more := weighted(5, 1, 3, 2, 1, 4)
	after := ringAssignments(more, keys)
	if got := moved(whole, after, func(k int) bool { return after[k] == 5 }); got > 0 {
		t.Errorf("%d keys moved, but not to the member that became heavier", got)
	}
	scaled := weighted(500, 100, 300, 200, 100, 100)
	if got := moved(whole, ringAssignments(scaled, keys), func(int) bool { return false }); got > 0 {
		t.Errorf("%d keys moved because all weights were multiplied", got)
	}
}

func TestNegLog(t *testing.T) {
	last := uint64(math.MaxUint64)
	for x := uint64(1); x < 1<<63; x += x/7 + 1 {
		got, want := float64(negLog(x))/unit, 64-math.Log2(float64(x|1))
		if math.Abs(got-want) > 5e-6 || negLog(x) > last {
			t.Fatalf("-log2(%d/2^64) = %v, want %v, and not more than before", x, got, want)
		}
		last = negLog(x)
	}
	if got := negLog(math.MaxUint64); got > unit/1000 {
		t.Errorf("-log2(1) = %d", got)
	}
}

// With a bound no member has more than 125 % of its share, however often a key is requested; within the bound, keys stay at their member.
// Home returns the member of a key, and reserves nothing.
func TestHashHome(t *testing.T) {
	for _, n := range []int{0, 1, 3, smallPool, smallPool + 1, 200} {
		members := make([]Member, n)
		for i := range members {
			members[i] = Member{Weight: 1 + i%3, Load: new(atomic.Int64), ID: Mix(uint64(i))}
		}
		p := Hash{}.Build(members, nil, nil).(Keyed)
		for key := range uint64(500) {
			home := p.Home(key)
			for i := range members {
				if members[i].Load.Load() != 0 {
					t.Fatalf("%d members: looking took a slot", n)
				}
			}
			if got := p.PickFor(key, nil); got != home {
				t.Fatalf("%d members: key %d goes to %d, its home is %d", n, key, got, home)
			}
			if home >= 0 {
				members[home].Load.Add(-1)
				p.Changed(home)
			}
		}
	}
}

func TestHashBound(t *testing.T) {
	for _, weights := range [][]int{same(5, 1), same(50, 1), {5, 3, 2, 1}, append(same(20, 1), same(20, 9)...)} {
		members := weighted(weights...)
		p := Hash{Bound: 1.25}.Build(members, nil, nil).(Keyed)
		total := 0
		for _, w := range weights {
			total += w
		}
		const requests = 2000
		var held []int
		for k := range requests {
			held = append(held, p.PickFor(uint64(k%7), nil)) // seven hot keys
		}
		for i, m := range members {
			most := 1.25*requests*float64(weights[i])/float64(total) + 2
			if load := float64(m.Load.Load()); load > most {
				t.Errorf("%d members: number %d of weight %d has %v requests, want at most %.0f", len(weights), i, weights[i], load, most)
			}
		}
		for _, i := range held {
			release(p, members, i)
		}
		if got := p.(*hashPicker).bound.total.Load(); got != 0 {
			t.Errorf("%d requests counted when all have ended", got)
		}
		// Alone, a key is where it is without a bound.
		plain := Hash{}.Build(members, nil, nil).(Keyed)
		for k := range uint64(1000) {
			a := p.PickFor(k, nil)
			release(p, members, a)
			b := plain.PickFor(k, nil)
			release(plain, members, b)
			p.Changed(b)
			if a != b {
				t.Fatalf("key %d: %d with a bound, %d without", k, a, b)
			}
		}
	}
}

// The position of a member in the list does not matter.
func TestHashOrder(t *testing.T) {
	a := weighted(1, 2, 3, 4)
	b := []Member{a[2], a[0], a[3], a[1]}
	at := []int{1, 3, 0, 2}
	there, here := assignments(a, 10_000), assignments(b, 10_000)
	for k := range there {
		if at[there[k]] != here[k] {
			t.Fatalf("key %d moved", k)
		}
	}
}

// moved counts the keys that have another member, of those that need not.
func moved(before, after []int, need func(k int) bool) int {
	n := 0
	for k := range before {
		if before[k] != after[k] && !need(k) {
			n++
		}
	}
	return n
}

func TestHashMovesFewKeys(t *testing.T) {
	const keys = 100_000
	for _, n := range []int{2, 3, 10, 600} {
		whole := assignments(weighted(same(n, 1)...), keys)
		less := weighted(same(n, 1)...)
		less[n-1].Weight = 0
		without := assignments(less, keys)
		// Leaving, and coming back: keys that neither were nor are on the member.
		if got := moved(whole, without, func(k int) bool { return whole[k] == n-1 }); float64(got) > 0.03*keys {
			t.Errorf("%d members: %d of %d keys moved that need not when one left", n, got, keys)
		} else {
			t.Logf("%d members: %.2f %% of the keys moved that need not", n, 100*float64(got)/keys)
		}
		for k, i := range without {
			if i == n-1 {
				t.Fatalf("key %d is on a member without a weight", k)
			}
		}
	}
	// Multiplying all weights, as while a member is ramped up, moves no key.
	for _, weights := range [][]int{{1, 3, 5}, {7, 3, 3, 1}, {6, 3, 2, 1}} {
		before, scaled := weighted(weights...), weighted(weights...)
		for i := range scaled {
			scaled[i].Weight *= 100
		}
		if got := moved(assignments(before, keys), assignments(scaled, keys), func(int) bool { return false }); got > 0 {
			t.Errorf("weights %v times 100 moved %d keys", weights, got)
		}
	}
	// A change of a weight moves about as many keys as the share changes.
	before, after := assignments(weighted(10, 10, 10), keys), assignments(weighted(10, 10, 11), keys)
	if got := moved(before, after, func(int) bool { return false }); float64(got) > 0.06*keys {
		t.Errorf("%d of %d keys moved for a tenth more of weight", got, keys)
	}
}

// A key whose member is full or was tried has a second, always the same, and all of them together share those keys.
func TestHashSecondChoice(t *testing.T) {
	for _, policy := range []Hash{{}, {Members: smallPool + 1}} {
		testSecondChoice(t, policy)
	}
}

func testSecondChoice(t *testing.T, policy Hash) {
	t.Helper()
	const keys = 30_000
	members := weighted(1, 1, 1, 1)
	p := policy.Build(members, nil, nil).(Keyed)
	counts := make([]int, 4)
	for k := range uint64(keys) {
		first := p.PickFor(k, nil)
		second := p.PickFor(k, []int{first})
		if again := p.PickFor(k, []int{first}); again != second || second == first || second < 0 {
			t.Fatalf("key %d: %d, then %d and %d", k, first, second, again)
		}
		if first == 0 {
			counts[second]++
		}
	}
	for i, n := range counts[1:] {
		if n < keys/4/3*9/10 || n > keys/4/3*11/10 {
			t.Errorf("member %d is the second choice of %d of %d keys, want a third", i+1, n, keys/4)
		}
	}

	// The same if the first has nearly all slots.
	heavy := weighted(98, 1, 1)
	p = policy.Build(heavy, nil, nil).(Keyed)
	seconds := make([]int, 3)
	for k := range uint64(keys) {
		seconds[p.PickFor(k, []int{0})]++
	}
	if seconds[1] < keys*2/5 || seconds[2] < keys*2/5 {
		t.Errorf("without the heavy one the others have %v of %d keys", seconds[1:], keys)
	}

	full := capped(1, 1, 1)
	p = policy.Build(full, nil, nil).(Keyed)
	seen := make(map[int]bool)
	for range 3 {
		seen[p.PickFor(7, nil)] = true
	}
	if len(seen) != 3 || p.PickFor(7, nil) != -1 {
		t.Errorf("one key filled %v", seen)
	}
}
