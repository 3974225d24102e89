package ratelimit

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

// clientIP is the placeholder of the client's address.
const clientIP = "{http.vars." + caddyhttp.ClientIPVarKey + "}"

// tiers are the larger ranges that an IPv6 client is charged to besides its own: a client that is assigned a /56 or a /48 can use a new /64
// for each request.
var tiers = []struct {
	bits     int
	multiple uint8
}{{56, 4}, {48, 16}}

// identifier derives the keys of a client from a request.
type identifier struct {
	template string // of the key; empty if the address is the key
	v6       int    // bits of IPv6 addresses
	tiers    bool
}

func newIdentifier(s *Settings) identifier {
	i := identifier{template: s.Key, v6: defaultIPv6Prefix, tiers: s.IPv6Tiers == nil || !s.IPv6Tiers.Disabled}
	if i.template == clientIP || i.template == "{client_ip}" {
		i.template = ""
	}
	if s.IPv6Prefix != 0 {
		i.v6 = s.IPv6Prefix
	}
	return i
}

// mixesAddress reports whether the key contains the address among others.
func (i *identifier) mixesAddress() bool { return strings.Contains(i.template, clientIP) }

// byAddress reports whether clients may be told apart by their address.
func (i *identifier) byAddress() bool {
	return i.template == "" || i.mixesAddress() || strings.Contains(i.template, "{http.request.header.")
}

// client is the client of a request.
type client struct {
	address netip.Addr // zero if it is not known, as on a unix socket
	text    string     // of a key that is not an address
	n       int
	all     [bucket.MaxKeys]bucket.Key
}

// keys returns the keys that a request of c is charged to, the narrowest first.
func (c *client) keys() []bucket.Key { return c.all[:c.n] }

func (c *client) add(k bucket.Key) {
	c.all[c.n] = k
	c.n++
}

// identify returns the client of the request.
func (i *identifier) identify(r *http.Request) client {
	var c client
	c.address = clientAddress(r)
	if i.template != "" && i.addTexts(&c, r) {
		return c
	}
	i.addKeys(&c)
	return c
}

// addTexts adds the key that results from the template, and those of the tiers if the template contains an address: otherwise a client with
// a /48 would have a separate key for each of its networks. It reports whether there is a key.
func (i *identifier) addTexts(c *client, r *http.Request) bool {
	if c.text = i.fillIn(r, i.rangeOf(c.address)); c.text == "" {
		return false
	}
	c.add(bucket.TextKey(c.text, 1))
	if i.mixesAddress() {
		i.eachTier(c.address, func(p netip.Prefix, multiple uint8) { c.add(bucket.TextKey(i.fillIn(r, p), multiple)) })
	}
	return true
}

// eachTier calls f for the tiers of an address.
func (i *identifier) eachTier(a netip.Addr, f func(p netip.Prefix, multiple uint8)) {
	if !i.tiers || !a.Is6() {
		return
	}
	for _, t := range tiers {
		if t.bits < i.v6 {
			f(netip.PrefixFrom(a, t.bits).Masked(), t.multiple)
		}
	}
}

// addKeys adds the keys of c's address.
func (i *identifier) addKeys(c *client) {
	if !c.address.IsValid() {
		c.add(bucket.Key{}) // all clients without an address share one key
		return
	}
	c.add(bucket.AddressKey(i.rangeOf(c.address), 1))
	i.eachTier(c.address, func(p netip.Prefix, multiple uint8) { c.add(bucket.AddressKey(p, multiple)) })
}

// rangeOf returns the range of addresses that counts as one client, or the zero Prefix if the address is not known.
func (i *identifier) rangeOf(a netip.Addr) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	bits := 32
	if a.Is6() {
		bits = i.v6
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// fillIn replaces the placeholders of the key. The client's address is replaced by its range: otherwise an IPv6 client would have a new key
// for each of its addresses.
func (i *identifier) fillIn(r *http.Request, addresses netip.Prefix) string {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	parts := strings.Split(i.template, clientIP)
	filled := make([]string, len(parts))
	for n, part := range parts {
		filled[n] = repl.ReplaceAll(part, "")
	}
	if len(filled) == 1 {
		return filled[0]
	}
	who := ""
	if addresses.IsValid() {
		who = addresses.String()
	}
	return strings.Join(filled, who)
}

// clientAddress returns the client's address as Caddy determines it, in one canonical form.
func clientAddress(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// parseRange parses a range, or an address as a range of one address.
func parseRange(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), err
}

// ranges is a set of address ranges, looked up by prefix length: there are few lengths, however many ranges there are.
type ranges struct {
	v4, v6 []int // the lengths that occur
	all    map[netip.Prefix]struct{}
}

func newRanges(list []netip.Prefix) ranges {
	r := ranges{all: make(map[netip.Prefix]struct{})}
	for _, p := range list {
		r.all[p] = struct{}{}
		lengths := &r.v4
		if p.Addr().Is6() {
			lengths = &r.v6
		}
		if !slices.Contains(*lengths, p.Bits()) {
			*lengths = append(*lengths, p.Bits())
		}
	}
	return r
}

func (r *ranges) contain(a netip.Addr) bool {
	lengths := r.v4
	if a.Is6() {
		lengths = r.v6
	}
	for _, bits := range lengths {
		if p, err := a.Prefix(bits); err == nil {
			if _, found := r.all[p]; found {
				return true
			}
		}
	}
	return false
}
