package policies

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// loadWord replaces one of Caddy's policies that choose by a part of the request with one of ours, which has weights, takes constant
// time, and knows the requests in flight. It returns nil for other policies, and for one whose fallback cannot be replaced.
func loadWord(ctx caddy.Context, name string, settings map[string]json.RawMessage) (reverseproxy.Selector, error) {
	if !isWord(name) {
		return nil, nil
	}
	otherwise, err := loadFallback(ctx, settings["fallback"], "random")
	if err != nil {
		return nil, fmt.Errorf(" %s: %w", name, err)
	}
	ours, ok := otherwise.(Balancer)
	if !ok {
		return nil, nil
	}
	delete(settings, "fallback") // Caddy's own policy is not used
	stock, err := loadModule(ctx, name, settings)
	if err != nil {
		return nil, fmt.Errorf(" %s: %w", name, err)
	}
	if c, ok := stock.(*reverseproxy.CookieHashSelection); ok {
		// Caddy's policy also works without a secret, but then any client that knows a backend's address can forge a cookie.
		return &Sticky{Name: c.Name, secrets: []string{c.Secret}, MaxAge: c.MaxAge, otherwise: ours, word: c}, nil
	}
	return &word{stock, wordValue(stock), ours}, nil
}

// isWord reports whether loadWord may replace the policy with this name.
func isWord(name string) bool {
	return slices.Contains([]string{"ip_hash", "client_ip_hash", "uri_hash", "query", "header", "cookie"}, name)
}

// word replaces a policy of Caddy's. It chooses by exactly the same part of the request.
type word struct {
	reverseproxy.Selector // Caddy's own, for its settings only; its Select is not called
	value                 func(r *http.Request) string
	otherwise             Balancer
}

// CaddyModule returns the information of Caddy's own module.
func (w *word) CaddyModule() caddy.ModuleInfo { return w.Selector.(caddy.Module).CaddyModule() }

// Key returns the hash of the part of the request that the policy chooses by. As with Caddy's, an empty part is handled by the fallback
// if there is one.
func (w *word) Key(r *http.Request) pool.Key {
	return keyOr(plainKey(w.value(r)), w.otherwise, r)
}

// KeyOf implements [Keyed].
func (w *word) KeyOf(values []string) pool.Key { return plainKey(values[0]) }

// plainKey returns the key of a request that is identified by one value.
func plainKey(value string) pool.Key {
	return pool.Key{Hash: xxhash.Sum64String(value), Known: value != ""}
}

// Fallback returns the policy for requests without that part.
func (w *word) Fallback() reverseproxy.Selector { return w.otherwise }

// BalancePolicy implements [Balancer].
func (w *word) BalancePolicy() balance.Policy { return withFallback(balance.Hash{}, w.otherwise) }

// wordValue returns the function that extracts the part of a request that the policy chooses by.
func wordValue(stock reverseproxy.Selector) func(r *http.Request) string {
	switch s := stock.(type) {
	case *reverseproxy.IPHashSelection:
		return func(r *http.Request) string { return withoutPort(r.RemoteAddr) }
	case *reverseproxy.ClientIPHashSelection:
		return func(r *http.Request) string {
			address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
			return withoutPort(address)
		}
	case *reverseproxy.QueryHashSelection:
		return func(r *http.Request) string { return strings.Join(r.URL.Query()[s.Key], ",") }
	case *reverseproxy.HeaderHashSelection:
		return func(r *http.Request) string {
			if s.Field == "Host" && r.Host != "" {
				return r.Host
			}
			return r.Header.Get(s.Field)
		}
	default: // uri_hash
		return func(r *http.Request) string { return r.RequestURI }
	}
}

func withoutPort(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// Interface guards
var (
	_ Balancer     = (*word)(nil)
	_ Keyed        = (*word)(nil)
	_ caddy.Module = (*word)(nil)
)
