package lbmodule

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// staticFitness tells whether reverse_proxy's health checks and circuit breaker let an upstream of the config
// be used.
func (h *Handler) staticFitness() fitness {
	if h.HealthChecks == nil && h.CB == nil {
		return nil
	}
	return (*reverseproxy.Upstream).Healthy
}

// dynamicFitness is staticFitness for upstreams that a dynamic source named. reverse_proxy did not provision
// them, so they know neither the passive checks nor the breaker; there are no active checks for them.
func (h *Handler) dynamicFitness() fitness {
	if (h.HealthChecks == nil || h.HealthChecks.Passive == nil) && h.CB == nil {
		return nil
	}
	return func(u *reverseproxy.Upstream) bool {
		if h.HealthChecks != nil && h.HealthChecks.Passive != nil && u.Fails() >= h.HealthChecks.Passive.MaxFails {
			return false
		}
		return h.CB == nil || h.CB.OK()
	}
}
