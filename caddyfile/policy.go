package caddyfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
	"github.com/ballastlb/ballast/lbmodule/policies"
)

// policy is an lb_policy as configured.
type policy struct {
	name   string // of the module
	module reverseproxy.Selector
	last   caddyfile.Token // the policy, or the innermost fallback
}

const policyNamespace = "http.reverse_proxy.selection_policies"

// parsePolicy parses `lb_policy <name> [<options...>]`, or another word with the same syntax. The policy is one of ours, with or without
// its prefix, or any other that is compiled in.
func parsePolicy(d *caddyfile.Dispenser) (*policy, error) {
	word, names := d.Val(), policies.Names()
	if word == "shadow_policy" {
		names = policies.ShadowNames()
	}
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	p := &policy{name: policies.Resolve(d.Val()), last: d.Token()}
	id := policyNamespace + "." + p.name
	if _, err := caddy.GetModule(id); err != nil {
		err := d.Errf("%s %s: no such policy in this build; available: %s", word, d.Val(), strings.Join(names, ", "))
		if here := policyElsewhere(d.Val()); here != "" && slices.Contains(names, here) {
			return nil, fmt.Errorf("%w; did you mean %s?", err, here)
		}
		return nil, fmt.Errorf("%w%s", err, config.DidYouMean(d.Val(), names...))
	}
	segment := d.NextSegment()
	p.resolveFallbacks(segment)
	unmarshaled, err := caddyfile.UnmarshalModule(atFirst(segment), id)
	if err != nil {
		return nil, err
	}
	selector, ok := unmarshaled.(reverseproxy.Selector)
	if !ok {
		return nil, d.Errf("%s %s: module %s (%T) is not a selection policy", word, p.name, id, unmarshaled)
	}
	p.module = selector
	return p, nil
}

// resolveFallbacks adds the prefix to fallbacks of ours within Caddy's own policies.
func (p *policy) resolveFallbacks(tokens []caddyfile.Token) {
	for i := 1; i < len(tokens); i++ {
		if tokens[i-1].Text != "fallback" {
			continue
		}
		p.last = tokens[i]
		if _, err := caddy.GetModule(policyNamespace + "." + tokens[i].Text); err != nil {
			tokens[i].Text = policies.Resolve(tokens[i].Text)
		}
	}
}

// setPolicy sets the policy in the handler's JSON.
func (p *directiveParser) setPolicy() error {
	raw, err := p.orderWeights(caddyconfig.JSONModuleObject(p.policy.module, "policy", p.policy.name, nil))
	if err != nil {
		return errorAt(p.policy.last, err)
	}
	if p.h.LoadBalancing == nil {
		p.h.LoadBalancing = new(reverseproxy.LoadBalancing)
	}
	p.h.LoadBalancing.SelectionPolicyRaw = raw
	return nil
}

// orderWeights reorders the weights of a policy or its fallback, which are given by position, from the order of the Caddyfile, where
// backends with and without properties may alternate, to that of the JSON, where those with properties are last.
func (p *directiveParser) orderWeights(policy json.RawMessage) (json.RawMessage, error) {
	var settings map[string]json.RawMessage
	var known struct {
		Name     string          `json:"policy"`
		Weights  json.RawMessage `json:"weights"`
		Fallback json.RawMessage `json:"fallback"`
	}
	if json.Unmarshal(policy, &settings) != nil || json.Unmarshal(policy, &known) != nil {
		return policy, nil // another plugin's policy checks its own weights
	}
	var err error
	switch {
	case known.Fallback != nil:
		settings["fallback"], err = p.orderWeights(known.Fallback)
	case policies.Resolve(known.Name) == "lb_weighted_round_robin" && known.Weights != nil:
		var weights []int
		if err := json.Unmarshal(known.Weights, &weights); err != nil {
			return nil, fmt.Errorf("lb_policy weighted_round_robin: weights: %w", err)
		}
		weights, err = p.ordered(weights)
		settings["weights"] = caddyconfig.JSON(weights, nil)
	default:
		return policy, nil
	}
	return caddyconfig.JSON(settings, nil), err
}

// ordered returns the weights in the order of the backends in the JSON.
func (p *directiveParser) ordered(weights []int) ([]int, error) {
	for _, b := range p.h.Backends {
		if b.Weight != nil {
			return nil, fmt.Errorf("lb_policy weighted_round_robin: backend %s has a weight, too; give weights in one place", b.Address)
		}
	}
	if discovery.Uses(p.h.DynamicUpstreamsRaw) {
		return nil, errors.New("lb_policy weighted_round_robin: lists weights by position, which backends of dynamic file and http do not have; give them the label weight")
	}
	if p.h.DynamicUpstreamsRaw != nil {
		return weights, nil
	}
	if len(weights) != len(p.isOwn) {
		return nil, fmt.Errorf("lb_policy weighted_round_robin: %d weights for %d backends: there must be one for each", len(weights), len(p.isOwn))
	}
	var plain, own []int
	for i, weight := range weights {
		if p.isOwn[i] {
			own = append(own, weight)
		} else {
			plain = append(plain, weight)
		}
	}
	return slices.Concat(plain, own), nil
}
