package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
)

// ShadowNames lists the policies that can be a shadow policy, by the names to use in a load balancer.
func ShadowNames() []string {
	return slices.DeleteFunc(Names(), func(name string) bool { return checkShadowName(name) != nil })
}

// CheckShadow checks the config of a shadow policy, for a load balancer whose policy has the config policy. [LoadShadow] checks what only
// loading shows.
func CheckShadow(raw, policy json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var given struct {
		Name    string          `json:"policy"`
		Weights json.RawMessage `json:"weights"`
	}
	switch err := json.Unmarshal(raw, &given); {
	case err != nil:
		return fmt.Errorf("shadow_policy: must be an object with the name of a policy as `policy`: %w", err)
	case given.Name == "":
		return errors.New("shadow_policy: policy: missing; it must be the name of a policy")
	}
	if err := checkShadowName(given.Name); err != nil {
		return fmt.Errorf("%w; available: %s", err, strings.Join(ShadowNames(), ", "))
	}
	if Resolve(given.Name) == "lb_weighted_round_robin" && len(given.Weights) > 0 && string(given.Weights) != "null" {
		return errShadowWeights(given.Name)
	}
	own, inForce := chooserOf(raw), chooserOf(policy)
	until := Resolve(inForce.Name) == defaultPolicy && inForce.Until == lastByte
	if Resolve(own.Name) == defaultPolicy && (own.Until == lastByte) != until {
		return errShadowUntil(own.Name, until)
	}
	return nil
}

// chooserJSON is the part of the config of a policy, or of the innermost fallback, that says what it measures.
type chooserJSON struct {
	Name     string          `json:"policy"`
	Until    string          `json:"until"`
	Fallback json.RawMessage `json:"fallback"`
}

// chooserOf returns that part of a config. It ignores errors, which loading the policy reports.
func chooserOf(raw json.RawMessage) (c chooserJSON) {
	for json.Unmarshal(raw, &c) == nil && c.Fallback != nil { // bound: a config nests fallbacks to a finite depth
		raw, c = c.Fallback, chooserJSON{}
	}
	return c
}

func checkShadowName(name string) error {
	if isWord(name) && name != "cookie" {
		return nil
	}
	info, err := caddy.GetModule(Namespace + "." + servedBy(name))
	if err != nil {
		return fmt.Errorf("shadow_policy %s: no such policy in this build", name)
	}
	return checkShadow(name, info.New())
}

// checkShadow refuses policies whose decisions have an effect beyond the choice.
func checkShadow(name string, policy any) error {
	name = strings.TrimPrefix(name, "lb_")
	switch policy.(type) {
	case SessionPolicy, *reverseproxy.CookieHashSelection:
		return fmt.Errorf("shadow_policy %s: must be a policy without sessions, because sessions are stored at clients", name)
	case Balancer:
		return nil
	default:
		return fmt.Errorf("shadow_policy %s: must be one of the policies of this module, because others may write to answers", name)
	}
}

func errShadowWeights(name string) error {
	return fmt.Errorf("shadow_policy %s: must not list weights; both policies use those of the backends, so give them there", strings.TrimPrefix(name, "lb_"))
}

// errShadowUntil returns the error for a shadow policy that needs answers measured differently from the load balancer's policy. until says
// that they are measured until their last byte.
func errShadowUntil(name string, until bool) error {
	must := firstByte
	if until {
		must = lastByte
	}
	return fmt.Errorf("shadow_policy %s: must have %s, because answers are measured as lb_policy says", strings.TrimPrefix(name, "lb_"), must)
}

// LoadShadow loads the shadow policy with this config, for a load balancer with that policy. It returns nil if raw is nil.
func LoadShadow(ctx caddy.Context, raw json.RawMessage, inForce reverseproxy.Selector) (Balancer, error) {
	if raw == nil {
		return nil, nil
	}
	policy, err := loadSelector(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("shadow_policy%w", err)
	}
	name := strings.TrimPrefix(Name(policy), "lb_")
	for inner := policy; ; { // bound: a config nests fallbacks to a finite depth
		if err := checkShadow(name, inner); err != nil {
			return nil, fmt.Errorf("%w; available: %s", err, strings.Join(ShadowNames(), ", "))
		}
		outer, ok := inner.(fallbackPolicy)
		if !ok {
			break
		}
		inner = outer.Fallback()
	}
	if list, weights := WeightsByPosition(policy); len(weights) > 0 {
		return nil, errShadowWeights(list)
	}
	if _, measures := chooser(policy).(lastByteTimer); measures && UntilLastByte(policy) != UntilLastByte(inForce) {
		return nil, errShadowUntil(name, UntilLastByte(inForce))
	}
	return policy.(Balancer), nil
}

// ShadowOf returns the balance policy of the shadow policy; nil without one.
func ShadowOf(policy Balancer) balance.Policy {
	if policy == nil {
		return nil
	}
	return policy.BalancePolicy()
}

// ShadowTraits returns t with the traits of the shadow policy added.
func ShadowTraits(t config.PolicyTraits, shadow Balancer) config.PolicyTraits {
	_, t.ShadowKeyed = shadow.(Keyed)
	return t
}
