package pool

import "slices"

// This file is for sessions: requests that belong to one member, whatever the policy says.

// Keeps reports whether the member at position i takes the requests of its sessions. Members that may be picked do.
//
// Members that are draining or have weight 0, and so get no new sessions, do as well while they are healthy.
func (s *Snapshot) Keeps(i int) bool { return s.Has(i) || slices.Contains(s.kept, i) }

// AcquireSession reserves a slot on the member at position i for a request of one of its sessions. It reports false when the member does
// not keep its sessions, or is at its max_requests.
func (v *View) AcquireSession(i int) (Lease, bool) {
	s := v.snap.Load()
	if !s.Keeps(i) {
		return Lease{}, false
	}
	l, ok := v.AcquireMember(i)
	if ok {
		v.snap.Load().changed(i)
	}
	return l, ok
}

// ProbeSession is AcquireSession for sessions that no other member may serve. If the member is half-open, the request may be its probe.
// Otherwise a member that only its sessions use would never be probed.
func (v *View) ProbeSession(i int) (Lease, bool) {
	if l, ok := v.AcquireSession(i); ok {
		return l, true
	}
	b := &v.backends[i]
	if !b.takesNew() && !b.keepsSessions() || !slices.Contains(v.snap.Load().halfOpen, i) {
		return Lease{}, false
	}
	return v.probe(i, v.pool.now())
}

// CountRebound counts a session that was moved to another member, because its own was gone.
func (p *Pool) CountRebound() { p.rebound.Add(1) }

// Rebound returns how many sessions were moved to another member.
func (p *Pool) Rebound() uint64 { return p.rebound.Load() }
