package haproxy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// rules are the rules of a section for requests and answers, in order.
type rules struct {
	c       *converter
	section *section
	prefix  string
	acls    acls
	steps   []*step
	down    [][]string // directives inside load_balancer: for header fields of answers, and of requests that Caddy sets
	table   *table
	tracked map[string]string // the table of each slot, "" for the section's own

	refusals int  // number of steps at the beginning that apply to connections
	accepts  bool // a rule accepts connections, and skips the rules after it
}

// step is a rule. A rule that is not converted has no write function; only its comment is written.
type step struct {
	line    *draft.Line
	formula draft.Formula
	matcher string
	write   func(w *draft.Writer, matcher []string)
}

// table is a stick-table with a rate of requests.
type table struct {
	size   int
	period string // of the rate
}

func newRules(c *converter, s *section, prefix string) *rules {
	r := &rules{c: c, section: s, prefix: prefix, acls: acls{}, tracked: map[string]string{}}
	for _, d := range s.all() {
		switch d.word(0) {
		case "acl":
			r.acls.add(d)
		case "stick-table":
			r.table = readTable(d)
		}
	}
	return r
}

var rateOf = regexp.MustCompile(`http_req_rate\(([0-9a-z]+)\)`)

func readTable(d *directive) *table {
	m := rateOf.FindStringSubmatch(strings.Join(d.words, " "))
	if m == nil {
		return nil // the line that uses the table will say that there is none
	}
	t := &table{period: m[1]}
	for i, word := range d.words {
		if word == "size" {
			t.size, _ = size(d.word(i + 1))
		}
	}
	if kind := d.word(2); d.word(1) == "type" && kind != "ip" && kind != "ipv6" {
		d.line.Leave("only addresses are counted here; see key of ip_rate_limit")
		return nil
	}
	d.line.Done()
	return t
}

// split separates the action of a rule from its condition.
func (r *rules) split(words []string) (action []string, f draft.Formula, rate *rateTest, wrong string) {
	at := slices.IndexFunc(words, func(w string) bool { return w == "if" || w == "unless" })
	if at < 0 {
		return words, nil, nil, ""
	}
	f, rate, wrong = r.acls.condition(words[at:])
	return words[:at], f, rate, wrong
}

// add adds a converted rule.
func (r *rules) add(line *draft.Line, f draft.Formula, write func(w *draft.Writer, matcher []string)) {
	line.Done()
	r.steps = append(r.steps, &step{line: line, formula: f, write: write})
}

// leave adds a rule that is not converted, so that its comment is written in its place.
func (r *rules) leave(line *draft.Line, format string, args ...any) {
	line.Leave(format, args...)
	r.steps = append(r.steps, &step{line: line})
}

// see reads a rule of the section.
func (r *rules) see(d *directive) {
	switch d.word(0) {
	case "http-request":
		r.request(d)
	case "http-response", "http-after-response":
		r.response(d)
	case "redirect":
		r.redirect(d, d.after(1))
	case "block":
		_, f, _, wrong := r.split(d.after(1))
		if wrong != "" {
			d.line.Guards = true
			r.leave(d.line, "%s", wrong)
			return
		}
		r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("respond", m, "403")...) })
	case "tcp-request":
		r.connection(d)
	case "monitor-uri":
		uri := d.word(1)
		if strings.HasPrefix(uri, "/") && !strings.ContainsAny(uri, "*{}?% \\\"`") {
			r.add(d.line, draft.One(false, draft.Atom{Kind: "path", Args: []string{uri}}), func(w *draft.Writer, m []string) { w.Line(draft.Words("respond", m, "200")...) })
		}
	case "reqadd", "reqdel", "reqrep", "reqirep", "reqidel", "rspadd", "rspdel", "rsprep", "rspirep", "rspidel", "reqideny", "reqdeny", "reqiallow":
		r.leave(d.line, "HAProxy itself has given up this word; see http-request and http-response there")
	}
}

