package lbmodule

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// roster is the list of a handler's backends, those in `upstreams` and those in `backends` together.
type roster struct {
	backends  []pool.Backend
	upstreams reverseproxy.UpstreamPool // the same backends, as reverse_proxy knows them
	names     []string                  // and what they are called

	// positions maps the order in which backends were given to an index of the lists above. It is longer
	// than they are when an upstream was given twice.
	positions []int
	byAddress map[string]int
}

// makeRoster merges the handler's backends. Upstreams given twice become one, with the weights of both.
func (h *Handler) makeRoster() (*roster, error) {
	r := &roster{byAddress: make(map[string]int)}
	// What the environment fills in is the same for every request; filled in here, the address can be checked.
	environment := caddy.NewReplacer()
	for _, word := range h.words.Upstreams {
		u := &reverseproxy.Upstream{Dial: environment.ReplaceKnown(word.Dial, ""), MaxRequests: word.MaxRequests}
		if err := config.ValidateAddress(u.Dial); err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Dial, err)
		}
		if u.MaxRequests < 0 {
			return nil, fmt.Errorf("upstream %s: max_requests %d: must not be negative", u.Dial, u.MaxRequests)
		}
		u.MaxRequests = h.limit(u.MaxRequests)
		if at, twice := r.byAddress[u.Dial]; twice {
			h.logger.Warn("upstream given more than once; its weights are added", zap.String("upstream", u.Dial))
			r.repeat(at, u)
			continue
		}
		r.add(pool.Backend{Address: u.Dial, Weight: 1, MaxRequests: u.MaxRequests, Unchecked: config.IsTemplate(u.Dial)}, u, "")
	}
	for _, b := range h.Backends {
		address := environment.ReplaceKnown(b.Address, "")
		if err := config.ValidateAddress(address); err != nil {
			return nil, fmt.Errorf("backend %s: address: %w", address, err)
		}
		if _, twice := r.byAddress[address]; twice {
			return nil, fmt.Errorf("backend %s: address: given more than once; weight and other properties belong to one place", address)
		}
		weight := 1
		if b.Weight != nil {
			weight = *b.Weight
		}
		limit := h.limit(b.MaxRequests)
		r.add(pool.Backend{Address: address, Weight: weight, MaxRequests: limit, Backup: int(b.Backup), Zone: b.Zone, Unchecked: config.IsTemplate(address)},
			&reverseproxy.Upstream{Dial: address, MaxRequests: limit}, b.Name)
	}
	// Names go with addresses in one list: a name that is the address of another backend would stand for both.
	for i, name := range r.names {
		if at, is := r.byAddress[name]; is && at != i {
			return nil, fmt.Errorf("backend %s: name %s: is the address of another backend", r.backends[i].Address, name)
		}
	}
	return r, nil
}

// add appends a backend. Without a name of its own it goes by its address.
func (r *roster) add(b pool.Backend, u *reverseproxy.Upstream, name string) {
	if name == "" {
		name = b.Address
	}
	r.names = append(r.names, name)
	r.byAddress[b.Address] = len(r.backends)
	r.positions = append(r.positions, len(r.backends))
	r.backends = append(r.backends, b)
	r.upstreams = append(r.upstreams, u)
}

// repeat merges another mention of the backend at index at. As in reverse_proxy, one mention without a cap
// lets every request through.
func (r *roster) repeat(at int, u *reverseproxy.Upstream) {
	r.positions = append(r.positions, at)
	b := &r.backends[at]
	b.Weight++
	if b.MaxRequests == 0 || u.MaxRequests == 0 {
		b.MaxRequests = 0
	} else {
		b.MaxRequests = max(b.MaxRequests, u.MaxRequests)
	}
	r.upstreams[at].MaxRequests = b.MaxRequests
}

// limit is the cap of a backend that asks for own. As in reverse_proxy, unhealthy_request_count stands in where
// a backend has none.
func (h *Handler) limit(own int) int {
	if own == 0 {
		return h.words.MaxRequests
	}
	return own
}

// setWeights gives the backends the weights that the policy lists by position, if it lists any.
func (h *Handler) setWeights(r *roster) error {
	name, weights := policies.WeightsByPosition(h.policy)
	if len(weights) == 0 {
		return nil
	}
	for _, b := range h.Backends {
		if b.Weight != nil {
			return fmt.Errorf("backend %s: weight %d: %s lists weights, too; give them in one place", b.Address, *b.Weight, name)
		}
	}
	// Backends that a dynamic source will name cannot be counted.
	if h.words.Dynamic == nil && len(weights) != len(r.positions) {
		return fmt.Errorf("%s: %d weights for %d backends: there must be one for each", name, len(weights), len(r.positions))
	}
	for i := range r.backends {
		r.backends[i].Weight = 0
	}
	for k, at := range r.positions {
		r.backends[at].Weight = min(r.backends[at].Weight+policies.WeightAt(weights, k), balance.MaxWeight)
	}
	return nil
}

// warn notes settings that work but hurt: in the log, and for the API.
func (h *Handler) warn(r *roster) {
	warn := func(text string, fields ...zap.Field) {
		h.logger.Warn(text, append(fields, zap.String("pool", h.pool.Name()))...)
		h.warnings = append(h.warnings, text)
	}
	weight, unequal := 0, false
	for _, b := range r.backends {
		unequal = unequal || (b.Weight > 0 && weight > 0 && b.Weight != weight)
		weight = max(weight, b.Weight)
	}
	if len(r.backends) > 0 && weight == 0 {
		warn("all weights are zero: no backend will be used")
	}
	if c := h.active; c != nil {
		if c.Timeout >= c.Interval {
			warn("health check timeout is not below its interval: a slow answer delays the next probe",
				zap.Duration("timeout", time.Duration(c.Timeout)), zap.Duration("interval", time.Duration(c.Interval)))
		}
		if len(r.backends) == 1 && h.words.Dynamic == nil {
			warn("health check of an only backend: it is used whatever the check says, unless it cannot be reached")
		}
		if c.Port != 0 && c.Upstream == "" && slices.ContainsFunc(r.backends, func(b pool.Backend) bool {
			a, err := caddy.ParseNetworkAddress(b.Address)
			return err == nil && stock.IsSocket(a.Network)
		}) {
			warn("health check port is not used for backends at sockets, which are checked there", zap.Int("port", c.Port))
		}
		if h.words.Dynamic != nil && !canPoll(h.words.Dynamic) {
			warn("backends of this dynamic source depend on the request and are not checked actively")
		}
	}
	if h.Queue.Enabled() && h.words.MaxRequests == 0 && h.words.Dynamic == nil &&
		!slices.ContainsFunc(r.backends, func(b pool.Backend) bool { return b.MaxRequests > 0 }) {
		warn("queue without max_requests: no backend is ever full, so that no request waits")
	}
	if h.Hold != nil && h.words.TryDuration > 0 {
		warn("hold is ignored: lb_try_duration says how long requests wait")
	}
	if zone := h.PreferZone; zone != "" && !slices.ContainsFunc(r.backends, func(b pool.Backend) bool { return b.Zone == zone }) {
		h.logger.Warn("no backend is in the preferred zone", zap.String("pool", h.pool.Name()), zap.String("zone", zone))
	}
	for _, text := range policies.Warnings(h.policy) {
		warn(text)
	}
	if unequal && !policies.UsesWeights(h.policy) {
		warn("the selection policy does not look at weights")
	}
}
