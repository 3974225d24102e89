package history

import "math"

// code is a number from 0 on in 16 bits: 6 of an exponent of 2 and 10 of a fraction. It is exact for whole numbers up to 2048, wrong by
// 0.05 % at most beyond them, and reaches from 6e-8 to 1.1e12. What is smaller is 0, what is larger is the largest.
type code uint16

const (
	unknown code = math.MaxUint16
	largest code = unknown - 1

	fraction = 10            // bits of the fraction
	cut      = 23 - fraction // bits of a float32's fraction that are cut off
	// least is the float32 that has the code 0, in the bits that are kept: 2^-24.
	least = (127 - 24) << fraction
)

// encode returns the code that is nearest to v. What is no number, or below 0, is unknown.
func encode(v float64) code {
	if !(v >= 0) {
		return unknown
	}
	kept := int64(math.Float32bits(float32(v))) + 1<<(cut-1)
	return code(min(max(kept>>cut-least, 0), int64(largest)))
}

// value returns what c stands for; NaN if it is unknown.
func (c code) value() float64 {
	switch c {
	case 0:
		return 0
	case unknown:
		return math.NaN()
	default:
		return float64(math.Float32frombits((uint32(c) + least) << cut))
	}
}
