package policies

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

func init() {
	caddy.RegisterModule(new(PeakEWMA))
}

// PeakEWMA draws two backends at random, by weight, and selects the one that is expected to answer first, given how long its answers
// typically take and how many requests it has relative to its weight. It is the default of a load balancer.
//
// A slow page among many says nothing about the backend: a backend counts as slower only if most of its answers are, with statistical
// certainty. Otherwise the requests in flight decide. Failures, statuses of 500 and more, 429, and answers of 400 and more with
// `Retry-After` make a backend more expensive, and never faster. A backend that has not answered yet gets one request at a time until it
// has. One that is avoided is tried again now and then.
//
// It needs to know how requests end. A plain `reverse_proxy` does not tell policies, so the policy is refused there.
type PeakEWMA struct {
	// The end of the measured time: `first_byte`, the answer's header, or `last_byte`, for answers that take long to produce. Streams are
	// always measured to their header. Default: `first_byte`.
	Until string `json:"until,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*PeakEWMA) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_peak_ewma",
		New: func() caddy.Module { return new(PeakEWMA) },
	}
}

// UnmarshalCaddyfile sets p up from Caddyfile tokens: `lb_peak_ewma [first_byte|last_byte]`.
func (p *PeakEWMA) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	if !d.NextArg() {
		return nil
	}
	p.Until = d.Val()
	if d.NextArg() {
		return d.ArgErr()
	}
	if err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

const (
	firstByte = "first_byte"
	lastByte  = "last_byte"
)

func (p *PeakEWMA) check() error {
	switch p.Until {
	case "", firstByte, lastByte:
		return nil
	default:
		return fmt.Errorf("lb_policy peak_ewma %s: must be %s or %s", p.Until, firstByte, lastByte)
	}
}

// Provision checks the settings, and that p belongs to a load balancer.
func (p *PeakEWMA) Provision(ctx caddy.Context) error {
	if !inLoadBalancer(ctx) {
		return fmt.Errorf("lb_policy lb_peak_ewma: must be in a load_balancer: reverse_proxy does not tell a policy how requests end")
	}
	return p.check()
}

// Select implements [reverseproxy.Selector]. It is never called: see Provision.
func (*PeakEWMA) Select(reverseproxy.UpstreamPool, *http.Request, http.ResponseWriter) *reverseproxy.Upstream {
	return nil
}

// BalancePolicy implements [Balancer].
func (*PeakEWMA) BalancePolicy() balance.Policy { return balance.PeakEWMA{} }

// UntilLastByte reports whether answers are measured to their end.
func (p *PeakEWMA) UntilLastByte() bool { return p.Until == lastByte }

// Interface guards
var (
	_ Balancer              = (*PeakEWMA)(nil)
	_ caddy.Provisioner     = (*PeakEWMA)(nil)
	_ caddyfile.Unmarshaler = (*PeakEWMA)(nil)
)
