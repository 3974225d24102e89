package h1

import "strings"

// uses has, for each byte value, the parts of a request in which it is allowed.
var uses = func() (u [256]uint8) {
	for c := range u {
		digit := '0' <= c && c <= '9'
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		among := func(list string) bool { return strings.IndexByte(list, byte(c)) >= 0 }
		if digit || letter || among("-._~") {
			u[c] |= inHost
		}
		if digit || letter || among("-._~!$&'()*+,;=:@[]") {
			u[c] |= inPath
		}
		if c > ' ' && c < 0x7f && c != '#' {
			u[c] |= inQuery
		}
		if digit || letter && c|0x20 <= 'f' {
			u[c] |= inHex
		}
		if digit {
			u[c] |= inPort
		}
	}
	return u
}()

const (
	inHost  = 1 << iota // in a name or an IPv4 address
	inPath              // unchanged: neither the slash nor escapes
	inQuery             // unchanged
	inHex
	inPort
)

// judgeTarget returns why this byte in the target makes a head not plain.
func judgeTarget(c byte) Reason {
	if c == '\r' || c == '\n' {
		return Version // a request line of HTTP/0.9
	}
	return Target
}

// judgeVersion returns why a head is not plain if rest follows the target in its request line.
func judgeVersion(rest []byte) Reason {
	for i := range version {
		switch {
		case i == len(rest):
			return Incomplete
		case rest[i] == version[i]:
		case rest[i] == '\n' && i == len("HTTP/1.1"):
			return BareLF
		default:
			return Version
		}
	}
	return Plain
}

// judgeName returns why a head with this line is not plain. No colon follows the n bytes of the name.
func judgeName(line []byte, n int) Reason {
	switch c := line[n]; {
	case n == 0 && isBlank(c):
		return Folded
	case n == 0 && c == '\n':
		return BareLF
	}
	return FieldName
}

// judgeEnd returns why a head is not plain if this byte follows a value.
func judgeEnd(c byte) Reason {
	switch c {
	case '\n':
		return BareLF
	case '\r':
		return BareCR
	}
	return FieldValue
}

// challenges are the paths that Caddy answers itself while it has requested a certificate.
var challenges = [...]string{"/.well-known/acme-challenge", "/.well-known/pki-validation/"}

// isChallenge reports whether a path, when decoded, is below one of the challenges.
func isChallenge(path []byte) bool {
	if len(path) < 2 || path[1] != '.' && path[1] != '%' {
		return false
	}
	for _, c := range challenges {
		if begins(path, c) {
			return true
		}
	}
	return false
}

// begins reports whether a path with valid escapes, when decoded, begins with prefix.
func begins(path []byte, prefix string) bool {
	for i := range len(prefix) {
		if len(path) == 0 {
			return false
		}
		c, n := path[0], 1
		if c == '%' {
			c, n = unhex(path[1])<<4|unhex(path[2]), 3
		}
		if c != prefix[i] {
			return false
		}
		path = path[n:]
	}
	return true
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// take records a field that matters.
func (h *Head) take(raw []byte, f Field) Reason {
	value := f.Value.Of(raw)
	switch string(f.Name.Of(raw)) {
	case "Host":
		if h.Host.End > 0 || !isHost(value) {
			return Host
		}
		h.Host = f.Value
	case "Content-Length":
		return h.takeLength(value)
	case "Connection":
		return h.takeConnection(value)
	case "Content-Type":
		if grpc := "application/grpc"; len(value) >= len(grpc) && equalFold(value[:len(grpc)], grpc) {
			return GRPC
		}
	case "Pragma":
		h.pragma = true
	case "Cache-Control":
		h.cached = true
	case "Transfer-Encoding":
		return TransferEncoding
	case "Upgrade", "Http2-Settings":
		return Upgrade
	case "Expect":
		return Expect
	case "Te":
		return TE
	case "Trailer":
		return Trailer
	case "Proxy-Authorization", "Proxy-Authenticate":
		return ProxyAuthorization
	case "Keep-Alive", "Proxy-Connection", "Alt-Svc":
		return HopByHop
	case "Close": // a field that Connection: close names
		return Connection
	case "Incremental":
		return Incremental
	}
	return Plain
}

// judge judges a head after all of its fields were recorded.
func (h *Head) judge() Reason {
	switch {
	case h.Host.End == 0:
		return Host
	case h.Length > 0 && (h.Method == get || h.Method == head):
		return Body
	case h.pragma && !h.cached:
		return Pragma
	}
	return Plain
}

func (h *Head) takeLength(value []byte) Reason {
	const most = 18 // digits
	if h.HasBody || len(value) == 0 || len(value) > most || value[0] == '0' && len(value) > 1 {
		return ContentLength
	}
	for _, c := range value {
		if uses[c]&inPort == 0 {
			return ContentLength
		}
		h.Length = 10*h.Length + int64(c-'0')
	}
	h.HasBody = true
	return Plain
}

func (h *Head) takeConnection(value []byte) Reason {
	switch {
	case h.Close || h.Kept:
		return Connection
	case equalFold(value, "keep-alive"):
		h.Kept = true
	case equalFold(value, "close"):
		h.Close = true
	case equalFold(value, "upgrade"):
		return Upgrade
	default:
		return Connection
	}
	return Plain
}

// isHost reports whether a value is a name or an address, with or without a port. Names are those of RFC 3986 without escapes and without
// the delimiters that no name has in practice.
func isHost(value []byte) bool {
	if len(value) > 0 && value[0] == '[' {
		return isBracketed(value)
	}
	dots, at := true, 0
	for ; at < len(value) && uses[value[at]]&inHost != 0; at++ {
		dots = dots && value[at] == '.'
	}
	return !dots && isPort(value[at:])
}

// isBracketed reports whether a value that begins with a bracket may be an IPv6 address in brackets, with or without a port.
func isBracketed(value []byte) bool {
	colons, at := 0, 1
	for ; at < len(value) && value[at] != ']'; at++ {
		switch c := value[at]; {
		case c == ':':
			colons++
		case c != '.' && uses[c]&inHex == 0:
			return false
		}
	}
	return colons > 1 && at < len(value) && isPort(value[at+1:])
}

// isPort reports whether rest, which follows a host, is empty or a colon with a port.
func isPort(rest []byte) bool {
	if len(rest) == 0 {
		return true
	}
	if len(rest) < len(":1") || len(rest) > len(":65535") || rest[0] != ':' {
		return false
	}
	for _, c := range rest[1:] {
		if uses[c]&inPort == 0 {
			return false
		}
	}
	return true
}

// equalFold reports whether a value equals word, which is in lower case, ignoring case.
func equalFold(value []byte, word string) bool {
	if len(value) != len(word) {
		return false
	}
	for i, c := range value {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != word[i] {
			return false
		}
	}
	return true
}
