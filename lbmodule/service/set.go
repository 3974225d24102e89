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

// Set is a list of backends to choose from: those of the config, or those that a dynamic source named together. It does not change; when
// there are others, another one takes its place.
type Set struct {
	service   *Service
	view      *pool.View
	upstreams reverseproxy.UpstreamPool // by position in view
	targets   []*stock.Target           // the same, as attempts need them

	superseded chan struct{} // closed when another set is in its place
	lifetime   lifetime

	eligible atomic.Pointer[eligibleUpstreams]
	sign     sync.Once // makes sessions, when they are asked for first
	sessions policies.Sessions
}

// Sessions returns what finds the backends of sessions in the set, by the policy of its load balancer.
func (s *Set) Sessions(policy policies.SessionPolicy) policies.Sessions {
	s.sign.Do(func() { s.sessions = policy.Among(s.upstreams) })
	return s.sessions
}

// eligibleUpstreams are the upstreams of a snapshot's eligible members.
type eligibleUpstreams struct {
	of   *pool.Snapshot
	list reverseproxy.UpstreamPool
}

// supersede gives the set up, because another one is in its place.
func (s *Set) supersede() {
	close(s.superseded)
	s.close()
}

// View is the pool as it is seen with the set.
func (s *Set) View() *pool.View { return s.view }

// Upstream is the backend at that position of the view.
func (s *Set) Upstream(position int) *reverseproxy.Upstream { return s.upstreams[position] }

// Target is the backend at that position of the view: a [*stock.Target].
func (s *Set) Target(position int) course.Target { return s.targets[position] }

// Superseded returns what is closed when another set takes this one's place, and when the dynamic source names others, if it is asked
// now and then. The second one is nil where there is no such source.
func (s *Set) Superseded() (first, second <-chan struct{}) {
	return s.superseded, s.service.dynamic.other(s)
}

// Find returns the position of the backend of that address, -1 if it is not in the set.
func (s *Set) Find(address string) int {
	return slices.IndexFunc(s.upstreams, func(u *reverseproxy.Upstream) bool { return u.Dial == address })
}

// Eligible returns the upstreams that may be chosen now, in the order of the config.
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

// lifetime is how long a set's view is kept open and its dead members are tried: while its config serves, and after that while requests
// wait with it. Those requests came before the config ended, and the one after it may have other backends, or call the pool by
// another name.
type lifetime struct {
	mu      sync.Mutex // guards what follows
	waiting int
	stopped bool     // the config does not try the dead any more
	closed  bool     // nor does it use the view
	stops   []func() // end that the dead are tried for those who wait
}

// Stay keeps the set's view open, and has its dead members tried, until Leave is called as often.
func (s *Set) Stay() { s.service.pool.Report(s.stay()) }

// stay returns what there is to report when no lock is held.
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
		l.stops = s.service.redial(s, true)
	}
	return events
}

// Leave ends what Stay began.
func (s *Set) Leave() {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting--; l.waiting > 0 {
		return
	}
	for _, stop := range l.stops {
		stop()
	}
	l.stops = nil
	if l.closed {
		s.view.Close()
	}
}

// stop is called before the config stops trying the dead, so that there is no gap.
func (s *Set) stop() {
	if s == nil {
		return
	}
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(s)
}

// close is stop where the config does not use the set any more, either.
func (s *Set) close() {
	l := &s.lifetime
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(s)
	l.closed = true
	if l.waiting == 0 {
		s.view.Close()
	}
}

// stop is called with l.mu held.
func (l *lifetime) stop(s *Set) {
	if l.stopped {
		return
	}
	l.stopped = true
	if l.waiting > 0 {
		l.stops = s.service.redial(s, true)
	}
}
