package haproxy

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// acls are the acls of a section by name.
type acls map[string]*acl

type acl struct {
	lines []*draft.Line
	atoms []draft.Atom
	rate  *rateTest // set instead of atoms if it tests the rate of requests
	login bool      // it tests the user
	wrong string    // why it is not understood
}

// rateTest tests the number of requests of a client.
type rateTest struct {
	more int // true if there are more requests
	slot string
}

// add adds an acl line.
func (a acls) add(d *directive) {
	name := d.word(1)
	if len(d.words) < 3 {
		d.line.Leave("an acl needs a name and a test")
		return
	}
	one := a[name]
	if one == nil {
		one = new(acl)
		a[name] = one
	}
	one.lines = append(one.lines, d.line)
	one.login = isLogin(d.word(2))
	atoms, rate, wrong := test(d.after(2))
	one.atoms = append(one.atoms, atoms...)
	if rate != nil {
		one.rate = rate
	}
	if wrong != "" {
		one.wrong = wrong
		d.line.Leave("%s", wrong)
		return
	}
	d.line.Done()
}

// condition reads the condition after if or unless.
func (a acls) condition(words []string) (draft.Formula, *rateTest, string) {
	if len(words) == 0 {
		return nil, nil, ""
	}
	negated := words[0] == "unless"
	if !negated && words[0] != "if" {
		return nil, nil, "word " + words[0]
	}
	words = words[1:]
	var f draft.Formula
	var conj []draft.Literal
	var rate *rateTest
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "||" || word == "or" || word == "OR" {
			f = append(f, conj)
			conj = nil
			continue
		}
		not := false
		for strings.HasPrefix(word, "!") {
			not = !not
			word = word[1:]
			if word == "" && i+1 < len(words) {
				i++
				word = words[i]
			}
		}
		var one *acl
		if word == "{" {
			end := slices.Index(words[i:], "}")
			if end < 0 {
				return nil, nil, "a brace is not closed"
			}
			atoms, r, wrong := test(words[i+1 : i+end])
			one = &acl{atoms: atoms, rate: r, wrong: wrong}
			i += end
		} else if one = a[word]; one == nil {
			if one = predefined[word]; one == nil {
				return nil, nil, "there is no acl " + word + " here"
			}
		}
		switch {
		case one.wrong != "":
			if word == "{" {
				return nil, nil, one.wrong
			}
			return nil, nil, "acl " + word + ": " + one.wrong
		case one.rate != nil && not:
			return nil, nil, "a rate can be tested for too much only"
		case one.rate != nil:
			rate = one.rate
			continue
		}
		conj = append(conj, draft.Literal{Not: not, Atoms: one.atoms})
	}
	f = append(f, conj)
	if rate != nil && (len(f) > 1 || negated) {
		return nil, nil, "a rate can be tested together with other acls, but not beside alternatives"
	}
	if rate != nil && len(conj) == 0 {
		return nil, rate, ""
	}
	if slices.ContainsFunc(f, func(c []draft.Literal) bool { return len(c) == 0 }) {
		return nil, nil, "an alternative is empty"
	}
	if negated {
		f = f.Not()
	}
	if f == nil {
		return nil, nil, "the condition is too long"
	}
	return f, rate, ""
}

var predefined = map[string]*acl{
	"METH_GET":     {atoms: []draft.Atom{{Kind: "method", Args: []string{"GET", "HEAD"}}}},
	"METH_HEAD":    {atoms: []draft.Atom{{Kind: "method", Args: []string{"HEAD"}}}},
	"METH_POST":    {atoms: []draft.Atom{{Kind: "method", Args: []string{"POST"}}}},
	"METH_PUT":     {atoms: []draft.Atom{{Kind: "method", Args: []string{"PUT"}}}},
	"METH_DELETE":  {atoms: []draft.Atom{{Kind: "method", Args: []string{"DELETE"}}}},
	"METH_OPTIONS": {atoms: []draft.Atom{{Kind: "method", Args: []string{"OPTIONS"}}}},
	"METH_TRACE":   {atoms: []draft.Atom{{Kind: "method", Args: []string{"TRACE"}}}},
	"METH_CONNECT": {atoms: []draft.Atom{{Kind: "method", Args: []string{"CONNECT"}}}},
	"LOCALHOST":    {atoms: []draft.Atom{{Kind: "remote_ip", Args: []string{"127.0.0.0/8", "::1"}}}},
	"TRUE":         {atoms: []draft.Atom{{Kind: "path", Args: []string{"*"}}}},
	"HTTP":         {atoms: []draft.Atom{{Kind: "path", Args: []string{"*"}}}},
}

var (
	criterion = regexp.MustCompile(`^([a-z0-9_.]+)(?:\((.*)\))?((?:,[a-z0-9_]+(?:\([^()]*\))?)*)$`)
	rateWords = regexp.MustCompile(`^sc_?([012])?_http_req_rate$|^src_http_req_rate$`)
)

