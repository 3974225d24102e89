package balance

import (
	"math"
	"math/bits"
)

// rendezvous is weighted rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM
// Transactions on Networking 6(1), 1998; the weights by Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005):
// a member's place for a key is -log(u)/weight, where u is a number between 0 and 1 that follows from both, and the smallest is first.
// So a change of one member moves keys from it or to it, and none between others.
//
// It computes with whole numbers, so that all machines of a fleet come to the same.
type rendezvous []contestant

type contestant struct{ id, weight uint64 }

func newRendezvous(members []Member) rendezvous {
	r := make(rendezvous, len(members))
	for i := range members {
		r[i] = contestant{Mix(members[i].ID), uint64(members[i].weight())}
	}
	return r
}

// first returns the position that is first for a key, of those that are not out, which is a set of bits; -1 if all are.
func (r rendezvous) first(hash, out uint64) int {
	best, cost, weight := -1, uint64(0), uint64(1)
	for p, c := range r {
		if out&(1<<p) != 0 {
			continue
		}
		// Costs have 38 bits and weights 16: multiplied crosswise they are compared exactly.
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

// negLog is -log2(u) for u = x/2^64, with 32 bits after the point: within some millionths, by straight lines between the values of
// logTable. It falls as x rises.
func negLog(x uint64) uint64 {
	const all = 64
	x |= 1 // of 0 there is no logarithm
	whole := bits.Len64(x) - 1
	x <<= all - 1 - whole // its first bit is the 1 before the point
	i := x >> (all - 1 - logBits) & (1<<logBits - 1)
	rest := x << (1 + logBits) >> 32
	fraction := logTable[i] + (logTable[i+1]-logTable[i])*rest>>32
	return all*unit - uint64(whole)*unit - fraction
}
