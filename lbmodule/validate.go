package lbmodule

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Check checks what can be known without loading other modules. Provision does so first of all; it is no
// Validate method because Caddy would call that after everything has been set up.
func (h *Handler) Check() error {
	if h.Name != "" {
		if err := ValidateName(h.Name); err != nil {
			return fmt.Errorf("name %q: %w", h.Name, err)
		}
	}
	if len(h.Upstreams) == 0 && len(h.Backends) == 0 && h.DynamicUpstreamsRaw == nil {
		return fmt.Errorf("upstreams: none given; a load balancer needs at least one backend")
	}
	if n := len(h.Upstreams) + len(h.Backends); n > MaxBackends {
		return fmt.Errorf("upstreams: %d given, with backends: must be at most %d", n, MaxBackends)
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
	if err := CheckUnique(h.Backends); err != nil {
		return err
	}
	if err := h.Settings.Check(); err != nil {
		return err
	}
	if err := h.ConflictsWith(&h.Handler); err != nil {
		return err
	}
	if h.MaxFailRatio > 0 && (h.HealthChecks == nil || h.HealthChecks.Passive == nil || h.HealthChecks.Passive.FailDuration <= 0) {
		return fmt.Errorf("max_fails %s: needs fail_duration, the time over which requests are counted", percent(h.MaxFailRatio))
	}
	if err := first(checkResolvers("transport", h.TransportRaw), checkResolvers("dynamic_upstreams", h.DynamicUpstreamsRaw)); err != nil {
		return err
	}
	if h.HealthCheck != nil {
		if err := checkResolvers("health_check: transport", h.HealthCheck.TransportRaw); err != nil {
			return err
		}
	}
	if err := h.HealthCheck.checkTransport(h.TransportRaw); err != nil {
		return err
	}
	return h.checkStock()
}

// checkStock checks reverse_proxy's own health checks as reverse_proxy does, and that they can be made.
func (h *Handler) checkStock() error {
	if h.HealthChecks == nil {
		return nil
	}
	if p := h.HealthChecks.Passive; p != nil {
		if err := first(
			atLeast("fail_duration", p.FailDuration, 0), atLeast("max_fails", p.MaxFails, 0),
			atLeast("unhealthy_request_count", p.UnhealthyRequestCount, 0), atLeast("unhealthy_latency", p.UnhealthyLatency, 0),
		); err != nil {
			return err
		}
	}
	return fromStock(h.HealthChecks).check()
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

// CheckUnique checks that no two backends go by the same address or name.
func CheckUnique(backends []*Backend) error {
	addresses := make(map[string]bool)
	names := make(map[string]string) // to the address of the one that has it
	for _, b := range backends {
		if addresses[b.Address] {
			return fmt.Errorf("backend %s: given twice", b.Address)
		}
		addresses[b.Address] = true
		name := b.Name
		if name == "" {
			name = b.Address
		}
		if owner, taken := names[name]; taken {
			return fmt.Errorf("backend %s: name %s: stands for backend %s already", b.Address, name, owner)
		}
		names[name] = b.Address
	}
	return nil
}
