package express

import (
	"runtime"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// matcher is a matcher of a route.
type matcher interface {
	// match reports whether the request matches; why is not empty if that cannot be decided.
	match(w *Way) (matches bool, why string)
	// foreign returns the name of the part of the matcher that was not understood, "" if all was.
	foreign() string
}

// set is a set of matchers that must all match.
type set []matcher

func (c *compiler) sets(sets []caddyhttp.MatcherSet) []set {
	var all []set
	for _, s := range sets {
		compiled := make(set, 0, len(s))
		for _, m := range s {
			compiled = append(compiled, c.matcher(m))
		}
		// Caddy's order is that of a map. This one sends the fewest requests to matchers that were not understood.
		slices.SortStableFunc(compiled, func(a, b matcher) int { return strings.Compare(a.foreign(), b.foreign()) })
		all = append(all, compiled)
	}
	return all
}

func (c *compiler) matcher(m any) matcher {
	switch m := m.(type) {
	case *caddyhttp.MatchHost:
		return newHosts(*m)
	case *caddyhttp.MatchPath:
		return newPaths(*m)
	case *caddyhttp.MatchMethod:
		return methods(*m)
	case *caddyhttp.MatchProtocol:
		return newProtocol(*m)
	case *caddyhttp.MatchHeader:
		return newHeader(*m)
	case *caddyhttp.MatchNot:
		return not(c.sets(m.MatcherSets))
	default:
		return unknown(nameOf(m))
	}
}

// nameOf returns the name of a module, or "unknown" if it has none.
func nameOf(module any) string {
	if name := caddy.GetModuleName(module); name != "" {
		return name
	}
	return "unknown"
}

// matchAny reports whether one of sets matches, or whether sets is empty.
func matchAny(sets []set, w *Way) (matches bool, why string) {
	for _, s := range sets {
		if matches, why = s.match(w); matches || why != "" {
			return matches, why
		}
	}
	return len(sets) == 0, ""
}

func (s set) match(w *Way) (matches bool, why string) {
	for _, m := range s {
		if matches, why = m.match(w); !matches {
			return false, why
		}
	}
	return true, ""
}

// unknown is a matcher, by its name, that was not understood.
type unknown string

func (u unknown) match(*Way) (bool, string) { return false, string(u) }
func (u unknown) foreign() string           { return string(u) }

// methods implements caddyhttp.MatchMethod.
type methods []string

func (m methods) match(w *Way) (bool, string) { return slices.Contains(m, w.head.Method), "" }
func (methods) foreign() string               { return "" }

// protocol implements caddyhttp.MatchProtocol.
type protocol struct{ plain, tls bool } // whether it matches without TLS, and with it

func newProtocol(m caddyhttp.MatchProtocol) matcher {
	switch m {
	case "http":
		return protocol{plain: true}
	case "https":
		return protocol{tls: true}
	case "http/1.0+", "http/1.1", "http/1.1+":
		return protocol{plain: true, tls: true}
	case "grpc": // depends on header fields
		return unknown("protocol")
	default:
		return protocol{}
	}
}

func (p protocol) match(w *Way) (bool, string) { return w.tls && p.tls || !w.tls && p.plain, "" }
func (protocol) foreign() string               { return "" }

// not implements caddyhttp.MatchNot.
type not []set

func (n not) match(w *Way) (bool, string) {
	for _, s := range n {
		if matches, why := s.match(w); matches || why != "" {
			return false, why
		}
	}
	return true, ""
}

func (n not) foreign() string {
	for _, s := range n {
		for _, m := range s {
			if name := m.foreign(); name != "" {
				return name
			}
		}
	}
	return ""
}

// paths implements caddyhttp.MatchPath, for paths that are equal to their decoded and cleaned form.
type paths struct {
	all      bool // it matches every path
	patterns []pattern
	strange  bool     // some patterns were not understood
	written  []string // as in the config
}

// pattern is a pattern with wildcards at its ends only.
type pattern struct {
	text   string // in lower case
	before bool   // begins with a wildcard
	behind bool   // ends with a wildcard
}

func newPaths(m caddyhttp.MatchPath) *paths {
	p := &paths{written: slices.Clone(m)}
	for _, text := range m {
		if text == "*" {
			p.all = true
			continue
		}
		// On Windows a path has more forms.
		if strings.ContainsAny(text, "{%") || runtime.GOOS == "windows" {
			p.strange = true
			continue
		}
		var one pattern
		switch before, behind := strings.HasPrefix(text, "*"), strings.HasSuffix(text, "*"); strings.Count(text, "*") {
		case 2:
			if before && behind {
				one = pattern{text: text[1 : len(text)-1], before: true, behind: true}
			}
		case 1:
			if before {
				one = pattern{text: text[1:], before: true}
			} else if behind {
				one = pattern{text: text[:len(text)-1], behind: true}
			}
		}
		if !one.before && !one.behind {
			if strings.ContainsAny(text, `*?[\`) {
				p.strange = true
				continue
			}
			one.text = text
		}
		p.patterns = append(p.patterns, one)
	}
	return p
}

func (p *paths) match(w *Way) (bool, string) {
	if p.all {
		return true, ""
	}
	if !w.head.Plain {
		return false, "path"
	}
	for _, one := range p.patterns {
		if one.match(w.path) {
			return true, ""
		}
	}
	if p.strange {
		return false, "path"
	}
	return false, ""
}

func (p *paths) foreign() string {
	if p.strange && !p.all {
		return "path"
	}
	return ""
}

func (p *pattern) match(path []byte) bool {
	surplus := len(path) - len(p.text)
	switch {
	case surplus < 0:
		return false
	case p.before && p.behind:
		for i := range surplus + 1 {
			if beginsWith(path[i:], p.text) {
				return true
			}
		}
		return false
	case p.before:
		return beginsWith(path[surplus:], p.text)
	default:
		return (surplus == 0 || p.behind) && beginsWith(path, p.text)
	}
}

// beginsWith reports whether path begins with text, which is in lower case, ignoring case. path must be at least as long.
func beginsWith(path []byte, text string) bool {
	for i := range len(text) {
		if lowerCase(path[i]) != text[i] {
			return false
		}
	}
	return true
}
