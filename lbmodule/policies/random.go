package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

func init() {
	caddy.RegisterModule(new(Random))
}

// Random selects a backend at random, by weight in a load balancer. A plain `reverse_proxy` has no weights.
type Random struct {
	// Select, for a plain reverse_proxy, is Caddy's own.
	reverseproxy.RandomSelection
}

// CaddyModule returns the Caddy module information.
func (*Random) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_random",
		New: func() caddy.Module { return new(Random) },
	}
}

// BalancePolicy implements [Balancer].
func (*Random) BalancePolicy() balance.Policy { return balance.Random{} }

var _ Balancer = (*Random)(nil)
