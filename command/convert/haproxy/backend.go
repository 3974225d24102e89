package haproxy

import (
	"fmt"
	"net/textproto"
	"regexp"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// backend is a backend, or the backend's part of a listen.
type backend struct {
	section *section
	c       *converter
	tcp     bool

	standards []*directive // default-server
	servers   []*server
	shared    map[string]string // words of servers that are settings of a pool here
	resolver  string
	policy    []string
	inHash    [][]string
	cookie    *directive
	checked   *directive // option httpchk
	sends     []*directive
	expects   []*directive
	retries   int // -1 if not given
	retryOn   []string
	retryLine *draft.Line
	timeouts  map[string]time.Duration
	fullBack  bool // option allbackups
	rules     *rules
}

func newBackend(c *converter, s *section) *backend {
	b := &backend{section: s, c: c, retries: -1, timeouts: map[string]time.Duration{}, rules: newRules(c, s, draft.Name(s.name))}
	for _, d := range s.all() {
		if d.word(0) == "default-server" {
			b.standards = append(b.standards, d)
		}
	}
	return b
}

// see reads the lines of the section that are about backends.
func (b *backend) see(d *directive) {
	switch d.word(0) {
	case "server", "server-template":
		b.take(d)
	case "default-server":
		serverWords(d.after(1), d.line)
		d.line.Done()
	case "balance":
		b.balance(d)
	case "hash-type":
		d.line.Near("all keys move once; after that, few keys move when a backend leaves, whatever the type")
	case "hash-balance-factor":
		if n, ok := whole(d.word(1), 101, 10000); ok {
			b.inHash = append(b.inHash, []string{"bounded_load", fmt.Sprintf("%d%%", n)})
			d.line.Done()
		}
	case "cookie":
		b.cookie = d
		d.line.Done()
	case "stick":
		if d.word(1) == "on" && d.word(2) == "src" || d.word(1) == "match" && d.word(2) == "src" {
			b.policy = []string{"ip_hash"}
			d.line.Near("a hash of the address replaces the table: a client moves when its backend leaves, and a new backend takes some clients over")
		} else {
			d.line.Leave("Caddy has no stick tables; see sticky and hash in docs/policies.md")
		}
	case "retries":
		if n, ok := whole(d.word(1), 0, 99); ok {
			b.retries, b.retryLine = n, d.line
			d.line.Done()
		}
	case "retry-on":
		b.retryOn = nil
		d.line.Done()
		for _, w := range d.after(1) {
			on, ok := retryWords[w]
			if !ok {
				d.line.Leave("%s", w)
			}
			b.retryOn = append(b.retryOn, on...)
		}
		if d.word(1) == "none" {
			b.retries = 0
		}
		if b.retryLine == nil {
			b.retryLine = d.line
		}
	case "timeout":
		b.timeout(d)
	case "http-check":
		b.httpCheck(d)
	case "option":
		b.option(d)
	case "fullconn":
		d.line.Leave("minconn and fullconn are not converted; max_requests auto finds a bound for each backend")
	case "compression":
		d.line.Near("encode stands in the site, for all its backends")
	case "filter":
		if d.word(1) == "compression" {
			d.line.Idle("encode needs no filter")
		}
	}
}

var retryWords = map[string][]string{
	"none": nil, "conn-failure": {"connect"}, "empty-response": {"reset"}, "response-timeout": {"timeout"}, "junk-response": {"reset"},
	"all-retryable-errors": {"connect", "reset", "timeout", "500", "502", "503", "504"},
	"401":                  {"401"}, "403": {"403"}, "404": {"404"}, "408": {"408"}, "421": {"421"}, "425": {"425"}, "429": {"429"},
	"500": {"500"}, "501": {"501"}, "502": {"502"}, "503": {"503"}, "504": {"504"}, "0rtt-rejected": nil,
}

func (b *backend) balance(d *directive) {
	algorithm, of, _ := strings.Cut(strings.TrimSuffix(d.word(1), ")"), "(")
	key := ""
	d.line.Done()
	switch algorithm {
	case "roundrobin", "static-rr":
		b.policy = []string{"round_robin"}
	case "leastconn":
		b.policy = []string{"least_conn"}
	case "first":
		b.policy = []string{"first"}
	case "source":
		b.policy = []string{"ip_hash"}
	case "random":
		b.policy = []string{"p2c"}
		if n, ok := whole(of, 1, 16384); ok && n > 2 {
			b.policy = append(b.policy, of)
		} else if ok && n == 1 {
			b.policy = []string{"random"}
		}
	case "uri":
		key = "{path}"
		for i := 2; i < len(d.words); i++ {
			if d.words[i] == "whole" {
				key = "{uri}"
			} else {
				d.line.Near("the whole path counts, not only %s", strings.Join(d.after(i), " "))
				break
			}
		}
	case "hdr":
		key = "{header." + of + "}"
	case "url_param":
		of = d.word(2)
		key = "{query." + of + "}"
		if len(d.words) > 3 {
			d.line.Near("the parameter is looked for in the URL only")
		}
	default:
		d.line.Leave("there is no such policy")
		return
	}
	if key != "" {
		if strings.Contains(key, ".") && !headerName.MatchString(of) {
			d.line.Leave("the name of the key is not understood")
			return
		}
		b.policy = []string{"hash", key}
	}
}

func (b *backend) timeout(d *directive) {
	kind := d.word(1)
	switch kind {
	case "connect", "server", "queue", "check":
		t, ok := duration(d.word(2))
		if !ok {
			d.line.Leave("the time is not understood")
			return
		}
		b.timeouts[kind] = t
		d.line.Done()
		if kind == "server" {
			d.line.Near("response_header_timeout is until the header of an answer; an answer that stops later is not cut off")
		}
	case "tunnel":
		d.line.Leave("silent tunnels have no timeout: they stay open as long as both sides do. stream_timeout of load_balancer limits their duration")
	case "server-fin":
		d.line.Idle("Caddy ends half-closed connections by itself")
	}
}

// checkOptions are checks with protocols other than HTTP.
var checkOptions = strings.Fields("tcp-check mysql-check pgsql-check redis-check ldap-check smtpchk ssl-hello-chk spop-check external-check")

func (b *backend) option(d *directive) {
	switch name := d.word(1); name {
	case "httpchk":
		b.checked = d
		d.line.Done()
	case "redispatch":
		d.line.Done() // retries try another backend first
	case "allbackups":
		b.fullBack = true
		d.line.Done()
	case "persist":
		d.line.Near("a session whose backend is down gets another one")
	default:
		if contains(checkOptions, name) && !b.tcp {
			d.line.Leave("there is no such check; backends are checked by connecting to them")
		}
	}
}

func (b *backend) httpCheck(d *directive) {
	switch d.word(1) {
	case "send":
		b.sends = append(b.sends, d)
		d.line.Done()
	case "expect":
		b.expects = append(b.expects, d)
		d.line.Done()
	case "disable-on-404":
		d.line.Leave("a backend that answers 404 is down, not draining; see caddy lb drain")
	case "send-state":
		d.line.Leave("checks do not tell backends their state")
	case "connect", "comment", "set-var", "unset-var":
		d.line.Leave("a check is one request")
	}
}

var statusRange = regexp.MustCompile(`^([1-5])00-([1-5])99$`)

// statuses translates statuses such as 200 and 200-399, and lists of them.
func statuses(text string) ([]string, bool) {
	var all []string
	for part := range strings.SplitSeq(text, ",") {
		if m := statusRange.FindStringSubmatch(part); m != nil {
			for class := m[1][0]; class <= m[2][0]; class++ {
				all = append(all, string(class)+"xx")
			}
		} else if _, ok := whole(part, 100, 599); ok {
			all = append(all, part)
		} else {
			return nil, false
		}
	}
	return all, true
}

// writeCheck writes the active checks, if a server has check.
func (b *backend) writeCheck(w *draft.Writer) {
	var with, without []*server
	for _, s := range b.servers {
		if s.check {
			with = append(with, s)
		} else {
			without = append(without, s)
		}
	}
	if len(with) == 0 {
		for _, d := range append(append(append([]*directive{}, b.sends...), b.expects...), b.checked) {
			if d != nil && d.line.State == draft.Done {
				d.line.Idle("no server has check")
			}
		}
		return
	}
	for _, s := range without {
		s.d.line.Near("it has no check; here all backends of a pool are checked")
	}
	w.Open("health_check")
	if b.checked == nil {
		w.Line("tcp")
		for _, d := range append(append([]*directive{}, b.sends...), b.expects...) {
			d.line.Leave("without option httpchk HAProxy only connects, and so does this check")
		}
	} else {
		b.writeHTTPCheck(w)
	}
	interval, ok := b.seconds("inter", 10*time.Millisecond, 24*time.Hour)
	if !ok {
		interval = "2s"
	}
	w.Line("interval", interval)
	every, _ := time.ParseDuration(interval)
	if fast, ok := b.seconds("fastinter", 10*time.Millisecond, every); ok {
		w.Line("fast_interval", fast)
	} else if every < time.Second {
		w.Line("fast_interval", interval)
	}
	if v, ok := b.shared["downinter"]; ok {
		for _, s := range b.servers {
			if s.words["downinter"] == v {
				s.d.line.Near("a backend that is down is checked more and more rarely, down to a sixth of interval, whatever downinter says")
			}
		}
	}
	if t, ok := b.timeouts["check"]; ok {
		if t >= every {
			t = every * 8 / 10
			b.checkedFor(t)
		}
		w.Line("timeout", written(draft.Between(t, time.Millisecond, time.Hour)))
	}
	for _, key := range []string{"rise", "fall"} {
		if v, ok := b.shared[key]; ok {
			if _, ok := whole(v, 1, 1000); ok {
				w.Line(key, v)
			} else {
				b.complain(key, v)
			}
		}
	}
	if port, ok := b.shared["port"]; ok {
		if _, ok := whole(port, 1, 65535); ok && b.shared["addr"] == "" {
			w.Line("port", port)
		} else if b.shared["addr"] == "" {
			b.complain("port", port)
		}
	}
	if addr, ok := b.shared["addr"]; ok {
		port := b.shared["port"]
		if target, ok := addressOf(addr + ":" + port); ok && port != "" {
			w.Line("upstream", target)
		} else {
			b.complain("addr", addr)
		}
	}
	w.Close()
}

// checkedFor notes at the servers that a check has less time than timeout check gives it, because it ends before the next one begins.
func (b *backend) checkedFor(t time.Duration) {
	for _, s := range b.servers {
		if s.check {
			s.d.line.Near("a check has %s, less than timeout check: it ends before the next one; set interval and timeout higher for slow answers", written(t))
		}
	}
}

// writeHTTPCheck writes a check that sends a request.
func (b *backend) writeHTTPCheck(w *draft.Writer) {
	method, uri, body := "OPTIONS", "/", ""
	var headers [][2]string
	words := b.checked.after(2)
	line := b.checked.line
	if len(words) == 1 {
		uri = words[0]
	}
	if len(words) > 1 {
		method, uri = words[0], words[1]
	}
	if len(words) > 2 {
		// Header fields may follow the version: HTTP/1.1\r\nHost:\ example.com
		for field := range strings.SplitSeq(strings.ReplaceAll(strings.Join(words[2:], " "), "\r", ""), "\n") {
			if name, v, ok := strings.Cut(field, ":"); ok {
				headers = append(headers, [2]string{strings.TrimSpace(name), strings.TrimSpace(v)})
			}
		}
	}
	for _, d := range b.sends {
		for i := 2; i < len(d.words); i++ {
			switch word := d.words[i]; word {
			case "meth", "uri", "uri-lf", "ver", "body", "body-lf":
				i++
				v := d.word(i)
				if strings.HasSuffix(word, "-lf") && strings.Contains(v, "%") {
					d.line.Leave("%s", word)
					continue
				}
				switch word[:3] {
				case "met":
					method = v
				case "uri":
					uri = v
				case "bod":
					body = v
				}
			case "hdr":
				headers = append(headers, [2]string{d.word(i + 1), d.word(i + 2)})
				i += 2
			default:
				d.line.Leave("word %s", word)
			}
		}
		line = d.line
	}
	expect, bodyPattern := []string{"2xx", "3xx"}, ""
	for _, d := range b.expects {
		rest := d.after(2)
		not := len(rest) > 0 && rest[0] == "!"
		if not || len(rest) != 2 {
			d.line.Leave("negated conditions, and further words, are not converted")
			continue
		}
		switch rest[0] {
		case "status":
			if list, ok := statuses(rest[1]); ok {
				expect = list
			} else {
				d.line.Leave("the statuses are not understood")
			}
		case "rstatus", "string", "rstring":
			re := rest[1]
			if rest[0] == "string" {
				re = regexp.QuoteMeta(re)
			}
			if list, ok := classes[re]; ok && rest[0] == "rstatus" {
				expect = list
				continue
			}
			if _, err := regexp.Compile(re); err != nil || rest[0] == "rstatus" || !draft.Quotable(re) || strings.ContainsAny(re, "`\n\r") {
				d.line.Leave("the pattern cannot be written here")
				continue
			}
			bodyPattern = re
		default:
			d.line.Leave("%s is not converted", rest[0])
		}
	}
	if !strings.HasPrefix(uri, "/") || strings.ContainsAny(uri, "{}\n\r\"`\\ ") {
		line.Leave("the path of the check is not understood; / is checked instead")
		uri = "/"
	}
	w.Line(append([]string{"http", uri}, expect...)...)
	if !methodName.MatchString(method) {
		line.Leave("method %s", method)
		method = "GET"
	}
	if method != "GET" {
		w.Line("method", method)
	}
	for _, h := range headers {
		text, err := value(h[1])
		if err != nil || !headerName.MatchString(h[0]) || text == "" || strings.EqualFold(h[0], "Connection") {
			line.Leave("header %s", h[0])
			continue
		}
		w.Line("header", textproto.CanonicalMIMEHeaderKey(h[0]), text)
	}
	if body != "" {
		if draft.Quotable(body) && !strings.ContainsAny(body, "\r\n{}") {
			w.Line("body", body)
		} else {
			line.Leave("the body cannot be written here")
		}
	}
	if bodyPattern != "" {
		w.Line("expect_body", bodyPattern)
	}
}

var (
	methodName = regexp.MustCompile(`^[A-Z]{1,20}$`)
	classes    = map[string][]string{
		"^2": {"2xx"}, "2..": {"2xx"}, "^2..": {"2xx"}, "^2[0-9][0-9]": {"2xx"}, "[23]..": {"2xx", "3xx"}, "(2|3)[0-9][0-9]": {"2xx", "3xx"},
		"(2..|3..)": {"2xx", "3xx"}, "^[23]": {"2xx", "3xx"}, "^(2|3)": {"2xx", "3xx"}, "2[0-9][0-9]": {"2xx"}, "^3": {"3xx"},
	}
)
