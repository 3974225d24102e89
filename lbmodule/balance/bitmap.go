package balance

import (
	"math/bits"
	"sync/atomic"
)

// bitmap is a set of small integers that finds the next one at or after a given integer in logarithmic time, to the
// base of 64: the bits of level 0 are the set, and each bit of a level above says whether a word of the level below has
// any bit set.
//
// Readers need no lock. Writers must exclude each other. A reader may find nothing while a writer is between two
// levels; with the writers' lock held the result is exact.
type bitmap struct {
	levels [][]atomic.Uint64 // the last level has one word
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

// add puts i into the set. It goes bottom up, so that no reader is led to an empty word.
func (b *bitmap) add(i int) {
	for _, level := range b.levels {
		old := level[i/64].Or(1 << (i % 64))
		if old != 0 {
			return // the levels above have the bit already
		}
		i /= 64
	}
}

// remove takes i out of the set.
func (b *bitmap) remove(i int) {
	for _, level := range b.levels {
		bit := uint64(1) << (i % 64)
		if level[i/64].And(^bit) != bit {
			return // the word has other bits, or was empty before
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
			i = i/64 + 1 // continue after this word, one level up
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
