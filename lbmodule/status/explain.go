package status

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Explanation explains why a request goes to a backend.
type Explanation struct {
	Pool       string        `json:"pool"`
	Policy     string        `json:"policy"`
	Key        *string       `json:"key,omitempty"`     // the key in the query
	Request    *LiveRequest  `json:"request,omitempty"` // the request in the query
	Chosen     string        `json:"chosen,omitempty"`  // the backend, if it is certain
	Way        policies.Way  `json:"way"`
	Otherwise  policies.Way  `json:"otherwise,omitempty"` // the way of requests without a key or session
	Candidates []Candidate   `json:"candidates"`
	Discovery  []Discovery   `json:"discovery,omitempty"` // the sources of backends whose latest answer is bad or missing
	More       int           `json:"more,omitempty"`      // number of candidates left out
	Live       []LiveRequest `json:"live,omitempty"`      // the oldest requests being served

	next string // the backend of the next request that has neither a key nor a session, if it is certain
}

// Next returns the backend of the next request, if that is certain: "" if it depends on the request, on turns or on chance.
func (x *Explanation) Next() string { return x.next }

// Candidate is a backend that could be chosen.
type Candidate struct {
	Backend         string   `json:"backend"`
	In              bool     `json:"in"`
	Reason          string   `json:"reason,omitempty"` // why it is out, or avoided although it is in
	Score           *float64 `json:"score,omitempty"`  // the policy's score; lower is better
	Weight          int      `json:"weight"`
	EffectiveWeight float64  `json:"effective_weight"`
	InFlight        int64    `json:"in_flight"`

	// Share is the share of the requests that it gets in the long run if they go by turn or at random, or the share of the draws in which
	// it is drawn if they go to the best of some that are drawn.
	Share *float64 `json:"share,omitempty"`
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

// Explain reports for each backend of a set whether a request that has already tried these addresses may go there.
func Explain(s *service.Service, set *service.Set, tried []string) Explanation {
	x := Explanation{Pool: s.Pool().Name(), Policy: s.PolicyName(), Candidates: []Candidate{}}
	for _, d := range s.Discoveries() {
		if !d.OK {
			x.Discovery = append(x.Discovery, newDiscovery(&d))
		}
	}
	x.Way, x.Otherwise = policies.WayOf(s.Policy())
	snapshot, now := set.View().Snapshot(), time.Now()
	avoided := whyAvoided(snapshot, now)
	for i := range set.View().Len() {
		b, m := set.View().Backend(i), set.View().Member(i)
		c := Candidate{Backend: s.Manager().Name(b.Address), Weight: b.Weight, InFlight: m.InFlight()}
		switch {
		case !snapshot.Has(i):
			c.Reason = whyOut(b, m.Vitals(), now)
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
	if run, _ := s.Canary(); run == nil && !snapshot.Zoned() { // otherwise the request first selects one of these sets
		x.foresee()
	}
	return x
}

// foresee determines where requests without a key or session go.
func (x *Explanation) foresee() {
	way := x.Way
	if x.Otherwise != "" {
		way = x.Otherwise
	}
	var in []*Candidate
	whole, warm := 0.0, true
	for i := range x.Candidates {
		if c := &x.Candidates[i]; c.In {
			in = append(in, c)
			whole += c.EffectiveWeight
			warm = warm && c.EffectiveWeight == float64(c.Weight)
		}
	}
	switch way {
	case policies.ByTurn, policies.ByChance, policies.ByDraw:
		for _, c := range in {
			share := 1 / float64(len(in)) // equal shares, if all weights are 0
			if whole > 0 {
				share = c.EffectiveWeight / whole
			}
			c.Share = &share
		}
	}
	switch {
	case len(in) == 1:
		x.next = in[0].Backend
	case len(in) == 0 || !warm: // backends in slow start are skipped at random
	case way == policies.ByOrder:
		x.next = in[0].Backend
	case way == policies.ByScore:
		slices.SortStableFunc(in, func(a, b *Candidate) int { return cmp.Compare(score(a), score(b)) })
		if score(in[0]) < score(in[1]) {
			x.next = in[0].Backend
		}
	}
}

func score(c *Candidate) float64 {
	if c.Score == nil {
		return math.Inf(1)
	}
	return *c.Score
}

// whyOut returns why a backend gets no requests, and since or until when.
func whyOut(b pool.Backend, v pool.Vitals, now time.Time) string {
	reason := unusable(b, v)
	switch {
	case b.State != pool.Ready || b.Weight == 0:
		return reason
	case v.Until.After(now) && v.Status != healthcheck.Down && !v.Failing: // the time is that of the breaker
		return reason + " until " + v.Until.UTC().Format(time.RFC3339)
	default:
		return reason + " since " + v.Since.UTC().Format(time.RFC3339)
	}
}

// whyAvoided returns a function that returns why the policy avoids the backend with index i, "" if it does not.
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
