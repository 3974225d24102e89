package balance

import (
	"fmt"
	"testing"
	"time"
)

// mixed returns n members with different weights, except for policies that need equal ones.
func mixed(policy Policy, n, limit int) []Member {
	members := weighted(same(n, 1)...)
	now := time.Now()
	for i := range members {
		members[i].Cap = limit
		members[i].Latency = new(Latency)
		for k := range 100 {
			members[i].Latency.Answered(time.Duration(1+i%40+k)*time.Millisecond, now)
		}
		if policy != (RoundRobin{}) {
			members[i].Weight = 1 + i%7
		}
	}
	return members
}

// measured lists the policies with the settings that pools use.
var measured = []Policy{RoundRobin{}, Smooth{}, LeastConn{}, Random{}, First{}, Choices{}, PeakEWMA{}, Hash{}, Hash{Bound: 1.25}}

// benchmark runs a pick and the release that belongs to it as one operation.
func benchmark(b *testing.B, run func(b *testing.B, p Picker, members []Member)) {
	for _, limit := range []int{0, 64} {
		for _, policy := range measured {
			for _, n := range []int{3, 100, 1_000, 10_000} {
				title := fmt.Sprintf("%s/%d", name(policy), n)
				if limit > 0 {
					title += "/capped"
				}
				b.Run(title, func(b *testing.B) {
					members := mixed(policy, n, limit)
					p := policy.Build(members, nil, nil)
					b.ReportAllocs()
					b.ResetTimer()
					run(b, p, members)
				})
			}
		}
	}
}

// picking is a pick as pools make it, with the time and the key given.
func picking(p Picker) func() int {
	now := time.Now()
	switch p := p.(type) {
	case Timed:
		return func() int { return p.PickAt(now, nil) }
	case Keyed:
		key := uint64(0)
		return func() int {
			key++
			return p.PickFor(key, nil)
		}
	default:
		return func() int { return p.Pick(nil) }
	}
}

func BenchmarkPick(b *testing.B) {
	benchmark(b, func(b *testing.B, p Picker, members []Member) {
		pick := picking(p)
		for b.Loop() {
			release(p, members, pick())
		}
	})
}

// BenchmarkPickClock is a pick with a look at the clock, as pools make those of [Timed] pickers.
func BenchmarkPickClock(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		b.Run(fmt.Sprintf("PeakEWMA/%d", n), func(b *testing.B) {
			members := mixed(PeakEWMA{}, n, 0)
			p := PeakEWMA{}.Build(members, nil, nil)
			b.ReportAllocs()
			for b.Loop() {
				release(p, members, p.Pick(nil))
			}
		})
	}
}

func BenchmarkPickParallel(b *testing.B) {
	benchmark(b, func(b *testing.B, p Picker, members []Member) {
		pick := picking(p)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				release(p, members, pick())
			}
		})
	})
}

// BenchmarkPickBusy keeps requests in flight, so that least connections has no easy ties.
func BenchmarkPickBusy(b *testing.B) {
	for _, policy := range []Policy{LeastConn{}, PeakEWMA{}} {
		for _, n := range []int{3, 100, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", name(policy), n), func(b *testing.B) {
				members := mixed(policy, n, 0)
				p := policy.Build(members, nil, nil)
				held := make([]int, 3*n)
				for k := range held {
					held[k] = p.Pick(nil)
				}
				b.ReportAllocs()
				k := 0
				for b.Loop() {
					release(p, members, held[k])
					held[k] = p.Pick(nil)
					if k++; k == len(held) {
						k = 0
					}
				}
			})
		}
	}
}

// BenchmarkLatency measures the calls that record one request.
func BenchmarkLatency(b *testing.B) {
	l, now := new(Latency), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		ticket := l.Asked(now)
		l.Told(ticket, true, now)
		l.Answered(10*time.Millisecond, now)
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, policy := range measured {
		for _, n := range []int{3, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", name(policy), n), func(b *testing.B) {
				members := mixed(policy, n, 64)
				p := policy.Build(members, nil, nil)
				index := identity(len(members))
				for b.Loop() {
					policy.Build(members, p, index)
				}
			})
		}
	}
}

func BenchmarkScan(b *testing.B) {
	s := new(Scan)
	weights := []int{5, 3, 2}
	b.ReportAllocs()
	for b.Loop() {
		s.Pick(len(weights), func(i int) int { return weights[i] })
	}
}
