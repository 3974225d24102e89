package lbmodule

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ballastlb/ballast/caddyapp"
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
	if h.NegativeTTL != nil && h.DynamicUpstreamsRaw == nil {
		return fmt.Errorf("negative_ttl %v: needs a dynamic source, whose backends it is about", display(*h.NegativeTTL))
	}
	if h.MaxFailRatio > 0 && (h.HealthChecks == nil || h.HealthChecks.Passive == nil || h.HealthChecks.Passive.FailDuration <= 0) {
		return caddyapp.About(fmt.Errorf("max_fails %s: needs fail_duration, the time over which requests are counted", percent(h.MaxFailRatio)), "max_fails")
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
		return caddyapp.About(err, "health_check grpc", "transport")
	}
	if err := h.checkHedge(); err != nil {
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
			caddyapp.About(atLeast("fail_duration", p.FailDuration, 0), "fail_duration"),
			caddyapp.About(atLeast("max_fails", p.MaxFails, 0), "max_fails"),
			caddyapp.About(atLeast("unhealthy_request_count", p.UnhealthyRequestCount, 0), "unhealthy_request_count"),
			caddyapp.About(atLeast("unhealthy_latency", p.UnhealthyLatency, 0), "unhealthy_latency"),
		); err != nil {
			return err
		}
	}
	return h.checkStockActive()
}

// checkStockActive checks reverse_proxy's active checks. It is one of them that is wrong if it is wrong by itself, too.
func (h *Handler) checkStockActive() error {
	all := fromStock(h.HealthChecks)
	if err := all.check(); err != nil {
		for _, alone := range []struct {
			check HealthCheck
			word  string
		}{
			{HealthCheck{URI: all.URI}, "health_uri"},
			{HealthCheck{Method: all.Method}, "health_method"},
			{HealthCheck{Headers: all.Headers}, "health_headers"},
			{HealthCheck{Status: all.Status}, "health_status"},
			{HealthCheck{ExpectBody: all.ExpectBody}, "health_body"},
			{HealthCheck{Port: all.Port}, "health_port"},
			{HealthCheck{Upstream: all.Upstream}, "health_upstream"},
			{HealthCheck{Interval: all.Interval}, "health_interval"},
			{HealthCheck{Timeout: all.Timeout}, "health_timeout"},
			{HealthCheck{Rise: all.Rise}, "health_passes"},
			{HealthCheck{Fall: all.Fall}, "health_fails"},
		} {
			if err := alone.check.check(); err != nil {
				return caddyapp.About(err, alone.word)
			}
		}
		return caddyapp.About(err, stockActiveWords...)
	}
	return nil
}

// stockActiveWords ask for reverse_proxy's active health checks.
var stockActiveWords = []string{
	"health_uri", "health_path", "health_port", "health_upstream", "health_interval", "health_timeout", "health_status", "health_body",
	"health_passes", "health_fails", "health_headers", "health_method", "health_request_body", "health_follow_redirects",
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
