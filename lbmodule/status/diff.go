package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Difference lists how a pool differs from its config, and the config that would make the edits permanent.
type Difference struct {
	Pool      string               `json:"pool"`
	Changes   []overlay.Difference `json:"changes"`
	Caddyfile string               `json:"caddyfile"` // lines of a load_balancer block
	JSON      []*config.Backend    `json:"json"`      // for the handler's `backends`
}

// Diff returns how the pool differs from its config. Temporary edits are left out.
func Diff(s *service.Service, now time.Time) Difference {
	configured := s.Config()
	o := s.Manager().Edits().Overlay
	d := Difference{Pool: s.Pool().Name(), Changes: overlay.Diff(o.Merge(configured, nil, now)), JSON: []*config.Backend{}}
	for _, r := range o.Permanent().Merge(configured, nil, now) {
		if len(overlay.Diff([]overlay.Running{r})) == 0 {
			continue
		}
		d.Caddyfile += caddyfileOf(&r)
		if r.Removed == nil {
			d.JSON = append(d.JSON, backendOf(&r))
		}
	}
	return d
}

// backendOf returns the backend as in a config.
func backendOf(r *overlay.Running) *config.Backend {
	b := &config.Backend{Address: r.Address, MaxRequests: config.MaxRequests(r.MaxRequests), Backup: config.Backup(r.Backup), Zone: r.Zone}
	if r.Name != r.Address {
		b.Name = r.Name
	}
	if r.Weight != 1 {
		b.Weight = &r.Weight
	}
	return b
}

// caddyfileOf formats the backend as a Caddyfile block. Its values can only be names, addresses and numbers.
func caddyfileOf(r *overlay.Running) string {
	var text strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	switch {
	case r.Removed != nil:
		line("# %s was removed: leave it out", r.Address)
		return text.String()
	case r.Config != nil:
		line("# replaces the upstream %s", r.Address)
	}
	if r.State != overlay.Ready {
		line("# state %s has no setting in the config: weight 0 is the nearest", r.State)
	}
	line("backend %s {", r.Address)
	if r.Name != r.Address {
		line("\tname %s", r.Name)
	}
	if r.Weight != 1 {
		line("\tweight %d", r.Weight)
	}
	if r.MaxRequests != 0 {
		line("\tmax_requests %s", config.MaxRequests(r.MaxRequests))
	}
	switch {
	case r.Backup == 1:
		line("\tbackup")
	case r.Backup > 1:
		line("\tbackup %d", r.Backup)
	}
	if r.Zone != "" {
		line("\tzone %s", r.Zone)
	}
	line("}")
	return text.String()
}
