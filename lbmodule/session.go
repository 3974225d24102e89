package lbmodule

import (
	"errors"
	"net/http"
	"slices"
)

// errSessionGone refuses a request whose session is bound to a backend that does not take it.
var errSessionGone = errors.New("the backend of the session is not usable")

// errSessionFull refuses one whose backend has as many requests as it may. It does not wait in the queue: slots of other backends are of
// no use to it, and it would stand in the way of those who wait for one.
var errSessionFull = errors.New("the backend of the session is at max_requests")

// session is what a request says about its session.
type session struct {
	member int  // position of its backend; -1 if that is none of the list
	bound  bool // there is one
}

// acquireSession chooses the backend of the request's session, or another one where that is not to be had.
func (q *request) acquireSession(safe bool, r *http.Request) (choice, error) {
	policy, view := q.h.sessions, q.set.View()
	at, ok, signed := q.set.Sessions(policy).Find(r)
	q.session = session{member: -1, bound: ok || signed}
	if ok {
		q.session.member = at
	}
	if policy.Strictly() && q.session.bound {
		return q.acquireStrictly(ok)
	}
	if ok && !slices.Contains(q.tried, at) {
		if lease, free := view.AcquireSession(at); free {
			return choice{q.set.Upstream(at), lease}, nil
		}
	}
	return acquireIn(q.set, policy, q.key, q.tried, safe, r, q.w)
}

// acquireStrictly is acquireSession for a session that may be at its own backend only. known tells whether that is in the list.
func (q *request) acquireStrictly(known bool) (choice, error) {
	at, view := q.session.member, q.set.View()
	if !known {
		return choice{}, errSessionGone
	}
	lease, ok := view.ProbeSession(at)
	switch {
	case ok:
		return choice{q.set.Upstream(at), lease}, nil
	case view.Snapshot().Keeps(at):
		return choice{}, errSessionFull
	default:
		return choice{}, errSessionGone
	}
}

// bind tells the client with the answer which backend its session is bound to, if it does not know. As with reverse_proxy this is the
// balancer's word and none of the backend's: nothing that is done to the header of the backend's answer touches it.
func (q *request) bind(r *http.Request) {
	policy := q.h.sessions
	if policy == nil || !policy.Tells() || !q.lease.Held() {
		return
	}
	at, was := q.lease.Index(), q.session.member
	if !q.lease.Of(q.set.View()) { // there was nobody for another attempt in a set that is newer than the one of this
		at = q.set.Find(q.upstream.Dial)
	}
	switch {
	case at < 0:
		return // there are no sessions any more at a backend that was taken out
	case was == at:
		if !q.set.Sessions(policy).Stale(r) {
			return
		}
	case was >= 0 && !slices.Contains(q.tried, was) && q.set.View().Snapshot().Keeps(was):
		return // it is full just now
	case q.session.bound:
		q.h.pool.CountRebound()
	}
	policy.Tell(q.w.Header(), q.set.Upstream(at).Dial, r)
}
