package draft

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Duration writes a duration without parts that are zero: 1m, not 1m0s.
func Duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Between moves a duration into a range.
func Between(d, least, most time.Duration) time.Duration { return max(least, min(d, most)) }

// Sorted returns the keys of a map in order, so that the output is the same each time.
func Sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Words returns the words of a directive with an optional matcher. If there is none, and the next word looks like one, it puts * before it.
func Words(directive string, matcher []string, rest ...string) []string {
	if len(matcher) == 0 && len(rest) > 0 && (strings.HasPrefix(rest[0], "/") || strings.HasPrefix(rest[0], "@") || rest[0] == "*") {
		matcher = []string{"*"}
	}
	return slices.Concat([]string{directive}, matcher, rest)
}
