package policies

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func init() {
	caddy.RegisterModule(new(Sticky))
}

// Sticky selects the same backend for all requests of a session. A cookie names the backend by an opaque identifier that does not reveal
// its address, signed with HMAC-SHA256. The fallback policy selects the backend of a new session. A cookie that is not ours is ignored.
//
// A backend of weight 0, or one that is draining, gets no new sessions but keeps its own. If it is full, a request of a session goes to
// another backend; if it is gone, the whole session moves, unless `strict` is set.
//
// With `learn_cookie` or `learn_header`, sessions are also recognized by a cookie or header of the application: requests with the same
// value go to the same backend, as with `lb_hash`.
type Sticky struct {
	// The name of the cookie. Default: `lb`.
	Name string `json:"name,omitempty"`

	// The secret that signs cookies, or the new and the old secret during a change: the first one signs, both are accepted. Placeholders
	// of the environment and of files may be used. All Caddy instances of a fleet must have the same. Required, unless `learn_cookie` or
	// `learn_header` is set: without a secret there is no cookie of our own.
	Secrets []string `json:"secrets,omitempty"`

	// How long the browser keeps the cookie. Default: until the browser is closed.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// The path that the cookie is for. Default: `/`.
	Path string `json:"path,omitempty"`

	// The domain that the cookie is for. Default: the host of the request.
	Domain string `json:"domain,omitempty"`

	// Whether the cookie is for HTTPS only: `on`, `off`, or `auto`, if the request came over HTTPS. Default: `auto`.
	Secure string `json:"secure,omitempty"`

	// Whether scripts of the page may read the cookie. Default: false.
	Scripts bool `json:"scripts,omitempty"`

	// `lax`, `strict` or `none`; the last one needs `secure on`. Default: `lax`.
	SameSite string `json:"same_site,omitempty"`

	// Whether a request whose backend is gone is refused with 503 instead of going to another one. Default: false.
	Strict bool `json:"strict,omitempty"`

	// A cookie of the application that identifies sessions. Default: none.
	LearnCookie string `json:"learn_cookie,omitempty"`

	// A request header field that identifies sessions. Default: none.
	LearnHeader string `json:"learn_header,omitempty"`

	// The policy for new sessions. Default: the default policy; in a plain `reverse_proxy`, `random`.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	otherwise reverseproxy.Selector
	secrets   []string                          // Secrets with placeholders replaced
	word      *reverseproxy.CookieHashSelection // Caddy's own policy that s replaces; nil if there is none
}

// CaddyModule returns the Caddy module information.
func (s *Sticky) CaddyModule() caddy.ModuleInfo {
	if s.word != nil {
		return s.word.CaddyModule()
	}
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_sticky",
		New: func() caddy.Module { return new(Sticky) },
	}
}

// UnmarshalJSON reads the policy's config.
func (s *Sticky) UnmarshalJSON(text []byte) error {
	type sticky Sticky
	return config.Ranges.Decode("lb_policy sticky", text, (*sticky)(s))
}

// UnmarshalCaddyfile sets s up from Caddyfile tokens:
//
//	lb_sticky [<name>] {
//	    secret       <secret> [<old secret>]
//	    max_age      <duration>
//	    path         <path>
//	    domain       <domain>
//	    secure       on|off|auto
//	    http_only    on|off
//	    same_site    lax|strict|none
//	    strict
//	    learn_cookie <name>
//	    learn_header <field>
//	    fallback     <policy> [<options...>]
//	}
func (s *Sticky) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	if d.NextArg() {
		s.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	var seen []string
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if slices.Contains(seen, word) {
			return d.Errf("lb_policy sticky: %s: given twice", word)
		}
		seen = append(seen, word)
		if err := s.unmarshalWord(d, word); err != nil {
			return err
		}
		if err := s.check(); err != nil {
			return d.WrapErr(err)
		}
	}
	if err := s.checkSecrets(s.Secrets); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (s *Sticky) unmarshalWord(d *caddyfile.Dispenser, word string) error {
	texts := map[string]*string{
		"path": &s.Path, "domain": &s.Domain, "secure": &s.Secure, "same_site": &s.SameSite, "learn_cookie": &s.LearnCookie, "learn_header": &s.LearnHeader,
	}
	values := map[string]int{"fallback": 0, "strict": 0} // the maximum number of arguments; other settings have exactly one
	if word == "fallback" {
		return parseFallback(d, &s.FallbackRaw)
	}
	args := d.RemainingArgs()
	if word == "secret" && len(args) > 0 {
		s.Secrets = args
		if err := s.checkSecrets(args); err != nil { // its messages do not contain the secrets
			return d.WrapErr(err)
		}
		return nil
	}
	known := append([]string{"fallback", "strict", "secret", "max_age", "http_only"}, slices.Collect(maps.Keys(texts))...)
	if !slices.Contains(known, word) {
		return fmt.Errorf("%w%s", d.Errf("lb_policy sticky: unrecognized setting %s", word), config.DidYouMean(word, known...))
	}
	if most, ok := values[word]; ok && len(args) > most || !ok && len(args) != 1 {
		return d.ArgErr()
	}
	switch word {
	case "strict":
		s.Strict = true
	case "max_age":
		age, err := caddy.ParseDuration(args[0])
		if err != nil {
			return d.Errf("lb_policy sticky: max_age %s: must be a duration %s", args[0], config.Ranges.Of("lb_policy sticky.max_age"))
		}
		if err := config.InRange("lb_policy sticky.max_age", age); err != nil {
			return d.WrapErr(err)
		}
		s.MaxAge = caddy.Duration(age)
	case "http_only":
		if args[0] != "on" && args[0] != "off" {
			return d.Errf("lb_policy sticky: http_only %s: must be on or off", args[0])
		}
		s.Scripts = args[0] == "off"
	default:
		*texts[word] = args[0]
	}
	return nil
}

