package front

import (
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// What the selection policy makes of a request. Policies look at requests of net/http, of which a course knows nothing.

// sessionMembers are members among which there are sessions.
type sessionMembers interface {
	Sessions(policy policies.SessionPolicy) policies.Sessions
}

// Key is what a policy that chooses by a key makes of the request.
func (x *Request) Key() pool.Key { return x.front.keyed.Key(x.request) }

// Session finds the backend of the request's session among the members.
func (x *Request) Session(m course.Members) (position int, known, signed bool) {
	return m.(sessionMembers).Sessions(x.front.sessions).Find(x.request)
}

// Bind tells the client with the answer that its session is at the backend of that position, if it is to be told; with renew only if
// what it was told before is out of date. As with reverse_proxy this is the balancer's word and none of the backend's: nothing that is
// done to the header of the backend's answer touches it.
func (x *Request) Bind(m course.Members, position int, renew bool) {
	policy := x.front.sessions
	if !policy.Tells() || renew && !m.(sessionMembers).Sessions(policy).Stale(x.sent) {
		return
	}
	policy.Tell(x.w.Header(), m.Target(position).Address(), x.sent)
}

// Foreign has a policy that is not ours choose among the candidates. It returns the position of its choice, or -1 and a target of the
// policy's own making, or -1 and nil for nobody.
func (x *Request) Foreign(m course.Members, candidates []int) (position int, own course.Target) {
	all := make(reverseproxy.UpstreamPool, 0, len(candidates))
	for _, i := range candidates {
		all = append(all, upstreamAt(m, i))
	}
	chosen := x.front.policy.Select(all, x.request, x.w)
	if chosen == nil {
		return -1, nil
	}
	if k := slices.Index(all, chosen); k >= 0 {
		return candidates[k], nil
	}
	for i := range m.View().Len() { // it may remember one that is no candidate
		if upstreamAt(m, i) == chosen {
			return i, nil
		}
	}
	return -1, x.front.stock.NewTarget(chosen)
}

func upstreamAt(m course.Members, position int) *reverseproxy.Upstream {
	return m.Target(position).(*stock.Target).Upstream
}
