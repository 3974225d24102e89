package policies

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// KeyBy returns the function that returns the key of a request: its client's address, or the header field or cookie of that name. They are
// what the policies client_ip_hash, header and cookie choose by.
func KeyBy(by, name string) func(r *http.Request) pool.Key {
	if by == "cookie" {
		return func(r *http.Request) pool.Key {
			c, err := r.Cookie(name)
			if err != nil {
				return pool.Key{}
			}
			return plainKey(c.Value)
		}
	}
	value := wordValue(&reverseproxy.ClientIPHashSelection{})
	if by == "header" {
		value = wordValue(&reverseproxy.HeaderHashSelection{Field: http.CanonicalHeaderKey(name)})
	}
	return func(r *http.Request) pool.Key { return plainKey(value(r)) }
}
