package front

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

// This file implements [course.Request]. It also connects selection policies, which need requests of net/http, to a course, which does not
// know net/http.

// sessionMembers are members that can find sessions.
type sessionMembers interface {
	Sessions(policy policies.SessionPolicy) policies.Sessions
}

// Key returns the hash key that the policy derives from the request.
func (q *Request) Key() pool.Key { return q.front.keyed.Key(&q.request) }

// ShadowKey implements [exchange.Front]. It returns the key for the shadow policy.
func (q *Request) ShadowKey() pool.Key { return q.front.shadow.Key(&q.request) }

// Session finds the backend of the request's session among the members.
func (q *Request) Session(m course.Members) (position int, known, signed bool) {
	return m.(sessionMembers).Sessions(q.front.sessions).Find(&q.request)
}

// Bind adds a header field to the answer by which the client's session is bound to the backend at that position, if the policy informs
// clients. With renew it does so only if the client's session data is stale. As in reverse_proxy, operations on the header of the backend's
// answer do not affect this field, because it is the load balancer's and not the backend's.
func (q *Request) Bind(m course.Members, position int, renew bool) {
	policy := q.front.sessions
	if !policy.Tells() || renew && !m.(sessionMembers).Sessions(policy).Stale(q.sent) {
		return
	}
	policy.Tell(q.w.Header(), m.Target(position).Address(), q.sent)
}

// Foreign lets a policy of another module choose among the candidates. It returns the position of its choice, or -1 and a target that the
// policy made up, or -1 and nil if the policy chose none.
func (q *Request) Foreign(m course.Members, candidates []int) (position int, own course.Target) {
	all := make(reverseproxy.UpstreamPool, 0, len(candidates))
	for _, i := range candidates {
		all = append(all, upstreamAt(m, i))
	}
	chosen := q.front.policy.Select(all, &q.request, q.w)
	if chosen == nil {
		return -1, nil
	}
	if k := slices.Index(all, chosen); k >= 0 {
		return candidates[k], nil
	}
	for i := range m.View().Len() { // the policy may remember a member that is not a candidate
		if upstreamAt(m, i) == chosen {
			return i, nil
		}
	}
	return -1, q.front.stock.NewTarget(chosen)
}

func upstreamAt(m course.Members, position int) *reverseproxy.Upstream {
	return m.Target(position).(*stock.Target).Upstream
}

// Idempotent reports whether making the request twice has the same effect as making it once (RFC 9110, 9.2.2). An Idempotency-Key counts
// only if the config says so: the client cannot know whether the backends support it.
func (q *Request) Idempotent() bool {
	return isIdempotent(q.request.Method) || q.front.idempotencyKey && q.request.Header.Get("Idempotency-Key") != ""
}

func isIdempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// Upgrade reports whether the request asks to switch protocols.
func (q *Request) Upgrade() bool {
	asked := q.request.Header["Upgrade"]
	return len(asked) > 0 && asked[0] != ""
}

// Wanted reports whether reverse_proxy's retry settings ask for another attempt after one that failed for that reason.
func (q *Request) Wanted(reason pool.RetryReason, _ *http.Response) bool {
	f, r := q.front, q.sent
	match := f.stock.Retries.Match
	switch {
	case reason == pool.RetryConnect:
		return true
	case reason == pool.RetryStatus:
		return f.matches(r, looksAtAnswer)
	case len(match) == 0:
		return r.Method == http.MethodGet
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(placeholderPrefix+"is_transport_error", true)
		defer repl.Delete(placeholderPrefix + "is_transport_error")
	}
	return f.matches(r, func(caddyhttp.MatcherSet) bool { return true })
}

// matches reports whether one of the matcher sets that applies selects matches r.
func (f *Front) matches(r *http.Request, applies func(caddyhttp.MatcherSet) bool) bool {
	for _, set := range f.stock.Retries.Match {
		if !applies(set) {
			continue
		}
		matched, err := set.MatchWithError(r)
		if err != nil {
			f.logger.Error("failed matching request for retry", zap.String("pool", f.pool), zap.Error(err))
			return false
		}
		if matched {
			return true
		}
	}
	return false
}

// LooksAtAnswers reports whether lb_retry_match has a matcher set that looks at answers.
func (f *Front) LooksAtAnswers() bool {
	return slices.ContainsFunc(f.stock.Retries.Match, looksAtAnswer)
}

// looksAtAnswer reports whether a matcher set needs an answer to match.
func looksAtAnswer(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(m any) bool {
		expression, ok := m.(*caddyhttp.MatchExpression)
		return ok && slices.ContainsFunc(expression.Placeholders(), func(name string) bool {
			// An empty name means that the expression computes the name.
			return name == "" || name == placeholderPrefix+"status_code" || name == placeholderPrefix+"status_text" ||
				strings.HasPrefix(name, placeholderPrefix+"header.")
		})
	})
}

var originSeed = maphash.MakeSeed()

// Origin returns hashes of the client and the path. All addresses of an IPv6 /64 count as one client, because a single client can use all
// of them. The query is left out, because a client can vary it at will.
func (q *Request) Origin() pool.Origin {
	r := q.request
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return originOf(clientHash(text), uint32(maphash.String(originSeed, r.URL.Path)))
}

// originOf returns the origin of a request with these hashes.
func originOf(client, path uint32) pool.Origin {
	if client == 0 {
		return pool.Origin{}
	}
	return pool.Origin{Client: client, Target: path}
}

// clientHash returns the hash of a client's address; 0 if the address is not known.
func clientHash(text string) uint32 {
	if text == "" {
		return 0
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return max(uint32(maphash.String(originSeed, text)), 1)
	}
	bits := address.As16() // of an IPv4 address as one of IPv6
	known := bits[:8]
	if address.Unmap().Is4() {
		known = bits[:]
	}
	return max(uint32(maphash.Bytes(originSeed, known)), 1)
}

// Client identifies the client in the queue: by its IPv4 address, or by its IPv6 /64.
func (q *Request) Client() string {
	text, _ := caddyhttp.GetVar(q.request.Context(), caddyhttp.ClientIPVarKey).(string)
	return queueKey(text)
}

// queueKey identifies the client of that address in the queue.
func queueKey(text string) string {
	const clientBits = 64 // of an IPv6 address
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil || address.Is4():
		return text
	case address.Is4In6():
		return address.Unmap().String()
	}
	network, err := address.WithZone("").Prefix(clientBits)
	if err != nil {
		return text
	}
	return network.String()
}
