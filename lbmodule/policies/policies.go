package policies

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

// Namespace is the namespace of selection policies.
const Namespace = "http.reverse_proxy.selection_policies"

// defaultPolicy is what a load balancer uses that was given no policy.
const defaultPolicy = "lb_peak_ewma"

// Balancer is a selection policy of ours. In a load balancer it is served by a policy of package balance, which
// sees only members that are eligible and knows exactly what each is doing. In a plain reverse_proxy its own
// Select is called, with what Caddy tells a policy: a list to be looked through at each request.
type Balancer interface {
	reverseproxy.Selector
	// BalancePolicy is the policy that serves it in a load balancer.
	BalancePolicy() balance.Policy
}

// Keyed is a policy that chooses by a key of the request.
type Keyed interface {
	// Key is the key of the request; it is not known where the request has none.
	Key(r *http.Request) pool.Key
	// KeyOf is the key of a request whose values are these, one at least.
	KeyOf(values []string) pool.Key
}

// SessionPolicy is a policy that keeps sessions at their backends: that of a request's session comes before what [Balancer] would
// have picked.
type SessionPolicy interface {
	Balancer
	// Strictly tells whether the requests of a session are served by its backend or not at all.
	Strictly() bool
	// Among returns what finds sessions among these backends.
	Among(upstreams reverseproxy.UpstreamPool) Sessions
	// Tells tells whether clients are told where their sessions are. Otherwise Tell is not called.
	Tells() bool
	// Tell tells a client, in the header of the answer, that its session is at the backend of that address.
	Tell(header http.Header, address string, r *http.Request)
}

// Sessions finds the backends of sessions among some. Many requests ask it at once.
type Sessions interface {
	// Find returns the position of the backend of the request's session, and whether there is one. signed tells that the request
	// belongs to a session of ours, whether or not its backend is among these.
	Find(r *http.Request) (position int, known, signed bool)
	// Stale tells whether a client that was told is to be told again, although its session stays where it is.
	Stale(r *http.Request) bool
}

// A policy of ours may have these methods, too.
type (
	// fallbackPolicy has another policy for requests without a key or a session.
	fallbackPolicy interface{ Fallback() reverseproxy.Selector }

	// positionWeights lists weights for backends by their position: weights that are not given with them.
	positionWeights interface{ PositionWeights() []int }

	// weightUser tells whether weights other than zero make a difference to it. They do to policies that say nothing.
	weightUser interface{ UsesWeights() bool }

	// lastByteTimer tells whether the time that an answer takes is the time to its end. To policies that say nothing it is that to
	// its header.
	lastByteTimer interface{ UntilLastByte() bool }

	// warner tells what in its settings works but hurts.
	warner interface{ Warnings() []string }
)

// loadBalancer marks a handler that has our policies served by package balance.
type loadBalancer interface{ BalancesLoad() }

// UsesWeights tells whether weights other than zero make a difference to the policy.
func UsesWeights(policy reverseproxy.Selector) bool {
	if p, ok := policy.(weightUser); ok {
		return p.UsesWeights()
	}
	_, ok := policy.(Balancer)
	return ok
}

// WeightsByPosition are the weights that the policy lists, or the one that chooses in its place, and what that is called; none if
// there are none.
func WeightsByPosition(policy reverseproxy.Selector) (name string, weights []int) {
	policy = chooser(policy)
	if p, ok := policy.(positionWeights); ok {
		return strings.TrimPrefix(Name(policy), "lb_"), p.PositionWeights()
	}
	return "", nil
}

// WeightAt is the weight of the backend at that position: 1 where there is no list, and 0 where the list is too short.
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

// UntilLastByte tells whether the time that an answer takes is the time to its end.
func UntilLastByte(policy reverseproxy.Selector) bool {
	p, ok := chooser(policy).(lastByteTimer)
	return ok && p.UntilLastByte()
}

// Warnings are about settings of the policy that work but hurt.
func Warnings(policy reverseproxy.Selector) []string {
	if p, ok := policy.(warner); ok {
		return p.Warnings()
	}
	return nil
}

// Name is the name of the policy's module, "" if it is none.
func Name(policy reverseproxy.Selector) string {
	if m, ok := policy.(caddy.Module); ok {
		return m.CaddyModule().ID.Name()
	}
	return ""
}

// Resolve returns the name of the module that serves the policy of that name in a load balancer:
// our own where there is one, with or without its prefix `lb_`.
func Resolve(name string) string {
	if _, err := caddy.GetModule(Namespace + ".lb_" + name); err == nil {
		return "lb_" + name
	}
	return name
}

// Names lists the policies of this build as they may be written in a load balancer.
func Names() []string {
	var names []string
	for _, m := range caddy.GetModules(Namespace) {
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
	return Resolve(name)
}

// IsServedByUs tells whether a policy of ours serves the policy of that name in a load balancer, as far as its name tells: for some of
// Caddy's it depends on their fallback. It is true for a name that no module has.
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

// chooser returns the policy that chooses where neither a key nor a session does: the innermost fallback.
func chooser(policy reverseproxy.Selector) reverseproxy.Selector {
	for { // bound: fallbacks are nested in a config that has an end
		p, ok := policy.(fallbackPolicy)
		if !ok {
			return policy
		}
		policy = p.Fallback()
	}
}

// Load loads the policy of that config, or the default one if it is nil, and returns what serves it in a load balancer: our own
// policies take the settings of the stock ones that they replace.
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

// adaptChoices turns the settings of Caddy's random_choose into those of the policy that serves it: in Caddy's, 0 means the default, and
// draws beyond the number of backends are ignored.
func adaptChoices(settings map[string]json.RawMessage) {
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

// loadFallback loads the policy for requests without a key or a session; none is the name of the policy to use where the config gives
// none.
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

// withFallback is the policy that picks by hash where there is a key, and as otherwise does where there is none.
func withFallback(hash balance.Hash, otherwise Balancer) balance.Policy {
	policy := otherwise.BalancePolicy()
	if both, ok := policy.(balance.WithFallback); ok {
		policy = both.Else // its keys are ours, too: see keyOr
	}
	return balance.WithFallback{Keyed: hash, Else: policy}
}

// keyOr returns key if it is known, and else the one that another policy has for the request, if it goes by keys.
func keyOr(key pool.Key, otherwise reverseproxy.Selector, r *http.Request) pool.Key {
	if k, ok := otherwise.(Keyed); ok && !key.Known {
		return k.Key(r)
	}
	return key
}

// inLoadBalancer tells whether the module that is provisioned belongs to a load balancer, and not to a plain reverse_proxy.
func inLoadBalancer(ctx caddy.Context) bool {
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
