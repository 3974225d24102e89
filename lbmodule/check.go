package lbmodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// UnmarshalJSON reads the handler's config.
func (h *Handler) UnmarshalJSON(text []byte) error {
	type handler Handler // without this method
	return config.Ranges.Decode("", text, (*handler)(h))
}

// Check checks everything that can be checked without loading other modules. Provision calls it first. It is not
// called Validate, because Caddy would call that method only after Provision.
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
	if err := cmp.Or(h.CheckWith(&h.Handler), h.CheckSubset(h.DynamicUpstreamsRaw, service.CanPoll),
		h.CheckMirror(&h.Handler, h.Backends), h.CheckCanary(&h.Handler, h.Backends),
		caddyapp.About(policies.CheckShadow(h.ShadowPolicyRaw, h.policyRaw()), "shadow_policy")); err != nil {
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

// policyRaw returns the config of the selection policy; nil for the default.
func (h *Handler) policyRaw() json.RawMessage {
	if h.LoadBalancing == nil {
		return nil
	}
	return h.LoadBalancing.SelectionPolicyRaw
}

// checkResolvers checks that the resolver of a module, and those of its sources, have addresses: without any, Caddy's modules panic at the
// first look-up.
func checkResolvers(place string, raw json.RawMessage) error {
	var module struct {
		Resolver *struct {
			Addresses []json.RawMessage `json:"addresses"`
		} `json:"resolver"`
		Sources []json.RawMessage `json:"sources"`
	}
	if json.Unmarshal(raw, &module) != nil {
		return nil // loading the module returns the error
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

// checkHedge checks that requests can be copied, as far as the settings show: a copy has the headers made for the first backend, and
// third-party policies may write to the response while they choose.
func (h *Handler) checkHedge() error {
	if !h.Hedge.Enabled() {
		return nil
	}
	if lb := h.LoadBalancing; lb != nil && lb.SelectionPolicyRaw != nil {
		var policy struct {
			Name string `json:"policy"`
		}
		if json.Unmarshal(lb.SelectionPolicyRaw, &policy) == nil && !policies.IsServedByUs(policy.Name) {
			return caddyapp.About(errHedgePolicy(policy.Name), "hedge", "lb_policy")
		}
	}
	if transport := config.ReadTransport(h.TransportRaw); transport.Protocol == "http" {
		if transport.ProxyProtocol != "" {
			return caddyapp.About(errHedgeProxyProtocol, "hedge", "transport")
		}
		if name := transport.TLS.ServerName; dependsOnUpstream(name) {
			return caddyapp.About(fmt.Errorf("hedge: tls_server_name %s: must not depend on the upstream, because a hedged request may have two", name), "hedge", "transport")
		}
	}
	return caddyapp.About(h.checkHedgeHeaders(), "hedge", "header_up")
}

func (h *Handler) checkHedgeHeaders() error {
	if h.Headers == nil || h.Headers.Request == nil {
		return nil
	}
	ops := h.Headers.Request
	var values []string
	for _, header := range []http.Header{ops.Add, ops.Set} {
		for _, list := range header {
			values = append(values, list...)
		}
	}
	for _, list := range ops.Replace {
		for _, replacement := range list {
			values = append(values, replacement.Replace)
		}
	}
	for _, value := range values {
		if dependsOnUpstream(value) {
			return fmt.Errorf("hedge: request header %s: must not depend on the upstream, because a hedged request may have two", value)
		}
	}
	return nil
}

// checkHedgeModules checks the same for loaded modules: what third-party modules do is known only then.
func (h *Handler) checkHedgeModules(policy reverseproxy.Selector) error {
	if !h.Hedge.Enabled() {
		return nil
	}
	if _, ours := policy.(policies.Balancer); !ours {
		return errHedgePolicy(policies.Name(policy))
	}
	if h.stock.Transport.ProxyProtocolEnabled() {
		return errHedgeProxyProtocol
	}
	return nil
}

func errHedgePolicy(name string) error {
	return fmt.Errorf("hedge: selection policy %s: must be one of the lb_ policies", name)
}

var errHedgeProxyProtocol = errors.New("hedge: the transport uses the PROXY protocol, whose connections each belong to one client")

func dependsOnUpstream(text string) bool {
	return strings.Contains(text, "{http.reverse_proxy.upstream.")
}