// connection converts a rule for connections. HAProxy applies these first, so requests are refused before the other rules.
func (r *rules) connection(d *directive) {
	kind, what := d.word(1), d.word(2)
	if kind == "inspect-delay" {
		d.line.Idle("Caddy applies rules to whole requests")
		return
	}
	action, f, rate, wrong := r.split(d.after(2))
	if (kind != "connection" && kind != "content") || what != "reject" || len(action) != 1 || rate != nil || wrong != "" || r.accepts {
		r.accepts = r.accepts || what == "accept"
		d.line.Guards = true
		d.line.Leave("it has no equivalent here")
		return
	}
	r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("abort", m)...) })
	d.line.Near("requests are refused, not connections")
	last := len(r.steps) - 1
	r.steps = slices.Insert(r.steps[:last], r.refusals, r.steps[last])
	r.refusals++
}

func (r *rules) request(d *directive) {
	action, f, rate, wrong := r.split(d.after(1))
	if len(action) == 0 {
		r.leave(d.line, "what is to be done?")
		return
	}
	what := strings.ToLower(action[0])
	guards := slices.Contains([]string{"deny", "reject", "tarpit", "auth", "silent-drop", "return"}, what)
	if what == "auth" {
		r.close(d)
		return
	}
	if wrong != "" {
		d.line.Guards = guards
		r.leave(d.line, "%s", wrong)
		return
	}
	if rate != nil {
		r.limit(d, what, f, rate)
		return
	}
	switch what {
	case "deny", "reject", "tarpit", "silent-drop":
		status := "403"
		if what == "tarpit" {
			status = "500"
		}
		for i, w := range action[1:] {
			switch {
			case w == "deny_status" || w == "status":
				if _, ok := whole(d.word(i+3), 200, 599); ok {
					status = d.word(i + 3)
				}
			case i > 0 && (action[i] == "deny_status" || action[i] == "status"):
			default:
				d.line.Near("the answer is the bare status: %s is not converted", w)
			}
		}
		if what == "reject" || what == "silent-drop" {
			r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("abort", m)...) })
			return
		}
		r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("respond", m, status)...) })
	case "allow":
		r.leave(d.line, "it ends the rules of this section; put what follows into handle blocks")
	case "redirect":
		r.redirect(d, d.after(2))
	case "return":
		r.answer(d, action[1:], f)
	case "set-header", "add-header", "del-header":
		r.header(d, action, f, func(words []string) []string { return append([]string{"request_header"}, words...) })
	case "set-path", "set-uri", "set-query", "replace-path", "replace-uri", "replace-pathq", "replace-header":
		r.rewrite(d, what, action, f)
	case "track-sc0", "track-sc1", "track-sc2":
		r.track(d, what, action, f)
	case "capture":
		d.line.Idle("Caddy's access log has the fields of requests")
	case "set-log-level":
		r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("log_skip", m)...) })
		if d.word(2) != "silent" {
			d.line.Leave("requests are logged or not")
			r.steps = r.steps[:len(r.steps)-1]
		}
	default:
		r.leave(d.line, "%s has no equivalent here", what)
	}
}

// close refuses the requests that a login protected, because the login is not converted.
func (r *rules) close(d *directive) {
	f := r.beforeLogin(d)
	r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("respond", m, "403")...) })
	d.line.Guards = true
	d.line.Leave("closed until basic_auth stands here with hashes of: caddy hash-password")
}

// beforeLogin returns the condition of a login without the test of the user: for `if host !{ http_auth(users) }` it is that of host. If it
// does not understand the condition, it returns nil, which stands for all requests.
func (r *rules) beforeLogin(d *directive) draft.Formula {
	at := slices.Index(d.words, "if")
	if at < 0 || slices.ContainsFunc(d.words[at:], func(w string) bool { return w == "||" || strings.EqualFold(w, "or") }) {
		return nil
	}
	var rest []string
	for words := d.words[at:]; len(words) > 0; words = words[1:] {
		name, not := strings.CutPrefix(words[0], "!")
		one := r.acls[name]
		switch {
		case not && one != nil && one.login:
		case not && name == "{" && len(words) > 2 && isLogin(words[1]) && slices.Contains(words, "}"):
			words = words[slices.Index(words, "}"):]
		default:
			rest = append(rest, words[0])
		}
	}
	if len(rest) == 1 {
		return nil
	}
	f, rate, wrong := r.acls.condition(rest)
	if wrong != "" || rate != nil {
		return nil
	}
	return f
}

