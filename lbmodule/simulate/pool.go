package simulate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Pool is a load balancer to simulate: the relevant part of the JSON of `http.handlers.load_balancer`.
type Pool struct {
	Name          string            `json:"name"`
	Upstreams     []upstream        `json:"upstreams"`
	Backends      []*config.Backend `json:"backends"`
	Dynamic       json.RawMessage   `json:"dynamic_upstreams"`
	LoadBalancing loadBalancing     `json:"load_balancing"`
	HealthChecks  healthChecks      `json:"health_checks"`
	config.Settings
}

type upstream struct {
	Dial        string `json:"dial"`
	MaxRequests int    `json:"max_requests"`
}

type loadBalancing struct {
	Policy      json.RawMessage `json:"selection_policy"`
	Retries     int             `json:"retries"`
	TryDuration caddy.Duration  `json:"try_duration"`
	TryInterval caddy.Duration  `json:"try_interval"`
	RetryMatch  json.RawMessage `json:"retry_match"`
}

type healthChecks struct {
	Active  json.RawMessage `json:"active"`
	Passive *struct {
		Span        caddy.Duration `json:"fail_duration"`
		MaxFails    int            `json:"max_fails"`
		MaxRequests int            `json:"unhealthy_request_count"`
		Status      []int          `json:"unhealthy_status"`
		Latency     caddy.Duration `json:"unhealthy_latency"`
	} `json:"passive"`
}

// FindPools returns the load balancers in a Caddy config in JSON, in depth-first order with sorted keys.
func FindPools(text []byte) (pools []*Pool, err error) {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var look func(any)
	look = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				look(item)
			}
		case map[string]any:
			if v["handler"] == "load_balancer" {
				p := new(Pool)
				part, _ := json.Marshal(v) // it has just been decoded
				if bad := json.Unmarshal(part, p); bad != nil {
					err = cmp.Or(err, fmt.Errorf("load balancer %d: %w", len(pools)+1, bad))
				}
				pools = append(pools, p)
			}
			keys := make([]string, 0, len(v))
			for key := range v {
				keys = append(keys, key)
			}
			slices.Sort(keys)
			for _, key := range keys {
				look(v[key])
			}
		}
	}
	look(value)
	return pools, err
}

// Title returns the name of the pool, as far as it is known without Caddy.
func (p *Pool) Title() string {
	switch {
	case p.Name != "":
		return p.Name
	case len(p.Upstreams) > 0:
		return p.Upstreams[0].Dial
	case len(p.Backends) > 0:
		return p.Backends[0].Address
	case p.Dynamic != nil:
		return "dynamic"
	default:
		return "defaults"
	}
}

// NotSimulated returns the settings of the pool that a simulation leaves out.
func (p *Pool) NotSimulated() (words []string) {
	for _, part := range []struct {
		given bool
		word  string
	}{
		{p.HealthCheck != nil || p.HealthChecks.Active != nil, "health_check"},
		{p.Dynamic != nil, "dynamic"},
		{p.LoadBalancing.RetryMatch != nil, "lb_retry_match"},
		{p.DrainTimeout != 0, "drain_timeout"},
		{p.Mirror != nil, "mirror"},
		{p.ShadowPolicyRaw != nil, "shadow_policy"},
		{p.Canary != nil, "canary"},
	} {
		if part.given {
			words = append(words, part.word)
		}
	}
	return words
}

// balancing is a pool ready to be simulated.
type balancing struct {
	policy     policies.Balancer
	rules      course.Rules
	settings   pool.Settings
	tryTimeout time.Duration
	subset     *config.Subset // nil for none
	backends   []pool.Backend
	names      []string
}

