package lbmodule

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// PoolSettings describes all that handlers which share a pool must agree on.
func (h *Handler) PoolSettings() (string, error) {
	described, err := json.Marshal(struct {
		Upstreams     reverseproxy.UpstreamPool
		Backends      []*config.Backend
		Dynamic       json.RawMessage
		LoadBalancing *reverseproxy.LoadBalancing
		HealthChecks  *reverseproxy.HealthChecks
		Transport     json.RawMessage
		Breaker       json.RawMessage
		Settings      config.Settings
	}{
		h.Upstreams, h.Backends, h.DynamicUpstreamsRaw, h.LoadBalancing, h.HealthChecks, h.TransportRaw, h.CBRaw, h.Settings,
	})
	if err != nil {
		return "", fmt.Errorf("describing pool: %w", err)
	}
	return string(described), nil
}

// derivedName is the name of a pool that was given none. It is as stable as can be under edits, because the
// state of the pool goes with it: that is why it does not name all backends.
func (h *Handler) derivedName() string {
	switch {
	case len(h.DynamicUpstreamsRaw) > 0:
		return dynamicName(h.DynamicUpstreamsRaw)
	case len(h.Upstreams) > 0:
		return h.Upstreams[0].Dial
	default:
		return h.Backends[0].Address
	}
}

// dynamicName names a pool after its dynamic source: its kind and what it looks up, where that shows.
func dynamicName(raw json.RawMessage) string {
	var source struct {
		Source  string          `json:"source"`
		Service string          `json:"service"`
		Proto   string          `json:"proto"`
		Name    string          `json:"name"`
		Port    json.RawMessage `json:"port"`
	}
	// A source of another shape, or a name that cannot be ours, is told from others by its hash.
	if err := json.Unmarshal(raw, &source); err == nil && source.Name != "" {
		name := source.Source + ":"
		if source.Service != "" || source.Proto != "" {
			name += "_" + source.Service + "._" + source.Proto + "."
		}
		name += source.Name
		if port := strings.Trim(string(source.Port), `"`); port != "" {
			name += ":" + port
		}
		if config.ValidateName(name) == nil {
			return name
		}
	}
	sum := fnv.New32a()
	sum.Write(raw)
	return fmt.Sprintf("dynamic:%08x", sum.Sum32())
}
