package h1

import (
	"github.com/ballastlb/ballast/lbmodule/fieldline"
)

const (
	// usualFields is the number of fields for which memory is allocated at once.
	usualFields = 24

	// maxName is the longest field name. It also bounds how much is scanned again if a name arrives byte by byte.
	maxName = 128

	version = "HTTP/1.1\r\n"

	get, head = "GET", "HEAD"
)

// methods has the known methods, the most common first.
var methods = [...]string{get, "POST", head, "PUT", "DELETE", "PATCH", "OPTIONS"}

// Read parses the head at the beginning of raw, which has the bytes that have arrived so far and may extend beyond the head. It makes the
// names of the fields canonical in raw. most is the largest size in bytes of a plain head.
//
// If Read returns [Incomplete], call it again when raw has more bytes; it continues where it stopped, even if the bytes have moved in
// memory. It returns Incomplete only while the head may still be plain and raw has fewer bytes than most. The head is valid only if Read
// returns [Plain].
func (h *Head) Read(raw []byte, most int) Reason {
	if len(raw) > most {
		raw = raw[:most]
	}
	if h.line == 0 {
		if reason := h.readLine(raw); reason != Plain {
			return bound(reason, raw, most)
		}
	}
	return bound(h.readFields(raw), raw, most)
}

// bound makes an incomplete head too long if there is no room for its end.
func bound(reason Reason, raw []byte, most int) Reason {
	if reason == Incomplete && len(raw) >= most {
		return TooLong
	}
	return reason
}

// readLine parses the request line.
func (h *Head) readLine(raw []byte) Reason {
	if h.Method == "" {
		if reason := h.readMethod(raw); reason != Plain {
			return reason
		}
	}
	if h.Path.End == 0 {
		if reason := h.readPath(raw); reason != Plain {
			return reason
		}
	}
	if h.Target.End == 0 {
		if reason := h.readQuery(raw); reason != Plain {
			return reason
		}
	}
	rest := raw[h.Target.End+1:]
	if len(rest) < len(version) || string(rest[:len(version)]) != version {
		return judgeVersion(rest)
	}
	h.line = len(raw) - len(rest) + len(version)
	h.seen = h.line
	return Plain
}

func (h *Head) readMethod(raw []byte) Reason {
	for _, m := range methods {
		if n := len(m); len(raw) > n && raw[n] == ' ' && string(raw[:n]) == m {
			h.Method = m
			h.Target.Start, h.Path.Start, h.seen = n+1, n+1, n+1
			h.Plain = true
			return Plain
		}
	}
	if len(raw) > 0 && (raw[0] == '\r' || raw[0] == '\n') {
		return EmptyLine
	}
	for _, m := range methods {
		if len(raw) <= len(m) && string(raw) == m[:len(raw)] {
			return Incomplete
		}
	}
	return Method
}

// readPath continues to parse the path, up to the byte after it.
func (h *Head) readPath(raw []byte) Reason {
	at, start := h.seen, h.Path.Start
	if at == start {
		switch {
		case at == len(raw):
			return Incomplete
		case raw[at] != '/':
			return Target
		}
		at++
	}
	for ; at < len(raw); at++ {
		c := raw[at]
		if uses[c]&inPath != 0 {
			continue
		}
		switch c {
		case '/':
			if at == start+1 {
				return Target // other parsers take the rest for a host
			}
			if last := raw[at-1]; last == '/' || last == '.' {
				h.Plain = false
			}
		case '%':
			if len(raw)-at <= 2 {
				h.seen = at
				return Incomplete
			}
			if uses[raw[at+1]]&inHex == 0 || uses[raw[at+2]]&inHex == 0 {
				return Target
			}
			h.Plain = false
			at += 2
		case ' ', '?':
			h.Path.End, h.seen = at, at+1
			if raw[at-1] == '.' {
				h.Plain = false
			}
			if isChallenge(raw[start:at]) {
				return ACME
			}
			if h.Asked = c == '?'; h.Asked {
				h.Query = Span{at + 1, at + 1}
			} else {
				h.Target.End = at
			}
			return Plain
		default:
			return judgeTarget(c)
		}
	}
	h.seen = at
	return Incomplete
}

// readQuery continues to parse the query, up to the byte after it.
func (h *Head) readQuery(raw []byte) Reason {
	for at := h.seen; at < len(raw); at++ {
		c := raw[at]
		if uses[c]&inQuery != 0 {
			continue
		}
		if c != ' ' {
			return judgeTarget(c)
		}
		h.Query.End, h.Target.End = at, at
		return Plain
	}
	h.seen = len(raw)
	return Incomplete
}

// readFields continues to parse the fields, up to the end of the head.
func (h *Head) readFields(raw []byte) Reason {
	if h.Fields == nil {
		h.Fields = make([]Field, 0, usualFields)
	}
	for line, seen := h.line, h.seen; ; seen = line {
		if line == len(raw) {
			return h.pause(line, seen)
		}
		n, canonical, aliased := fieldline.Name(raw[line:])
		colon := line + n
		switch {
		case n == 0 && raw[line] == '\r':
			if line+1 == len(raw) {
				return h.pause(line, seen)
			}
			if raw[line+1] != '\n' {
				return BareCR
			}
			h.Raw = raw[:line+2]
			return h.judge()
		case aliased || n > maxName:
			return FieldName
		case colon == len(raw):
			return h.pause(line, seen)
		case n == 0 || raw[colon] != ':':
			return judgeName(raw[line:], n)
		}
		seen = max(seen, colon+1)
		end := seen + fieldline.Value(raw[seen:])
		if end == len(raw) || raw[end] == '\r' && end+1 == len(raw) {
			return h.pause(line, end)
		}
		if raw[end] != '\r' || raw[end+1] != '\n' {
			return judgeEnd(raw[end])
		}
		if len(h.Fields) == MaxFields {
			return TooManyFields
		}
		if !canonical {
			fieldline.Canonicalize(raw[line:colon])
		}
		f := Field{Name: Span{line, colon}, Value: Span{colon + 1, end}}
		for f.Value.Start < end && isBlank(raw[f.Value.Start]) {
			f.Value.Start++
		}
		for f.Value.End > f.Value.Start && isBlank(raw[f.Value.End-1]) {
			f.Value.End--
		}
		h.Fields = append(h.Fields, f)
		if reason := h.take(raw, f); reason != Plain {
			return reason
		}
		line = end + 2
	}
}

// pause saves the position in an incomplete head.
func (h *Head) pause(line, seen int) Reason {
	h.line, h.seen = line, seen
	return Incomplete
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }
