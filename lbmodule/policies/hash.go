package policies

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

func init() {
	caddy.RegisterModule(new(Hash))
}

// Hash selects the same backend for the same key. The key may be made of any part of the request: its path, a header, a query parameter,
// a cookie. Keys are spread by weight, and few of them move when backends come or go. A request for which all placeholders are empty is
// handled by `fallback`. During its slow start a backend gets its keys gradually. If the backend of a key is full or has failed, the key
// goes to a second one, which is always the same.
//
// In a load balancer, Caddy's `ip_hash`, `client_ip_hash`, `uri_hash`, `query` and `header` work in the same way.
//
// A plain `reverse_proxy` has no weights, and there the cost of a choice grows with the number of backends.
type Hash struct {
	// What the key is made of: one or more texts with placeholders. Required.
	Keys []string `json:"keys,omitempty"`

	// The bound of a backend's requests in flight, as a multiple of its share, more than 1: keys beyond it go to their next backend. 1.25
	// is a good value if some keys are requested far more often than others. Not in a plain `reverse_proxy`. Default: no bound.
	BoundedLoad float64 `json:"bounded_load,omitempty"`

	// The policy for requests without a key. Default: `random`.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	constant  []string // the values of the keys with empty placeholders
	otherwise reverseproxy.Selector
}

// CaddyModule returns the Caddy module information.
func (*Hash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  Namespace + ".lb_hash",
		New: func() caddy.Module { return new(Hash) },
	}
}

// UnmarshalJSON reads the policy's config.
func (h *Hash) UnmarshalJSON(text []byte) error {
	type hash Hash
	return config.Ranges.Decode("lb_policy hash", text, (*hash)(h))
}

// UnmarshalCaddyfile sets h up from Caddyfile tokens:
//
//	lb_hash <placeholders...> {
//	    bounded_load <percent>
//	    fallback     <policy> [<options...>]
//	}
func (h *Hash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	h.Keys = d.RemainingArgs()
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch word := d.Val(); word {
		case "bounded_load":
			if h.BoundedLoad != 0 {
				return d.Errf("lb_policy hash: %s: given twice", word)
			}
			if err := parseBoundedLoad(d, &h.BoundedLoad); err != nil {
				return err
			}
		case "fallback":
			if err := parseFallback(d, &h.FallbackRaw); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w%s", d.Errf("lb_policy hash: unrecognized setting %s", word), config.DidYouMean(word, "bounded_load", "fallback"))
		}
	}
	return nil
}

// parseBoundedLoad parses a percentage above 100.
func parseBoundedLoad(d *caddyfile.Dispenser, target *float64) error {
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	number, isPercent := strings.CutSuffix(text, "%")
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || !isPercent {
		return d.Errf("lb_policy hash: bounded_load %s: must be a percentage, such as 125%%", text)
	}
	*target = value / 100
	if err := checkBoundedLoad(*target); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func checkBoundedLoad(bound float64) error {
	return config.InRange("lb_policy hash.bounded_load", bound)
}

// Provision sets h up.
func (h *Hash) Provision(ctx caddy.Context) (err error) {
	switch ours := inLoadBalancer(ctx); {
	case h.BoundedLoad != 0 && !ours:
		return fmt.Errorf("lb_policy lb_hash: bounded_load: must be in a load_balancer: reverse_proxy does not tell a policy how requests end")
	case h.BoundedLoad != 0:
		if err := checkBoundedLoad(h.BoundedLoad); err != nil {
			return err
		}
	}
	if h.otherwise, err = loadFallback(ctx, h.FallbackRaw, "random"); err != nil {
		return fmt.Errorf("lb_policy hash: %w", err)
	}
	if _, ok := h.otherwise.(Balancer); !ok && inLoadBalancer(ctx) {
		return fmt.Errorf("lb_policy hash: fallback: must be one of the lb_ policies")
	}
	empty := caddy.NewEmptyReplacer()
	for _, key := range h.Keys {
		h.constant = append(h.constant, empty.ReplaceAll(key, ""))
	}
	return nil
}

// Validate returns an error if there is no key.
func (h *Hash) Validate() error {
	if len(h.Keys) == 0 {
		return fmt.Errorf("lb_policy hash: must be given placeholders, such as {http.request.uri.path}")
	}
	for _, key := range h.Keys {
		if !strings.Contains(key, "{") {
			return fmt.Errorf("lb_policy hash: %s: must contain a placeholder, such as {http.request.uri.path}; otherwise it is the same for all requests", key)
		}
	}
	return nil
}

// Key returns the hash of the request's key.
func (h *Hash) Key(r *http.Request) pool.Key {
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
	return keyOr(pool.Key{Hash: d.Sum64(), Known: known}, h.otherwise, r)
}

// KeyOf implements [Keyed].
func (h *Hash) KeyOf(values []string) pool.Key {
	var d keyDigest
	d.Reset()
	for _, value := range values {
		d.add(value)
	}
	return pool.Key{Hash: d.Sum64(), Known: true}
}

// keyDigest hashes the values of a key.
type keyDigest struct{ xxhash.Digest }

func (d *keyDigest) add(value string) {
	_, _ = d.WriteString(value)
	_, _ = d.Write([]byte{0}) // so that "ab" and "c" differ from "a" and "bc"
}

// Select implements [reverseproxy.Selector] for a plain reverse_proxy: it returns the upstream with the highest hash together with the
// key (rendezvous hashing: Thaler and Ravishankar, 1998).
func (h *Hash) Select(upstreams reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	key := h.Key(r)
	if !key.Known {
		return h.otherwise.Select(upstreams, r, w)
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

// Fallback returns the policy for requests without a key.
func (h *Hash) Fallback() reverseproxy.Selector { return h.otherwise }

// BalancePolicy implements [Balancer].
func (h *Hash) BalancePolicy() balance.Policy {
	return withFallback(balance.Hash{Bound: h.BoundedLoad}, h.otherwise.(Balancer))
}

// Interface guards
var (
	_ Balancer          = (*Hash)(nil)
	_ Keyed             = (*Hash)(nil)
	_ caddy.Provisioner = (*Hash)(nil)
	_ caddy.Validator   = (*Hash)(nil)
)
