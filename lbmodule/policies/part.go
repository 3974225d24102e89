package policies

import (
	"net/http"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// KeyBy returns a function that returns the key of a request: its client's address, or the header field or cookie of that name. The keys
// are those of the policies client_ip_hash, header and cookie. The function allocates nothing.
func KeyBy(by, name string) func(r *http.Request) pool.Key {
	switch by {
	case "header":
		value := wordValue(&reverseproxy.HeaderHashSelection{Field: http.CanonicalHeaderKey(name)})
		return func(r *http.Request) pool.Key { return plainKey(value(r)) }
	case "cookie":
		return func(r *http.Request) pool.Key { return plainKey(cookieValue(r.Header["Cookie"], name)) }
	default:
		return func(r *http.Request) pool.Key {
			address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
			return plainKey(address)
		}
	}
}

// cookieValue returns the value of the first cookie of that name; "" if there is none.
func cookieValue(fields []string, name string) string {
	for _, field := range fields {
		for field != "" {
			var pair string
			pair, field, _ = strings.Cut(field, ";")
			if key, value, _ := strings.Cut(textproto.TrimString(pair), "="); key == name {
				return strings.Trim(value, `"`)
			}
		}
	}
	return ""
}
