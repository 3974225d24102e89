package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
	"github.com/ballastlb/ballast/lbmodule/policies"
)

// found are the backends that a source has named.
type found struct {
	list       []*reverseproxy.Upstream
	properties []*config.Backend // of the same backends; nil, or nil elements, for sources that know addresses only
	from       *discovery.List   // nil if the source knows addresses only
}

// foundIn returns the backends of a list. For the list that was found last, it returns the existing ones.
func (s *polledSource) foundIn(whole *discovery.List) found {
	if s.from == whole {
		return s.found
	}
	f := found{from: whole, list: make([]*reverseproxy.Upstream, len(whole.Backends)), properties: make([]*config.Backend, len(whole.Backends))}
	upstreams := make([]reverseproxy.Upstream, len(whole.Backends))
	for i := range whole.Backends {
		b := &whole.Backends[i]
		upstreams[i] = reverseproxy.Upstream{Dial: b.Address, MaxRequests: int(b.MaxRequests)}
		f.list[i], f.properties[i] = &upstreams[i], b
	}
	return f
}

// add appends the backends of another source.
func (f *found) add(other *found) {
	if f.list == nil {
		*f = found{list: other.list[:len(other.list):len(other.list)], properties: other.properties[:len(other.properties):len(other.properties)]}
		return
	}
	if f.properties == nil && other.properties != nil {
		f.properties = make([]*config.Backend, len(f.list))
	}
	f.list = append(f.list, other.list...)
	switch {
	case other.properties != nil:
		f.properties = append(f.properties, other.properties...)
	case f.properties != nil:
		f.properties = append(f.properties, make([]*config.Backend, len(other.list))...)
	}
}

// property returns the properties of the backend at this position, nil if the source knows addresses only.
func (f *found) property(i int) *config.Backend {
	if f.properties == nil {
		return nil
	}
	return f.properties[i]
}

// unlisted is the error of a source that has no good list. It does not unwrap, because the wrapped error may be negative about a name (see
// isNegative) that is the name of a server and not of backends.
type unlisted struct{ err error }

func (e *unlisted) Error() string { return e.err.Error() }

// As finds a [discovery.ContentError].
func (e *unlisted) As(target any) bool {
	content, wanted := target.(**discovery.ContentError)
	if !wanted {
		return false
	}
	found, is := errors.AsType[*discovery.ContentError](e.err)
	if is {
		*content = found
	}
	return is
}

// fit returns an error if the list of s conflicts with the backends of the config and of the other sources: each name and each address must
// stand for one backend of the pool. The caller holds d.asking.
func (d *dynamicSource) fit(s *polledSource, answer *found) error {
	if answer.from == nil || answer.from == s.from {
		return nil
	}
	owners := make(map[string]string) // addresses of backends, by name and by address
	roster := d.service.roster
	total := len(answer.list) + len(roster.backends)
	for _, b := range roster.backends {
		owners[b.Address] = b.Address
		if name := roster.names[b.Address]; name != "" {
			owners[name] = b.Address
		}
	}
	for _, other := range d.polled {
		if other == s {
			continue
		}
		total += len(other.list)
		for i, u := range other.list {
			owners[u.Dial] = u.Dial
			if p := other.property(i); p != nil && p.Name != "" {
				owners[p.Name] = p.Address
			}
		}
	}
	if total > config.MaxBackends {
		return fmt.Errorf("%d targets: makes %d backends with those of the config and of other sources: must be at most %d", len(answer.list), total, config.MaxBackends)
	}
	if len(owners) == 0 {
		return nil
	}
	for _, p := range answer.properties {
		if owner, taken := owners[p.Address]; taken && owner != p.Address {
			return fmt.Errorf("target %s: must not be the name of another backend, and is that of %s", p.Address, owner)
		}
		if owner, taken := owners[p.Name]; taken && owner != p.Address {
			return fmt.Errorf("target %s: label name %q: must be unique, and stands for %s of the config or of another source", p.Address, p.Name, owner)
		}
	}
	return nil
}

// sourceID identifies the source with this config across reloads. The interval and the secrets are not part of it.
func sourceID(raw json.RawMessage) string {
	if location, ours := discovery.Location(raw); ours {
		return location
	}
	var multi struct {
		Sources []json.RawMessage `json:"sources"`
	}
	if !discovery.Uses(raw) || json.Unmarshal(raw, &multi) != nil {
		return string(raw)
	}
	var all []string
	for _, source := range multi.Sources {
		all = append(all, sourceID(source))
	}
	return strings.Join(all, "\n")
}

// HasLabels reports whether the source with this config gives backends properties, such as zones.
func HasLabels(raw json.RawMessage) bool { return discovery.Uses(raw) }

// displayName returns the name of a source in logs and in the API.
func displayName(raw json.RawMessage) string {
	if location, ours := discovery.Location(raw); ours {
		return location
	}
	return SourceName(raw)
}

// checkWeights refuses weights by position for backends from a list, which have labels for weights and no fixed order.
func (d *dynamicSource) checkWeights() error {
	name, weights := policies.WeightsByPosition(d.service.policy)
	if len(weights) == 0 {
		return nil
	}
	for _, s := range d.polled {
		if _, listed := s.source.(discovery.Source); listed {
			return fmt.Errorf("%s: lists weights by position, which backends of %s do not have; give them the label weight", name, s.name)
		}
	}
	return nil
}

// Discovery is the state of one of the sources of a polled dynamic source.
type Discovery struct {
	Source string
	OK     bool      // the backends in use are those of its latest answer
	Since  time.Time // since when OK has had its value
	Error  error     // what is wrong with its latest answer; nil if OK, and before the first answer
	Size   int       // number of its backends in use
}

// Discoveries describes the sources of a polled dynamic source; nil if there is none.
func (s *Service) Discoveries() (all []Discovery) {
	if !s.Polls() {
		return nil
	}
	d := s.dynamic
	d.publishing.Lock()
	defer d.publishing.Unlock()
	for _, p := range d.polled {
		all = append(all, Discovery{Source: p.name, OK: p.state == named, Since: p.since, Error: p.problem, Size: len(p.list)})
	}
	return all
}
