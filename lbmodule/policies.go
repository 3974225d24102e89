package lbmodule

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

const policyNamespace = "http.reverse_proxy.selection_policies"

// defaultPolicy is what a load balancer uses that was given no policy.
const defaultPolicy = "lb_least_conn"

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

// ours returns the settings of a stock policy as those of the policy of ours that serves it, where that is called otherwise.
func ours(name string, settings map[string]json.RawMessage) map[string]json.RawMessage {
	text := func(setting string) string {
		var value string
		_ = json.Unmarshal(settings[setting], &value) // the stock policy says what is wrong with it
		return value
	}
	key := ""
	switch name {
	case "random_choose":
		settings["policy"] = caddyconfig.JSON("lb_p2c", nil)
		return settings
	case "ip_hash":
		key = "http.request.remote.host"
	case "client_ip_hash":
		key = "http.vars.client_ip"
	case "uri_hash":
		key = "http.request.uri"
	case "query":
		if k := text("key"); k != "" {
			key = "http.request.uri.query." + k
		}
	case "header":
		if field := text("field"); field == "Host" {
			key = "http.request.hostport" // it is not among the fields
		} else if field != "" {
			key = "http.request.header." + field
		}
	}
	// What has a fallback of its own needs the stock policy for it, and a brace cannot be part of a placeholder.
	if key == "" || settings["fallback"] != nil || strings.ContainsAny(key, "{}") {
		settings["policy"] = caddyconfig.JSON(ResolvePolicy(name), nil)
		return settings
	}
	return map[string]json.RawMessage{
		"policy": caddyconfig.JSON("lb_hash", nil),
		"keys":   caddyconfig.JSON([]string{"{" + key + "}"}, nil),
	}
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
	h.LoadBalancing.SelectionPolicyRaw = caddyconfig.JSON(ours(name, settings), nil)

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
