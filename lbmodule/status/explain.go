package status

import (
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Explanation says why a request goes to a backend.
type Explanation struct {
	Pool       string        `json:"pool"`
	Policy     string        `json:"policy"`
	Key        *string       `json:"key,omitempty"`     // the key in the query
	Request    *LiveRequest  `json:"request,omitempty"` // the request in the query
	Chosen     string        `json:"chosen,omitempty"`  // the backend, if it is certain
	Candidates []Candidate   `json:"candidates"`
	More       int           `json:"more,omitempty"` // number of candidates left out
	Live       []LiveRequest `json:"live,omitempty"` // the oldest requests being served
}

// Candidate is a backend that could be chosen.
type Candidate struct {
	Backend         string   `json:"backend"`
	In              bool     `json:"in"`
	Reason          string   `json:"reason,omitempty"` // why it is out, or avoided although it is in
	Score           *float64 `json:"score,omitempty"`  // the policy's score; lower is better
	Weight          int      `json:"weight"`
	EffectiveWeight float64  `json:"effective_weight"`
	InFlight        int64    `json:"in_flight"`
}

// LiveRequest describes a request that is being served.
type LiveRequest struct {
	ID       string    `json:"id"`
	Backend  string    `json:"backend"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
}

// LiveRequests describes requests that are being served, with their backends' names.
func LiveRequests(all []pool.LiveView, nameOf func(address string) string) []LiveRequest {
	shown := make([]LiveRequest, len(all))
	for i, r := range all {
		shown[i] = LiveRequest{ID: r.ID, Since: r.Since, Attempts: r.Attempts}
		if r.Address != "" {
			shown[i].Backend = nameOf(r.Address)
		}
	}
	return shown
}

// Explain says for each backend of a set whether a request that has already tried these addresses may go there.
func Explain(s *service.Service, set *service.Set, tried []string) Explanation {
	x := Explanation{Pool: s.Pool().Name(), Policy: s.PolicyName(), Candidates: []Candidate{}}
	snapshot := set.View().Snapshot()
	avoided := whyAvoided(snapshot, time.Now())
	for i := range set.View().Len() {
		b, m := set.View().Backend(i), set.View().Member(i)
		c := Candidate{Backend: s.Manager().Name(b.Address), Weight: b.Weight, InFlight: m.InFlight()}
		switch {
		case !snapshot.Has(i):
			c.Reason = whyOut(b, m.Vitals())
		case set.View().Full(i):
			c.Reason = "full"
		case slices.Contains(tried, b.Address):
			c.Reason = "tried"
		case !snapshot.InTurn(i):
			c.Reason = "backup"
		case snapshot.Spared(i):
			c.Reason = "other zone"
		default:
			c.In = true
			if why := avoided(i); why != "" {
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

// whyOut says why a backend gets no requests, and since or until when.
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

// whyAvoided returns a function that says why the policy avoids the backend at position i, "" if it does not.
func whyAvoided(s *pool.Snapshot, now time.Time) func(i int) string {
	avoided := s.Avoided(now)
	return func(i int) string {
		// Backends that are not in turn get no requests anyway.
		if avoided == nil || !s.InTurn(i) || s.Spared(i) {
			return ""
		}
		return avoided[i].String()
	}
}
