package admin

import (
	"fmt"
	"testing"
)

// A position is that of the config that is provisioned next, and of no later one.
func TestPositionsAreTakenOnce(t *testing.T) {
	var p positions
	p.note("web", "Caddyfile:3")
	if at := p.take([]string{"web", "api"}); at["web"] != "Caddyfile:3" || at["api"] != "" {
		t.Errorf("positions = %v", at)
	}
	if at := p.take([]string{"web"}); at["web"] != "" {
		t.Errorf("taken again: %v", at)
	}
	for i := range 5000 { // of Caddyfiles that were only adapted
		p.note(fmt.Sprint(i), "Caddyfile:3")
	}
	if n := len(p.of); n > 1000 {
		t.Errorf("%d positions are kept", n)
	}
}