func isLogin(test string) bool {
	return strings.HasPrefix(test, "http_auth(") || strings.HasPrefix(test, "http_auth_group(")
}

// answer converts http-request return.
func (r *rules) answer(d *directive, action []string, f draft.Formula) {
	status, kind, body, format := "200", "", "", ""
	var headers [][2]string
	for i := 0; i < len(action); i++ {
		switch next := at(action, i+1); action[i] {
		case "status":
			status = next
		case "content-type":
			kind = next
		case "string", "lf-string":
			body, format = next, action[i]
		case "hdr":
			headers = append(headers, [2]string{next, at(action, i+2)})
			i++
		default:
			r.leave(d.line, "%s is not converted", action[i])
			return
		}
		i++
	}
	if _, ok := whole(status, 200, 599); !ok {
		r.leave(d.line, "status %s", status)
		return
	}
	text, err := draft.Plain(body), error(nil)
	if format == "lf-string" {
		text, err = value(body)
	}
	if err != nil || !draft.Quotable(text) || strings.ContainsAny(text, "\r\n") {
		r.leave(d.line, "the text cannot be written in one line")
		return
	}
	if kind != "" {
		headers = append(headers, [2]string{"Content-Type", kind})
	}
	for _, h := range headers {
		if v, err := value(h[1]); err != nil || !headerName.MatchString(h[0]) || v == "" {
			r.leave(d.line, "header %s", h[0])
			return
		}
	}
	r.add(d.line, f, func(w *draft.Writer, m []string) {
		for _, h := range headers {
			v, _ := value(h[1])
			w.Line(draft.Words("header", m, h[0], v)...)
		}
		if text == "" {
			w.Line(draft.Words("respond", m, status)...)
		} else {
			w.Line(draft.Words("respond", m, text, status)...)
		}
	})
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// header converts set-header and the like.
func (r *rules) header(d *directive, action []string, f draft.Formula, line func([]string) []string) {
	name := at(action, 1)
	if !headerName.MatchString(name) || at(action, 2) == "-m" || action[0] != "del-header" && len(action) < 3 {
		r.leave(d.line, "the field is not understood")
		return
	}
	text, err := value(strings.Join(action[min(2, len(action)):], " "))
	if err != nil {
		r.leave(d.line, "%v", err)
		return
	}
	var rest []string
	switch {
	case action[0] == "del-header" || text == "":
		rest = []string{"-" + name}
	case action[0] == "add-header":
		rest = []string{"+" + name, text}
	default:
		rest = []string{name, text}
	}
	full := line(rest)
	r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words(full[0], m, full[1:]...)...) })
	if strings.Contains(text, "{path}") {
		d.line.Near("the path is decoded here")
	}
	for _, same := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
		if strings.EqualFold(name, same) && full[0] == "request_header" {
			r.steps[len(r.steps)-1].write = func(*draft.Writer, []string) {}
			if same == "X-Forwarded-Proto" && slices.Contains([]string{"https", "http", "{http.request.scheme}"}, text) ||
				text == "{remote_host}" || text == "{hostport}" || action[0] == "del-header" {
				d.line.Idle("Caddy sets %s by itself, and trusts only that of trusted_proxies", same)
			} else if r.steps = r.steps[:len(r.steps)-1]; f == nil && r.prefix != "" && action[0] == "set-header" {
				up := new(draft.Writer)
				up.Line("header_up", name, text)
				r.down = append(r.down, []string{up.String()})
			} else {
				r.leave(d.line, "Caddy sets %s by itself; use header_up for another value", same)
			}
		}
	}
}

