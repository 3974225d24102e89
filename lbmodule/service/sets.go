package service

import (
	"cmp"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// maxSets bounds the number of sets that are remembered for a source whose answers depend on the request.
const maxSets = 128

// sets finds the Set for a list of upstreams that was seen before, so that the policy keeps its state: a round robin that restarted at each
// request would send all requests to one backend.
type sets struct {
	service *Service

	mu      sync.Mutex
	known   []knownSet                    // most recently used first
	hosts   map[string]*reverseproxy.Host // by address; they hold the counters of passive checks
	watched bool                          // dead members are redialed
	closed  bool
}

type knownSet struct {
	hash       uint64
	list       []string          // addresses, in the order of the source
	properties []*config.Backend // of the same backends; nil if the source knows addresses only
	roster     *Roster
	edits      *manage.Edits // edits that the set was built with
	subset     uint64        // version of the subset that it was built with
	set        *Set
	end        func() // ends the redialing of dead members; nil if there is none
}

// stop stops redialing dead members of the set.
func (k *knownSet) stop() {
	if k.end != nil {
		k.end()
		k.end = nil
	}
}

var listSeed = maphash.MakeSeed()

// setOf returns the set for these upstreams.
func (m *sets) setOf(upstreams []*reverseproxy.Upstream) *Set {
	set, events := m.find(&found{list: upstreams})
	m.service.pool.Report(events)
	return set
}

// find is setOf for callers that hold a lock: it returns the events to report.
func (m *sets) find(all *found) (*Set, []pool.Event) {
	upstreams := all.list
	var hash maphash.Hash
	hash.SetSeed(listSeed)
	for _, u := range upstreams {
		_, _ = hash.WriteString(u.Dial)
		_ = hash.WriteByte(0)
	}
	sum := hash.Sum64()

	s := m.service
	edits, version := s.manager.Edits(), s.subset.version()
	m.mu.Lock()
	defer m.mu.Unlock()
	at := slices.IndexFunc(m.known, func(k knownSet) bool {
		return k.hash == sum && slices.EqualFunc(k.list, upstreams, func(a string, u *reverseproxy.Upstream) bool { return a == u.Dial }) &&
			slices.EqualFunc(k.properties, all.properties, discovery.Same)
	})
	if at >= 0 {
		k := m.known[at]
		copy(m.known[1:at+1], m.known[:at])
		m.known[0] = k
		if k.edits == edits && k.subset == version {
			return k.set, nil
		}
		m.known = m.known[1:]
		defer k.set.supersede()
		defer k.stop()
	}
	k := knownSet{hash: sum, list: make([]string, len(upstreams)), properties: all.properties, roster: m.roster(all), edits: edits, subset: version}
	for i, u := range upstreams {
		k.list[i] = u.Dial
	}
	var events []pool.Event
	settings := s.viewSettings(s.dynamic.isPolled())
	settings.Unnamed = !s.dynamic.isPolled()
	k.set, events = s.newSet(k.roster, settings)
	m.remember(k)
	return k.set, events
}

// remember records k as the most recently used set. The caller holds m.mu.
func (m *sets) remember(k knownSet) {
	if m.closed {
		// The config is being unloaded: the request is served, but its set is not remembered.
		k.set.close()
		return
	}
	if m.watched {
		k.end = m.service.redial(k.set, false)
	}
	m.known = slices.Insert(m.known, 0, k)
	most := maxSets
	if k.properties != nil {
		// Such lists are long, and a source rarely returns to an earlier one.
		most = 1
	}
	for i := most; i < len(m.known); i++ {
		m.known[i].set.close()
		m.known[i].stop()
	}
	if len(m.known) > most {
		clear(m.known[most:]) // frees the memory of large sets
		m.known = m.known[:most]
	}
	m.forgetHosts()
}

// latest returns the most recently used set, nil if there is none.
func (m *sets) latest() *Set {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) == 0 {
		return nil
	}
	return m.known[0].set
}

// config returns the backends of the n most recently used lists, as the source named them.
func (m *sets) config(n int) []overlay.Backend {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n == 1 && len(m.known) > 0 {
		return m.known[0].roster.config()
	}
	var all []overlay.Backend
	seen := make(map[string]bool)
	for _, k := range m.known[:min(n, len(m.known))] {
		for _, b := range k.roster.config() {
			if !seen[b.Address] {
				seen[b.Address] = true
				all = append(all, b)
			}
		}
	}
	return all
}

