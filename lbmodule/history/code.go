package history

import "math"

// code is a floating-point number from 0 on in 16 bits: 6 for the exponent of 2 and 10 for the fraction. It is exact for whole numbers up
// to 2048, has an error of at most 0.05 % beyond them, and ranges from 6e-8 to 1.1e12. Smaller numbers become 0, larger ones the largest.
type code uint16

const (
	unknown code = math.MaxUint16
	largest code = unknown - 1

	fraction = 10            // bits of the fraction
	cut      = 23 - fraction // bits of a float32's fraction that are cut off
	// least is the float32 that has the code 0, reduced to the bits that are kept: 2^-24.
	least = (127 - 24) << fraction
)

// encode returns the code nearest to v. NaN and numbers below 0 become unknown.
func encode(v float64) code {
	if !(v >= 0) {
		return unknown
	}
	kept := int64(math.Float32bits(float32(v))) + 1<<(cut-1)
	return code(min(max(kept>>cut-least, 0), int64(largest)))
}

// value returns the number of c; NaN if it is unknown.
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
