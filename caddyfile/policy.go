package caddyfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule"
)

// policy is an lb_policy as it was given.
type policy struct {
	name   string // of the module
	module reverseproxy.Selector
	file   string
	line   int
}

const policyNamespace = "http.reverse_proxy.selection_policies"

// parsePolicy parses `lb_policy <name> [<options...>]`: a policy of ours, with or without its prefix, or
// any other that is compiled in.
func parsePolicy(d *caddyfile.Dispenser) (*policy, error) {
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	p := &policy{name: lbmodule.ResolvePolicy(d.Val()), file: d.File(), line: d.Line()}
	id := policyNamespace + "." + p.name
	if _, err := caddy.GetModule(id); err != nil {
		return nil, d.Errf("lb_policy %s: no such policy in this build; there are: %s", d.Val(), strings.Join(policyNames(), ", "))
	}
	segment := d.NextSegment()
	resolveFallbacks(segment)
	unmarshaled, err := caddyfile.UnmarshalModule(atFirst(segment), id)
	if err != nil {
		return nil, err
	}
	selector, ok := unmarshaled.(reverseproxy.Selector)
	if !ok {
		return nil, d.Errf("lb_policy %s: module %s (%T) is not a selection policy", p.name, id, unmarshaled)
	}
	p.module = selector
	return p, nil
}

// atFirst returns a dispenser that stands on the first of these tokens.
func atFirst(tokens []caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	return d
}

// resolveFallbacks has Caddy's own policies find a fallback of ours that is written without its prefix.
func resolveFallbacks(tokens []caddyfile.Token) {
	for i := 1; i < len(tokens); i++ {
		if tokens[i-1].Text != "fallback" {
			continue
		}
		if _, err := caddy.GetModule(policyNamespace + "." + tokens[i].Text); err != nil {
			tokens[i].Text = lbmodule.ResolvePolicy(tokens[i].Text)
		}
	}
}

// policyNames lists the policies as they may be written here.
func policyNames() []string {
	var names []string
	for _, m := range caddy.GetModules(policyNamespace) {
		names = append(names, strings.TrimPrefix(m.ID.Name(), "lb_"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// setPolicy puts the policy into the handler's JSON.
func (p *directiveParser) setPolicy() error {
	if w, ok := p.policy.module.(*lbmodule.WeightedRoundRobin); ok && len(w.Weights) > 0 {
		if err := p.orderWeights(w); err != nil {
			return fmt.Errorf("%w, at %s:%d", err, p.policy.file, p.policy.line)
		}
	}
	if p.h.LoadBalancing == nil {
		p.h.LoadBalancing = new(reverseproxy.LoadBalancing)
	}
	p.h.LoadBalancing.SelectionPolicyRaw = caddyconfig.JSONModuleObject(p.policy.module, "policy", p.policy.name, nil)
	return nil
}

// orderWeights brings weights given by position from the order of the Caddyfile, where backends with and without
// properties may alternate, into that of the JSON, where those with properties come last.
func (p *directiveParser) orderWeights(w *lbmodule.WeightedRoundRobin) error {
	for _, b := range p.h.Backends {
		if b.Weight != nil {
			return fmt.Errorf("lb_policy weighted_round_robin: backend %s has a weight, too; give weights in one place", b.Address)
		}
	}
	if p.h.DynamicUpstreamsRaw != nil {
		return nil
	}
	if len(w.Weights) != len(p.isOwn) {
		return fmt.Errorf("lb_policy weighted_round_robin: %d weights for %d backends: there must be one for each", len(w.Weights), len(p.isOwn))
	}
	var plain, own []int
	for i, weight := range w.Weights {
		if p.isOwn[i] {
			own = append(own, weight)
		} else {
			plain = append(plain, weight)
		}
	}
	w.Weights = slices.Concat(plain, own)
	return nil
}
