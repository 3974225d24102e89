package policies

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const (
	idBytes = 16 // of a backend's identifier
	// mostCookies is how many cookies with our name are read: browsers send several if their paths or domains differ.
	mostCookies = 8
)

// A cookie's value is an identifier of the backend and its signature. The identifier is derived from address and secret but reveals
// neither. Nothing is stored, and every machine with the secret produces and understands the same values.

// token returns the value for a backend. For Caddy's own policy it is the value that Caddy would produce, so that sessions survive the
// change from reverse_proxy to load_balancer.
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

// signed reports whether a value was made with one of the secrets, for a backend that is no longer known.
func (s *Sticky) signed(value string) bool {
	if s.word != nil {
		return len(value) == hex.EncodedLen(sha256.Size) // such a value cannot be verified
	}
	id, sum, ok := strings.Cut(value, ".")
	if !ok || len(id) != base64.RawURLEncoding.EncodedLen(idBytes) {
		return false
	}
	return slices.ContainsFunc(s.secrets, func(secret string) bool { return hmac.Equal([]byte(sum), []byte(signature(secret, id))) })
}

// cookies finds the backends of sessions by comparing with the cookies that the backends would have.
type cookies struct {
	policy *Sticky
	at     map[string]int // position by value
	fresh  map[string]bool
}

// Among implements [SessionPolicy].
func (s *Sticky) Among(upstreams reverseproxy.UpstreamPool) Sessions { return s.among(upstreams) }

func (s *Sticky) among(upstreams reverseproxy.UpstreamPool) *cookies {
	all := &cookies{policy: s, at: make(map[string]int), fresh: make(map[string]bool)}
	for k, secret := range s.secrets {
		for i, u := range upstreams {
			value := s.token(secret, u.Dial)
			all.at[value] = i
			all.fresh[value] = k == 0
		}
	}
	return all
}

// Find returns the position of the backend that the request's cookie names, and whether there is one. signed reports whether there is a
// cookie of ours, even if its backend is not in the list.
func (a *cookies) Find(r *http.Request) (position int, known, signed bool) {
	if len(a.at) == 0 {
		return 0, false, false
	}
	sent := r.CookiesNamed(a.policy.cookieName())
	sent = sent[:min(len(sent), mostCookies)]
	for _, c := range sent {
		if i, ok := a.at[c.Value]; ok {
			return i, true, true
		}
	}
	return 0, false, slices.ContainsFunc(sent, func(c *http.Cookie) bool { return a.policy.signed(c.Value) })
}

// Stale reports whether the request's cookie must be replaced by one with the first secret.
func (a *cookies) Stale(r *http.Request) bool {
	return !slices.ContainsFunc(r.CookiesNamed(a.policy.cookieName()), func(c *http.Cookie) bool { return a.fresh[c.Value] })
}

func (s *Sticky) cookieName() string {
	if s.Name == "" {
		return "lb"
	}
	return s.Name
}

// cookie returns the cookie without a value.
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

// cookieFor returns the cookie of a session at the backend with this address.
func (s *Sticky) cookieFor(address string, r *http.Request) string {
	c := s.cookie()
	c.Value = s.token(s.secrets[0], address)
	c.Secure = s.Secure == "on" || s.SameSite == "none" || s.Secure != "off" && cameByHTTPS(r)
	if s.word != nil && c.Secure {
		c.SameSite = http.SameSiteNoneMode // as Caddy does
	}
	return c.String()
}

// cameByHTTPS reports whether the client speaks HTTPS to us, or to a trusted proxy.
func cameByHTTPS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	protocols := r.Header.Values("X-Forwarded-Proto")
	return trusted && len(protocols) > 0 && protocols[len(protocols)-1] == "https"
}
