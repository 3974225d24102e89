package express

import (
	"bytes"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxHost is the longest host that is understood. DNS allows 253 characters.
const maxHost = 255

// hostOf returns what caddyhttp's host matcher takes for the host of a Host field, in lower case, stored in lower. ok is false if that
// cannot be decided, or if lower is too short.
func hostOf(field, lower []byte) (host []byte, ok bool) {
	switch colon := bytes.IndexByte(field, ':'); {
	case len(field) > 0 && field[0] == '[':
		closing := bytes.IndexByte(field, ']')
		if closing < 0 {
			return nil, false
		}
		if rest := field[closing+1:]; len(rest) > 0 && (rest[0] != ':' || bytes.ContainsAny(rest[1:], ":[]")) {
			return nil, false
		}
		host = field[1:closing]
	case colon >= 0:
		if bytes.IndexByte(field[colon+1:], ':') >= 0 {
			return nil, false
		}
		host = field[:colon]
		if bytes.ContainsAny(field[colon:], "[]") {
			return nil, false
		}
	default:
		host = field
	}
	if len(host) > len(lower) || bytes.ContainsAny(host, "[]") {
		return nil, false
	}
	lower = lower[:len(host)]
	for i, b := range host {
		if b >= 0x80 {
			return nil, false
		}
		lower[i] = lowerCase(b)
	}
	return lower, true
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r >= 0x80 }) < 0
}

func lowerCase(b byte) byte {
	if b >= 'A' && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}

// hosts implements caddyhttp.MatchHost.
type hosts struct {
	names     []string            // in lower case
	all       map[string]struct{} // the same as a set, if there are many
	wildcards [][]string          // the labels of names with "*", in lower case
	strange   bool                // there are other patterns, for example with placeholders
	written   []string            // as in the config
}

func newHosts(m caddyhttp.MatchHost) *hosts {
	h := &hosts{written: slices.Clone(m)}
	for _, pattern := range m {
		lower := strings.ToLower(pattern)
		switch {
		case strings.ContainsAny(pattern, "{}") || !isASCII(pattern):
			h.strange = true
		case strings.Contains(pattern, "*"):
			h.wildcards = append(h.wildcards, strings.Split(lower, "."))
		default:
			h.names = append(h.names, lower)
		}
	}
	if len(h.names) > small {
		h.all = make(map[string]struct{}, len(h.names))
		for _, name := range h.names {
			h.all[name] = struct{}{}
		}
	}
	return h
}

// exact reports whether there are names only.
func (h *hosts) exact() bool { return len(h.wildcards) == 0 && !h.strange }

func (h *hosts) match(w *Way) (bool, string) {
	if !w.hosted {
		return false, "host"
	}
	if h.all != nil {
		if _, found := h.all[string(w.host)]; found {
			return true, ""
		}
	} else {
		for _, name := range h.names {
			if string(w.host) == name {
				return true, ""
			}
		}
	}
	for _, labels := range h.wildcards {
		if matchLabels(labels, w.host) {
			return true, ""
		}
	}
	if h.strange {
		return false, "host"
	}
	return false, ""
}

func (h *hosts) foreign() string {
	if h.strange {
		return "host"
	}
	return ""
}

// matchLabels reports whether host has these labels, of which "*" stands for any.
func matchLabels(labels []string, host []byte) bool {
	for i, label := range labels {
		have, rest, more := bytes.Cut(host, []byte{'.'})
		if label != "*" && label != string(have) || more != (i < len(labels)-1) {
			return false
		}
		host = rest
	}
	return true
}
