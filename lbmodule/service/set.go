package service

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Set is a list of backends to choose from: those of the config, or those of one answer of a dynamic source. It is immutable; when the
// backends change, another set replaces it.
type Set struct {
	service   *Service
	view      *pool.View
	upstreams reverseproxy.UpstreamPool // by position in view
	targets   []*stock.Target           // the same backends, as attempts need them
	narrowed  *narrowed                 // nil if all backends are in the set

	whole *Set    // the set that this one is a part of; nil if it is not a part
	parts [2]*Set // by [canary.Side]; nil if the set is not divided

	superseded chan struct{} // closed when another set replaces this one
	lifetime   lifetime

	eligible atomic.Pointer[eligibleUpstreams]
	sign     sync.Once // guards making sessions on first use
	sessions policies.Sessions
}

// Sessions returns the mapping from sessions to backends of this set, by the load balancer's policy.
func (s *Set) Sessions(policy policies.SessionPolicy) policies.Sessions {
	s.sign.Do(func() { s.sessions = policy.Among(s.upstreams) })
	return s.sessions
}

// eligibleUpstreams holds the upstreams of a snapshot's eligible members.
type eligibleUpstreams struct {
	of   *pool.Snapshot
	list reverseproxy.UpstreamPool
}

// supersede marks the set as replaced by another one.
func (s *Set) supersede() {
	close(s.superseded)
	s.close()
}

// View returns the set's view of the pool.
func (s *Set) View() *pool.View { return s.view }

// Upstream returns the backend at this position of the view.
func (s *Set) Upstream(position int) *reverseproxy.Upstream { return s.upstreams[position] }

// Target returns the backend at this position of the view, a [*stock.Target].
func (s *Set) Target(position int) course.Target { return s.targets[position] }

// Superseded returns two channels: the first is closed when another set replaces this one, the second when a polled dynamic source names
// other backends. The second is nil without such a source.
func (s *Set) Superseded() (first, second <-chan struct{}) {
	if s.whole != nil {
		return s.whole.Superseded()
	}
	return s.superseded, s.service.dynamic.other(s)
}

// Find returns the position of the backend with this address, -1 if it is not in the set.
func (s *Set) Find(address string) int {
	return slices.IndexFunc(s.upstreams, func(u *reverseproxy.Upstream) bool { return u.Dial == address })
}

// Eligible returns the upstreams that may be chosen now, in config order.
func (s *Set) Eligible() reverseproxy.UpstreamPool {
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

// lifetime decides how long a set's view stays open and its dead members are redialed: while its config serves, and afterwards while
// requests of that config still wait. The next config may have other backends or another pool name, so it cannot do this for them.
type lifetime struct {
	mu      sync.Mutex // guards the fields below
	waiting int
	stopped bool   // the config no longer redials dead members
	closed  bool   // the config no longer uses the view
	end     func() // ends the redialing that is done for waiting requests; nil if there is none
}

// Stay keeps the view open and redials dead members until Leave has been called as often as Stay.
func (s *Set) Stay() { s.service.pool.Report(s.stay()) }

// stay returns the events to report once no lock is held.
func (s *Set) stay() (events []pool.Event) {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting++; l.waiting > 1 {
		return nil
	}
	if l.closed {
		events = s.view.Reopen()
	}
	if l.stopped {
		l.end = s.service.redial(s, true)
	}
	return events
}

// Leave undoes one Stay.
func (s *Set) Leave() {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting--; l.waiting > 0 {
		return
	}
	if l.end != nil {
		l.end()
		l.end = nil
	}
	if l.closed {
		s.view.Close()
	}
}

// stop must be called before the config stops redialing, so that there is no gap.
func (s *Set) stop() {
	if s == nil {
		return
	}
	for _, part := range s.parts {
		part.stop()
	}
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(s)
}

// close is stop for a config that no longer uses the set at all.
func (s *Set) close() {
	for _, part := range s.parts {
		if part != nil {
			part.close()
		}
	}
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(s)
	l.closed = true
	if l.waiting == 0 {
		s.view.Close()
	}
}

// stop stops redialing for waiting requests. The caller holds l.mu.
func (l *lifetime) stop(s *Set) {
	if l.stopped {
		return
	}
	l.stopped = true
	if l.waiting > 0 {
		l.end = s.service.redial(s, true)
	}
}