// check checks the settings except the secrets.
func (s *Sticky) check() error {
	oneOf := func(field, value string, words ...string) error {
		if value != "" && !slices.Contains(words, value) {
			return fmt.Errorf("lb_policy sticky: %s %s: must be one of %v", field, value, words)
		}
		return nil
	}
	token := func(field, value string) error {
		if value != "" && !httpguts.ValidHeaderFieldName(value) {
			return fmt.Errorf("lb_policy sticky: %s %q: must be a name, of letters, digits and -_", field, value)
		}
		return nil
	}
	if s.MaxAge != 0 {
		if err := config.InRange("lb_policy sticky.max_age", s.MaxAge); err != nil {
			return err
		}
	}
	if s.SameSite == "none" && s.Secure == "off" {
		return fmt.Errorf("lb_policy sticky: same_site none: needs secure; browsers refuse such a cookie otherwise")
	}
	if err := cmp.Or(
		token("name", s.Name), token("learn_cookie", s.LearnCookie), token("learn_header", s.LearnHeader),
		oneOf("secure", s.Secure, "on", "off", "auto"), oneOf("same_site", s.SameSite, "lax", "strict", "none"),
	); err != nil {
		return err
	}
	if c := s.cookie(); c.Valid() != nil {
		return fmt.Errorf("lb_policy sticky: path %q, domain %q: must be valid in a cookie", s.Path, s.Domain)
	}
	return nil
}

// checkSecrets checks that there is a secret to sign cookies with. A secret generated at start would end all sessions at a restart, and
// would differ between the machines of a fleet.
func (s *Sticky) checkSecrets(secrets []string) error {
	switch {
	case len(secrets) == 0 && s.LearnCookie == "" && s.LearnHeader == "":
		return fmt.Errorf("lb_policy sticky: secret: missing; it signs cookies and must be the same on all machines, such as {env.STICKY_SECRET}")
	case len(secrets) > 2:
		return fmt.Errorf("lb_policy sticky: secret: %d given; must be one, or the new and the old one", len(secrets))
	case slices.Contains(secrets, ""):
		return fmt.Errorf("lb_policy sticky: secret: is empty")
	}
	return nil
}

// Provision sets s up.
func (s *Sticky) Provision(ctx caddy.Context) (err error) {
	for _, secret := range s.Secrets {
		s.secrets = append(s.secrets, caddy.NewReplacer().ReplaceAll(secret, ""))
	}
	if err := cmp.Or(s.check(), s.checkSecrets(s.secrets)); err != nil {
		return err
	}
	none, ours := "random", inLoadBalancer(ctx)
	if ours {
		none = defaultPolicy
	} else if s.learns() {
		return fmt.Errorf("lb_policy lb_sticky: learn_cookie and learn_header: must be in a load_balancer")
	}
	if s.otherwise, err = loadFallback(ctx, s.FallbackRaw, none); err != nil {
		return fmt.Errorf("lb_policy sticky: %w", err)
	}
	if _, ok := s.otherwise.(Balancer); !ok && ours {
		return fmt.Errorf("lb_policy sticky: fallback: must be one of the lb_ policies")
	}
	return nil
}

// Strictly reports whether the requests of a session are refused if its backend cannot serve them.
func (s *Sticky) Strictly() bool { return s.Strict }

// Tells reports whether there is a cookie of our own.
func (s *Sticky) Tells() bool { return len(s.secrets) > 0 }

// Tell sets the cookie of a session at the backend with this address.
func (s *Sticky) Tell(header http.Header, address string, r *http.Request) {
	header.Add("Set-Cookie", s.cookieFor(address, r))
}

// safeSecret is the number of bytes from which a secret cannot be guessed.
const safeSecret = 16

// Warnings warns of a secret that is too short.
func (s *Sticky) Warnings() []string {
	if slices.ContainsFunc(s.secrets, func(secret string) bool { return len(secret) < safeSecret }) {
		return []string{"a secret of the sticky policy is shorter than 16 bytes: an attacker who guesses it can read backend addresses from cookies and forge cookies"}
	}
	return nil
}

func (s *Sticky) learns() bool { return s.LearnCookie != "" || s.LearnHeader != "" }

// Fallback returns the policy for requests without a session.
func (s *Sticky) Fallback() reverseproxy.Selector { return s.otherwise }

// BalancePolicy implements [Balancer].
func (s *Sticky) BalancePolicy() balance.Policy {
	otherwise := s.otherwise.(Balancer)
	if s.learns() {
		return withFallback(balance.Hash{}, otherwise)
	}
	return otherwise.BalancePolicy()
}

// Key returns the hash of the learned value, or else the fallback's key.
func (s *Sticky) Key(r *http.Request) pool.Key {
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

// KeyOf implements [Keyed].
func (s *Sticky) KeyOf(values []string) pool.Key { return plainKey(values[0]) }

// Select implements [reverseproxy.Selector] for a plain reverse_proxy: it searches all upstreams for the session's backend.
func (s *Sticky) Select(upstreams reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	at, known, signed := s.among(upstreams).Find(r)
	switch {
	case known && upstreams[at].Available():
		return upstreams[at]
	case s.Strict && signed:
		return nil
	}
	u := s.otherwise.Select(upstreams, r, w)
	if u != nil {
		s.Tell(w.Header(), u.Dial, r)
	}
	return u
}

// Interface guards
var (
	_ SessionPolicy         = (*Sticky)(nil)
	_ Keyed                 = (*Sticky)(nil)
	_ caddy.Provisioner     = (*Sticky)(nil)
	_ caddyfile.Unmarshaler = (*Sticky)(nil)
)
