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

// What a course asks about a request (see [course.Request]), and what the selection policy makes of it: policies look at requests of
// net/http, of which a course knows nothing.

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

// Idempotent reports whether making the request twice is as good as making it once (RFC 9110, 9.2.2). That a client says so does not make
// it so: only who runs the backends knows whether they go by its key.
func (x *Request) Idempotent() bool {
	switch x.request.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return x.front.idempotencyKey && x.request.Header.Get("Idempotency-Key") != ""
}

// Upgrade reports whether the request asks to switch protocols.
func (x *Request) Upgrade() bool { return x.request.Header.Get("Upgrade") != "" }

// Wanted reports whether reverse_proxy's words for retries ask for another attempt after one that ended for that reason, with this answer if
// it has one.
func (x *Request) Wanted(reason pool.RetryReason, _ *http.Response) bool {
	f, r := x.front, x.sent
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

// matches reports whether one of the sets of matchers that are to be asked matches.
func (f *Front) matches(r *http.Request, ask func(caddyhttp.MatcherSet) bool) bool {
	for _, set := range f.stock.Retries.Match {
		if !ask(set) {
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

// LooksAtAnswers reports whether some of reverse_proxy's words for retries are about answers.
func (f *Front) LooksAtAnswers() bool {
	return slices.ContainsFunc(f.stock.Retries.Match, looksAtAnswer)
}

// looksAtAnswer reports whether a set of matchers can only be judged when there is an answer.
func looksAtAnswer(set caddyhttp.MatcherSet) bool {
	return slices.ContainsFunc(set, func(m any) bool {
		expression, ok := m.(*caddyhttp.MatchExpression)
		return ok && slices.ContainsFunc(expression.Placeholders(), func(name string) bool {
			// An empty name is one that the expression makes up.
			return name == "" || name == placeholderPrefix+"status_code" || name == placeholderPrefix+"status_text" ||
				strings.HasPrefix(name, placeholderPrefix+"header.")
		})
	})
}

var originSeed = maphash.MakeSeed()

// Origin tells who sent a request and what it is for. IPv6 clients are told apart by /64, because one client has that many
// addresses. The query is left out: it costs a client nothing to make another.
func (x *Request) Origin() pool.Origin {
	r := x.request
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if text == "" {
		return pool.Origin{}
	}
	client := maphash.String(originSeed, text)
	if address, err := netip.ParseAddr(text); err == nil && address.Is6() && !address.Is4In6() {
		bits := address.As16()
		client = maphash.Bytes(originSeed, bits[:8])
	}
	return pool.Origin{Client: max(uint32(client), 1), Target: uint32(maphash.String(originSeed, r.URL.Path))}
}

// Client is what tells clients apart where they wait: by address, and by network where an address is one of so many that a client has.
func (x *Request) Client() string {
	const clientBits = 64 // of an IPv6 address
	text, _ := caddyhttp.GetVar(x.request.Context(), caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(text)
	if err != nil || address.Unmap().Is4() {
		return text
	}
	network, err := address.WithZone("").Prefix(clientBits)
	if err != nil {
		return text
	}
	return network.String()
}
