package integration

import (
	"regexp"
	"strconv"
	"testing"
)

var gogc = regexp.MustCompile(`(?m)^go_gc_gogc_percent (\S+)$`)

// TestHeadroom: our Caddy gives the garbage collector more room than Go does, unless the environment has GOGC.
func TestHeadroom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		environment []string
		low, high   float64
	}{
		{"default", []string{"GOGC="}, 101, 250},
		{"GOGC", []string{"GOGC=150"}, 150, 150},
	} {
		c := startCaddyConfig(t, siteConfig("respond ok"), tt.environment...)
		_, text := c.askAdmin("GET", "/metrics")
		found := gogc.FindSubmatch(text)
		if found == nil {
			t.Fatalf("no go_gc_gogc_percent in %s", text)
		}
		if percent, err := strconv.ParseFloat(string(found[1]), 64); err != nil || percent < tt.low || percent > tt.high {
			t.Errorf("%s: go_gc_gogc_percent is %s, want %v to %v", tt.name, found[1], tt.low, tt.high)
		}
	}
}
