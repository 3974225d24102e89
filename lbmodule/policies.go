package lbmodule

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

const policyNamespace = "http.reverse_proxy.selection_policies"

// defaultPolicy is what a load balancer uses that was given no policy.
const defaultPolicy = "lb_peak_ewma"

// balancer is a selection policy of ours. In a load balancer it is served by a policy of package balance, which
// sees only members that are eligible and knows exactly what each is doing. In a plain reverse_proxy its own
// Select is called, with what Caddy tells a policy: a list to be looked through at each request.
type balancer interface {
	reverseproxy.Selector
	balancePolicy() balance.Policy
}

// usesWeights tells whether weights other than zero make a difference to the policy.
func usesWeights(policy reverseproxy.Selector) bool {
	if _, ok := policy.(*First); ok {
		return false
	}
	_, ok := policy.(balancer)
	return ok
}

// ResolvePolicy returns the name of the module that serves the policy of that name in a load balancer:
// our own where there is one, with or without its prefix `lb_`.
func ResolvePolicy(name string) string {
	if _, err := caddy.GetModule(policyNamespace + ".lb_" + name); err == nil {
		return "lb_" + name
	}
	return name
}

// servedBy returns the name of the module that serves a policy in a load balancer, also where ours is called otherwise.
func servedBy(name string) string {
	if name == "random_choose" {
		return "lb_p2c"
	}
	return ResolvePolicy(name)
}

// loadPolicy loads the selection policy. Our own policies take the settings of the stock ones they replace.
func (h *Handler) loadPolicy(ctx caddy.Context) error {
	if h.LoadBalancing == nil {
		h.LoadBalancing = new(reverseproxy.LoadBalancing)
	}
	raw := h.LoadBalancing.SelectionPolicyRaw
	if raw == nil {
		raw = caddyconfig.JSON(map[string]string{"policy": defaultPolicy}, nil)
	}
	var settings map[string]json.RawMessage
	var name string
	if err := json.Unmarshal(raw, &settings); err != nil {
		return fmt.Errorf("selection_policy: %w", err)
	}
	if err := json.Unmarshal(settings["policy"], &name); err != nil {
		return fmt.Errorf("selection_policy: policy: must be the name of a policy: %w", err)
	}
	settings["policy"] = caddyconfig.JSON(servedBy(name), nil)
	h.LoadBalancing.SelectionPolicyRaw = caddyconfig.JSON(settings, nil)

	loaded, err := ctx.LoadModule(h.LoadBalancing, "SelectionPolicyRaw")
	if err != nil {
		return fmt.Errorf("selection_policy %s: %w", name, err)
	}
	policy, ok := loaded.(reverseproxy.Selector)
	if !ok {
		return fmt.Errorf("selection_policy %s: %T is not a selection policy", name, loaded)
	}
	h.policy = policy
	return nil
}
