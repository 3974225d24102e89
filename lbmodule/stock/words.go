package stock

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// Words are the settings of the embedded reverse_proxy handler as plain values. They are read before anything else and share nothing
// with the handler, because loading its modules clears some of its fields.
type Words struct {
	Upstreams []Upstream
	Dynamic   json.RawMessage // the source of upstreams; nil for none
	Policy    json.RawMessage // the selection policy; nil for none
	Transport json.RawMessage // nil for the default one

	Active  *config.HealthCheck // nil for none
	Passive Passive
	// MaxRequests is the cap of upstreams that have none of their own; 0 for none.
	MaxRequests int

	TryDuration time.Duration // lb_try_duration; 0 if not set

	// Described holds all settings in which handlers that share a pool must agree. It is compared, and never parsed.
	Described json.RawMessage
}

// Upstream is a backend as reverse_proxy knows it.
type Upstream struct {
	Dial        string
	MaxRequests int // 0 for no cap of its own
}

// Passive are the settings of passive checks.
type Passive struct {
	Given    bool          // passive checks are configured
	Span     time.Duration // fail_duration
	MaxFails int           // 0 if not set
	Status   []int         // answers that are failures: statuses, or classes of statuses from 1 to 5
	Latency  time.Duration // an answer that takes this long is a failure; 0 disables this
}

// Read reads the settings of a handler that has been checked and not yet provisioned.
func Read(from *reverseproxy.Handler) (Words, error) {
	w := Words{Dynamic: slices.Clone(from.DynamicUpstreamsRaw), Transport: slices.Clone(from.TransportRaw), Active: config.StockHealthCheck(from.HealthChecks)}
	for _, u := range from.Upstreams {
		w.Upstreams = append(w.Upstreams, Upstream{u.Dial, u.MaxRequests})
	}
	if lb := from.LoadBalancing; lb != nil {
		w.Policy, w.TryDuration = slices.Clone(lb.SelectionPolicyRaw), time.Duration(lb.TryDuration)
	}
	if from.HealthChecks != nil && from.HealthChecks.Passive != nil {
		p := from.HealthChecks.Passive
		w.Passive = Passive{
			Given: true, Span: time.Duration(p.FailDuration), MaxFails: p.MaxFails,
			Status: slices.Clone(p.UnhealthyStatus), Latency: time.Duration(p.UnhealthyLatency),
		}
		w.MaxRequests = p.UnhealthyRequestCount
	}
	var err error
	w.Described, err = json.Marshal(struct {
		Upstreams     reverseproxy.UpstreamPool
		Dynamic       json.RawMessage
		LoadBalancing *reverseproxy.LoadBalancing
		HealthChecks  *reverseproxy.HealthChecks
		Transport     json.RawMessage
		Breaker       json.RawMessage
	}{from.Upstreams, from.DynamicUpstreamsRaw, from.LoadBalancing, from.HealthChecks, from.TransportRaw, from.CBRaw})
	if err != nil {
		return Words{}, fmt.Errorf("describing pool: %w", err)
	}
	return w, nil
}
