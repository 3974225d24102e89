package nginx

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// writeRewrites writes what a block does to requests before they are answered: set, if, rewrite, return. It reports whether a return
// answers all remaining requests.
func (s *site) writeRewrites(w *draft.Writer, at *scope, loc *location) bool {
	for _, d := range at.list {
		switch d.name {
		case "set":
			if _, ok := at.constant(strings.TrimPrefix(d.arg(0), "$")); ok {
				continue // its value is written where it is used
			}
			d.line.Leave("a variable that is set in several places is not converted; see vars and map")
			w.Comment(s.comments(d.line)...)
		case "rewrite":
			s.writeRewrite(w, at, d, nil, loc)
			w.Comment(s.comments(d.line)...)
		case "if":
			s.writeIf(w, at, d, loc)
		case "return":
			w.Comment(s.comments(d.line)...)
			if s.writeReturn(w, at, d, nil, loc.captures) {
				return true
			}
		case "break":
			d.line.Done()
		}
	}
	return false
}

var redirects = []string{"301", "302", "303", "307", "308"}

func (s *site) writeReturn(w *draft.Writer, at *scope, d *directive, matcher []string, captures string) bool {
	code, text := d.arg(0), d.arg(1)
	if _, ok := whole(code, 100, 599); !ok {
		if len(d.args) != 1 {
			d.line.Leave("the status is not understood")
			return false
		}
		code, text = "302", code
	}
	if cut := strings.TrimRight(text, "\r\n"); cut != text {
		text = cut
		d.line.Near("the line break at the end is left out")
	}
	v, unknown := at.value(text, captures)
	if unknown != "" {
		d.line.Leave("%s has no equivalent in Caddy", unknown)
		return false
	}
	d.line.Done()
	if page, target := s.errorTarget(at, code); target != nil {
		page.line.Done()
		if matcher != nil {
			w.Open("handle", matcher[0])
			defer w.Close()
		}
		s.writeNamed(w, at, target, true)
		return true
	}
	if matcher == nil {
		s.writeHeaders(w, at)
	}
	switch {
	case code == "444":
		w.Line(draft.Words("abort", matcher)...)
	case slices.Contains(redirects, code) && v != "":
		w.Line(draft.Words("redir", matcher, v, code)...)
	case v == "":
		w.Line(draft.Words("respond", matcher, code)...)
	default:
		if t := at.one("default_type"); t != nil && matcher == nil && !slices.ContainsFunc(at.all("add_header"), func(h *directive) bool { return strings.EqualFold(h.arg(0), "Content-Type") }) && headerName.MatchString(strings.NewReplacer("/", "", "+", "", ".", "").Replace(t.arg(0))) {
			t.line.Done()
			w.Line(draft.Words("header", matcher, "Content-Type", t.arg(0))...)
		}
		w.Line(draft.Words("respond", matcher, v, code)...)
	}
	return true
}

// errorTarget returns the named location to which error_page leads for a status and whose own status is sent. A return of that status jumps
// to it.
func (s *site) errorTarget(at *scope, code string) (page *directive, target *location) {
	for _, d := range at.all("error_page") {
		if n := len(d.args); n > 2 && d.args[n-2] == "=" && slices.Contains(d.args[:n-2], code) && s.named[d.args[n-1]] != nil && s.depth < 3 {
			return d, s.named[d.args[n-1]]
		}
	}
	return nil, nil
}

