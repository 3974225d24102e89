package bucket

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkTake charges keys that are picked at random. Run it with -cpu 2.
func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1000, 262144, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := New(Limits{Rate: 1, Burst: 1000}, n*5/4, time.Now)
			for i := range n {
				take(table, address(i))
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				r := rand.New(rand.NewPCG(rand.Uint64(), 0))
				keys := make([]Key, 1)
				for pb.Next() {
					keys[0] = address(int(r.Uint32()) % n)
					table.Take(keys, "")
				}
			})
		})
	}
}

// BenchmarkTakeTiers charges a request to the largest number of keys.
func BenchmarkTakeTiers(b *testing.B) {
	table := New(Limits{Rate: 1e9, Burst: 1e9, Concurrency: 1}, 1000, time.Now)
	b.ReportAllocs()
	for b.Loop() {
		g, _ := table.Take(tiers, "")
		g.Release()
	}
}

// BenchmarkTakeHot charges one key from all goroutines.
func BenchmarkTakeHot(b *testing.B) {
	table := New(Limits{Rate: 1, Burst: 1}, 1000, time.Now)
	b.RunParallel(func(pb *testing.PB) {
		keys := []Key{address(1)}
		for pb.Next() {
			table.Take(keys, "")
		}
	})
}

// BenchmarkNewcomer makes room for a key in a table in which no bucket is full.
func BenchmarkNewcomer(b *testing.B) {
	table := New(Limits{Rate: 1e-6, Burst: 5}, 262144, time.Now)
	i := 0
	for b.Loop() {
		take(table, address(i))
		i++
	}
}

// BenchmarkNoRoom charges new keys while all entries owe.
func BenchmarkNoRoom(b *testing.B) {
	table := New(Limits{Rate: 1e-3, Burst: 1}, 262144, time.Now)
	i := 0
	for ; i < 300_000; i++ {
		take(table, address(i))
	}
	for b.Loop() {
		take(table, address(i))
		i++
	}
}
