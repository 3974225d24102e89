package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

func init() {
	caddy.RegisterModule(new(RoundRobin))
}

// RoundRobin selects the backends one after the other. In a load balancer whose backends have different weights it works as
// `lb_weighted_round_robin`; a plain `reverse_proxy` has no weights.
type RoundRobin struct {
	// Select, for a plain reverse_proxy, is Caddy's own.
	reverseproxy.RoundRobinSelection
}

// CaddyModule returns the Caddy module information.
func (*RoundRobin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_round_robin",
		New: func() caddy.Module { return new(RoundRobin) },
	}
}

// BalancePolicy implements [Balancer].
func (*RoundRobin) BalancePolicy() balance.Policy { return balance.RoundRobin{} }

var _ Balancer = (*RoundRobin)(nil)