// roster builds the roster of these backends. A backend that is named twice gets the sum of both weights, unless a source gives it
// properties: then the first entry with properties applies.
func (m *sets) roster(all *found) *Roster {
	r := newRoster(len(all.list))
	_, weights := policies.WeightsByPosition(m.service.policy)
	var before *Roster
	if len(m.known) > 0 {
		before = m.known[0].roster
	}
	whole := make([]bool, 0, len(all.list)) // by position in r.backends: whether a source gives its properties
	for position, u := range all.list {
		made := pool.Backend{Address: u.Dial, Weight: policies.WeightAt(weights, position), MaxRequests: cmp.Or(u.MaxRequests, m.service.limit)}
		name, p := "", all.property(position)
		if p != nil {
			made.Backup, made.Zone, name = int(p.Backup), p.Zone, p.Name
			if made.Weight = 1; p.Weight != nil {
				made.Weight = *p.Weight
			}
		}
		i, twice := r.byAddress[u.Dial]
		switch {
		case !twice:
			upstream, target := before.twin(u.Dial, made.MaxRequests)
			if upstream == nil {
				upstream = &reverseproxy.Upstream{Host: m.host(u.Dial), Dial: u.Dial, MaxRequests: exact(made.MaxRequests)}
			}
			r.add(made, upstream, name)
			r.targets = append(r.targets, target)
			whole = append(whole, p != nil)
		case !whole[i] && p == nil:
			r.backends[i].Weight = min(r.backends[i].Weight+made.Weight, balance.MaxWeight)
		case !whole[i]:
			r.backends[i], whole[i] = made, true
			// Another set may have the upstream, too, so it is not changed.
			r.upstreams[i], r.targets[i] = &reverseproxy.Upstream{Host: m.host(u.Dial), Dial: u.Dial, MaxRequests: exact(made.MaxRequests)}, nil
			r.rename(u.Dial, name)
		}
	}
	for i, target := range r.targets {
		if target == nil {
			r.targets[i] = m.service.stock.NewTarget(r.upstreams[i])
		}
	}
	return r
}

func (m *sets) host(address string) *reverseproxy.Host {
	host := m.hosts[address]
	if host == nil {
		if m.hosts == nil {
			m.hosts = make(map[string]*reverseproxy.Host)
		}
		host = new(reverseproxy.Host)
		m.hosts[address] = host
	}
	return host
}

// forgetHosts drops the hosts that no set uses any more.
func (m *sets) forgetHosts() {
	if len(m.known) == 1 && len(m.hosts) == len(m.known[0].roster.backends) {
		return // all hosts are used
	}
	named := make(map[string]bool, len(m.hosts))
	for _, k := range m.known {
		for _, address := range k.list {
			named[address] = true
		}
	}
	for address := range m.hosts {
		if !named[address] {
			delete(m.hosts, address)
		}
	}
}

// close closes all sets and stops redialing their members.
func (m *sets) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.known {
		k.set.close()
	}
	m.known, m.closed = nil, true
}

// watch redials dead members of all sets.
func (m *sets) watch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watched = true
	for i := range m.known {
		k := &m.known[i]
		k.stop()
		k.end = m.service.redial(k.set, false)
	}
}

// stop undoes watch, except for sets with waiting requests.
func (m *sets) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watched = false
	for i := range m.known {
		k := &m.known[i]
		k.set.stop()
		k.stop()
	}
}

// CanPoll reports whether the source with this config answers the same for every request: it is of a known kind and uses no placeholders
// except those of the environment.
func CanPoll(raw json.RawMessage) bool {
	var source struct {
		Source  string            `json:"source"`
		Sources []json.RawMessage `json:"sources"`
	}
	if json.Unmarshal(raw, &source) != nil {
		return false
	}
	switch source.Source {
	case "lb_file", "lb_http":
		return true // they refuse other placeholders
	case "a", "srv":
		var settings any
		return json.Unmarshal(raw, &settings) == nil && !hasPlaceholder(settings, caddy.NewReplacer())
	case "multi":
		return !slices.ContainsFunc(source.Sources, func(s json.RawMessage) bool { return !CanPoll(s) })
	default:
		return false
	}
}

// hasPlaceholder reports whether a string in the JSON value holds a placeholder that the environment does not replace.
func hasPlaceholder(value any, environment *caddy.Replacer) bool {
	switch v := value.(type) {
	case string:
		return strings.Contains(environment.ReplaceKnown(v, ""), "{")
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return hasPlaceholder(e, environment) })
	case map[string]any:
		for _, e := range v {
			if hasPlaceholder(e, environment) {
				return true
			}
		}
	}
	return false
}
