package plain

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// None is shown for a value that is unknown or does not apply, so that a column is never empty.
const None = "-"

// Duration formats d in its two largest units: 4m59s, 3h12m, 5d4h. A negative duration, which two clocks may give, is shown as 0.
func Duration(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	days, hours, minutes, seconds := d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60, d/time.Second%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, seconds)
	default:
		return fmt.Sprintf("%ds", seconds)
	}
}

// Since returns the time from t to now, if t is known.
func Since(t, now time.Time) string {
	if t.IsZero() {
		return None
	}
	return Duration(now.Sub(t))
}

// Milliseconds formats a latency: 0.4ms, 12ms, 1.5s.
func Milliseconds(ms float64) string {
	switch {
	case ms < 9.95:
		return strconv.FormatFloat(ms, 'f', 1, 64) + "ms"
	case ms < 999.5:
		return strconv.FormatFloat(ms, 'f', 0, 64) + "ms"
	default:
		return strconv.FormatFloat(ms/1000, 'f', 1, 64) + "s"
	}
}

// Number formats x with at most one decimal.
func Number(x float64) string {
	s := strconv.FormatFloat(x, 'f', 1, 64)
	if len(s) > 2 && s[len(s)-2:] == ".0" {
		return s[:len(s)-2]
	}
	return s
}

// Bytes writes a number of bytes: 12B, 1.5kB, 83MB.
func Bytes(n uint64) string { return strings.ReplaceAll(humanize.Bytes(n), " ", "") }