// test reads a criterion with its flags and values.
func test(words []string) ([]draft.Atom, *rateTest, string) {
	if len(words) == 0 {
		return nil, nil, "a test is missing"
	}
	m := criterion.FindStringSubmatch(words[0])
	if m == nil {
		return nil, nil, words[0] + " has no equivalent in Caddy"
	}
	name, of, converters := m[1], strings.Trim(m[2], `"' `), m[3]
	fold, how := false, ""
	values := words[1:]
	for len(values) > 0 && strings.HasPrefix(values[0], "-") && values[0] != "-" {
		flag := values[0]
		values = values[1:]
		switch {
		case flag == "-i":
			fold = true
		case flag == "-n" || flag == "-u":
		case flag == "-m" && len(values) > 0:
			how, values = values[0], values[1:]
		case flag == "--":
			goto done
		default:
			return nil, nil, "flag " + flag + " is not converted; Caddy has no lists of values in files"
		}
	}
done:
	switch {
	case converters == ",lower" || converters == ",lower()":
		fold = true
	case converters != "":
		return nil, nil, "converters (" + converters[1:] + ") have no equivalent in Caddy"
	}
	if rateWords.MatchString(name) {
		r, wrong := readRate(m, values)
		return nil, r, wrong
	}
	for _, v := range values {
		if !draft.Quotable(v) || strings.ContainsAny(v, "`\n\r") || draft.HasEnv(v) {
			return nil, nil, "value " + draft.OneLine(v) + " cannot be written in a matcher"
		}
	}
	// hdr_beg(x) is hdr(x) -m beg.
	for _, suffix := range []string{"_beg", "_end", "_sub", "_dir", "_dom", "_reg", "_len", "_cnt"} {
		if base, found := strings.CutSuffix(name, suffix); found && how == "" {
			name, how = base, suffix[1:]
			break
		}
	}
	return sample(name, of, how, fold, values)
}

// sample returns the matcher of a criterion, the kind of comparison, and the values.
func sample(name, of, how string, fold bool, values []string) ([]draft.Atom, *rateTest, string) {
	no := func() ([]draft.Atom, *rateTest, string) {
		full := name
		if of != "" {
			full += "(" + of + ")"
		}
		if how != "" {
			full += " -m " + how
		}
		return nil, nil, full + " has no equivalent in Caddy"
	}
	native := func(kind string, args ...string) ([]draft.Atom, *rateTest, string) {
		if len(args) == 0 {
			return nil, nil, name + " has no values"
		}
		return []draft.Atom{{Kind: kind, Args: args}}, nil, ""
	}
	var header string
	switch name {
	case "path", "url", "path_only", "pathq":
		return pathMatcher(how, fold, values, no)
	case "method":
		if how != "" && how != "str" {
			return no()
		}
		return native("method", values...)
	case "src":
		for _, v := range values {
			if _, err := netip.ParseAddr(v); err != nil {
				if _, err := netip.ParsePrefix(v); err != nil {
					return nil, nil, v + " is no address or range"
				}
			}
		}
		if how != "" && how != "ip" {
			return no()
		}
		return native("remote_ip", values...)
	case "ssl_fc":
		if len(values) == 0 || slices.Equal(values, []string{"1"}) || slices.Equal(values, []string{"true"}) {
			return native("protocol", "https")
		}
		return no()
	case "ssl_fc_sni", "req.ssl_sni", "req_ssl_sni":
		if how != "" && how != "str" {
			return no()
		}
		return hosts(values, how, native, no)
	case "hdr", "req.hdr", "req.fhdr", "hdr_ip", "fhdr":
		if of == "" || strings.Contains(of, ",") && !strings.HasSuffix(of, ",1") && !strings.HasSuffix(of, ",-1") || name == "hdr_ip" {
			return no()
		}
		header, _, _ = strings.Cut(of, ",")
	case "cook", "req.cook":
		if of == "" {
			return no()
		}
		if how == "found" || how == "" && len(values) == 0 {
			return []draft.Atom{{Kind: "header_regexp", Field: "Cookie", Args: []string{`(^|;\s*)` + regexp.QuoteMeta(of) + "="}}}, nil, ""
		}
		re, ok := pattern(how, fold, values)
		if !ok {
			return no()
		}
		re = strings.TrimSuffix(strings.TrimPrefix(re, "^"), "$")
		if how != "" && how != "str" {
			return no()
		}
		return []draft.Atom{{Kind: "header_regexp", Field: "Cookie", Args: []string{`(^|;\s*)` + regexp.QuoteMeta(of) + "=" + re + "(;|$)"}}}, nil, ""
	case "url_param", "urlp":
		if how == "found" || how == "" && len(values) == 0 {
			return []draft.Atom{{Kind: "query", Field: of, Args: []string{"*"}}}, nil, ""
		}
		if of == "" || fold || how != "" && how != "str" || slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "*{}") }) {
			return no()
		}
		return []draft.Atom{{Kind: "query", Field: of, Args: values}}, nil, ""
	default:
		return no()
	}
	if strings.EqualFold(header, "host") && (how == "" || how == "str") {
		return hosts(values, how, native, no)
	}
	switch {
	case how == "found", how == "cnt" && (slices.Equal(values, []string{"gt", "0"}) || slices.Equal(values, []string{"ge", "1"})):
		return []draft.Atom{{Kind: "header", Field: header, Args: []string{"*"}}}, nil, ""
	case (how == "" || how == "str") && !fold && len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return strings.ContainsAny(v, "*{}") || v == "" }):
		return []draft.Atom{{Kind: "header", Field: header, Args: values}}, nil, ""
	}
	re, ok := pattern(how, fold, values)
	if !ok {
		return no()
	}
	return []draft.Atom{{Kind: "header_regexp", Field: header, Args: []string{re}}}, nil, ""
}