func (r *rules) response(d *directive) {
	action, f, _, wrong := r.split(d.after(1))
	what := at(action, 0)
	switch {
	case wrong != "":
		r.leave(d.line, "%s", wrong)
	case what == "set-header" || what == "add-header" || what == "del-header":
		if f != nil || d.word(0) == "http-after-response" || r.prefix == "" {
			// A frontend's answers come from several pools and from Caddy, so the field is set when an answer is written.
			r.header(d, action, f, func(words []string) []string { return append([]string{"header"}, deferred(words)...) })
			if d.word(0) == "http-response" && d.line.State == draft.Done {
				d.line.Near("answers that Caddy makes by itself get it, too")
			}
			return
		}
		before := len(r.steps)
		r.header(d, action, nil, func(words []string) []string { return append([]string{"header_down"}, words...) })
		if len(r.steps) > before && d.line.State == draft.Done {
			w := new(draft.Writer)
			r.steps[len(r.steps)-1].write(w, nil)
			r.down = append(r.down, []string{w.String()})
			r.steps = r.steps[:before]
		}
	default:
		r.leave(d.line, "%s of answers has no equivalent here; see handle_response", what)
	}
}

// deferred returns the operation in the form that Caddy makes when the answer is written.
func deferred(words []string) []string {
	name := words[0]
	if strings.HasPrefix(name, "-") {
		return append([]string{name}, words[1:]...)
	}
	return append([]string{">" + strings.TrimPrefix(name, "+")}, words[1:]...)
}

// writeHeaderDown writes the changes to the header fields of a pool's answers.
func (r *rules) writeHeaderDown(w *draft.Writer) {
	for _, text := range r.down {
		w.Add(text[0])
	}
}

func (r *rules) redirect(d *directive, all []string) {
	action, f, _, wrong := r.split(all)
	if wrong != "" {
		r.leave(d.line, "%s", wrong)
		return
	}
	code, to := "302", ""
	for i := 0; i < len(action); i++ {
		next := at(action, i+1)
		switch action[i] {
		case "scheme":
			if next != "https" && next != "http" {
				r.leave(d.line, "scheme %s", next)
				return
			}
			to = next + "://{hostport}{uri}"
			if f == nil {
				// Without a condition it would redirect requests forever that have the right scheme already.
				other := map[string]string{"https": "http", "http": "https"}[next]
				f = draft.One(false, draft.Atom{Kind: "protocol", Args: []string{other}})
			}
		case "location", "prefix":
			text, err := value(next)
			if err != nil || text == "" {
				r.leave(d.line, "the location is not understood")
				return
			}
			to = text
			if action[i] == "prefix" {
				to += "{uri}"
				if text == "/" {
					to = "{uri}"
				}
			}
		case "code":
			if !slices.Contains([]string{"301", "302", "303", "307", "308"}, next) {
				r.leave(d.line, "code %s", next)
				return
			}
			code = next
		default:
			r.leave(d.line, "%s is not converted", action[i])
			return
		}
		i++
	}
	if to == "" {
		r.leave(d.line, "where to?")
		return
	}
	r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("redir", m, to, code)...) })
}

// write writes the rules, each after the comment on its line.
func (r *rules) write(w *draft.Writer) {
	used := map[string]bool{}
	for _, s := range r.steps {
		w.Comment(r.c.ledger.Comments(s.line)...)
		if s.write == nil {
			continue
		}
		var matcher []string
		if s.formula != nil {
			name := "@" + strings.ReplaceAll(r.prefix, ".", "_") + "_" + strconv.Itoa(s.line.Number)
			if r.prefix == "" {
				name = "@line_" + strconv.Itoa(s.line.Number)
			}
			for used[name] {
				name += "_"
			}
			used[name] = true
			r.c.writeMatcher(w, name, s.formula)
			matcher = []string{name}
		}
		s.write(w, matcher)
	}
}
