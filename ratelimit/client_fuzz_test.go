package ratelimit

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

// proxied are servers that trust proxies at 10.0.0.0/8 and fd00::/8; the second is strict: an address counts only if all behind it are
// trusted.
func proxied(f *testing.F) []*caddyhttp.Server {
	f.Helper()
	const trust = `"trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8", "fd00::/8"]}`
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
		}},
		AppsRaw: caddy.ModuleMap{"http": json.RawMessage(`{"servers": {"first": {"listen": ["127.0.0.1:0"], ` + trust + `}, "strict": {"listen": ["127.0.0.2:0"], ` + trust + `, "trusted_proxies_strict": 1}}}`)},
	})
	if err != nil {
		f.Fatal(err)
	}
	app, err := ctx.App("http")
	if err != nil {
		f.Fatal(err)
	}
	servers := app.(*caddyhttp.App).Servers
	return []*caddyhttp.Server{servers["first"], servers["strict"]}
}

// keysOf returns the keys of a request from that peer with these forwarding fields.
func keysOf(i identifier, s *caddyhttp.Server, remote, forwarded string) []bucket.Key {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if r.RemoteAddr = remote; forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	c := i.identify(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), s))
	return slices.Clone(c.keys())
}

// spellings are other texts for an address.
func spellings(a netip.Addr) []string {
	all := []string{a.String(), " " + a.String() + " ", net.JoinHostPort(a.String(), "443"), "x, , " + a.String()}
	if a.Is4() {
		return append(all, "::ffff:"+a.String(), "::FFFF:"+a.String(), netip.AddrFrom16(a.As16()).StringExpanded())
	}
	return append(all, a.StringExpanded(), strings.ToUpper(a.StringExpanded()), a.String()+"%eth0", net.JoinHostPort(a.String()+"%1", "1"))
}

// FuzzClient checks the keys that a request is charged to: forwarding fields of an untrusted client are ignored, an address has the same
// keys however it is written, a client has one key for its whole network, and another network has another key.
func FuzzClient(f *testing.F) {
	for _, seed := range []struct{ remote, forwarded string }{
		{"192.0.2.1:1234", ""}, {"192.0.2.1:1234", "198.51.100.7"}, {"10.0.0.1:80", "198.51.100.7, 10.0.0.2"}, {"10.0.0.1:80", "[2001:db8::1]:443"},
		{"[2001:db8:1:2:3:4:5:6]:1", ""}, {"[fe80::1%eth0]:1", "::1"}, {"[::ffff:192.0.2.1]:1", ""}, {"[fd00::1]:1", "::ffff:192.0.2.9"}, {"@", "::1"}, {"", ""},
		{"10.0.0.1:80", "unknown, fe80::1%eth0"}, {"10.0.0.1:80", "::, 0.0.0.0"}, {"10.0.0.1:80", "1.2.3.04, 1.2.3.4:99999"},
	} {
		f.Add(seed.remote, seed.forwarded, uint8(0), uint8(63))
		f.Add(seed.remote, seed.forwarded, uint8(56), uint8(40))
	}
	servers := proxied(f)
	f.Fuzz(func(t *testing.T, remote, forwarded string, prefix, bit uint8) {
		if len(remote)+len(forwarded) > 512 {
			return
		}
		i := newIdentifier(&Settings{IPv6Prefix: int(prefix) % 129})
		for _, s := range servers {
			keys := keysOf(i, s, remote, forwarded)
			a := clientOf(s, remote, forwarded)
			express := client{address: a.Unmap().WithZone("")} // as the express lane sets it
			i.addKeys(&express)
			if !slices.Equal(keys, express.keys()) {
				t.Fatalf("%q for %q: keys %v, and %v on the express lane", remote, forwarded, keys, express.keys())
			}
			if host, _, err := net.SplitHostPort(remote); err == nil && !trusted(host) && !slices.Equal(keys, keysOf(i, s, remote, "")) {
				t.Fatalf("%q has other keys because it says %q: %v", remote, forwarded, keys)
			}
			if a = express.address; a.IsValid() {
				checkKeys(t, i, s, a, keys, int(bit))
			} else if len(keys) != 1 || keys[0] != (bucket.Key{}) {
				t.Fatalf("%q for %q: no address, but keys %v", remote, forwarded, keys)
			}
		}
	})
}

// clientOf returns the client's address as a server determines it.
func clientOf(s *caddyhttp.Server, remote, forwarded string) netip.Addr {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if r.RemoteAddr = remote; forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), s)
	a, _ := netip.ParseAddr(caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string))
	return a
}

// trusted reports whether an address is one of the proxies of [proxied].
func trusted(host string) bool {
	host, _, _ = strings.Cut(host, "%")
	a, err := netip.ParseAddr(host)
	return err == nil && (netip.MustParsePrefix("10.0.0.0/8").Contains(a) || netip.MustParsePrefix("fd00::/8").Contains(a))
}

// checkKeys checks the keys of the client at that address, and compares them with those of the address that differs in one bit.
func checkKeys(t *testing.T, i identifier, s *caddyhttp.Server, a netip.Addr, keys []bucket.Key, bit int) {
	t.Helper()
	if !trusted(a.String()) {
		for _, text := range spellings(a) {
			if got := keysOf(i, s, "10.1.2.3:4", text); !slices.Equal(got, keys) {
				t.Fatalf("%q has the keys %v, and %s has %v", text, got, a, keys)
			}
		}
	}
	own := i.v6
	if a.Is4() {
		own = 32
	}
	if own == 0 || keys[0].Multiple() != 1 {
		t.Fatalf("%s: keys %v", a, keys)
	}
	bytes := a.AsSlice()
	bit %= 8 * len(bytes)
	bytes[bit/8] ^= 0x80 >> (bit % 8)
	other, _ := netip.AddrFromSlice(bytes)
	if other.Is4In6() {
		return // it is an IPv4 address now
	}
	c := client{address: other}
	i.addKeys(&c)
	if len(c.keys()) != len(keys) {
		t.Fatalf("%s has %v, and %s has %v", a, keys, other, c.keys())
	}
	for n, k := range keys {
		wide := own
		if n > 0 {
			wide = map[int]int{4: 56, 16: 48}[k.Multiple()]
		}
		if same := k == c.keys()[n]; same != (bit >= wide) || wide == 0 {
			t.Fatalf("%s and %s differ in bit %d, and have the keys %v and %v", a, other, bit, keys, c.keys())
		}
	}
}
