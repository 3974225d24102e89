package lbmodule

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// explanation is why a request goes where it goes.
type explanation struct {
	Pool       string      `json:"pool"`
	Policy     string      `json:"policy"`
	Key        *string     `json:"key,omitempty"`     // that was asked for
	Request    *liveView   `json:"request,omitempty"` // that was asked for
	Chosen     string      `json:"chosen,omitempty"`  // backend, where that is certain
	Candidates []candidate `json:"candidates"`
	More       int         `json:"more,omitempty"` // candidates that are not shown
	Live       []liveView  `json:"live,omitempty"` // requests that have been there for longest
}

// candidate is a backend that may have been chosen.
type candidate struct {
	Backend         string   `json:"backend"`
	In              bool     `json:"in"`
	Reason          string   `json:"reason,omitempty"` // why it is out, or is avoided though it is in
	Score           *float64 `json:"score,omitempty"`  // what the policy makes of it, the lower the better
	Weight          int      `json:"weight"`
	EffectiveWeight float64  `json:"effective_weight"`
	InFlight        int64    `json:"in_flight"`
}

// liveView is a request that is being served, as it is shown.
type liveView struct {
	ID       string    `json:"id"`
	Backend  string    `json:"backend"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
}

// showLive shows requests that are being served, with the names that backends have.
func showLive(all []pool.LiveView, nameOf func(address string) string) []liveView {
	shown := make([]liveView, len(all))
	for i, r := range all {
		shown[i] = liveView{ID: r.ID, Since: r.Since, Attempts: r.Attempts}
		if r.Address != "" {
			shown[i].Backend = nameOf(r.Address)
		}
	}
	return shown
}

// explainSet says of each backend of a set whether a request that has been at those addresses may go there.
func explainSet(s *service.Service, set *service.Set, tried []string) explanation {
	x := explanation{Pool: s.Pool().Name(), Policy: s.PolicyName(), Candidates: []candidate{}}
	snapshot := set.View().Snapshot()
	avoided := avoidances(snapshot.Avoided(time.Now()))
	for i := range set.View().Len() {
		b, m := set.View().Backend(i), set.View().Member(i)
		c := candidate{Backend: s.Manager().Name(b.Address), Weight: b.Weight, InFlight: m.InFlight()}
		switch {
		case !snapshot.Has(i):
			c.Reason = whyOut(b, m.Vitals())
		case b.MaxRequests > 0 && c.InFlight >= int64(b.MaxRequests):
			c.Reason = "full"
		case slices.Contains(tried, b.Address):
			c.Reason = "tried"
		case !snapshot.InTurn(i):
			c.Reason = "backup"
		case snapshot.Spared(i):
			c.Reason = "other zone"
		default:
			c.In = true
			if why := avoided.why(snapshot, i); why != "" {
				c.Reason = "avoided: " + why
			}
		}
		if snapshot.Has(i) {
			c.EffectiveWeight = float64(b.Weight) * snapshot.Warmth(i)
			if score, ok := snapshot.Score(i); ok {
				c.Score = &score
			}
		}
		x.Candidates = append(x.Candidates, c)
	}
	return x
}

// whyOut tells why a backend is given no requests, and since or until when.
func whyOut(b pool.Backend, v pool.Vitals) string {
	reason := unusable(b, v)
	switch {
	case b.State != pool.Ready || b.Weight == 0:
		return reason
	case !v.Until.IsZero():
		return reason + " until " + v.Until.UTC().Format(time.RFC3339)
	default:
		return reason + " since " + v.Since.UTC().Format(time.RFC3339)
	}
}

// maxLive is how many live requests are listed.
const maxLive = 20

// explain explains where requests go: any request, with ?key= one that has this key (several for a policy with several), with
// ?request= one that is being served.
func (c *apiCall) explain() error {
	set, _ := c.s.Shown()
	if set == nil {
		return apiError(http.StatusConflict, "pool %s: it has no backends yet", c.s.Pool().Name())
	}
	query := c.r.URL.Query()
	var live *liveView
	var tried []string
	if id := query.Get("request"); id != "" {
		found := c.s.Pool().Live.List(1, id)
		if len(found) == 0 {
			return apiError(http.StatusNotFound, "request %s: there is none with that id any more", id)
		}
		live, tried = &showLive(found, c.s.Manager().Name)[0], found[0].Tried
	}
	x := explainSet(c.s, set, tried)
	x.Request = live
	switch keys := query["key"]; {
	case live != nil:
		x.Chosen = live.Backend
	case len(keys) > 0:
		x.Key = &keys[0]
		if policy, ok := c.s.Policy().(policies.Keyed); ok {
			// A full backend passes the request on.
			if i := set.View().Snapshot().Home(policy.KeyOf(keys)); i >= 0 && x.Candidates[i].In {
				x.Chosen = x.Candidates[i].Backend
			}
		}
	default:
		x.Live = showLive(c.s.Pool().Live.List(maxLive, ""), c.s.Manager().Name)
	}
	return caddyapp.WriteJSON(c.w, x)
}

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
	x := explainSet(q.h.service, q.set, tried)
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