// prepare checks the pool, and prepares it for a simulation. count is the number of backends if the pool names none. end must be called in
// every case.
func (p *Pool) prepare(ctx context.Context, count int) (b *balancing, end func(), err error) {
	if err := p.Check(); err != nil {
		return nil, func() {}, err
	}
	if _, err := p.ResolveZone(); err != nil {
		return nil, func() {}, err
	}
	policy, end, err := policies.LoadAlone(ctx, p.LoadBalancing.Policy)
	if err != nil {
		return nil, end, err
	}
	ours, ok := policy.(policies.Balancer)
	if !ok {
		return nil, end, fmt.Errorf("selection_policy %s: cannot be simulated; it must be one of: %s", policies.Name(policy), strings.Join(policies.Names(), ", "))
	}
	b = &balancing{policy: ours, subset: p.Subset, settings: p.View(p.Retry.ProbeTimeout()), tryTimeout: max(time.Duration(p.Retry.WithDefaults().TryTimeout), 0)}
	b.settings.Policy, b.settings.Dials = ours.BalancePolicy(), true
	p.setRules(b)
	return b, end, p.list(b, count)
}

// setRules fills in the rules for the course.
func (p *Pool) setRules(b *balancing) {
	lb := &p.LoadBalancing
	b.rules = p.Rules(config.RetryWords{
		Given:   lb.Retries != 0 || lb.TryDuration != 0 || lb.TryInterval != 0 || lb.RetryMatch != nil,
		Retries: lb.Retries, Duration: time.Duration(lb.TryDuration), Interval: time.Duration(lb.TryInterval),
	}, policies.Traits(b.policy))
	if passive := p.HealthChecks.Passive; passive != nil && passive.Span > 0 {
		b.settings.Passive = p.Passive(time.Duration(passive.Span), passive.MaxFails)
		b.rules.Passive = course.PassiveRules{On: true, Latency: time.Duration(passive.Latency), Status: passive.Status}
	}
}

// list fills in the backends. As in a running load balancer, an upstream that is listed twice is one backend with the sum of the weights.
func (p *Pool) list(b *balancing, count int) error {
	limit := int(p.Settings.MaxRequests)
	if passive := p.HealthChecks.Passive; passive != nil {
		limit = cmp.Or(limit, passive.MaxRequests)
	}
	places := make(map[string]int)
	var written []int // the backend at each position of the config
	add := func(backend pool.Backend, name string) {
		backend.MaxRequests = cmp.Or(backend.MaxRequests, limit)
		places[backend.Address] = len(b.backends)
		written = append(written, len(b.backends))
		b.backends, b.names = append(b.backends, backend), append(b.names, cmp.Or(name, backend.Address))
	}
	for _, u := range p.Upstreams {
		if at, twice := places[u.Dial]; twice {
			b.backends[at].Weight++
			written = append(written, at)
			continue
		}
		add(pool.Backend{Address: u.Dial, Weight: 1, MaxRequests: u.MaxRequests}, "")
	}
	for _, backend := range p.Backends {
		if err := backend.Validate(); err != nil {
			return err
		}
		if _, twice := places[backend.Address]; twice {
			return fmt.Errorf("backend %s: given twice", backend.Address)
		}
		weight := 1
		if backend.Weight != nil {
			weight = *backend.Weight
		}
		add(pool.Backend{Address: backend.Address, Weight: weight, MaxRequests: int(backend.MaxRequests), Backup: int(backend.Backup), Zone: backend.Zone}, backend.Name)
	}
	if len(b.backends) == 0 {
		for i := range count {
			add(pool.Backend{Address: "b" + strconv.Itoa(i+1), Weight: 1}, "")
		}
	}
	switch {
	case len(b.backends) == 0 && p.Dynamic != nil:
		return errors.New("count: missing; the pool's backends come from a dynamic source, so it must say how many there are")
	case len(b.backends) == 0:
		return errors.New("count: missing; the pool has no backends")
	case len(b.backends) > maxBackends:
		return fmt.Errorf("backends: %d: must be at most %d", len(b.backends), maxBackends)
	}
	return b.setWeights(written)
}

// setWeights sets the weights that the policy lists by position, if it lists any.
func (b *balancing) setWeights(written []int) error {
	name, weights := policies.WeightsByPosition(b.policy)
	if len(weights) == 0 {
		return nil
	}
	if len(weights) != len(written) {
		return fmt.Errorf("%s: %d weights for %d backends: there must be one for each", name, len(weights), len(written))
	}
	for i := range b.backends {
		b.backends[i].Weight = 0
	}
	for position, at := range written {
		b.backends[at].Weight += weights[position]
	}
	return nil
}
