package express

import (
	"bytes"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/listener/h1"
)

// header implements caddyhttp.MatchHeader: all of its fields must match.
type header []field

// field is the condition for one header field.
type field struct {
	name   string // canonical
	absent bool   // the field must be absent; otherwise it must be present, with one of the values if there are any
	values []value
}

// value is a value with wildcards at its ends only.
type value struct {
	text   []byte
	before bool // begins with a wildcard
	behind bool // ends with a wildcard
}

func newHeader(m caddyhttp.MatchHeader) matcher {
	h := make(header, 0, len(m))
	for name, values := range m {
		f := field{name: textproto.CanonicalMIMEHeaderKey(name), absent: values == nil}
		for _, text := range values {
			if strings.Contains(text, "{") {
				return unknown("header")
			}
			f.values = append(f.values, newValue(text))
		}
		h = append(h, f)
	}
	return h
}

func newValue(text string) value {
	inner := strings.TrimSuffix(strings.TrimPrefix(text, "*"), "*")
	return value{text: []byte(inner), before: strings.HasPrefix(text, "*"), behind: strings.HasSuffix(text, "*")}
}

func (header) foreign() string { return "" }

func (h header) match(w *Way) (bool, string) {
	for _, e := range w.Edits {
		if e.Request != nil {
			return false, "header" // a header operation may have changed the field
		}
	}
	for i := range h {
		if !h[i].match(w.head) {
			return false, ""
		}
	}
	return true, ""
}

// match reports whether the field in head fulfils the condition.
func (f *field) match(head *h1.Head) bool {
	for i := range head.Fields {
		if string(head.Fields[i].Name.Of(head.Raw)) != f.name {
			continue
		}
		if f.absent || len(f.values) == 0 {
			return !f.absent
		}
		have := head.Fields[i].Value.Of(head.Raw)
		for k := range f.values {
			if f.values[k].match(have) {
				return true
			}
		}
	}
	return f.absent
}

func (v *value) match(have []byte) bool {
	switch {
	case v.before && v.behind:
		return bytes.Contains(have, v.text)
	case v.before:
		return bytes.HasSuffix(have, v.text)
	case v.behind:
		return bytes.HasPrefix(have, v.text)
	default:
		return bytes.Equal(have, v.text)
	}
}
