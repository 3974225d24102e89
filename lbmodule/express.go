package lbmodule

import (
	"slices"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Express returns what the express lane needs to do for plain requests what ServeHTTP does. why is not empty if there is a setting with which
// no request is plain.
func (h *Handler) Express() (plan *exchange.Plan, of *service.Service, with *front.Front, why string) {
	switch {
	case h.observer.DebugHeader != "":
		why = "debug_header"
	case h.Hedge.Enabled():
		why = "hedge"
	case h.service.Quiet():
		why = "dynamic"
	case slices.ContainsFunc(h.words.Upstreams, func(u stock.Upstream) bool { return strings.ContainsAny(u.Dial, "{}") }),
		slices.ContainsFunc(h.Backends, func(b *config.Backend) bool { return strings.ContainsAny(b.Address, "{}") }):
		why = "upstream_placeholder"
	default:
		why = h.front.RefusesHeads()
	}
	return &h.plan, h.service, h.front, why
}
