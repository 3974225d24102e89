// Package fieldline parses the names and values of HTTP/1.1 fields, eight bytes at a time where possible.
package fieldline

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// kinds has the kind of each byte of a name; 0 for a byte that names must not have.
var kinds = func() (k [256]uint8) {
	for c := range k {
		switch {
		case 'a' <= c && c <= 'z':
			k[c] = lower
		case 'A' <= c && c <= 'Z':
			k[c] = capital
		case c == '_' || c == '.':
			k[c] = alias
		case '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-^`|~", byte(c)) >= 0:
			k[c] = other
		}
	}
	return k
}()

const (
	lower = 1 << iota
	capital
	alias
	other
)

// Name returns the length of the name at the beginning of text. canonical reports that it is written as net/http writes names. aliased
// reports that it has a "_" or a ".", which some programs treat as hyphens, so that the name may be taken for another.
func Name(text []byte) (n int, canonical, aliased bool) {
	var found uint8
	watched := uint8(lower | alias)
	for i, c := range text {
		k := kinds[c]
		if k == 0 {
			text = text[:i]
			break
		}
		found |= k & watched
		watched = capital | alias
		if c == '-' {
			watched = lower | alias
		}
	}
	return len(text), found&(lower|capital) == 0, found&alias != 0
}

// Canonicalize makes the first letter of a name and each letter after a hyphen upper-case, and all others lower-case.
func Canonicalize(name []byte) {
	wrong := uint8(lower)
	for i, c := range name {
		if kinds[c]&wrong != 0 {
			name[i] = c ^ ('a' - 'A')
		}
		wrong = capital
		if c == '-' {
			wrong = lower
		}
	}
}

// Value returns the length of the part of text before the first byte that values must not have: a control character other than a tab.
func Value(text []byte) int {
	at := 0
	for ; len(text)-at >= 8; at += 8 {
		if found := controls(binary.LittleEndian.Uint64(text[at:])); found != 0 {
			at += bits.TrailingZeros64(found) / 8
			if text[at] != '\t' {
				return at
			}
			at -= 7 // continue one byte after the tab
		}
	}
	for ; at < len(text); at++ {
		if c := text[at]; c < ' ' && c != '\t' || c == 0x7f {
			break
		}
	}
	return at
}

// controls returns a word with a bit in each byte that is below a space or DEL. The bits above the lowest one may be wrong.
func controls(word uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	del := word ^ 0x7f*ones
	return ((word-' '*ones)&^word | (del-ones)&^del) & tops
}
