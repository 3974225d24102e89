package policies

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

func init() {
	caddy.RegisterModule(new(LeastConn))
}

// LeastConn selects the backend with the fewest requests in flight relative to its weight; ties are broken at random, by weight. In a
// load balancer it is exact: every choice sees all requests in flight, at a cost that grows with the logarithm of the number of backends.
// In a plain `reverse_proxy`, which does not tell policies when a request ends, each choice looks at all backends, and there are no
// weights.
type LeastConn struct {
	// Select, for a plain reverse_proxy, is Caddy's own.
	reverseproxy.LeastConnSelection
}

// CaddyModule returns the Caddy module information.
func (*LeastConn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_least_conn",
		New: func() caddy.Module { return new(LeastConn) },
	}
}

// BalancePolicy implements [Balancer].
func (*LeastConn) BalancePolicy() balance.Policy { return balance.LeastConn{} }

var _ Balancer = (*LeastConn)(nil)
