package bucket

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// Key identifies a limited client by an address range or by a text. The zero Key is for all clients with neither.
type Key struct {
	data     [16]byte // the first address of the range, IPv4 as 4-in-6; or the hash of the text
	bits     uint8    // of the range, among the 128; isText for a text
	multiple uint8    // the factor by which its limits are multiplied
}

const isText = 255

// AddressKey returns the key of a range of addresses, with limits multiplied by multiple.
func AddressKey(p netip.Prefix, multiple uint8) Key {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return Key{data: p.Masked().Addr().As16(), bits: uint8(bits), multiple: multiple}
}

// TextKey returns the key of a text, with limits multiplied by multiple. Texts may be long, and clients choose them: only half of their
// SHA-256 hash is kept.
func TextKey(text string, multiple uint8) Key {
	k := Key{bits: isText, multiple: multiple}
	sum := sha256.Sum256([]byte(text))
	copy(k.data[:], sum[:])
	return k
}

const hashed = "sha256:"

// ParseHash returns the key with the name sha256:..., which a key has if its text is not kept.
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

// String returns an address, a range, or the hash of a text.
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

// Bytes returns bytes that are unique to k.
func (k Key) Bytes() []byte { return append(k.data[:], k.bits, k.multiple) }

// Multiple returns the factor by which the limits of k are multiplied.
func (k Key) Multiple() int { return max(int(k.multiple), 1) }
