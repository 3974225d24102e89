package balance

import (
	"math/bits"
	"sync/atomic"
)

// bitmap is a set of small integers in which the next one at or after a given place is found in steps of 64: the
// bits of level 0 are the set, each bit of a level above says whether a word of the level below has any bit.
//
// Readers need no lock. Writers must exclude each other. A reader may find nothing while a writer is between two
// levels; one that holds the writers' lock gets the truth.
type bitmap struct {
	levels [][]atomic.Uint64 // the last has one word
}

// newBitmap returns an empty set of integers below n, which is at least 1.
func newBitmap(n int) *bitmap {
	b := new(bitmap)
	for {
		n = (n + 63) / 64
		b.levels = append(b.levels, make([]atomic.Uint64, n))
		if n == 1 { // bound: n shrinks 64-fold
			return b
		}
	}
}

// has reports whether i is in the set.
func (b *bitmap) has(i int) bool {
	return b.levels[0][i/64].Load()&(1<<(i%64)) != 0
}

// add puts i into the set; bottom up, so that nobody is sent to an empty word.
func (b *bitmap) add(i int) {
	for _, level := range b.levels {
		old := level[i/64].Or(1 << (i % 64))
		if old != 0 {
			return // known above
		}
		i /= 64
	}
}

// remove takes i out of the set.
func (b *bitmap) remove(i int) {
	for _, level := range b.levels {
		bit := uint64(1) << (i % 64)
		if level[i/64].And(^bit) != bit {
			return // others are left in the word, or it was empty before
		}
		i /= 64
	}
}

// next returns the smallest member of the set that is i or more, -1 if there is none. Its loops are bounded by the
// number of levels.
func (b *bitmap) next(i int) int {
	for up, level := range b.levels {
		if i/64 >= len(level) {
			return -1
		}
		word := level[i/64].Load() >> (i % 64)
		if word == 0 {
			i = i/64 + 1 // go on behind this word, one level up
			continue
		}
		i += bits.TrailingZeros64(word)
		for down := up - 1; down >= 0; down-- {
			word = b.levels[down][i].Load()
			if word == 0 {
				return -1 // a writer is between the levels
			}
			i = i*64 + bits.TrailingZeros64(word)
		}
		return i
	}
	return -1
}
