package balance

import (
	"math/rand/v2"
	"testing"
)

func TestBitmap(t *testing.T) {
	r := rand.New(rand.NewPCG(50, 1))
	for _, n := range []int{1, 63, 64, 65, 4096, 4097, 300_000} {
		b := newBitmap(n)
		set := make([]bool, n)
		for range 300 {
			switch i := r.IntN(n); r.IntN(3) {
			case 0:
				b.add(i)
				set[i] = true
			case 1:
				b.remove(i)
				set[i] = false
			}
		}
		want := -1
		for i := n; i >= 0; i-- {
			if i < n && set[i] {
				want = i
			}
			if got := b.next(i); got != want {
				t.Fatalf("n %d: next(%d) = %d, want %d", n, i, got, want)
			}
			if i < n && b.has(i) != set[i] {
				t.Fatalf("n %d: has(%d) = %v", n, i, b.has(i))
			}
		}
		for i := range n {
			b.remove(i)
		}
		if got := b.next(0); got != -1 {
			t.Fatalf("n %d: emptied, but next(0) = %d", n, got)
		}
	}
}
