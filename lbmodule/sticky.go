package lbmodule

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// errSessionGone refuses a request whose session is bound to a backend that does not take it.
var errSessionGone = errors.New("the backend of the session is not usable")

// errSessionFull refuses one whose backend has as many requests as it may. It does not wait in the queue: slots of other backends are of
// no use to it, and it would stand in the way of those who wait for one.
var errSessionFull = errors.New("the backend of the session is at max_requests")

const (
	idBytes = 16 // of a backend's number
	// mostCookies is how many cookies of our name are looked at: browsers send several where paths or domains differ.
	mostCookies = 8
)

// A cookie's value is a number of the backend and its signature. The number follows from address and secret and tells neither. So
// there is nothing to be kept, and every machine with the secret makes and understands the same.

// token returns the value for a backend. For Caddy's own policy that is what Caddy's own would make, so that sessions survive the
// change of the word.
func (s *Sticky) token(secret, address string) string {
	if s.word != nil {
		return hex.EncodeToString(mac(secret, address))
	}
	id := base64.RawURLEncoding.EncodeToString(mac(secret, "backend "+address)[:idBytes])
	return id + "." + signature(secret, id)
}

func mac(secret, text string) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(text))
	return h.Sum(nil)
}

func signature(secret, id string) string {
	return base64.RawURLEncoding.EncodeToString(mac(secret, "session "+id))
}

// signed tells whether a value was made with one of the secrets, for a backend that is not known any more.
func (s *Sticky) signed(value string) bool {
	if s.word != nil {
		return len(value) == hex.EncodedLen(sha256.Size) // which nobody can tell from one that was made up
	}
	id, sum, ok := strings.Cut(value, ".")
	if !ok || len(id) != base64.RawURLEncoding.EncodedLen(idBytes) {
		return false
	}
	return slices.ContainsFunc(s.secrets, func(secret string) bool { return hmac.Equal([]byte(sum), []byte(signature(secret, id))) })
}

// sessions finds the backends of sessions, in a list of them.
type sessions struct {
	policy *Sticky
	at     map[string]int // position by value
	fresh  map[string]bool
}

func newSessions(s *Sticky, upstreams reverseproxy.UpstreamPool) *sessions {
	all := &sessions{policy: s, at: make(map[string]int), fresh: make(map[string]bool)}
	for k, secret := range s.secrets {
		for i, u := range upstreams {
			value := s.token(secret, u.Dial)
			all.at[value] = i
			all.fresh[value] = k == 0
		}
	}
	return all
}

// find returns the position of the backend that the request's cookie is for, and whether there is one; or whether there is a cookie
// of ours for one that is not in the list.
func (a *sessions) find(r *http.Request) (position int, known, signed bool) {
	if len(a.at) == 0 {
		return 0, false, false
	}
	cookies := r.CookiesNamed(a.policy.cookieName())
	cookies = cookies[:min(len(cookies), mostCookies)]
	for _, c := range cookies {
		if i, ok := a.at[c.Value]; ok {
			return i, true, true
		}
	}
	return 0, false, slices.ContainsFunc(cookies, func(c *http.Cookie) bool { return a.policy.signed(c.Value) })
}

// renew tells whether the request's cookie is to be made anew, with the first secret.
func (a *sessions) renew(r *http.Request) bool {
	return !slices.ContainsFunc(r.CookiesNamed(a.policy.cookieName()), func(c *http.Cookie) bool { return a.fresh[c.Value] })
}

// session is what a request says about its session.
type session struct {
	member int  // position of its backend; -1 if that is none of the list
	bound  bool // there is one
}

// acquireSession chooses the backend of the request's session, or another one where that is not to be had.
func (q *request) acquireSession(s *Sticky, safe bool, r *http.Request) (choice, error) {
	known, view := q.set.sessionsOf(s), q.set.view
	at, ok, signed := known.find(r)
	q.session = session{member: -1, bound: ok || signed}
	if ok {
		q.session.member = at
	}
	if s.Strict && q.session.bound {
		return q.acquireStrictly(ok)
	}
	if ok && !slices.Contains(q.tried, at) {
		if lease, free := view.AcquireSession(at); free {
			return choice{q.set.upstreams[at], lease}, nil
		}
	}
	return q.set.acquire(s, q.key, q.tried, safe, r, q.w)
}

