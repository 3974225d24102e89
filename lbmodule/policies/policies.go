package policies

import (
	"context"
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

// Namespace is the namespace of selection policies.
const Namespace = "http.reverse_proxy.selection_policies"

// defaultPolicy is the policy of a load balancer that has none configured.
const defaultPolicy = "lb_peak_ewma"

// Balancer is a selection policy of ours. In a load balancer, a policy of package balance does its work, which sees only eligible members
// and knows the exact load of each. In a plain reverse_proxy its own Select is called, which gets a list to search at each request, as
// all of Caddy's policies do.
type Balancer interface {
	reverseproxy.Selector
	// BalancePolicy returns the policy that does the work in a load balancer.
	BalancePolicy() balance.Policy
}

// Keyed is a policy that chooses by a key of the request.
type Keyed interface {
	// Key returns the key of the request; known is false if the request has none.
	Key(r *http.Request) pool.Key
	// KeyOf returns the key of a request with these values, of which there must be at least one.
	KeyOf(values []string) pool.Key
}

// SessionPolicy is a policy that keeps sessions at their backends: the backend of a request's session takes precedence over the one that
// [Balancer] would pick.
type SessionPolicy interface {
	Balancer
	// Strictly reports whether the requests of a session are refused if its backend cannot serve them.
	Strictly() bool
	// Among returns the mapping from sessions to these backends.
	Among(upstreams reverseproxy.UpstreamPool) Sessions
	// Tells reports whether clients are informed of their session's backend. If not, Tell is not called.
	Tells() bool
	// Tell informs a client, in the answer's header, that its session is at the backend with this address.
	Tell(header http.Header, address string, r *http.Request)
}

// Sessions maps sessions to backends. It is safe for concurrent use.
type Sessions interface {
	// Find returns the position of the backend of the request's session, and whether there is one. signed reports whether the request
	// belongs to a session of ours, even if its backend is not in the list.
	Find(r *http.Request) (position int, known, signed bool)
	// Stale reports whether a client must be informed again although its session's backend stays the same.
	Stale(r *http.Request) bool
}

// Optional methods of a policy of ours.
type (
	// fallbackPolicy has another policy for requests without a key or session.
	fallbackPolicy interface{ Fallback() reverseproxy.Selector }

	// positionWeights lists weights for backends by position, as some policies have them in their own settings.
	positionWeights interface{ PositionWeights() []int }

	// weightUser says whether weights other than zero make a difference. Without the method they do.
	weightUser interface{ UsesWeights() bool }

	// lastByteTimer says whether answers are measured to their end. Without the method they are measured to their header.
	lastByteTimer interface{ UntilLastByte() bool }

	// warner warns of settings that are valid but harmful.
	warner interface{ Warnings() []string }
)

// loadBalancer marks a handler in which package balance does the work of our policies.
type loadBalancer interface{ BalancesLoad() }

// UsesWeights reports whether weights other than zero make a difference to the policy.
func UsesWeights(policy reverseproxy.Selector) bool {
	if p, ok := policy.(weightUser); ok {
		return p.UsesWeights()
	}
	_, ok := policy.(Balancer)
	return ok
}

// Traits returns what the policy requires of a request's course.
func Traits(policy reverseproxy.Selector) (t config.PolicyTraits) {
	_, ours := policy.(Balancer)
	_, t.Keyed = policy.(Keyed)
	t.Foreign, t.UntilLastByte = !ours, UntilLastByte(policy)
	if sessions, ok := policy.(SessionPolicy); ok {
		t.Sessions, t.Strict, t.BindSessions = true, sessions.Strictly(), sessions.Tells()
	}
	return t
}

// WeightsByPosition returns the weights that the policy, or its fallback that does the choosing, lists, and that policy's name; none if
// there is no list.
func WeightsByPosition(policy reverseproxy.Selector) (name string, weights []int) {
	policy = chooser(policy)
	if p, ok := policy.(positionWeights); ok {
		return strings.TrimPrefix(Name(policy), "lb_"), p.PositionWeights()
	}
	return "", nil
}

// WeightAt returns the weight of the backend at this position: 1 without a list, and 0 beyond the end of the list.
func WeightAt(weights []int, position int) int {
	switch {
	case len(weights) == 0:
		return 1
	case position < len(weights):
		return weights[position]
	default:
		return 0
	}
}

// UntilLastByte reports whether the policy measures answers to their end.
func UntilLastByte(policy reverseproxy.Selector) bool {
	p, ok := chooser(policy).(lastByteTimer)
	return ok && p.UntilLastByte()
}

// Warnings returns the warnings about valid but harmful settings of the policy.
func Warnings(policy reverseproxy.Selector) []string {
	if p, ok := policy.(warner); ok {
		return p.Warnings()
	}
	return nil
}

// Name returns the name of the policy's module, "" if it is not a module.
func Name(policy reverseproxy.Selector) string {
	if m, ok := policy.(caddy.Module); ok {
		return m.CaddyModule().ID.Name()
	}
	return ""
}

// Resolve returns the name of the module that is used for a policy's name in a load balancer: our own if there is one, with or without
// the prefix `lb_`.
func Resolve(name string) string {
	if _, err := caddy.GetModule(Namespace + ".lb_" + name); err == nil {
		return "lb_" + name
	}
	return name
}

// Names lists the policies of this build by the names to use in a load balancer.
func Names() []string {
	var names []string
	for _, m := range caddy.GetModules(Namespace) {
		names = append(names, strings.TrimPrefix(m.ID.Name(), "lb_"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// servedBy returns the name of the module that is used for a policy in a load balancer, even if ours has another name.
func servedBy(name string) string {
	if name == "random_choose" {
		return "lb_p2c"
	}
	return Resolve(name)
}

// IsServedByUs reports whether a policy of ours is used for this name in a load balancer. For some of Caddy's policies that also depends on
// their fallback, which is not considered. It is true for a name without a module.
func IsServedByUs(name string) bool {
	if isWord(name) {
		return true
	}
	info, err := caddy.GetModule(Namespace + "." + servedBy(name))
	if err != nil {
		return true
	}
	_, ours := info.New().(Balancer)
	return ours
}

// chooser returns the policy for requests with neither key nor session: the innermost fallback.
func chooser(policy reverseproxy.Selector) reverseproxy.Selector {
	for { // bound: a config nests fallbacks to a finite depth
		p, ok := policy.(fallbackPolicy)
		if !ok {
			return policy
		}
		policy = p.Fallback()
	}
}

// Load loads the policy with this config, or the default policy if it is nil, and returns the policy to use in a load balancer. A policy
// of ours that replaces one of Caddy's takes its settings.
func Load(ctx caddy.Context, raw json.RawMessage) (reverseproxy.Selector, error) {
	if raw == nil {
		raw = caddyconfig.JSON(map[string]string{"policy": defaultPolicy}, nil)
	}
	policy, err := loadSelector(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("selection_policy%w", err)
	}
	return policy, nil
}

// loadSelector loads a policy and returns the one to use. Its errors begin with the name; the caller puts the policy's role in front.
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
		adaptChoices(settings)
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

// adaptChoices converts the settings of Caddy's random_choose to those of the policy that replaces it: in Caddy's, 0 means the default,
// and draws beyond the number of backends are ignored.
func adaptChoices(settings map[string]json.RawMessage) {
	var n int
	switch err := json.Unmarshal(settings["choose"], &n); {
	case err != nil: // it is not set, or the replacing policy reports the error
	case n == 0:
		delete(settings, "choose")
	case n > config.MaxBackends:
		settings["choose"] = caddyconfig.JSON(config.MaxBackends, nil)
	}
}

// loadModule loads the policy with this name, without replacing it.
func loadModule(ctx caddy.Context, name string, settings map[string]json.RawMessage) (reverseproxy.Selector, error) {
	loaded, err := ctx.LoadModuleByID(Namespace+"."+name, caddyconfig.JSON(settings, nil))
	if err != nil {
		return nil, err
	}
	policy, ok := loaded.(reverseproxy.Selector)
	if !ok {
		return nil, fmt.Errorf("%T is not a selection policy", loaded)
	}
	return policy, nil
}

// loadFallback loads the policy for requests without a key or session; none is the name of the policy to use if the config has none.
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

// parseFallback parses `fallback <policy> [<options...>]`: a policy of ours, with or without the prefix, or any other.
func parseFallback(d *caddyfile.Dispenser, raw *json.RawMessage) error {
	if *raw != nil {
		return d.Err("fallback: given twice")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := Resolve(d.Val())
	if !IsServedByUs(name) {
		return d.Errf("fallback %s: must be one of the lb_ policies", d.Val())
	}
	given := d.Val()
	loaded, err := caddyfile.UnmarshalModule(d, Namespace+"."+name)
	if _, unknown := caddy.GetModule(Namespace + "." + name); unknown != nil {
		return fmt.Errorf("%w%s", err, config.DidYouMean(given, Names()...))
	}
	if err != nil {
		return err
	}
	*raw = caddyconfig.JSONModuleObject(loaded, "policy", name, nil)
	return nil
}

// withFallback returns the policy that picks by hash for requests with a key, and as otherwise does for the rest.
func withFallback(hash balance.Hash, otherwise Balancer) balance.Policy {
	policy := otherwise.BalancePolicy()
	if both, ok := policy.(balance.WithFallback); ok {
		policy = both.Else // otherwise contributes its keys, too: see keyOr
	}
	return balance.WithFallback{Keyed: hash, Else: policy}
}

// keyOr returns key if it is known, else the key that another policy has for the request, if that policy is [Keyed].
func keyOr(key pool.Key, otherwise reverseproxy.Selector, r *http.Request) pool.Key {
	if k, ok := otherwise.(Keyed); ok && !key.Known {
		return k.Key(r)
	}
	return key
}

// alone is the context key by which [LoadAlone] marks its context.
type alone struct{}

// LoadAlone is [Load] for a load balancer that is not in a config, such as a simulated one. cancel releases what the policy has started.
func LoadAlone(ctx context.Context, raw json.RawMessage) (policy reverseproxy.Selector, cancel func(), err error) {
	own, end := caddy.NewContext(caddy.Context{Context: context.WithValue(ctx, alone{}, true)})
	policy, err = Load(own, raw)
	return policy, end, err
}

// inLoadBalancer reports whether the module being provisioned belongs to a load balancer and not to a plain reverse_proxy.
func inLoadBalancer(ctx caddy.Context) bool {
	if ctx.Value(alone{}) != nil {
		return true
	}
	parents := ctx.Modules()
	for i := len(parents) - 1; i >= 0; i-- {
		switch parents[i].(type) {
		case loadBalancer:
			return true
		case *reverseproxy.Handler:
			return false
		}
	}
	return false
}
