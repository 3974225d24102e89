package front

import (
	"net/netip"
	"strings"
	"testing"
)

// FuzzWho makes a client's identity in the queue and in retry counts from the address that Caddy shows: an address is one client however
// it is written, all addresses of an IPv6 /64 are one, and other networks are others.
func FuzzWho(f *testing.F) {
	for _, text := range []string{
		"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:DB8:0:0::1", "fe80::1%eth0", "fe80::1", "", "@", "192.0.2.1:80", "[::1]:80", "::", "0.0.0.0", "a b",
	} {
		f.Add(text, uint8(70))
		f.Add(text, uint8(20))
	}
	f.Fuzz(func(t *testing.T, text string, bit uint8) {
		who := NewWho(text)
		if (who.hash == 0) != (text == "") || (who.key == "") != (text == "") {
			t.Fatalf("%q is %+v", text, who)
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			if who.key != text {
				t.Fatalf("%q waits as %q", text, who.key)
			}
			return
		}
		plain := a.WithZone("").Unmap()
		same := []string{plain.String(), strings.ToUpper(plain.StringExpanded())}
		if plain.Is4() {
			same = append(same, "::ffff:"+plain.String(), netip.AddrFrom16(plain.As16()).StringExpanded())
		} else {
			same = append(same, plain.String()+"%zone")
		}
		for _, other := range same {
			if is := NewWho(other); is.key != who.key || is.hash != who.hash {
				t.Fatalf("%q is %+v, and %q is %+v", text, who, other, is)
			}
		}
		bytes := plain.AsSlice()
		bit %= uint8(8 * len(bytes))
		bytes[bit/8] ^= 0x80 >> (bit % 8)
		neighbor, _ := netip.AddrFromSlice(bytes)
		if neighbor.Is4In6() {
			return // it is an IPv4 address now
		}
		is := NewWho(neighbor.String())
		if one := plain.Is6() && bit >= 64; one != (is.key == who.key) || one && is.hash != who.hash {
			t.Fatalf("%q is %+v, and %s is %+v", text, who, neighbor, is)
		}
	})
}
