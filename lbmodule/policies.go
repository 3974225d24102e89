package lbmodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/pool"
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

// PolicyNames lists the policies of this build as they may be written in a load balancer.
func PolicyNames() []string {
	var names []string
	for _, m := range caddy.GetModules(policyNamespace) {
		names = append(names, strings.TrimPrefix(m.ID.Name(), "lb_"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// servedBy returns the name of the module that serves a policy in a load balancer, also where ours is called otherwise.
func servedBy(name string) string {
	if name == "random_choose" {
		return "lb_p2c"
	}
	return ResolvePolicy(name)
}

// isServedByUs tells whether a policy of ours serves the policy of that name in a load balancer, as far as its name tells: for some of
// Caddy's it depends on their fallback. It is true of names that there are not.
func isServedByUs(name string) bool {
	if isWord(name) {
		return true
	}
	info, err := caddy.GetModule(policyNamespace + "." + servedBy(name))
	if err != nil {
		return true
	}
	_, ours := info.New().(balancer)
	return ours
}

// spreads is the policy that chooses where nothing else says who: of those that go by a key or a session their fallback.
func (h *Handler) spreads() reverseproxy.Selector {
	policy := h.policy
	for { // bound: fallbacks are nested in a config that has an end
		switch p := policy.(type) {
		case *Hash:
			policy = p.otherwise
		case *Sticky:
			policy = p.otherwise
		case *word:
			policy = p.otherwise
		default:
			return policy
		}
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
	policy, err := loadSelector(ctx, raw)
	if err != nil {
		return fmt.Errorf("selection_policy%w", err)
	}
	h.policy = policy
	h.LoadBalancing.SelectionPolicyRaw = nil // or reverse_proxy would load it, too
	return nil
}

// loadSelector loads a policy and returns what serves it. Its errors begin with the name, to be put behind what the policy is for.
func loadSelector(ctx caddy.Context, raw json.RawMessage) (reverseproxy.Selector, error) {
	var settings map[string]json.RawMessage
	var name string
	if err := json.Unmarshal(raw, &settings); err != nil {
		return nil, fmt.Errorf(": %w", err)
	}
	if err := json.Unmarshal(settings["policy"], &name); err != nil {
		return nil, fmt.Errorf(": policy: must be the name of a policy: %w", err)
	}
	delete(settings, "policy")
	if name == "random_choose" {
		takeStockChoices(settings)
	}
	if inLoadBalancer(ctx) {
		if policy, err := loadWord(ctx, name, settings); policy != nil || err != nil {
			return policy, err
		}
	}
	policy, err := loadModule(ctx, servedBy(name), settings)
	if err != nil {
		return nil, fmt.Errorf(" %s: %w", name, err)
	}
	return policy, nil
}

// takeStockChoices makes of Caddy's random_choose what serves it takes: there 0 is as if it were left out, and more draws than
// there are backends are as many as there are.
func takeStockChoices(settings map[string]json.RawMessage) {
	var n int
	switch err := json.Unmarshal(settings["choose"], &n); {
	case err != nil: // it is not there, or what serves it says what is wrong
	case n == 0:
		delete(settings, "choose")
	case n > config.MaxBackends:
		settings["choose"] = caddyconfig.JSON(config.MaxBackends, nil)
	}
}

// loadModule loads the policy of that name and nothing else.
func loadModule(ctx caddy.Context, name string, settings map[string]json.RawMessage) (reverseproxy.Selector, error) {
	loaded, err := ctx.LoadModuleByID(policyNamespace+"."+name, caddyconfig.JSON(settings, nil))
	if err != nil {
		return nil, err
	}
	policy, ok := loaded.(reverseproxy.Selector)
	if !ok {
		return nil, fmt.Errorf("%T is not a selection policy", loaded)
	}
	return policy, nil
}

// loadFallback loads the policy for requests that another one has nothing to go by for; none is the name of the one where nothing is
// said about that.
func loadFallback(ctx caddy.Context, raw json.RawMessage, none string) (reverseproxy.Selector, error) {
	if raw == nil {
		raw = caddyconfig.JSON(map[string]string{"policy": none}, nil)
	}
	policy, err := loadSelector(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("fallback%w", err)
	}
	return policy, nil
}

// parseFallback parses `fallback <policy> [<options...>]`: a policy of ours, with or without its prefix, or any other.
func parseFallback(d *caddyfile.Dispenser, raw *json.RawMessage) error {
	if *raw != nil {
		return d.Err("fallback: given twice")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := ResolvePolicy(d.Val())
	if !isServedByUs(name) {
		return d.Errf("fallback %s: must be one of the lb_ policies", d.Val())
	}
	given := d.Val()
	loaded, err := caddyfile.UnmarshalModule(d, policyNamespace+"."+name)
	if _, unknown := caddy.GetModule(policyNamespace + "." + name); unknown != nil {
		return fmt.Errorf("%w%s", err, DidYouMean(given, PolicyNames()...))
	}
	if err != nil {
		return err
	}
	*raw = caddyconfig.JSONModuleObject(loaded, "policy", name, nil)
	return nil
}

// withFallback is the policy that picks by hash where there is a key, and as otherwise does where there is none.
func withFallback(hash balance.Hash, otherwise balancer) balance.Policy {
	policy := otherwise.balancePolicy()
	if both, ok := policy.(balance.WithFallback); ok {
		policy = both.Else // its keys are ours, too: see keyOr
	}
	return balance.WithFallback{Keyed: hash, Else: policy}
}

// keyOr returns key if it is known, and else the one that another policy has for the request, if it goes by keys.
func keyOr(key pool.Key, otherwise reverseproxy.Selector, r *http.Request) pool.Key {
	if k, ok := otherwise.(keyed); ok && !key.Known {
		return k.key(r)
	}
	return key
}
