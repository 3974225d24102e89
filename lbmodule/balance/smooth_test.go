package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// letters writes picks as a, b, c, ...
func letters(picks []int) string {
	var b strings.Builder
	for _, i := range picks {
		b.WriteByte(byte('a' + i))
	}
	return b.String()
}

func TestSmoothOrder(t *testing.T) {
	for _, test := range []struct {
		weights []int
		want    string
	}{
		{[]int{1}, "aaa"},
		{[]int{1, 1, 1}, "abcabc"},
		{[]int{6, 6}, "abab"},
		{[]int{2, 0, 1}, "acaaca"},
		{[]int{5, 1, 1}, "abaaacaabaaaca"},
		{[]int{5, 3, 2}, "abcaabacbaabcaabacba"},
		{[]int{50, 30, 20}, "abcaabacba"},
	} {
		members := weighted(test.weights...)
		p := Smooth{}.Build(members, nil, nil)
		if got := letters(sequence(p, members, len(test.want))); got != test.want {
			t.Errorf("%v: %s, want %s", test.weights, got, test.want)
		}
	}
}

// exact checks that each run of the given length has exactly the counts.
func exact(t *testing.T, picks []int, counts []int) {
	t.Helper()
	length := 0
	for _, c := range counts {
		length += c
	}
	have := make([]int, len(counts))
	for k, i := range picks {
		have[i]++
		if k >= length {
			have[picks[k-length]]--
		}
		if k >= length-1 && !slices.Equal(have, counts) {
			t.Fatalf("picks up to %d: %v, want %v", k, have, counts)
		}
	}
}

func TestSmoothShares(t *testing.T) {
	for _, test := range []struct {
		weights []int
		tried   []int
		counts  []int
	}{
		{[]int{5, 3, 2}, nil, []int{50, 30, 20}},
		{[]int{5, 3, 2}, nil, []int{5, 3, 2}},
		{[]int{5, 3, 2}, []int{1}, []int{5, 0, 2}},
		{[]int{5, 3, 2}, []int{0, 2}, []int{0, 3, 0}},
		{[]int{100, 100, 300}, nil, []int{1, 1, 3}},
		{[]int{1, MaxWeight}, nil, []int{1, MaxWeight}},
		{[]int{MaxWeight, MaxWeight - 1}, nil, []int{MaxWeight, MaxWeight - 1}},
		{[]int{7, 0, 0, 11, 13, 13, 13}, nil, []int{7, 0, 0, 11, 13, 13, 13}},
	} {
		members := weighted(test.weights...)
		p := Smooth{}.Build(members, nil, nil)
		length := 0
		for _, c := range test.counts {
			length += c
		}
		exact(t, sequence(p, members, 3*length+7, test.tried...), test.counts)
	}
}

func TestSmoothEveryWeight(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 200 {
		a, b := 1+r.IntN(MaxWeight), 1+r.IntN(100)
		members := weighted(a, b, b)
		p := Smooth{}.Build(members, nil, nil)
		sequence(p, members, r.IntN(a)) // any offset
		if got := count(t, sequence(p, members, a+2*b), 3); !slices.Equal(got, []int{a, b, b}) {
			t.Fatalf("weights %d %d %d: %v", a, b, b, got)
		}
	}
}

// TestSmoothIsSmooth bounds how far counts are from the ideal at any time, and so what comes in a row.
func TestSmoothIsSmooth(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for range 300 {
		weights := make([]int, 2+r.IntN(20))
		sum := 0
		for i := range weights {
			weights[i] = 1 + r.IntN(50)
			sum += weights[i]
		}
		members := weighted(weights...)
		p := Smooth{}.Build(members, nil, nil)
		counts := make([]int, len(weights))
		for k := range 2 * sum {
			counts[p.Pick(nil)]++
			for i, c := range counts {
				ideal := float64(k+1) * float64(weights[i]) / float64(sum)
				if math.Abs(float64(c)-ideal) > 2 {
					t.Fatalf("weights %v: after %d picks %d has %d, ideally %.1f", weights, k+1, i, c, ideal)
				}
			}
		}
	}
	members := weighted(5, 3, 2)
	got := letters(sequence(Smooth{}.Build(members, nil, nil), members, 100))
	if strings.Contains(got, "aaa") || strings.Contains(got, "bb") || strings.Contains(got, "cc") {
		t.Errorf("in a row: %s", got)
	}
}

// TestSmoothFull fills a member for long: the others keep their ratio, and it has no burst afterwards.
func TestSmoothFull(t *testing.T) {
	members := weighted(5, 3, 2)
	members[1].Cap = 1
	p := Smooth{}.Build(members, nil, nil)
	for p.Pick(nil) != 1 {
	}
	picks := sequence(p, members, 7*100)
	exact(t, picks[7:], []int{5, 0, 2})
	release(p, members, 1)
	after := sequence(p, members, 100)
	exact(t, after, []int{5, 3, 2})
	if got := letters(after); strings.Contains(got, "bb") || strings.Contains(got, "aaa") {
		t.Errorf("after coming back: %s", got)
	}
}

