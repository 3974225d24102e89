package lbmodule

import (
	"math"
	"strconv"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// avoidances tells of each backend of a view, by its position, why the policy avoids it, "" where it does not. It is asked once for all.
type avoidances []balance.Avoidance

func (a avoidances) why(s *pool.Snapshot, i int) string {
	// Those that are not in turn get nothing anyway.
	if a == nil || a[i].Cause == balance.NotAvoided || !s.InTurn(i) || s.Spared(i) {
		return ""
	}
	return avoidance(a[i])
}

// avoidance tells why a backend is avoided, and when it is tried again.
func avoidance(a balance.Avoidance) string {
	again := "; tried again with the next request"
	if a.Again > 0 {
		again = "; tried again in " + inSeconds(a.Again)
	}
	switch a.Cause {
	case balance.Slow:
		return "its answers take " + roughly(a.Takes) + ", the others' " + roughly(a.Others) + again
	case balance.Failing:
		return "it fails" + again
	case balance.Silent:
		return "it has answered nothing for " + roughly(a.Takes) + again
	default:
		return ""
	}
}

// roughly writes a duration with two significant digits at most: in milliseconds below a second, and whole seconds from a hundred on.
func roughly(d time.Duration) string {
	if ms := twoDigits(d.Seconds() * 1000); ms < 1000 {
		return plainNumber(ms) + " ms"
	}
	seconds := d.Seconds()
	if seconds < 100 {
		return plainNumber(twoDigits(seconds)) + " s"
	}
	return plainNumber(math.Round(seconds)) + " s"
}

// inSeconds writes a time to wait to the tenth of a second, which is the least.
func inSeconds(d time.Duration) string {
	return plainNumber(max(math.Round(d.Seconds()*10), 1)/10) + " s"
}

// twoDigits rounds x to two significant digits.
func twoDigits(x float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'e', 1, 64), 64)
	return rounded
}

func plainNumber(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
