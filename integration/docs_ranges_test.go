package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/ratelimit"
)

// TestDocsRanges: docs/ranges.md has the ranges that settings are checked by.
func TestDocsRanges(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\|$")
	text := read(t, "../docs/ranges.md")
	ofBalancer, ofLimit, found := strings.Cut(text, "## Of `ip_rate_limit`")
	if !found {
		t.Fatal("docs/ranges.md has no ranges of ip_rate_limit")
	}
	for page, ranges := range map[string]caddyapp.Ranges{ofBalancer: config.Ranges, ofLimit: ratelimit.Ranges} {
		var documented, checked []string
		for _, match := range row.FindAllStringSubmatch(page, -1) {
			documented = append(documented, match[1]+" from "+match[2])
		}
		for _, r := range ranges {
			checked = append(checked, r.Setting+" "+r.String())
		}
		for _, line := range documented {
			if !slices.Contains(checked, line) {
				t.Errorf("docs/ranges.md: %s: no setting is checked by that", line)
			}
		}
		for _, line := range checked {
			if !slices.Contains(documented, line) {
				t.Errorf("docs/ranges.md lacks %s", line)
			}
		}
	}
}
