package lbmodule

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// memberSet is a list of backends to choose from: those of the config, or those that a dynamic source named
// together.
type memberSet struct {
	view      *pool.View
	upstreams reverseproxy.UpstreamPool // by position in view

	// What reverse_proxy's health checks and circuit breaker say is marked in the view. They do not tell when
	// they change their mind, so a backend is looked at when it is chosen, and those found unfit are
	// looked at again every fitnessInterval.
	fitness fitness
	mu      sync.Mutex   // held while looking at all backends
	marked  atomic.Int32 // backends that are marked
	checked atomic.Int64 // when it was last time to look, in nanoseconds since started

	eligible atomic.Pointer[eligibleUpstreams]
}

// fitness tells whether an upstream may be used; nil where nothing could say no.
type fitness func(*reverseproxy.Upstream) bool

const (
	// fitnessInterval bounds how long a backend that is fit again goes unnoticed.
	fitnessInterval = 50 * time.Millisecond
	// refusedInterval bounds what requests that would be refused spend on looking.
	refusedInterval = 5 * time.Millisecond
)

// started is the origin of times that are compared on the request path: reading a monotonic clock is cheap.
var started = time.Now()

// eligibleUpstreams are the upstreams of a snapshot's eligible members.
type eligibleUpstreams struct {
	of   *pool.Snapshot
	list reverseproxy.UpstreamPool
}

func newMemberSet(p *pool.Pool, backends []pool.Backend, upstreams reverseproxy.UpstreamPool, policy reverseproxy.Selector, fit fitness) *memberSet {
	s := &memberSet{upstreams: upstreams, fitness: fit}
	if b, ok := policy.(balancer); ok {
		s.view = p.Open(backends, b.balancePolicy())
	} else {
		s.view = p.Open(backends, nil)
	}
	return s
}

// empty tells whether there is nobody to choose.
func (s *memberSet) empty() bool {
	s.recheck()
	return len(s.view.Snapshot().Eligible()) == 0
}

// find returns the position of the backend of that address, -1 if it is not in the set.
func (s *memberSet) find(address string) int {
	return slices.IndexFunc(s.upstreams, func(u *reverseproxy.Upstream) bool { return u.Dial == address })
}

// acquire chooses a backend by policy, preferably none of tried, and reserves a slot on it. The lease holds
// nothing when the policy came up with an upstream of its own making.
func (s *memberSet) acquire(policy reverseproxy.Selector, tried []int, r *http.Request, w http.ResponseWriter) (*reverseproxy.Upstream, pool.Lease, error) {
	s.recheck()
	// Each turn but the last finds a backend unfit that was not known to be, so that the next chooses among fewer.
	for range len(s.upstreams) + 1 {
		u, lease, err := s.choose(policy, tried, r, w)
		switch {
		case s.fitness == nil, err == nil && (!lease.Held() || s.fitness(u)):
			return u, lease, err
		case err == nil:
			lease.Abandon()
			s.mark()
		case errors.Is(err, pool.ErrFull) && s.due(refusedInterval) && s.mark():
			// Backends that are full are never chosen and so never looked at: those that are unfit as well
			// must make way for the backups.
		default:
			return nil, lease, err
		}
	}
	return nil, pool.Lease{}, pool.ErrNone
}

func (s *memberSet) choose(policy reverseproxy.Selector, tried []int, r *http.Request, w http.ResponseWriter) (*reverseproxy.Upstream, pool.Lease, error) {
	if _, ours := policy.(balancer); !ours {
		return s.chooseBy(policy, tried, r, w)
	}
	lease, err := s.view.Acquire(tried)
	if err != nil {
		return nil, lease, err
	}
	return s.upstreams[lease.Index()], lease, nil
}

// chooseBy has a policy that is not ours choose among the eligible upstreams.
func (s *memberSet) chooseBy(policy reverseproxy.Selector, tried []int, r *http.Request, w http.ResponseWriter) (*reverseproxy.Upstream, pool.Lease, error) {
	all := s.eligibleList()
	if len(all) == 0 {
		return nil, pool.Lease{}, pool.ErrNone
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
	// Each turn but the last takes a candidate away that has no free slot.
	for len(candidates) > 0 {
		u := policy.Select(candidates, r, w)
		if u == nil {
			break
		}
		i := slices.Index(s.upstreams, u)
		if i < 0 {
			return u, pool.Lease{}, nil
		}
		if lease, ok := s.view.AcquireMember(i); ok {
			return u, lease, nil
		}
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(c *reverseproxy.Upstream) bool { return c == u })
	}
	return nil, pool.Lease{}, pool.ErrFull
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

// recheck looks at the backends again if some are marked and it has been a while.
func (s *memberSet) recheck() {
	if s.marked.Load() > 0 && s.due(fitnessInterval) {
		s.mark()
	}
}

// due tells one caller in every interval that it is time to look at the backends.
func (s *memberSet) due(interval time.Duration) bool {
	now, before := int64(time.Since(started)), s.checked.Load()
	return now-before >= int64(interval) && s.checked.CompareAndSwap(before, now)
}

// mark looks at all backends and reports whether the eligible ones are others now.
func (s *memberSet) mark() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var unfit int32
	changed := s.view.Mark(pool.Down, func(i int) bool {
		down := !s.fitness(s.upstreams[i])
		if down {
			unfit++
		}
		return down
	})
	s.marked.Store(unfit)
	return changed
}
