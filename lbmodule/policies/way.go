package policies

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Way is a word for how a policy chooses.
type Way string

// The ways to choose.
const (
	ByOrder   Way = "order"   // the first eligible one
	ByTurn    Way = "turn"    // one after the other, in proportion to the weights
	ByChance  Way = "chance"  // at random, in proportion to the weights
	ByScore   Way = "score"   // the lowest score
	ByDraw    Way = "draw"    // the lowest score of some that are drawn at random, in proportion to the weights
	ByKey     Way = "key"     // by the hash of a key of the request
	BySession Way = "session" // the backend of the client's session
	ByOther   Way = "other"   // known to another module only
)

// WayOf returns how the policy chooses. For a policy that uses a key or session of the request, otherwise is how it chooses for requests
// without one; it is "" for other policies.
func WayOf(policy reverseproxy.Selector) (way, otherwise Way) {
	if _, ours := policy.(Balancer); !ours {
		return ByOther, ""
	}
	if _, ok := policy.(SessionPolicy); ok {
		way = BySession
	} else if _, ok := policy.(Keyed); ok {
		way = ByKey
	}
	last, ok := chooser(policy).(Balancer)
	if !ok {
		return ByOther, "" // cannot happen: fallbacks are ours
	}
	chosen := ByOther
	switch last.BalancePolicy().(type) {
	case balance.First:
		chosen = ByOrder
	case balance.RoundRobin, balance.Smooth:
		chosen = ByTurn
	case balance.Random:
		chosen = ByChance
	case balance.LeastConn:
		chosen = ByScore
	case balance.Choices, balance.PeakEWMA:
		chosen = ByDraw
	}
	switch {
	case way == "":
		return chosen, ""
	case chosen == ByOther:
		return way, "" // it has no fallback, or one that goes by keys as well
	default:
		return way, chosen
	}
}
