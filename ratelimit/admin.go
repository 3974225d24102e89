package ratelimit

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/ratelimit/bucket"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// serving are the apps that have been started.
var serving caddyapp.Serving[*App]

// adminAPI shows the limits at Caddy's admin endpoint, and resets what clients have used:
//
//	GET    /load_balancer/rate_limits                 all zones, sorted by name
//	GET    /load_balancer/rate_limits/{zone}          one of them, with its busiest keys
//	GET    /load_balancer/rate_limits/{zone}/{key}    what a key has used
//	DELETE /load_balancer/rate_limits/{zone}          give all keys their tokens back
//	DELETE /load_balancer/rate_limits/{zone}/{key}    give a key its tokens back
//
// A key is an address, a range, or the text that resulted from the placeholders. An address stands for all ranges that it is charged to, a
// range only for itself.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.ip_rate_limit",
		New: func() caddy.Module { return adminAPI{} },
	}
}

const limitsPath = "/load_balancer/rate_limits"

// Routes implements [caddy.AdminRouter].
func (a adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: limitsPath, Handler: caddy.AdminHandlerFunc(a.serve)},
		{Pattern: limitsPath + "/", Handler: caddy.AdminHandlerFunc(a.serve)},
	}
}

func apiError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

func (a adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	// Names are percent-encoded, because they may contain slashes. Those of a range need not be, as they come last.
	path := strings.Trim(strings.TrimPrefix(r.URL.EscapedPath(), limitsPath), "/")
	zonePart, keyPart, _ := strings.Cut(path, "/")
	name, err := url.PathUnescape(zonePart)
	if err != nil {
		return apiError(http.StatusBadRequest, "zone: %w", err)
	}
	key, err := url.PathUnescape(keyPart)
	if err != nil {
		return apiError(http.StatusBadRequest, "key: %w", err)
	}
	methods := "GET, HEAD, DELETE"
	if name == "" {
		methods = "GET, HEAD"
	}
	if !slices.Contains(strings.Split(methods, ", "), r.Method) {
		w.Header().Set("Allow", methods)
		return apiError(http.StatusMethodNotAllowed, "method %s: must be one of %s", r.Method, methods)
	}
	all := []*joinedZone{}
	if app := serving.Latest(); app != nil {
		all = app.joined()
	}
	if name == "" {
		return caddyapp.WriteJSON(w, overviews(all))
	}
	i := slices.IndexFunc(all, func(z *joinedZone) bool { return z.name == name })
	if i < 0 {
		return apiError(http.StatusNotFound, "zone %s: not found", name)
	}
	z := all[i]
	switch {
	case r.Method == http.MethodDelete:
		forget := func() error { return z.forget(r, key) }
		if key == "" {
			forget = func() error { return z.forgetAll(r) }
		}
		if err := forget(); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	case key == "":
		const shown = 100
		o := z.overview()
		o.Busiest = []keyOverview{}
		for _, u := range z.table.Busiest(shown) {
			o.Busiest = append(o.Busiest, z.keyOverview(u))
		}
		return caddyapp.WriteJSON(w, o)
	default:
		return z.look(w, key)
	}
}

// namedKey is a key that a name may stand for, and its group in a store.
type namedKey struct {
	key   bucket.Key
	group []byte // nil if it depends on an address in the text that is not known
}

// keysOf returns the keys that a name may stand for.
func (z *joinedZone) keysOf(name string) []namedKey {
	var found []namedKey
	add := func(k bucket.Key, group []byte) { found = append(found, namedKey{k, group}) }
	identifier := z.handler.identifier
	if identifier.template != "" {
		multiples := []uint8{1}
		if identifier.mixesAddress() {
			for _, t := range tiers {
				multiples = append(multiples, t.multiple)
			}
		}
		for _, multiple := range multiples {
			for _, parse := range []func() (bucket.Key, bool){
				func() (bucket.Key, bool) { return bucket.TextKey(name, multiple), true },
				func() (bucket.Key, bool) { return bucket.ParseHash(name, multiple) },
			} {
				if k, ok := parse(); ok && len(multiples) > 1 {
					add(k, nil)
				} else if ok {
					add(k, k.Bytes())
				}
			}
		}
	}
	p, err := parseRange(name)
	if err != nil {
		if unknown := (bucket.Key{}); name == unknown.String() {
			add(unknown, unknown.Bytes())
		}
		return found
	}
	// All keys that an address is charged to; for a range, only the one of the same width.
	c := client{address: p.Addr()}
	identifier.addKeys(&c)
	for _, k := range c.keys() {
		if p.IsSingleIP() || k.String() == p.String() {
			add(k, c.all[c.n-1].Bytes())
		}
	}
	return found
}

func unknownKey(name string) error {
	return apiError(http.StatusNotFound, "key %s: not found; it has all its tokens", name)
}

// look answers with what a key has used, here and in the store.
func (z *joinedZone) look(w http.ResponseWriter, name string) error {
	var failed error
	for _, k := range z.keysOf(name) {
		u, known := z.table.Look(k.key)
		o := z.keyOverview(u)
		if z.store != nil && k.group != nil {
			shared := sharedBucket(k.key, z.handler.limits)
			answer, err := z.store.Look(z.name, k.group, shared)
			if err == nil {
				o.SharedTokens = &answer.Tokens
			}
			failed = cmp.Or(failed, err)
			if !known && err == nil && answer.Tokens < float64(shared.Burst) {
				known = true // other Caddys of the fleet know the key
				o.Key, o.Burst, o.Tokens = k.key.String(), shared.Burst, float64(shared.Burst)
			}
		}
		if known {
			return caddyapp.WriteJSON(w, o)
		}
	}
	if failed != nil {
		return apiError(http.StatusBadGateway, "key %s: not found here, and the store cannot be asked: %w", name, failed)
	}
	return unknownKey(name)
}

// forgetAll gives all keys their tokens back: first in the store, which would otherwise refuse clients again and have them held here.
func (z *joinedZone) forgetAll(r *http.Request) error {
	var failed error
	if z.store != nil {
		failed = z.store.ForgetZone(r.Context(), z.name)
	}
	z.table.ForgetAll()
	return notForgotten(failed)
}

// forget gives the keys of that name their tokens back, in the same order.
func (z *joinedZone) forget(r *http.Request, name string) error {
	known := z.store != nil // the store does not tell, so it is assumed
	var failed error
	for _, k := range z.keysOf(name) {
		if z.store != nil {
			failed = cmp.Or(failed, z.store.Forget(r.Context(), z.name, k.group, k.key.Bytes()))
		}
		known = z.table.Forget(k.key) || known
	}
	if !known {
		return unknownKey(name)
	}
	return notForgotten(failed)
}

func notForgotten(err error) error {
	if err == nil {
		return nil
	}
	return apiError(http.StatusBadGateway, "reset here, but not in the store: %w", err)
}

var _ caddy.AdminRouter = adminAPI{}
