package lbmodule

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/status"
)

// maxExplained is how many candidates the debug header holds.
const maxExplained = 16

// explain tells the client how the backend of its present attempt was chosen.
func (q *request) explain(w http.ResponseWriter) {
	if q.refused != nil || q.set == nil {
		return
	}
	tried := make([]string, 0, len(q.tried))
	for _, i := range q.tried {
		tried = append(tried, q.set.View().Backend(i).Address)
	}
	x := status.Explain(q.h.service, q.set, tried)
	x.Chosen = q.h.manager.Name(q.upstream.Dial)
	if n := len(x.Candidates); n > maxExplained {
		x.Candidates, x.More = x.Candidates[:maxExplained], n-maxExplained
	}
	// Names are ASCII without control characters, and so is the rest.
	text, err := json.Marshal(x)
	if err == nil {
		w.Header().Set(q.h.DebugHeader.Name, string(text))
	}
}

// debugs tells whether the client of r is told how backends are chosen.
func (h *Handler) debugs(r *http.Request) bool {
	if len(h.debugRanges) == 0 {
		return false
	}
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	address = address.Unmap().WithZone("")
	return slices.ContainsFunc(h.debugRanges, func(p netip.Prefix) bool { return p.Contains(address) })
}