// acquireStrictly is acquireSession for a session that may be at its own backend only. known tells whether that is in the list.
func (q *request) acquireStrictly(known bool) (choice, error) {
	at, view := q.session.member, q.set.view
	if !known {
		return choice{}, errSessionGone
	}
	lease, ok := view.ProbeSession(at)
	switch {
	case ok:
		return choice{q.set.upstreams[at], lease}, nil
	case view.Snapshot().Keeps(at):
		return choice{}, errSessionFull
	default:
		return choice{}, errSessionGone
	}
}

// bind tells the client with the answer which backend its session is bound to, if it does not know. As with reverse_proxy this is the
// balancer's word and none of the backend's: nothing that is done to the header of the backend's answer touches it.
func (q *request) bind(r *http.Request) {
	s, ok := q.h.policy.(*Sticky)
	if !ok || len(s.secrets) == 0 || !q.lease.Held() {
		return
	}
	at, was := q.lease.Index(), q.session.member
	if !q.lease.Of(q.set.view) { // there was nobody for another attempt in a set that is newer than the one of this
		at = q.set.find(q.upstream.Dial)
	}
	switch {
	case at < 0:
		return // there are no sessions any more at a backend that was taken out
	case was == at:
		if !q.set.sessionsOf(s).renew(r) {
			return
		}
	case was >= 0 && !slices.Contains(q.tried, was) && q.set.view.Snapshot().Keeps(was):
		return // it is full just now
	case q.session.bound:
		q.h.pool.CountRebound()
	}
	q.w.Header().Add("Set-Cookie", s.cookieFor(q.set.upstreams[at].Dial, r))
}

func (s *Sticky) cookieName() string {
	if s.Name == "" {
		return "lb"
	}
	return s.Name
}

// cookie returns the cookie without its value.
func (s *Sticky) cookie() http.Cookie {
	c := http.Cookie{Name: s.cookieName(), Path: s.Path, Domain: s.Domain, HttpOnly: !s.Scripts, MaxAge: int(time.Duration(s.MaxAge).Seconds())}
	if c.Path == "" {
		c.Path = "/"
	}
	c.SameSite = map[string]http.SameSite{"strict": http.SameSiteStrictMode, "none": http.SameSiteNoneMode}[s.SameSite]
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	return c
}

// cookieFor returns the cookie of a session at the backend of that address.
func (s *Sticky) cookieFor(address string, r *http.Request) string {
	c := s.cookie()
	c.Value = s.token(s.secrets[0], address)
	c.Secure = s.Secure == "on" || s.SameSite == "none" || s.Secure != "off" && cameByHTTPS(r)
	if s.word != nil && c.Secure {
		c.SameSite = http.SameSiteNoneMode // as Caddy's own
	}
	return c.String()
}

// cameByHTTPS tells whether the client speaks HTTPS to us, or to a proxy that we trust.
func cameByHTTPS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	protocols := r.Header.Values("X-Forwarded-Proto")
	return trusted && len(protocols) > 0 && protocols[len(protocols)-1] == "https"
}

// key is the hash of what is learned from, and else that of the fallback's key.
func (s *Sticky) key(r *http.Request) pool.Key {
	value := ""
	if s.LearnCookie != "" {
		if c, err := r.Cookie(s.LearnCookie); err == nil {
			value = c.Value
		}
	}
	if value == "" && s.LearnHeader != "" {
		value = r.Header.Get(s.LearnHeader)
	}
	return keyOr(plainKey(value), s.otherwise, r)
}

func (s *Sticky) keyOf(values []string) pool.Key { return plainKey(values[0]) }
