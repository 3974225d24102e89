package lbmodule

import "fmt"

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
		return fmt.Errorf("max_fails %s: needs fail_duration, the time over which requests are counted", percent(h.MaxFailRatio))
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
