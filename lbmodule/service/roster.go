package service

import (
	"cmp"
	"fmt"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Roster is the list of a config's backends: those in `upstreams` and those in `backends`.
type Roster struct {
	backends  []pool.Backend
	upstreams reverseproxy.UpstreamPool // the same backends, as reverse_proxy knows them
	targets   []*stock.Target           // the same backends, as attempts need them; nil for backends of the config
	names     map[string]string         // by address, of backends that have a name; the others are known by their address

	// positions maps the order in which backends were written in the config to an index of the lists above, if an upstream was written
	// twice; nil if that order is the one of the lists.
	positions []int
	byAddress map[string]int
}

// NewRoster merges upstreams and backends. An upstream that is listed twice becomes one backend with the sum of the weights. As in
// reverse_proxy, limit (unhealthy_request_count) caps the backends that have no cap of their own.
func NewRoster(upstreams []stock.Upstream, backends []*config.Backend, limit int, logger *zap.Logger) (*Roster, error) {
	r := newRoster(len(upstreams) + len(backends))
	// Environment variables are the same for every request. Replacing them here allows the address to be checked.
	environment := caddy.NewReplacer()
	for _, word := range upstreams {
		u := &reverseproxy.Upstream{Dial: environment.ReplaceKnown(word.Dial, ""), MaxRequests: word.MaxRequests}
		if err := config.ValidateAddress(u.Dial); err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Dial, err)
		}
		if u.MaxRequests < 0 {
			return nil, fmt.Errorf("upstream %s: max_requests %d: must not be negative", u.Dial, u.MaxRequests)
		}
		most := cmp.Or(u.MaxRequests, limit)
		u.MaxRequests = exact(most)
		if at, twice := r.byAddress[u.Dial]; twice {
			logger.Warn("upstream given more than once; its weights are added", zap.String("upstream", u.Dial))
			r.repeat(at, most)
			continue
		}
		r.add(pool.Backend{Address: u.Dial, Weight: 1, MaxRequests: most, Unchecked: config.IsTemplate(u.Dial)}, u, "")
	}
	for _, b := range backends {
		address := environment.ReplaceKnown(b.Address, "")
		if err := config.ValidateAddress(address); err != nil {
			return nil, fmt.Errorf("backend %s: address: %w", address, err)
		}
		if _, twice := r.byAddress[address]; twice {
			return nil, fmt.Errorf("backend %s: address: given more than once; set weight and other properties in one place", address)
		}
		weight := 1
		if b.Weight != nil {
			weight = *b.Weight
		}
		most := cmp.Or(int(b.MaxRequests), limit)
		r.add(pool.Backend{Address: address, Weight: weight, MaxRequests: most, Backup: int(b.Backup), Zone: b.Zone, Unchecked: config.IsTemplate(address)},
			&reverseproxy.Upstream{Dial: address, MaxRequests: exact(most)}, b.Name)
	}
	// Names and addresses must be unique together: a name that is another backend's address would be ambiguous.
	for _, b := range r.backends {
		if name := r.names[b.Address]; name != b.Address && r.Has(name) {
			return nil, fmt.Errorf("backend %s: name %s: is the address of another backend", b.Address, name)
		}
	}
	return r, nil
}

func newRoster(size int) *Roster {
	return &Roster{
		backends: make([]pool.Backend, 0, size), upstreams: make(reverseproxy.UpstreamPool, 0, size),
		byAddress: make(map[string]int, size),
	}
}

// Backends returns the backends with their weights.
func (r *Roster) Backends() []pool.Backend { return r.backends }

// Upstreams returns the same backends as reverse_proxy's type.
func (r *Roster) Upstreams() reverseproxy.UpstreamPool { return r.upstreams }

// Named returns the backends with their addresses, zones and names only.
func (r *Roster) Named() []config.Backend {
	all := make([]config.Backend, len(r.backends))
	for i, b := range r.backends {
		all[i] = config.Backend{Address: b.Address, Zone: b.Zone, Name: r.names[b.Address]}
	}
	return all
}

