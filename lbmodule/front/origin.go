package front

import (
	"hash/maphash"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

var originSeed = maphash.MakeSeed()

// Origin tells who sent a request and what it is for. IPv6 clients are told apart by /64, because one client has that many
// addresses. The query is left out: it costs a client nothing to make another.
func (x *Request) Origin() pool.Origin { return OriginOf(x.request) }

// OriginOf is that of any request.
func OriginOf(r *http.Request) pool.Origin {
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
func (x *Request) Client() string { return ClientOf(x.request) }

// ClientOf is that of any request.
func ClientOf(r *http.Request) string {
	const clientBits = 64 // of an IPv6 address
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
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
