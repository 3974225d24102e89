package policies

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
)

func init() {
	caddy.RegisterModule(new(P2C))
}

// P2C (the power of two choices) draws two backends at random, by weight, and selects the one with fewer requests in flight relative to
// its weight. It takes no lock, and a backend that looks idle, because it is new or fails fast, gets at most twice its share. `choose`
// sets the number of draws; it is also the setting of Caddy's `random_choose`, which works in the same way in a load balancer. A plain
// `reverse_proxy` has no weights.
type P2C struct {
	// Select, for a plain reverse_proxy, is Caddy's own.
	reverseproxy.RandomChoiceSelection
}

// CaddyModule returns the Caddy module information.
func (*P2C) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_p2c",
		New: func() caddy.Module { return new(P2C) },
	}
}

// UnmarshalJSON reads the policy's config.
func (p *P2C) UnmarshalJSON(text []byte) error {
	if err := config.Ranges.Decode("lb_policy p2c", text, &p.RandomChoiceSelection); err != nil {
		return err
	}
	return config.Ranges.Check("lb_policy p2c", &p.RandomChoiceSelection)
}

// UnmarshalCaddyfile sets p up from Caddyfile tokens: `lb_p2c [<draws>]`.
func (p *P2C) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	if !d.NextArg() {
		return nil
	}
	draws := config.Ranges.Of("lb_policy p2c.choose")
	n, err := strconv.Atoi(d.Val())
	if err != nil {
		return d.Errf("lb_policy p2c: choose %s: must be a whole number %s", d.Val(), draws)
	}
	if err := draws.Check(float64(n)); err != nil {
		return d.WrapErr(err)
	}
	p.Choose = n
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// BalancePolicy implements [Balancer].
func (p *P2C) BalancePolicy() balance.Policy { return balance.Choices{N: p.Choose} }

var _ Balancer = (*P2C)(nil)
