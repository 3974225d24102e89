package balance

import (
	"math"
	"math/bits"
)

// rendezvous is weighted rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM
// Transactions on Networking 6(1), 1998; the weights by Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005):
// a member's cost for a key is -log(u)/weight, where u is a number between 0 and 1 derived from the key and the member's ID, and the lowest
// cost is first. So a change of one member moves keys from it or to it, and none between others.
//
// It uses integers only, so that all machines of a fleet get the same result.
type rendezvous []contestant

type contestant struct{ id, weight uint64 }

func newRendezvous(members []Member) rendezvous {
	r := make(rendezvous, len(members))
	for i := range members {
		r[i] = contestant{Mix(members[i].ID), uint64(members[i].weight())}
	}
	return r
}

// first returns the position with the lowest cost for a key, or -1 if all are out. out is a bit set of the positions to leave out.
func (r rendezvous) first(hash, out uint64) int {
	best, cost, weight := -1, uint64(0), uint64(1)
	for p, c := range r {
		if out&(1<<p) != 0 {
			continue
		}
		// Costs have 38 bits and weights 16, so cross-multiplying is exact.
		if own := negLog(Mix(hash ^ c.id)); best < 0 || own*weight < cost*c.weight {
			best, cost, weight = p, own, c.weight
		}
	}
	return best
}

const logBits = 8

// logTable is the logarithm to the base of 2 of 1, 1+1/256, ..., 2, with 32 bits after the point.
var logTable = func() (table [1<<logBits + 1]uint64) {
	for i := range table {
		table[i] = uint64(math.Round(math.Log2(1+float64(i)/(1<<logBits)) * unit))
	}
	return table
}()

// negLog returns -log2(u) for u = x/2^64, with 32 bits after the point. It interpolates linearly between the values of logTable, with an
// error of some millionths, and falls as x rises.
func negLog(x uint64) uint64 {
	const all = 64
	x |= 1 // 0 has no logarithm
	whole := bits.Len64(x) - 1
	x <<= all - 1 - whole // its first bit is the 1 before the point
	i := x >> (all - 1 - logBits) & (1<<logBits - 1)
	rest := x << (1 + logBits) >> 32
	fraction := logTable[i] + (logTable[i+1]-logTable[i])*rest>>32
	return all*unit - uint64(whole)*unit - fraction
}