// TestSmoothTried leaves a member out for long: no burst afterwards either.
func TestSmoothTried(t *testing.T) {
	members := weighted(5, 3, 2)
	p := Smooth{}.Build(members, nil, nil)
	exact(t, sequence(p, members, 700, 0), []int{0, 3, 2})
	exact(t, sequence(p, members, 100), []int{5, 3, 2})
}

// TestSmoothGoesOn replaces the picker before every pick.
func TestSmoothGoesOn(t *testing.T) {
	weights := []int{5, 1, 3, 1}
	members := weighted(weights...)
	want := sequence(Smooth{}.Build(members, nil, nil), members, 100)
	var p Picker
	got := make([]int, len(want))
	for k := range got {
		p = Smooth{}.Build(members, p, identity(len(members)))
		got[k] = p.Pick(nil)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s, want %s", letters(got), letters(want))
	}
}

// TestSmoothMemberGone builds a picker without one member after any number of picks.
func TestSmoothMemberGone(t *testing.T) {
	for offset := range 30 {
		members := weighted(5, 3, 2)
		prev := Smooth{}.Build(members, nil, nil)
		sequence(prev, members, offset)
		members = weighted(5, 2)
		p := Smooth{}.Build(members, prev, []int{0, 2})
		exact(t, sequence(p, members, 70), []int{5, 2})
	}
}

// TestSmoothNewcomer adds a member again and again: it must neither have a burst nor starve.
func TestSmoothNewcomer(t *testing.T) {
	for offset := range 30 {
		old := weighted(3, 3, 3)
		prev := Smooth{}.Build(old, nil, nil)
		sequence(prev, old, offset)
		members := weighted(3, 3, 3, 3)
		p := Smooth{}.Build(members, prev, []int{0, 1, 2, -1})
		picks := sequence(p, members, 12)
		exact(t, picks, []int{3, 3, 3, 3})
		if got := letters(picks); strings.Contains(got, "dd") || !strings.Contains(got[:4], "d") {
			t.Errorf("after %d: %s", offset, got)
		}
	}
}

// TestSmoothRamp changes one weight before every pick, as a slow start does: the others keep their equal shares.
func TestSmoothRamp(t *testing.T) {
	const n = 4
	var p Picker
	counts, ideal := make([]int, n), make([]float64, n)
	for k := range 400 {
		weights := same(n, 100)
		weights[0] = 1 + k/4
		members := weighted(weights...)
		p = Smooth{}.Build(members, p, identity(n))
		counts[p.Pick(nil)]++
		for i, w := range weights {
			ideal[i] += float64(w) / float64(300+weights[0])
		}
	}
	for i := range n {
		if math.Abs(float64(counts[i])-ideal[i]) > 2 {
			t.Errorf("member %d: %d picks, ideally %.1f", i, counts[i], ideal[i])
		}
	}
}

// TestSmoothCarriesProgress changes a weight half way between two turns: half of the new interval is left.
func TestSmoothCarriesProgress(t *testing.T) {
	members := weighted(1, 9)
	prev := Smooth{}.Build(members, nil, nil)
	for prev.Pick(nil) != 0 {
	}
	sequence(prev, members, 5)
	members = weighted(1, 99)
	p := Smooth{}.Build(members, prev, identity(2))
	if got := slices.Index(sequence(p, members, 200), 0); got < 40 || got > 60 {
		t.Errorf("%d picks until the member of weight 1 of 100, want about 50", got)
	}
}

// TestSmoothForEver lets time run over the end of its range.
func TestSmoothForEver(t *testing.T) {
	members := weighted(5, 3, 2, 4)
	members[3].Cap = 1
	members[3].Load.Store(1)
	p := Smooth{}.Build(members, nil, nil).(*smooth)
	want := sequence(p, members, 40)
	const later = uint64(1<<31-2) * unit
	p.now += later
	for i := range p.turns {
		p.turns[i].cycle += later
		p.turns[i].deadline += later
		if p.queue.deadline(i) != never {
			p.queue.set(i, p.turns[i].deadline)
		}
	}
	if got := sequence(p, members, 40); !slices.Equal(got, want) {
		t.Errorf("%s, want %s", letters(got), letters(want))
	}
	if p.now > 100*unit {
		t.Errorf("time was not set back: %d cycles", p.now/unit)
	}
	release(p, members, 3)
	exact(t, sequence(p, members, 140), []int{5, 3, 2, 4})
}
