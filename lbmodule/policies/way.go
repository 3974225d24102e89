package policies

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Way is how a policy chooses, in a word.
type Way string

// The ways to choose.
const (
	ByOrder   Way = "order"   // the first
	ByTurn    Way = "turn"    // one after the other, in proportion to the weights
	ByChance  Way = "chance"  // in proportion to the weights
	ByScore   Way = "score"   // the lowest
	ByDraw    Way = "draw"    // the lowest score of some that are drawn by chance, in proportion to the weights
	ByKey     Way = "key"     // what the request is hashed by
	BySession Way = "session" // where the client was before
	ByOther   Way = "other"   // known to another module only
)

// WayOf returns how the policy chooses, and for those that go by something of the request how it chooses for requests without that: "" for
// others.
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
