package balance

import (
	"flag"
	"math"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// assignments is who gets each of so many keys.
func assignments(members []Member, keys int) []int {
	p := Hash{}.Build(members, nil, nil).(Keyed)
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
		counts := count(t, assignments(members, 100_000), len(weights))
		total := 0
		for _, w := range weights {
			total += w
		}
		for i, w := range weights {
			want := float64(w) / float64(total)
			if got := float64(counts[i]) / 100_000; math.Abs(got-want) > 0.005 {
				t.Errorf("weights %v: member %d has a share of %.4f, want %.4f", weights, i, got, want)
			}
		}
		checkShares(t, Hash{}.Build(members, nil, nil), members, weights) // requests without a key
	}
}

// Who has which key must not change unnoticed: caches behind would be cold after an update. The file has a letter for
// each of 10,000 keys.
func TestHashGolden(t *testing.T) {
	const file = "testdata/hash_assignments"
	var got strings.Builder
	for _, i := range assignments(weighted(5, 1, 3, 0, 2, 1, 1), 10_000) {
		got.WriteByte(byte('a' + i))
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
		t.Error("keys are assigned to other members than before")
	}
}

// Where a member stands in the list does not matter.
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
	for _, n := range []int{2, 3, 10, 100} {
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
	// There is no size of a pool at which all keys move.
	for _, n := range []int{1000, 3276} {
		members := weighted(same(n, 1)...)
		whole := assignments(members, keys)
		members[0].Weight = 0
		if got := moved(whole, assignments(members, keys), func(k int) bool { return whole[k] == 0 }); float64(got) > 0.03*keys {
			t.Errorf("%d members: %d of %d keys moved that need not when one left", n, got, keys)
		}
	}
	// Weights that are all multiplied, as while a member is ramped up, move nothing.
	for _, weights := range [][]int{{1, 3, 5}, {7, 3, 3, 1}, {6, 3, 2, 1}} {
		before, scaled := weighted(weights...), weighted(weights...)
		for i := range scaled {
			scaled[i].Weight *= 100
		}
		if got := moved(assignments(before, keys), assignments(scaled, keys), func(int) bool { return false }); got > 0 {
			t.Errorf("weights %v times 100 moved %d keys", weights, got)
		}
	}
	// A weight that changes moves about as many keys as the share that changes.
	before, after := assignments(weighted(10, 10, 10), keys), assignments(weighted(10, 10, 11), keys)
	if got := moved(before, after, func(int) bool { return false }); float64(got) > 0.06*keys {
		t.Errorf("%d of %d keys moved for a tenth more of weight", got, keys)
	}
}

// A key whose member is full or was tried has a second, always the same, and all of them together share those keys.
func TestHashSecondChoice(t *testing.T) {
	const keys = 30_000
	members := weighted(1, 1, 1, 1)
	p := Hash{}.Build(members, nil, nil).(Keyed)
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

	// Also where the first has nearly all slots.
	heavy := weighted(98, 1, 1)
	p = Hash{}.Build(heavy, nil, nil).(Keyed)
	seconds := make([]int, 3)
	for k := range uint64(keys) {
		seconds[p.PickFor(k, []int{0})]++
	}
	if seconds[1] < keys*2/5 || seconds[2] < keys*2/5 {
		t.Errorf("without the heavy one the others have %v of %d keys", seconds[1:], keys)
	}

	full := capped(1, 1, 1)
	p = Hash{}.Build(full, nil, nil).(Keyed)
	seen := make(map[int]bool)
	for range 3 {
		seen[p.PickFor(7, nil)] = true
	}
	if len(seen) != 3 || p.PickFor(7, nil) != -1 {
		t.Errorf("one key filled %v", seen)
	}
}
