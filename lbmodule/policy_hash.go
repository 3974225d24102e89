package lbmodule

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func init() {
	caddy.RegisterModule(new(Hash))
}

// Hash selects the same backend for the same key, whatever the request is made of: its path, a header, a query parameter, a
// cookie. Keys are spread by weight, and few of them move when backends come or go. A request for which all placeholders are
// empty goes to a backend at random, by weight. A backend that is ramped up is given its keys little by little. When a key's
// backend is full or has failed, it has a second one, which is always the same.
//
// A plain `reverse_proxy` knows no weights, and all backends are looked at each time.
type Hash struct {
	// What the key is made of: texts with placeholders, one at least. Required.
	Keys []string `json:"keys,omitempty"`

	constant []string // what each is when its placeholders are empty
}

// CaddyModule returns the Caddy module information.
func (*Hash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".lb_hash",
		New: func() caddy.Module { return new(Hash) },
	}
}

// UnmarshalCaddyfile sets h up from Caddyfile tokens: `lb_hash <placeholders...>`.
func (h *Hash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	h.Keys = d.RemainingArgs()
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Provision sets h up.
func (h *Hash) Provision(caddy.Context) error {
	empty := caddy.NewEmptyReplacer()
	for _, key := range h.Keys {
		h.constant = append(h.constant, empty.ReplaceAll(key, ""))
	}
	return nil
}

// Validate returns an error if there is nothing to tell requests apart by.
func (h *Hash) Validate() error {
	if len(h.Keys) == 0 {
		return fmt.Errorf("lb_policy hash: must be given placeholders, such as {http.request.uri.path}")
	}
	for _, key := range h.Keys {
		if !strings.Contains(key, "{") {
			return fmt.Errorf("lb_policy hash: %s: must contain a placeholder, such as {http.request.uri.path}: it would be the same for all requests", key)
		}
	}
	return nil
}

// keyed is a policy that chooses by a key of the request.
type keyed interface {
	key(r *http.Request) pool.Key
	// keyOf is the key of a request whose values are these.
	keyOf(values []string) pool.Key
}

// key is the hash of the request's key.
func (h *Hash) key(r *http.Request) pool.Key {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return pool.Key{}
	}
	var d keyDigest
	d.Reset()
	known := false
	for i, key := range h.Keys {
		value := repl.ReplaceAll(key, "")
		known = known || value != h.constant[i]
		d.add(value)
	}
	return pool.Key{Hash: d.Sum64(), Known: known}
}

func (h *Hash) keyOf(values []string) pool.Key {
	var d keyDigest
	d.Reset()
	for _, value := range values {
		d.add(value)
	}
	return pool.Key{Hash: d.Sum64(), Known: true}
}

// keyDigest hashes the values that a key is made of.
type keyDigest struct{ xxhash.Digest }

func (d *keyDigest) add(value string) {
	_, _ = d.WriteString(value)
	_, _ = d.Write([]byte{0}) // "ab" and "c" are not "a" and "bc"
}

// Select implements [reverseproxy.Selector] for a plain reverse_proxy: the upstream whose hash with the key is the highest
// (rendezvous hashing: Thaler and Ravishankar, 1998).
func (h *Hash) Select(upstreams reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	key := h.key(r)
	if !key.Known {
		return reverseproxy.RandomSelection{}.Select(upstreams, r, w)
	}
	var best *reverseproxy.Upstream
	var highest uint64
	for _, u := range upstreams {
		if !u.Available() {
			continue
		}
		if score := balance.Mix(key.Hash ^ xxhash.Sum64String(u.String())); best == nil || score > highest {
			best, highest = u, score
		}
	}
	return best
}

func (h *Hash) balancePolicy() balance.Policy { return balance.Hash{} }

// Interface guards
var (
	_ balancer          = (*Hash)(nil)
	_ keyed             = (*Hash)(nil)
	_ caddy.Provisioner = (*Hash)(nil)
	_ caddy.Validator   = (*Hash)(nil)
)
