package balance

import (
	"math/rand/v2"
	"time"
)

// Dice draw random numbers. A nil Dice draws from the generator of the process; it is safe for concurrent use, and its sequence differs in
// each run. A Dice with a seed is for one goroutine and draws the same numbers in each run.
type Dice struct{ source *rand.Rand }

// NewDice returns dice with this seed.
func NewDice(seed uint64) *Dice {
	const stream = 0x9e3779b97f4a7c15 // any constant
	return &Dice{rand.New(rand.NewPCG(seed, stream))}
}

// Drawing is implemented by policies whose pickers draw random numbers. Without With, they draw from a nil Dice.
type Drawing interface {
	Policy

	// With returns the policy with these dice.
	With(d *Dice) Policy
}

// Uint64 returns a number of 64 random bits.
func (d *Dice) Uint64() uint64 {
	if d == nil {
		return rand.Uint64()
	}
	return d.source.Uint64()
}

// Uint64N returns a number from 0 to n-1; n must not be 0.
func (d *Dice) Uint64N(n uint64) uint64 {
	if d == nil {
		return rand.Uint64N(n)
	}
	return d.source.Uint64N(n)
}

// IntN returns a number from 0 to n-1; n must be above 0.
func (d *Dice) IntN(n int) int {
	if d == nil {
		return rand.IntN(n)
	}
	return d.source.IntN(n)
}

// Float64 returns a number from 0 up to 1.
func (d *Dice) Float64() float64 {
	if d == nil {
		return rand.Float64()
	}
	return d.source.Float64()
}

// Duration returns a duration from 0 up to most, which must be above 0.
func (d *Dice) Duration(most time.Duration) time.Duration {
	return time.Duration(d.Uint64N(uint64(most)))
}
