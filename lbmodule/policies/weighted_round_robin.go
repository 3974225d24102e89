package policies

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
)

func init() {
	caddy.RegisterModule(new(WeightedRoundRobin))
}

// WeightedRoundRobin selects the backends in turn, each as often as its weight says, spread as evenly as the weights allow: with weights
// 5, 3 and 2 each hundred requests are shared 50, 30 and 20, and never go to one backend three times in a row. If a backend is missing,
// the others keep the ratio of their weights.
type WeightedRoundRobin struct {
	// The weights of the backends, by position; 0 to 65535 each. In a load balancer there must be one for each backend, unless the
	// backends come from a dynamic source: then backends without a weight are not used. Default: the weights of the backends; in a plain
	// `reverse_proxy`, all equal.
	Weights []int `json:"weights,omitempty"`

	turns balance.Scan // for a plain reverse_proxy
}

// CaddyModule returns the Caddy module information.
func (*WeightedRoundRobin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_weighted_round_robin",
		New: func() caddy.Module { return new(WeightedRoundRobin) },
	}
}

// UnmarshalJSON reads the policy's config.
func (p *WeightedRoundRobin) UnmarshalJSON(text []byte) error {
	type weighted WeightedRoundRobin
	return config.Ranges.Decode("lb_policy weighted_round_robin", text, (*weighted)(p))
}

// Validate checks the weights.
func (p *WeightedRoundRobin) Validate() error {
	for _, weight := range p.Weights {
		if err := config.ValidateWeight(weight); err != nil {
			return fmt.Errorf("weighted_round_robin: %w", err)
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy lb_weighted_round_robin [<weights...>]
func (p *WeightedRoundRobin) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	for d.NextArg() {
		weight, err := strconv.Atoi(caddy.NewReplacer().ReplaceKnown(d.Val(), ""))
		if err != nil {
			return d.Errf("weight %q: must be a number", d.Val())
		}
		if err := config.ValidateWeight(weight); err != nil {
			return d.WrapErr(err)
		}
		p.Weights = append(p.Weights, weight)
	}
	return nil
}

// Select chooses an upstream for a plain reverse_proxy, which has only weights by position.
func (p *WeightedRoundRobin) Select(upstreams reverseproxy.UpstreamPool, _ *http.Request, _ http.ResponseWriter) *reverseproxy.Upstream {
	i := p.turns.Pick(len(upstreams), func(i int) int {
		if !upstreams[i].Available() {
			return 0
		}
		return WeightAt(p.Weights, i)
	})
	if i < 0 {
		return nil
	}
	return upstreams[i]
}

// PositionWeights returns the weights in the config.
func (p *WeightedRoundRobin) PositionWeights() []int { return p.Weights }

// BalancePolicy implements [Balancer].
func (*WeightedRoundRobin) BalancePolicy() balance.Policy { return balance.Smooth{} }

var (
	_ Balancer              = (*WeightedRoundRobin)(nil)
	_ caddy.Validator       = (*WeightedRoundRobin)(nil)
	_ caddyfile.Unmarshaler = (*WeightedRoundRobin)(nil)
)