// writeRewrite writes a rewrite. nginx replaces the whole path by the new text.
func (s *site) writeRewrite(w *draft.Writer, at *scope, d *directive, f draft.Formula, loc *location) {
	re, to, flag := d.arg(0), d.arg(1), d.arg(2)
	if !s.usable(re) {
		d.line.Leave("the regular expression cannot be written here")
		return
	}
	if flag == "last" && loc.inside {
		d.line.Near("the locations are not searched again")
	}
	name := s.unique("rewrite_" + strconv.Itoa(d.line.Number))
	v, unknown := at.value(to, name)
	if unknown != "" || v == "" {
		d.line.Leave("%s has no equivalent in Caddy", unknown)
		return
	}
	absolute := strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://") || strings.HasPrefix(to, "$scheme")
	query := strings.Contains(v, "?")
	if strings.HasSuffix(v, "?") { // an empty query instead of the request's
		v = strings.TrimSuffix(v, "?")
		if absolute || flag == "redirect" || flag == "permanent" {
			query = true
		} else {
			v += "?"
		}
	}
	if query && !strings.HasSuffix(to, "?") {
		// nginx adds the query of the request.
		if absolute || flag == "redirect" || flag == "permanent" {
			d.line.Near("the request's own query is not added")
		} else {
			v += "&{query}"
		}
	}
	formula := draft.One(false, draft.Atom{Kind: "path_regexp", Args: []string{re}})
	if f != nil {
		formula = formula.And(f)
	}
	d.line.Done()
	name = s.matcher(w, name, formula)
	switch {
	case absolute || flag == "redirect" || flag == "permanent":
		if !query {
			v += "{http.request.uri.prefixed_query}"
		}
		w.Line("redir", name, v, map[bool]string{true: "301", false: "302"}[flag == "permanent"])
	case !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "{"):
		w.Line("rewrite", name, "/"+v)
		loc.rewritten = true
	default:
		w.Line("rewrite", name, v)
		loc.rewritten = true
	}
}

// usable reports whether Caddy can use a regular expression.
func (s *site) usable(re string) bool {
	if _, err := regexp.Compile(re); err != nil {
		return false
	}
	return re != "" && !strings.ContainsAny(re, "`\n\r") && !placeholder.MatchString(re) && draft.Quotable(re)
}

var lookahead = regexp.MustCompile(`^(.*)\(\?!([A-Za-z0-9_/-]{1,40})\)(?:\.\*)?$`)

// withoutLookahead writes /\.(?!well-known) without a lookahead, which Go's regular expressions lack: the end follows, or a text that differs
// in one of the letters.
func withoutLookahead(re string) string {
	m := lookahead.FindStringSubmatch(re)
	if m == nil {
		return re
	}
	text := ""
	for i := len(m[2]) - 1; i >= 0; i-- {
		next := m[2][i : i+1]
		if text != "" {
			text = "|" + next + text
		}
		text = "(?:$|[^" + strings.Replace(next, "-", `\-`, 1) + "]" + text + ")"
	}
	return m[1] + text
}

var placeholder = regexp.MustCompile(`\{[^0-9,]`)

// writeIf writes an if that answers or rewrites.
func (s *site) writeIf(w *draft.Writer, at *scope, d *directive, loc *location) {
	f, wrong := s.condition(at, d.args)
	inner := at.within(d.block)
	if wrong == "" {
		for _, b := range d.block {
			switch b.name {
			case "return", "rewrite", "break", "set":
			case "add_header":
				if len(inner.here("return")) == 0 {
					wrong = "add_header without return in an if"
				}
			default:
				wrong = b.name + " in an if"
			}
		}
	}
	if wrong != "" {
		d.line.Guards = len(inner.here("return", "deny")) > 0
		d.line.Leave("%s has no equivalent in Caddy", wrong)
		w.Comment(s.comments(d.line)...)
		for _, b := range flat(d.block) {
			b.line.Leave("it is inside that if")
			w.Comment(s.comments(b.line)...)
		}
		return
	}
	d.line.Done()
	w.Comment(s.comments(d.line)...)
	name := ""
	if len(inner.here("return")) > 0 {
		name = s.matcher(w, s.unique("if_"+strconv.Itoa(d.line.Number)), f)
	}
	for _, b := range inner.here("add_header") {
		s.writeHeader(w, inner, b, []string{name})
	}
	for _, b := range d.block {
		switch b.name {
		case "return":
			s.writeReturn(w, inner, b, []string{name}, "")
		case "rewrite":
			s.writeRewrite(w, inner, b, f, loc)
		case "break":
			b.line.Done()
		case "set":
			b.line.Leave("a variable that is set under a condition is not converted; see map")
		}
		w.Comment(s.comments(b.line)...)
	}
}

