package lbmodule

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// memberSet is a list of backends to choose from: those of the config, or those that a dynamic source named
// together.
type memberSet struct {
	view      *pool.View
	upstreams reverseproxy.UpstreamPool // by position in view
	targets   []*stock.Target           // the same, or nil

	superseded chan struct{} // closed when another set is in its place
	lifetime   lifetime

	eligible atomic.Pointer[eligibleUpstreams]
	sign     sync.Once // makes sessions, when they are asked for first
	sessions policies.Sessions
}

// sessionsOf returns what finds the backends of sessions in the set.
func (s *memberSet) sessionsOf(policy policies.SessionPolicy) policies.Sessions {
	s.sign.Do(func() { s.sessions = policy.Among(s.upstreams) })
	return s.sessions
}

// eligibleUpstreams are the upstreams of a snapshot's eligible members.
type eligibleUpstreams struct {
	of   *pool.Snapshot
	list reverseproxy.UpstreamPool
}

// newMemberSet makes the set of these backends. It returns what there is to report when no lock is held.
func newMemberSet(p *pool.Pool, a assembly, settings pool.Settings) (*memberSet, []pool.Event) {
	view, events := p.OpenQuietly(a.backends, settings)
	return &memberSet{view: view, upstreams: a.upstreams, targets: a.targets, superseded: make(chan struct{})}, events
}

// supersede gives the set up, because another one is in its place.
func (s *memberSet) supersede(h *Handler) {
	close(s.superseded)
	s.close(h)
}

// find returns the position of the backend of that address, -1 if it is not in the set.
func (s *memberSet) find(address string) int {
	return slices.IndexFunc(s.upstreams, func(u *reverseproxy.Upstream) bool { return u.Dial == address })
}

// targetOf returns a choice as attempts need it. That of a policy which comes up with upstreams of its own is made anew.
func (s *memberSet) targetOf(p *stock.Handler, c choice) *stock.Target {
	if c.lease.Held() {
		if i := c.lease.Index(); i < len(s.targets) && s.targets[i].Upstream == c.upstream {
			return s.targets[i]
		}
	}
	return p.NewTarget(c.upstream)
}

// acquire chooses a backend by policy, preferably none of tried, and reserves a slot on it; safe tells that the request
// may be made again if that fails.
func (s *memberSet) acquire(policy reverseproxy.Selector, key pool.Key, tried []int, safe bool, r *http.Request, w http.ResponseWriter) (choice, error) {
	if _, ours := policy.(policies.Balancer); !ours {
		return s.chooseBy(policy, tried, safe, r, w)
	}
	lease, err := s.view.AcquireFor(key, tried, safe)
	if err != nil {
		return choice{}, err
	}
	return choice{s.upstreams[lease.Index()], lease}, nil
}

// chooseBy has a policy that is not ours choose among the eligible upstreams.
func (s *memberSet) chooseBy(policy reverseproxy.Selector, tried []int, safe bool, r *http.Request, w http.ResponseWriter) (choice, error) {
	snapshot := s.view.Snapshot()
	all := s.eligibleList()
	if lease, ok := s.view.AcquireProbe(tried, safe); ok {
		return choice{s.upstreams[lease.Index()], lease}, nil
	}
	if len(all) == 0 {
		if snapshot.Held() {
			return choice{}, pool.ErrHeld
		}
		return choice{}, pool.ErrNone
	}
	candidates := all
	if len(tried) > 0 {
		candidates = slices.DeleteFunc(slices.Clone(all), func(u *reverseproxy.Upstream) bool {
			return slices.ContainsFunc(tried, func(i int) bool { return s.upstreams[i] == u })
		})
		if len(candidates) == 0 {
			candidates = all
		}
	}
	// Each turn but the last takes a candidate away that has no free slot, or that is being ramped up and left out
	// this time: such policies know no weights that could be lowered.
	for len(candidates) > 0 {
		u := policy.Select(candidates, r, w)
		if u == nil {
			break
		}
		i := slices.Index(s.upstreams, u)
		if i < 0 {
			return choice{upstream: u}, nil
		}
		passedOver := len(candidates) > 1 && rand.Float64() >= snapshot.Warmth(i)
		if !passedOver {
			if lease, ok := s.view.AcquireMember(i); ok {
				return choice{u, lease}, nil
			}
		}
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(c *reverseproxy.Upstream) bool { return c == u })
	}
	return choice{}, pool.ErrFull
}

// eligibleList returns the upstreams that may be chosen now, in the order of the config.
func (s *memberSet) eligibleList() reverseproxy.UpstreamPool {
	snapshot := s.view.Snapshot()
	if have := s.eligible.Load(); have != nil && have.of == snapshot {
		return have.list
	}
	next := &eligibleUpstreams{of: snapshot}
	for _, i := range snapshot.Eligible() {
		next.list = append(next.list, s.upstreams[i])
	}
	s.eligible.Store(next)
	return next.list
}
