package shadow

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// TestEndsInOrder: things end in the order of their times, none before it, and none is lost.
func TestEndsInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	e := NewEnds[int64](100)
	var ended, want []int64
	now := int64(0)
	for range 20_000 {
		now += r.Int64N(10)
		from := len(ended)
		e.Due(now, 1+r.IntN(5), func(at int64) { ended = append(ended, at) })
		if !slices.IsSorted(ended[from:]) || len(ended) > from && slices.Max(ended[from:]) > now {
			t.Fatalf("at %d: %v have ended", now, ended[from:])
		}
		if at := now + r.Int64N(200); e.Add(at, at) {
			want = append(want, at)
		} else if e.Len() != 100 {
			t.Fatalf("no room, but there are %d", e.Len())
		}
	}
	e.Settle(now+200, func(at int64) { ended = append(ended, at) })
	slices.Sort(want)
	slices.Sort(ended)
	if !slices.Equal(ended, want) || e.Len() != 0 {
		t.Errorf("%d have ended and %d are left of %d", len(ended), e.Len(), len(want))
	}
}

// TestEndsAtOnce: many goroutines add and end at the same time, in a set that is often full.
func TestEndsAtOnce(t *testing.T) {
	e := NewEnds[int](64)
	var added, ended atomic.Int64
	var clock atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 20_000 {
				now := clock.Add(1)
				e.Due(now, 4, func(int) { ended.Add(1) })
				if e.Add(g, now+r.Int64N(100)) {
					added.Add(1)
				}
				if r.IntN(1000) == 0 {
					e.Settle(now, func(int) { ended.Add(1) })
				}
			}
		})
	}
	wg.Wait()
	e.Settle(clock.Load()+100, func(int) { ended.Add(1) })
	if ended.Load() != added.Load() || e.Len() != 0 {
		t.Errorf("%d added, %d ended, %d left", added.Load(), ended.Load(), e.Len())
	}
	// All the room is there again.
	for i := range 64 {
		if !e.Add(i, 0) {
			t.Fatalf("room for %d of 64", i)
		}
	}
	if e.Add(64, 0) {
		t.Error("room for one more than there is")
	}
}

// TestEndsCalledUnlocked: the function that is called for an end may add another item.
func TestEndsCalledUnlocked(t *testing.T) {
	e := NewEnds[int](4)
	e.Add(1, 1)
	again := 0
	e.Due(1, 4, func(n int) {
		again++
		e.Add(n+1, 5)
		e.Settle(1, func(int) { again++ })
	})
	if again != 1 || e.Len() != 1 {
		t.Errorf("ended %d times, %d left", again, e.Len())
	}
}

func TestSamples(t *testing.T) {
	var s Samples
	dice := balance.NewDice(1)
	if took, ok := s.Draw(dice); ok {
		t.Errorf("drew %v of none", took)
	}
	for i := range 1000 { // only the last count
		s.Add(time.Duration(i) * time.Millisecond)
	}
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		took, ok := s.Draw(dice)
		if !ok {
			t.Fatal("there is none")
		}
		least, most = min(least, took), max(most, took)
	}
	if least != 936*time.Millisecond || most != 999*time.Millisecond {
		t.Errorf("drew from %v to %v", least, most)
	}
	s.Forget()
	if _, ok := s.Draw(dice); ok {
		t.Error("it remembers")
	}
}

func BenchmarkEnds(b *testing.B) {
	e := NewEnds[int](1 << 14)
	ended := func(int) {}
	b.ReportAllocs()
	for i := range b.N {
		e.Due(int64(i), 64, ended)
		e.Add(i, int64(i)+1000)
	}
}