func hosts(values []string, _ string, native func(string, ...string) ([]draft.Atom, *rateTest, string), no func() ([]draft.Atom, *rateTest, string)) ([]draft.Atom, *rateTest, string) {
	var names []string
	for _, v := range values {
		host, _, _ := strings.Cut(v, ":")
		if !hostName.MatchString(host) {
			return no()
		}
		names = append(names, host)
	}
	return native("host", names...)
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`)

// pathMatcher returns the matcher of a path. In Caddy's, * matches any text.
func pathMatcher(how string, fold bool, values []string, no func() ([]draft.Atom, *rateTest, string)) ([]draft.Atom, *rateTest, string) {
	form := map[string][2]string{"": {"", ""}, "str": {"", ""}, "beg": {"", "*"}, "end": {"*", ""}, "sub": {"*", "*"}}
	ends, ok := form[how]
	ok = ok && len(values) > 0
	var args []string
	for _, v := range values {
		if strings.ContainsAny(v, "*{}%?\\ ") || v == "" || how != "end" && how != "sub" && !strings.HasPrefix(v, "/") || strings.Contains(v, "//") {
			ok = false
		}
		args = append(args, ends[0]+v+ends[1])
	}
	if ok {
		return []draft.Atom{{Kind: "path", Args: args}}, nil, ""
	}
	re, ok := pattern(how, fold, values)
	if !ok {
		return no()
	}
	return []draft.Atom{{Kind: "path_regexp", Args: []string{re}}}, nil, ""
}

// pattern returns a regular expression for a kind of comparison with values.
func pattern(how string, fold bool, values []string) (string, bool) {
	if len(values) == 0 {
		return "", false
	}
	forms := map[string][2]string{
		"": {"^", "$"}, "str": {"^", "$"}, "beg": {"^", ""}, "end": {"", "$"}, "sub": {"", ""}, "reg": {"", ""},
		"dir": {"(^|/)", "(/|$)"}, "dom": {`(^|[./?:])`, `([./?:]|$)`},
	}
	form, ok := forms[how]
	if !ok {
		return "", false
	}
	var all []string
	for _, v := range values {
		if how != "reg" {
			v = regexp.QuoteMeta(v)
		}
		all = append(all, v)
	}
	re := strings.Join(all, "|")
	if len(all) > 1 {
		re = "(?:" + re + ")"
	}
	re = form[0] + re + form[1]
	if fold {
		re = "(?i)" + re
	}
	if _, err := regexp.Compile(re); err != nil || strings.ContainsAny(re, "`") || braces.MatchString(re) {
		return "", false
	}
	return re, true
}

// braces matches text that Caddy could take for a placeholder.
var braces = regexp.MustCompile(`\{[^0-9,]`)

// readRate reads the test of a rate: gt 20, ge 20, or a number.
func readRate(m, values []string) (*rateTest, string) {
	r := &rateTest{slot: rateWords.FindStringSubmatch(m[1])[1]}
	if r.slot == "" {
		r.slot, _, _ = strings.Cut(m[2], ",")
	}
	if r.slot == "" || m[1] == "src_http_req_rate" {
		r.slot = "0"
	}
	number, less := "", 0
	switch {
	case len(values) == 2 && values[0] == "gt":
		number = values[1]
	case len(values) == 2 && values[0] == "ge":
		number, less = values[1], 1
	case len(values) == 1 && strings.HasSuffix(values[0], ":"):
		number, less = strings.TrimSuffix(values[0], ":"), 1
	}
	n, ok := whole(number, 1, 1<<30)
	if !ok {
		return nil, "the rate is not compared with a number by gt or ge"
	}
	r.more = max(n-less, 1)
	return r, ""
}
