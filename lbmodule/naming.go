package lbmodule

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const maxNameLength = 128

// ValidateName checks that s can be the name of a pool, a backend or a zone. Names go into metrics, paths, logs
// and pages; what could mean something there is refused here once. Every address without placeholders
// is a legal name.
func ValidateName(s string) error {
	if s == "" || len(s) > maxNameLength {
		return fmt.Errorf("must have 1 to %d bytes", maxNameLength)
	}
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.ContainsRune("._:/@[]~+-", c):
		default:
			return fmt.Errorf("must be of letters, digits and ._:/@[]~+-, not %q", c)
		}
	}
	return nil
}

// PoolSettings describes all that handlers which share a pool must agree on.
func (h *Handler) PoolSettings() (string, error) {
	described, err := json.Marshal(struct {
		Upstreams     reverseproxy.UpstreamPool
		Backends      []*Backend
		Dynamic       json.RawMessage
		LoadBalancing *reverseproxy.LoadBalancing
		HealthChecks  *reverseproxy.HealthChecks
		Transport     json.RawMessage
		Breaker       json.RawMessage
		Settings      Settings
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
		if ValidateName(name) == nil {
			return name
		}
	}
	sum := fnv.New32a()
	sum.Write(raw)
	return fmt.Sprintf("dynamic:%08x", sum.Sum32())
}
