package draft

import (
	"fmt"
	"slices"
	"strings"
)

// Atom is a test with one of Caddy's matchers: it is true for any of the values, of the field if the matcher has one.
type Atom struct {
	Kind  string // path, path_regexp, host, method, remote_ip, protocol, header, header_regexp, query, file, or raw: an expression
	Field string
	Args  []string
}

// Literal is true if one of its atoms is true; with Not, if none is.
type Literal struct {
	Not   bool
	Atoms []Atom
}

// Formula is true if all literals of one of its lists are true: it is in disjunctive normal form.
type Formula [][]Literal

// most is the maximum number of lists that Not returns: a reader would not understand longer conditions.
const most = 60

// One returns a formula of one atom.
func One(not bool, a Atom) Formula { return Formula{{{not, []Atom{a}}}} }

// Not returns the negation, nil if it would be too long.
func (f Formula) Not() Formula {
	result := Formula{nil}
	for _, conj := range f {
		var next Formula
		for _, r := range result {
			for _, l := range conj {
				l.Not = !l.Not
				next = append(next, append(append([]Literal(nil), r...), l))
			}
		}
		if len(next) > most {
			return nil
		}
		result = next
	}
	return result
}

// And returns the conjunction.
func (f Formula) And(other Formula) Formula {
	if f == nil {
		return other
	}
	var all Formula
	for _, a := range f {
		for _, b := range other {
			all = append(all, append(append([]Literal(nil), a...), b...))
		}
	}
	return all
}

// alike are the matchers that accept several values in one line and match any of them.
var alike = map[string]bool{"path": true, "host": true, "method": true, "remote_ip": true}

// Lines returns the lines of a named matcher. It uses an expression if Caddy's other matchers cannot express the formula.
func (f Formula) Lines(name string) [][]string {
	if len(f) == 1 {
		if lines, ok := native(f[0], name); ok {
			return lines
		}
	}
	var all []string
	for _, conj := range f {
		var parts []string
		for _, l := range conj {
			var atoms []string
			for _, a := range l.Atoms {
				atoms = append(atoms, a.expression())
			}
			text := strings.Join(atoms, " || ")
			raw := slices.ContainsFunc(l.Atoms, func(a Atom) bool { return a.Kind == "raw" })
			if len(atoms) > 1 && (l.Not || len(conj) > 1) || l.Not && raw { // ! binds tighter than ==
				text = "(" + text + ")"
			}
			if l.Not {
				text = "!" + text
			}
			parts = append(parts, text)
		}
		text := strings.Join(parts, " && ")
		if len(f) > 1 && len(conj) > 1 {
			text = "(" + text + ")"
		}
		all = append(all, text)
	}
	return [][]string{{"expression", strings.Join(all, " || ")}}
}

// native writes a list of literals with Caddy's matchers, one line for each. It fails if two literals need lines of the same kind.
func native(conj []Literal, name string) (lines [][]string, ok bool) {
	seen := map[string]bool{}
	for _, l := range conj {
		if slices.ContainsFunc(l.Atoms, func(a Atom) bool { return a.Kind == "raw" }) {
			return nil, false
		}
		if l.Not {
			for _, a := range merge(l.Atoms) {
				lines = append(lines, append([]string{"not"}, a.words(name)...))
			}
			continue
		}
		if len(l.Atoms) == 0 {
			return nil, false
		}
		first := l.Atoms[0]
		merged := Atom{Kind: first.Kind, Field: first.Field}
		for _, a := range l.Atoms {
			if a.Kind != first.Kind || a.Field != first.Field || len(l.Atoms) > 1 && !alike[a.Kind] {
				return nil, false
			}
			merged.Args = append(merged.Args, a.Args...)
		}
		// Two lines of one kind would not mean "and": Caddy treats two lines of paths as alternatives.
		key := first.Kind
		if first.Kind == "header" {
			key += first.Field
		}
		if seen[key] {
			return nil, false
		}
		seen[key] = true
		if (first.Kind == "header" || first.Kind == "query") && len(merged.Args) > 1 {
			return nil, false
		}
		lines = append(lines, merged.words(name))
	}
	return lines, true
}

// merge joins the values of consecutive tests of one kind.
func merge(atoms []Atom) []Atom {
	var merged []Atom
	for _, a := range atoms {
		last := len(merged) - 1
		if last >= 0 && merged[last].Kind == a.Kind && alike[a.Kind] {
			merged[last].Args = slices.Concat(merged[last].Args, a.Args)
			continue
		}
		merged = append(merged, a)
	}
	return merged
}

// words returns the words of a matcher's line.
func (a Atom) words(name string) []string {
	words := []string{a.Kind}
	switch a.Kind {
	case "query":
		for _, v := range a.Args {
			words = append(words, a.Field+"="+v)
		}
		return words
	case "header", "header_regexp":
		words = append(words, a.Field)
	case "path_regexp":
		words = append(words, name)
	}
	return append(words, a.Args...)
}

func (a Atom) expression() string {
	var args []string
	for _, v := range a.Args {
		args = append(args, cel(v))
	}
	switch a.Kind {
	case "raw":
		return a.Args[0]
	case "header", "query":
		return fmt.Sprintf("%s({%s: [%s]})", a.Kind, cel(a.Field), strings.Join(args, ", "))
	case "header_regexp":
		return fmt.Sprintf("header_regexp(%s, %s)", cel(a.Field), strings.Join(args, ", "))
	case "file":
		return "file({'try_files': [" + strings.Join(args, ", ") + "]})"
	}
	return a.Kind + "(" + strings.Join(args, ", ") + ")"
}

var unsafe = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// Text writes a string literal of an expression.
func Text(text string) string { return cel(text) }

func cel(text string) string { return "'" + unsafe.Replace(text) + "'" }

// WriteMatcher writes a named matcher.
func WriteMatcher(w *Writer, name string, f Formula) {
	lines := f.Lines(strings.TrimPrefix(name, "@"))
	if len(lines) == 1 {
		w.Line(append([]string{name}, lines[0]...)...)
		return
	}
	w.Open(name)
	for _, line := range lines {
		w.Line(line...)
	}
	w.Close()
}