// Has reports whether one of the backends has that address.
func (r *Roster) Has(address string) bool {
	_, is := r.byAddress[address]
	return is
}

// twin returns the objects that r has for the backend with this address and cap, nil if it has none. r may be nil.
func (r *Roster) twin(address string, maxRequests int) (*reverseproxy.Upstream, *stock.Target) {
	if r == nil {
		return nil, nil
	}
	if i, is := r.byAddress[address]; is && r.upstreams[i].MaxRequests == exact(maxRequests) {
		return r.upstreams[i], r.targets[i]
	}
	return nil, nil
}

// add appends a backend, whose name may be empty.
func (r *Roster) add(b pool.Backend, u *reverseproxy.Upstream, name string) {
	r.rename(b.Address, name)
	r.byAddress[b.Address] = len(r.backends)
	if r.positions != nil {
		r.positions = append(r.positions, len(r.backends))
	}
	r.backends = append(r.backends, b)
	r.upstreams = append(r.upstreams, u)
}

// rename gives a backend a name. It does nothing if name is empty; the backend is then known by its address.
func (r *Roster) rename(address, name string) {
	if name == "" {
		return
	}
	if r.names == nil {
		r.names = make(map[string]string)
	}
	r.names[address] = name
}

// repeat merges a repeated backend into the one at index at. As in reverse_proxy, one entry without a cap removes the cap.
func (r *Roster) repeat(at, most int) {
	if r.positions == nil {
		for i := range r.backends {
			r.positions = append(r.positions, i)
		}
	}
	r.positions = append(r.positions, at)
	b := &r.backends[at]
	b.Weight++
	switch {
	case b.MaxRequests == 0 || most == 0:
		b.MaxRequests = 0
	default:
		b.MaxRequests = max(b.MaxRequests, most) // Auto is less than any other value
	}
	r.upstreams[at].MaxRequests = exact(b.MaxRequests)
}

// exact returns the cap that reverse_proxy's placeholders show: 0 for an adaptive one.
func exact(most int) int {
	if most == pool.Auto {
		return 0
	}
	return most
}

// SetWeights sets the weights that the policy lists by position, if it lists any. backends are those that may have their own weights;
// dynamic says that a dynamic source will add more.
func (r *Roster) SetWeights(policy reverseproxy.Selector, backends []*config.Backend, dynamic bool) error {
	name, weights := policies.WeightsByPosition(policy)
	if len(weights) == 0 {
		return nil
	}
	for _, b := range backends {
		if b.Weight != nil {
			return fmt.Errorf("backend %s: weight %d: %s lists weights, too; give them in one place", b.Address, *b.Weight, name)
		}
	}
	written := len(r.backends)
	if r.positions != nil {
		written = len(r.positions)
	}
	// The number of backends from a dynamic source is not known.
	if !dynamic && len(weights) != written {
		return fmt.Errorf("%s: %d weights for %d backends: there must be one for each", name, len(weights), written)
	}
	for i := range r.backends {
		r.backends[i].Weight = 0
	}
	for k := range written {
		at := k
		if r.positions != nil {
			at = r.positions[k]
		}
		r.backends[at].Weight = min(r.backends[at].Weight+policies.WeightAt(weights, k), balance.MaxWeight)
	}
	return nil
}

// config returns the backends as [overlay.Backend].
func (r *Roster) config() []overlay.Backend {
	all := make([]overlay.Backend, len(r.backends))
	for i, b := range r.backends {
		all[i] = overlay.Backend{Address: b.Address, Name: cmp.Or(r.names[b.Address], b.Address), Settings: overlay.Settings{
			Weight: b.Weight, MaxRequests: b.MaxRequests, Backup: b.Backup, Zone: b.Zone, State: overlay.Ready,
		}}
	}
	return all
}
