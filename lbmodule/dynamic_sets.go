package lbmodule

import (
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// maxSets bounds the lists of backends that are remembered for a source whose answer depends on the request.
const maxSets = 128

// memberSets finds the memberSet of a list of upstreams that was seen before, so that the policy goes on where
// it was: a round robin that began anew at each request would send all of them to one backend.
type memberSets struct {
	mu      sync.Mutex
	known   []knownSet                    // the most recently used first
	hosts   map[string]*reverseproxy.Host // by address; they hold what passive checks count
	watched bool                          // members are tried that are dead
	closed  bool
}

type knownSet struct {
	hash   uint64
	list   []string // addresses, in the order of the source
	roster *roster
	edits  *manage.Edits // that went into the set
	set    *memberSet
	stops  []func() // end that members are tried that are dead
}

// stop ends that members of the set are tried that are dead.
func (k *knownSet) stop() {
	for _, stop := range k.stops {
		stop()
	}
	k.stops = nil
}

var listSeed = maphash.MakeSeed()

// of returns the set of these upstreams.
func (s *memberSets) of(h *Handler, upstreams []*reverseproxy.Upstream) *memberSet {
	set, events := s.find(h, upstreams)
	h.pool.Report(events)
	return set
}

// find is of for those who hold a lock: it returns what there is to report.
func (s *memberSets) find(h *Handler, upstreams []*reverseproxy.Upstream) (*memberSet, []pool.Event) {
	var hash maphash.Hash
	hash.SetSeed(listSeed)
	for _, u := range upstreams {
		_, _ = hash.WriteString(u.Dial)
		_ = hash.WriteByte(0)
	}
	sum := hash.Sum64()

	edits := h.manager.Edits()
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.known, func(k knownSet) bool {
		return k.hash == sum && slices.EqualFunc(k.list, upstreams, func(a string, u *reverseproxy.Upstream) bool { return a == u.Dial })
	})
	if at >= 0 {
		k := s.known[at]
		copy(s.known[1:at+1], s.known[:at])
		s.known[0] = k
		if k.edits == edits {
			return k.set, nil
		}
		s.known = s.known[1:]
		defer k.set.supersede(h)
		defer k.stop()
	}
	k := knownSet{hash: sum, roster: s.roster(h, upstreams), edits: edits}
	for _, u := range upstreams {
		k.list = append(k.list, u.Dial)
	}
	var events []pool.Event
	settings := h.poolSettings(h.dynamic.isPolled())
	settings.Unnamed = !h.dynamic.isPolled()
	k.set, events = newMemberSet(h.pool, h.assemble(k.roster), settings)
	s.remember(h, k)
	return k.set, events
}

// remember keeps k as the most recently used. The caller holds s.mu.
func (s *memberSets) remember(h *Handler, k knownSet) {
	if s.closed {
		// The config is being unloaded; the request is served, nothing is remembered.
		k.set.close(h)
		return
	}
	if s.watched {
		k.stops = h.redial(k.set, false)
	}
	s.known = slices.Insert(s.known, 0, k)
	if len(s.known) > maxSets {
		s.known[maxSets].set.close(h)
		s.known[maxSets].stop()
		s.known = s.known[:maxSets:maxSets]
	}
	s.forgetHosts()
}

// latest is the set that was used last, nil if there is none.
func (s *memberSets) latest() *memberSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) == 0 {
		return nil
	}
	return s.known[0].set
}

// config returns the backends of the last n lists, as the source has named them.
func (s *memberSets) config(n int) []overlay.Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []overlay.Backend
	seen := make(map[string]bool)
	for _, k := range s.known[:min(n, len(s.known))] {
		for _, b := range k.roster.config() {
			if !seen[b.Address] {
				seen[b.Address] = true
				all = append(all, b)
			}
		}
	}
	return all
}

// roster makes the list of these upstreams; one that is named twice gets both shares.
func (s *memberSets) roster(h *Handler, upstreams []*reverseproxy.Upstream) *roster {
	r := &roster{byAddress: make(map[string]int, len(upstreams))}
	_, weights := policies.WeightsByPosition(h.policy)
	for position, u := range upstreams {
		weight := policies.WeightAt(weights, position)
		if i, twice := r.byAddress[u.Dial]; twice {
			r.backends[i].Weight = min(r.backends[i].Weight+weight, balance.MaxWeight)
			continue
		}
		limit := h.limit(u.MaxRequests)
		r.add(pool.Backend{Address: u.Dial, Weight: weight, MaxRequests: limit},
			&reverseproxy.Upstream{Host: s.host(u.Dial), Dial: u.Dial, MaxRequests: limit}, "")
	}
	return r
}

func (s *memberSets) host(address string) *reverseproxy.Host {
	host := s.hosts[address]
	if host == nil {
		if s.hosts == nil {
			s.hosts = make(map[string]*reverseproxy.Host)
		}
		host = new(reverseproxy.Host)
		s.hosts[address] = host
	}
	return host
}

// forgetHosts drops the hosts that no set knows any more.
func (s *memberSets) forgetHosts() {
	named := make(map[string]bool, len(s.hosts))
	for _, k := range s.known {
		for _, address := range k.list {
			named[address] = true
		}
	}
	for address := range s.hosts {
		if !named[address] {
			delete(s.hosts, address)
		}
	}
}

// close gives up all sets, whose members are not tried any more.
func (s *memberSets) close(h *Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.known {
		k.set.close(h)
	}
	s.known, s.closed = nil, true
}

// watch has the members of all sets tried when they are dead.
func (s *memberSets) watch(h *Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched = true
	for i := range s.known {
		k := &s.known[i]
		k.stop()
		k.stops = h.redial(k.set, false)
	}
}

// stop ends what watch began, but for the sets that requests wait with.
func (s *memberSets) stop(h *Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched = false
	for i := range s.known {
		k := &s.known[i]
		k.set.stop(h)
		k.stop()
	}
}

// canPoll tells whether the source of that config answers the same whatever the request: it is known for that,
// and has no placeholders but those of the environment.
func canPoll(raw json.RawMessage) bool {
	var source struct {
		Source  string            `json:"source"`
		Sources []json.RawMessage `json:"sources"`
	}
	if json.Unmarshal(raw, &source) != nil {
		return false
	}
	switch source.Source {
	case "a", "srv":
		var settings any
		return json.Unmarshal(raw, &settings) == nil && !hasPlaceholder(settings, caddy.NewReplacer())
	case "multi":
		return !slices.ContainsFunc(source.Sources, func(s json.RawMessage) bool { return !canPoll(s) })
	default:
		return false
	}
}

// hasPlaceholder tells whether a string in the JSON value holds a placeholder that the environment does not fill.
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
