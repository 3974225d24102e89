package lbmodule

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
)

// UnmarshalJSON reads the handler's config.
func (h *Handler) UnmarshalJSON(text []byte) error {
	type handler Handler // which has no such method
	return config.Ranges.Decode("", text, (*handler)(h))
}

// Check checks what can be known without loading other modules. Provision does so first of all; it is no
// Validate method because Caddy would call that after everything has been set up.
func (h *Handler) Check() error {
	if h.Name != "" {
		if err := config.ValidateName(h.Name); err != nil {
			return fmt.Errorf("name %q: %w", h.Name, err)
		}
	}
	if len(h.Upstreams) == 0 && len(h.Backends) == 0 && h.DynamicUpstreamsRaw == nil {
		return fmt.Errorf("upstreams: none given; a load balancer needs at least one backend")
	}
	if n := len(h.Upstreams) + len(h.Backends); n > config.MaxBackends {
		return fmt.Errorf("upstreams: %d given, with backends: must be at most %d", n, config.MaxBackends)
	}
	if i := slices.Index(h.Upstreams, nil); i >= 0 {
		return fmt.Errorf("upstreams: position %d is null", i)
	}
	for i, b := range h.Backends {
		if b == nil {
			return fmt.Errorf("backends: position %d is null", i)
		}
		if err := b.Validate(); err != nil {
			return err
		}
	}
	if err := config.CheckUnique(h.Backends); err != nil {
		return err
	}
	if err := h.Settings.Check(); err != nil {
		return err
	}
	if err := h.CheckWith(&h.Handler); err != nil {
		return err
	}
	if err := cmp.Or(checkResolvers("transport", h.TransportRaw), checkResolvers("dynamic_upstreams", h.DynamicUpstreamsRaw)); err != nil {
		return err
	}
	if h.HealthCheck != nil {
		if err := checkResolvers("health_check: transport", h.HealthCheck.TransportRaw); err != nil {
			return err
		}
	}
	if err := h.HealthCheck.CheckTransport(h.TransportRaw); err != nil {
		return caddyapp.About(err, "health_check grpc", "transport")
	}
	return h.checkHedge()
}

// checkResolvers checks that the module of that config, and those in it, have name servers to ask where they have a resolver: with
// none, Caddy's own panic when they look something up.
func checkResolvers(place string, raw json.RawMessage) error {
	var module struct {
		Resolver *struct {
			Addresses []json.RawMessage `json:"addresses"`
		} `json:"resolver"`
		Sources []json.RawMessage `json:"sources"`
	}
	if json.Unmarshal(raw, &module) != nil {
		return nil // loading it will tell what is wrong
	}
	if module.Resolver != nil && len(module.Resolver.Addresses) == 0 {
		return fmt.Errorf("%s: resolver: addresses: none given; there must be one at least", place)
	}
	for i, source := range module.Sources {
		if err := checkResolvers(fmt.Sprintf("%s: sources: position %d", place, i), source); err != nil {
			return err
		}
	}
	return nil
}

// loadPolicy loads the selection policy.
func (h *Handler) loadPolicy(ctx caddy.Context) (err error) {
	if h.policy, err = policies.Load(ctx, h.words.Policy); err != nil {
		return err
	}
	h.keyed, _ = h.policy.(policies.Keyed)
	h.sessions, _ = h.policy.(policies.SessionPolicy)
	h.untilLastByte = policies.UntilLastByte(h.policy)
	return nil
}

// BalancesLoad marks h for selection policies, of which some serve a load balancer in another way than a plain reverse_proxy.
func (*Handler) BalancesLoad() {}
