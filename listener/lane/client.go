package lane

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/front"
)

// asker is the client of a request. Where proxies are trusted, it is the client that they name.
type asker struct {
	who     *front.Who
	address netip.Addr // zero if it is not known
	ip      string     // as Caddy's client_ip has it
	trusted bool       // the peer is a trusted proxy
}

// identify determines the client of the request. It needs the full request only where proxies are trusted.
func (x *request) identify() {
	c := x.conn
	x.asker = asker{who: c.who, address: c.address, ip: c.peer}
	if !x.site.Table.Proxied() {
		return
	}
	ctx := x.Full().Context()
	x.trusted, _ = caddyhttp.GetVar(ctx, caddyhttp.TrustedProxyVarKey).(bool)
	ip, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	if ip == c.peer {
		return
	}
	x.ip, x.who = ip, front.NewWho(ip)
	x.address, _ = netip.ParseAddr(ip) // a value that is not an address leaves the zero address
}

// appendForwarded appends the X-Forwarded fields as [front.Request] sets them: values from a trusted proxy are kept.
func (x *request) appendForwarded(b, host []byte) []byte {
	c := x.conn
	if c.peer == "" && !x.trusted {
		return b
	}
	proto := scheme(c.client.TLS != nil)
	if !x.trusted {
		b = appendField(b, forwardedFor, c.peer)
		b = appendField(b, forwardedProto, proto)
		b = append(b, forwardedHost+": "...)
		return append(append(b, host...), "\r\n"...)
	}
	before := x.values(forwardedFor)
	if all := chain(before, c.peer); all != "" || len(before) > 0 {
		b = appendField(b, forwardedFor, all)
	}
	b = appendField(b, forwardedProto, lastOr(x.values(forwardedProto), proto))
	return appendField(b, forwardedHost, lastOr(x.values(forwardedHost), string(host)))
}

// setForwarded sets the same fields in a header that operations may have changed.
func (x *request) setForwarded(header http.Header, host string) {
	c := x.conn
	if !x.trusted {
		delete(header, forwardedFor)
		delete(header, forwardedProto)
		delete(header, forwardedHost)
		if c.peer == "" {
			return
		}
	}
	if all := chain(header[forwardedFor], c.peer); all != "" {
		header[forwardedFor] = []string{all}
	}
	header[forwardedProto] = []string{lastOr(header[forwardedProto], scheme(c.client.TLS != nil))}
	header[forwardedHost] = []string{lastOr(header[forwardedHost], host)}
}

// chain returns the client addresses in before, followed by that of a proxy. A Unix socket has no address, given as "".
func chain(before []string, proxy string) string {
	all := strings.Join(before, ", ")
	if all == "" || proxy == "" {
		return all + proxy
	}
	return all + ", " + proxy
}

const (
	forwardedFor   = "X-Forwarded-For"
	forwardedProto = "X-Forwarded-Proto"
	forwardedHost  = "X-Forwarded-Host"
)

// values returns the values of the request's fields with that name.
func (x *request) values(name string) (all []string) {
	h := &x.conn.head
	for _, f := range h.Fields {
		if string(f.Name.Of(h.Raw)) == name {
			all = append(all, string(f.Value.Of(h.Raw)))
		}
	}
	return all
}

// lastOr returns the last of values, or otherwise if that is empty.
func lastOr(values []string, otherwise string) string {
	if n := len(values); n > 0 && values[n-1] != "" {
		return values[n-1]
	}
	return otherwise
}