// flat returns directives and all directives inside their blocks.
func flat(list []*directive) []*directive {
	var all []*directive
	for _, d := range list {
		all = append(append(all, d), flat(d.block)...)
	}
	return all
}

// condition reads what is in the parentheses of an if.
func (s *site) condition(at *scope, args []string) (draft.Formula, string) {
	words := slices.Clone(args)
	if len(words) == 0 {
		return nil, "the condition"
	}
	if words[0] = strings.TrimPrefix(words[0], "("); words[0] == "" {
		words = words[1:]
	}
	if last := len(words) - 1; last > 0 && words[last] == ")" {
		words = words[:last] // the text before it may be empty
	} else if last >= 0 {
		words[last] = strings.TrimSuffix(words[last], ")")
	}
	text := strings.Join(words, " ")
	if len(words) == 0 {
		return nil, "the condition"
	}
	if len(words) == 2 && strings.HasSuffix(words[0], "-f") && words[1] == "$request_filename" {
		return draft.One(strings.HasPrefix(words[0], "!"), draft.Atom{Kind: "file", Args: []string{"{http.request.uri.path}"}}), s.needRoot(at)
	}
	name := strings.Trim(strings.TrimPrefix(words[0], "$"), "{}")
	if !strings.HasPrefix(words[0], "$") || len(words) != 1 && len(words) != 3 {
		return nil, text
	}
	value, unknown := at.value("$"+name, "")
	if unknown != "" {
		return nil, unknown
	}
	operator, operand := "!=", ""
	if len(words) == 3 {
		operator, operand = words[1], words[2]
	}
	if strings.ContainsAny(operand, "`$\n") && !strings.Contains(operator, "~") || strings.Contains(operand, "`") {
		return nil, text
	}
	switch operator {
	case "=", "!=":
		return draft.One(operator == "!=", equal(name, value, operand)), ""
	case "~", "~*", "!~", "!~*":
		re := operand
		if strings.HasSuffix(operator, "*") {
			re = "(?i)" + re
		}
		if !s.usable(re) {
			return nil, text
		}
		return draft.One(operator[0] == '!', draft.Atom{Kind: "raw", Args: []string{value + ".matches(" + draft.Text(re) + ")"}}), ""
	}
	return nil, text
}

// equal returns the test of a variable for a value, with a matcher if there is one for it.
func equal(name, value, operand string) draft.Atom {
	plain := operand != "" && !strings.ContainsAny(operand, "*{} ")
	switch {
	case name == "request_method" && plain:
		return draft.Atom{Kind: "method", Args: []string{operand}}
	case (name == "host" || name == "http_host" || name == "server_name") && plain && hostName.MatchString(operand):
		return draft.Atom{Kind: "host", Args: []string{operand}}
	case name == "scheme" && (operand == "http" || operand == "https"):
		return draft.Atom{Kind: "protocol", Args: []string{operand}}
	case strings.HasPrefix(name, "http_") && plain:
		return draft.Atom{Kind: "header", Field: field(name[5:]), Args: []string{operand}}
	case strings.HasPrefix(name, "arg_") && plain:
		return draft.Atom{Kind: "query", Field: name[4:], Args: []string{operand}}
	}
	return draft.Atom{Kind: "raw", Args: []string{value + " == " + draft.Text(operand)}}
}

// needRoot returns what is missing, "" if there is a root in which to look for files.
func (s *site) needRoot(at *scope) string {
	if at.one("root") == nil {
		return "a file without a root"
	}
	return ""
}
