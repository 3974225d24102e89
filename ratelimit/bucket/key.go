package bucket

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// Key is who is limited: an address range, or a text. The zero Key is whoever has neither.
type Key struct {
	data     [16]byte // the first address of the range, IPv4 as 4-in-6; or the hash of the text
	bits     uint8    // of the range in the 16 bytes; isText for a text
	multiple uint8    // how many times the limits are granted to it
}

const isText = 255

// AddressKey is the key of a range of addresses that is granted multiple times the limits.
func AddressKey(p netip.Prefix, multiple uint8) Key {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return Key{data: p.Masked().Addr().As16(), bits: uint8(bits), multiple: multiple}
}

// TextKey is the key of a text that is granted multiple times the limits. Texts may be long, and clients choose them: only their
// SHA-256 hash is kept, half of it.
func TextKey(text string, multiple uint8) Key {
	k := Key{bits: isText, multiple: multiple}
	sum := sha256.Sum256([]byte(text))
	copy(k.data[:], sum[:])
	return k
}

const hashed = "sha256:"

// ParseHash returns the key of that multiple that is called sha256:... because its text is not kept.
func ParseHash(name string, multiple uint8) (Key, bool) {
	digits, ok := strings.CutPrefix(name, hashed)
	sum, err := hex.DecodeString(digits)
	k := Key{bits: isText, multiple: multiple}
	if !ok || err != nil || len(sum) != len(k.data) {
		return Key{}, false
	}
	copy(k.data[:], sum)
	return k, true
}

// String is an address, a range, or the hash of a text.
func (k Key) String() string {
	if k.bits == isText {
		return hashed + hex.EncodeToString(k.data[:])
	}
	p := netip.PrefixFrom(netip.AddrFrom16(k.data), int(k.bits))
	if a := p.Addr(); a.Is4In6() && k.bits >= 96 {
		p = netip.PrefixFrom(a.Unmap(), int(k.bits)-96)
	}
	switch {
	case k.multiple == 0:
		return "unknown"
	case p.IsSingleIP():
		return p.Addr().String()
	default:
		return p.String()
	}
}

// Bytes are what tells k from all other keys.
func (k Key) Bytes() []byte { return append(k.data[:], k.bits, k.multiple) }

// Multiple is how many times the limits are granted to k.
func (k Key) Multiple() int { return max(int(k.multiple), 1) }
