package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

func init() {
	caddy.RegisterModule(new(First))
}

// First selects the first backend, in the order of the config, that is usable and has a free slot.
type First struct {
	// Select, for a plain reverse_proxy, is Caddy's own.
	reverseproxy.FirstSelection
}

// CaddyModule returns the Caddy module information.
func (*First) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_first",
		New: func() caddy.Module { return new(First) },
	}
}

// BalancePolicy implements [Balancer].
func (*First) BalancePolicy() balance.Policy { return balance.First{} }

// UsesWeights reports that weights make no difference.
func (*First) UsesWeights() bool { return false }

var _ Balancer = (*First)(nil)
