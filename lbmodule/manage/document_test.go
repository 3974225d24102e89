package manage

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// TestDecodeChecks: edits in a document that no change could have made are refused as a whole, with what is wrong.
func TestDecodeChecks(t *testing.T) {
	edit := func(field overlay.Field, value any) *overlay.Overlay {
		return new(overlay.Overlay).Edit("a:1", []overlay.Edit{{Field: field, Value: value}}, nil)
	}
	add := func(address, name string) *overlay.Overlay {
		return new(overlay.Overlay).Add(address, name, nil, overlay.Mark{Since: time.Unix(1, 0)})
	}
	for want, o := range map[string]*overlay.Overlay{
		"":                           add("b:1", "b").Edit("a:1", []overlay.Edit{{Field: overlay.Weight, Value: 65535}}, nil),
		"backend a:1: weight -1":     edit(overlay.Weight, -1),
		"backend a:1: weight 65536":  edit(overlay.Weight, 65536),
		"backend a:1: max_requests":  edit(overlay.MaxRequests, -1),
		"backend a:1: backup":        edit(overlay.Backup, 10),
		`backend a:1: zone "<"`:      edit(overlay.Zone, "<"),
		"backend a:b:c: address":     add("a:b:c", ""),
		`backend b:1: name "<b>"`:    add("b:1", "<b>"),
		"backend {env.X}:1: address": add("{env.X}:1", ""),
	} {
		raw, err := overlay.Encode("web", "line", "node", o, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := decode("web", raw); want == "" && err != nil || want != "" && (!errors.Is(err, overlay.ErrForeign) || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
