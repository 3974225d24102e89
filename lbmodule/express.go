package lbmodule

import (
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Express returns what the express lane needs to handle plain requests as ServeHTTP does. why is not empty if a setting rules out the
// express lane.
func (h *Handler) Express() (plan *exchange.Plan, of *service.Service, with *front.Front, why string) {
	switch {
	case h.observer.DebugHeader != "":
		why = "debug_header"
	case h.mirror != nil:
		why = "mirror"
	case h.canary != nil:
		why = "canary"
	case h.Hedge.Enabled():
		why = "hedge"
	case h.service.Quiet():
		why = "dynamic"
	case h.placeholders:
		why = "upstream_placeholder"
	default:
		why = h.front.RefusesHeads()
	}
	return &h.plan, h.service, h.front, why
}
