package lbmodule

import (
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// assembly is a list of backends as they are in force: those of the config, or of a dynamic source, with what was edited.
type assembly struct {
	backends  []pool.Backend
	upstreams reverseproxy.UpstreamPool
	targets   []*stock.Target
}

// config returns the backends of the roster as edits see them.
func (r *roster) config() []overlay.Backend {
	all := make([]overlay.Backend, len(r.backends))
	for i, b := range r.backends {
		all[i] = overlay.Backend{Address: b.Address, Name: r.names[i], Settings: overlay.Settings{
			Weight: b.Weight, MaxRequests: b.MaxRequests, Backup: b.Backup, Zone: b.Zone, State: overlay.Ready,
		}}
	}
	return all
}

// assemble returns the backends of a roster with what was edited.
func (h *Handler) assemble(r *roster) assembly {
	now := time.Now()
	var a assembly
	for _, b := range h.manager.Edits().Running(r.config(), now) {
		at, inRoster := r.byAddress[b.Address]
		made := pool.Backend{Address: b.Address}
		var upstream *reverseproxy.Upstream
		if inRoster {
			made, upstream = r.backends[at], r.upstreams[at]
		}
		limit := h.limit(b.MaxRequests)
		switch {
		case !inRoster:
			upstream = &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: b.Address, MaxRequests: limit}
		case upstream.MaxRequests != limit:
			// Requests read the one there is. Both count in the same place.
			upstream = &reverseproxy.Upstream{Host: upstream.Host, Dial: b.Address, MaxRequests: limit}
		}
		made.Weight, made.MaxRequests, made.Backup, made.Zone = b.Weight, limit, b.Backup, b.Zone
		made.State = h.poolState(&b, now)
		a.backends = append(a.backends, made)
		a.upstreams = append(a.upstreams, upstream)
		a.targets = append(a.targets, h.stock.NewTarget(upstream))
	}
	return a
}

// poolState is what the pool makes of a backend's state.
func (h *Handler) poolState(b *overlay.Running, now time.Time) pool.State {
	switch b.State {
	case overlay.Drain:
		if b.Removed == nil && h.DrainSticky.Enabled() && now.Before(manage.DrainEnds(b, time.Duration(h.DrainTimeout))) {
			return pool.Draining
		}
		return pool.Drained
	case overlay.Maintenance:
		return pool.Maintenance
	default:
		return pool.Ready
	}
}
