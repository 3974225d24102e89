package haproxy

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// frontend is a frontend, or the frontend's part of a listen.
type frontend struct {
	section  *section
	c        *converter
	rules    *rules
	pool     *backend // the backend's part of a listen
	binds    []*bind
	uses     []*step
	standard *directive // default_backend
	log      bool
	encode   []string
	stats    *stats
	errors   []*directive
	tls      []string // lines of the tls block
	certs    []string
	clients  []string // the block that verifies their certificates
}

// bind is an address where a site listens.
type bind struct {
	line   *draft.Line
	host   string // "" for all
	port   string
	secure bool
}

// stats is HAProxy's statistics page.
type stats struct {
	line   *draft.Line
	uri    string
	closed bool // it had a login
}

func (f *frontend) see(d *directive) {
	switch d.word(0) {
	case "bind":
		f.bind(d)
	case "default_backend":
		f.standard = d
		d.line.Done()
	case "use_backend":
		action, formula, _, wrong := f.rules.split(d.after(1))
		name := at(action, 0)
		switch {
		case wrong != "":
			d.line.Leave("%s", wrong)
			f.uses = append(f.uses, &step{line: d.line})
		case f.c.backends[name] == nil:
			d.line.Leave("there is no backend %s in mode http", name)
			f.uses = append(f.uses, &step{line: d.line})
		default:
			d.line.Done()
			f.uses = append(f.uses, &step{line: d.line, formula: formula, matcher: name})
		}
	case "timeout":
		f.timeout(d)
	case "log", "log-format", "error-log-format":
		f.log = f.log || d.word(0) == "log"
		d.line.Near("Caddy's access log is JSON, and goes to standard error unless log says otherwise")
	case "capture":
		d.line.Idle("Caddy's access log has the fields of requests")
	case "compression":
		f.compression(d)
	case "filter":
		if d.word(1) == "compression" {
			d.line.Idle("encode needs no filter")
		}
	case "stats":
		f.seeStats(d)
	case "errorloc", "errorloc302", "errorloc303":
		if _, ok := whole(d.word(1), 400, 599); ok && d.word(2) != "" && !strings.ContainsAny(d.word(2), "{}\"`\\\n\r") {
			f.errors = append(f.errors, d)
			d.line.Done()
		}
	case "errorfile":
		f.errorFile(d)
	case "errorfiles", "http-error":
		d.line.Leave("write handle_errors with respond, or with root, rewrite and file_server")
	case "maxconn":
		d.line.Leave("Caddy does not bound connections; see concurrency of ip_rate_limit and max_requests of load_balancer")
	case "rate-limit":
		d.line.Leave("connections are not limited; see ip_rate_limit")
	case "unique-id-header":
		name := d.word(1)
		if headerName.MatchString(name) {
			f.rules.add(d.line, nil, func(w *draft.Writer, _ []string) { w.Line("request_header", name, "{http.request.uuid}") })
			d.line.Near("the id is a UUID")
		}
	case "unique-id-format":
		d.line.Idle("the id is a UUID")
	}
}

// errorFile leaves the line and explains what to write instead. HAProxy's files contain a whole response; Caddy would serve its header as
// text.
func (f *frontend) errorFile(d *directive) {
	code, file := d.word(1), d.word(2)
	if _, ok := whole(code, 400, 599); !ok || !path.IsAbs(file) || draft.HasEnv(file) {
		d.line.Leave("the file has a whole HTTP response in it; write handle_errors with respond, or with root, rewrite and file_server")
		return
	}
	if file == "/dev/null" {
		d.line.Leave("handle_errors %s with abort closes the connection without a response", code)
		return
	}
	page := path.Join(path.Dir(file), code+".html")
	d.line.Leave("the file has a whole HTTP response in it; save what follows its first empty line as %s, and write handle_errors %s with root * %s, rewrite * /%s and file_server", page, code, path.Dir(page), path.Base(page))
}

func (f *frontend) timeout(d *directive) {
	kind := d.word(1)
	key := map[string]string{"client": "idle", "http-keep-alive": "idle", "http-request": "read_header"}[kind]
	if key == "" {
		if kind == "client-fin" || kind == "tarpit" {
			d.line.Idle("Caddy ends half-closed connections by itself")
		}
		return
	}
	t, ok := duration(d.word(2))
	if !ok {
		d.line.Leave("the time is not understood")
		return
	}
	f.c.clientTimeout(kind, key, t, d.line)
}

func (f *frontend) compression(d *directive) {
	switch d.word(1) {
	case "algo":
		f.encode = []string{"gzip"}
		d.line.Done()
		if slices.Contains(d.words, "deflate") || slices.Contains(d.words, "identity") {
			d.line.Near("Caddy has gzip and zstd")
		}
	case "type":
		d.line.Near("encode compresses the types of text that it knows by itself; match { header Content-Type ... } changes that")
	case "minsize-res", "minsize-req":
		d.line.Near("encode's minimum_length is 512 bytes unless it is set")
	case "direction":
		d.line.Near("answers are compressed")
	case "offload":
		d.line.Near("backends may compress by themselves, unless header_up -Accept-Encoding is set")
	}
}

// seeStats reads a line of the statistics page.
func (f *frontend) seeStats(d *directive) {
	if f.stats == nil {
		f.stats = &stats{uri: "/haproxy"}
	}
	f.stats.line = d.line
	switch d.word(1) {
	case "uri":
		path, _, _ := strings.Cut(d.word(2), "?")
		path, _, _ = strings.Cut(path, ";")
		if strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "*{}% \"`\\") {
			f.stats.uri = path
			d.line.Done()
		}
	case "enable":
		d.line.Near("the dashboard of load_balancer takes its place, for private addresses only")
	case "auth", "http-request":
		f.stats.closed, d.line.Guards = true, true
		d.line.Leave("closed until basic_auth stands in place of respond 403, with hashes of: caddy hash-password")
	case "realm":
		d.line.Leave("put basic_auth in front of the dashboard, with hashes of: caddy hash-password")
	case "admin":
		d.line.Leave("see actions of load_balancer_dashboard, which needs a login")
	case "refresh", "hide-version", "show-legends", "show-node", "show-desc", "show-modules", "scope", "maxconn", "timeout":
		d.line.Idle("the dashboard is up to date to the second, and shows all that there is")
	}
}

// bind reads the addresses where a site listens.
func (f *frontend) bind(d *directive) {
	d.line.Done()
	secure := slices.Contains(d.words[1:], "ssl")
	for text := range strings.SplitSeq(expand(d.word(1)), ",") {
		if strings.HasPrefix(text, "quic") {
			d.line.Idle("HTTP/3 is on where HTTPS is")
			continue
		}
		if i := strings.LastIndexByte(text, ':'); i >= 0 && wholeVariable.MatchString(text[i+1:]) {
			if host, _, _, ok := bindAddress(text[:i] + ":1"); ok {
				f.binds = append(f.binds, &bind{line: d.line, host: host, port: text[i+1:], secure: secure})
				continue
			}
		}
		host, first, last, ok := bindAddress(text)
		if !ok || last-first > 100 {
			d.line.Leave("address %s", text)
			continue
		}
		for port := first; port <= last; port++ {
			if port == 80 && secure || port == 443 && !secure {
				d.line.Leave("Caddy serves HTTP at port 80, and HTTPS at 443")
				continue
			}
			f.binds = append(f.binds, &bind{line: d.line, host: host, port: strconv.Itoa(port), secure: secure})
		}
	}
	f.bindWords(d)
}

// bindIdle are words of bind that need no conversion, with the number of their arguments: Caddy does it already, or they are about
// HAProxy's sockets.
var bindIdle = map[string]int{
	"ssl": 0, "name": 1, "process": 1, "thread": 1, "shards": 1, "backlog": 1, "defer-accept": 0, "tfo": 0, "mode": 1, "user": 1, "group": 1, "uid": 1, "gid": 1,
	"v4v6": 0, "v6only": 0, "nice": 1, "level": 1, "id": 1, "no-sslv3": 0, "no-tlsv10": 0, "no-tlsv11": 0, "no-tls-tickets": 0, "ciphers": 1, "ciphersuites": 1, "curves": 1,
	"ecdhe": 1, "strict-sni": 0, "prefer-client-ciphers": 0, "generate-certificates": 0, "allow-0rtt": 0, "alpn": 1, "npn": 1, "expose-fd": 1, "tls-ticket-keys": 1,
	"ssl-max-ver": 1, "no-alpn": 0, "proto": 1, "sigalgs": 1, "ocsp-update": 1,
}

func (f *frontend) bindWords(d *directive) {
	verify, ca := "", ""
	for i := 2; i < len(d.words); i++ {
		word, next := d.words[i], d.word(i+1)
		switch word {
		case "crt":
			i++
			file, ok := f.c.file(next, f.c.crtBase)
			if !ok {
				d.line.Leave("crt %s", next)
				continue
			}
			line := "tls\x00" + file + "\x00" + file
			if strings.HasSuffix(file, "/") || !strings.Contains(file[strings.LastIndexByte(file, '/')+1:], ".") {
				line = "load\x00" + strings.TrimSuffix(file, "/")
				d.line.Near("it is taken for a folder; write tls <file> <file> if it is a file")
			}
			if !slices.Contains(f.certs, line) {
				f.certs = append(f.certs, line)
			}
		case "ssl-min-ver":
			i++
			switch next {
			case "TLSv1.3":
				f.tls = append(f.tls, "protocols tls1.3")
			default:
				d.line.Idle("Caddy serves TLS 1.2 and newer")
			}
		case "no-tlsv12", "force-tlsv13":
			f.tls = append(f.tls, "protocols tls1.3")
		case "verify":
			i++
			verify = next
		case "ca-file":
			i++
			ca = next
		case "accept-proxy":
			d.line.Guards = true
			d.line.Leave("accept-proxy: write listener_wrappers { proxy_protocol { allow <ranges> } } in the global options, before seamless and tls")
		case "ciphers", "ciphersuites", "curves", "ecdhe", "sigalgs":
			i++
			d.line.Near("Caddy chooses its own %s", word)
		case "interface":
			i++
			d.line.Leave("%s %s: bind takes addresses", word, next)
		default:
			n, ok := bindIdle[word]
			if !ok {
				d.line.Leave("word %s", word)
			}
			i += n
		}
	}
	if verify == "required" || verify == "optional" || ca != "" {
		d.line.Guards = true
		file, ok := f.c.file(ca, f.c.caBase)
		if !ok {
			d.line.Leave("the clients' certificates are not verified without a ca-file")
			return
		}
		mode := "require_and_verify"
		if verify == "optional" || verify == "none" {
			mode = "verify_if_given"
		}
		f.verify(d, []string{"client_auth {", "\tmode " + mode, "\ttrust_pool file " + draft.Quote(file), "}"})
	}
}

// verify sets how clients are verified. A site has one way for all its addresses, so the stricter one applies.
func (f *frontend) verify(d *directive, block []string) {
	strict := func(block []string) bool { return len(block) > 0 && strings.HasSuffix(block[1], "require_and_verify") }
	if len(f.clients) > 0 && !slices.Equal(f.clients, block) {
		d.line.Leave("all addresses of a site verify clients in the same way: as the first one that requires certificates")
	}
	if len(f.clients) == 0 || strict(block) && !strict(f.clients) {
		f.clients = block
	}
}

// bindAddress reads an address to listen at: an optional host, and ports.
func bindAddress(text string) (host string, first, last int, ok bool) {
	text = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(text, "ipv4@"), "ipv6@"), "tcp@")
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", 0, 0, false
	}
	from, to, isRange := strings.Cut(text[i+1:], "-")
	if !isRange {
		to = from
	}
	first, ok1 := whole(from, 1, 65535)
	last, ok2 := whole(to, 1, 65535)
	host = strings.Trim(text[:i], "[]")
	if host == "*" || host == "" {
		return "", first, last, ok1 && ok2 && first <= last
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return "", 0, 0, false
	}
	if a.IsUnspecified() {
		host = ""
	}
	return host, first, last, ok1 && ok2 && first <= last
}

// write writes the site.
func (f *frontend) write(w *draft.Writer) {
	body := new(draft.Writer)
	f.writeBody(body)
	w.Blank()
	own := f.section.own
	said := f.c.ledger.Comments(append(linesOf(own), f.section.line)...)
	sites := map[bool]map[string][]*bind{} // by TLS, then by the address
	for _, b := range f.binds {
		key := b.host + "|" + b.port
		if f.c.taken[key] {
			b.line.Leave("something else listens at port %s there already", b.port)
			said = append(said, f.c.ledger.Comments(b.line)...)
			continue
		}
		f.c.taken[key] = true
		if sites[b.secure] == nil {
			sites[b.secure] = map[string][]*bind{}
		}
		sites[b.secure][b.host] = append(sites[b.secure][b.host], b)
	}
	n := 0
	for _, hosts := range sites {
		n += len(hosts)
	}
	if n == 0 {
		w.Comment("frontend " + f.section.name + " listens nowhere")
		w.Comment(said...)
		for line := range strings.SplitSeq(body.String(), "\n") { // the comments in the site would be lost with it
			if comment, ok := strings.CutPrefix(strings.TrimSpace(line), "# "); ok {
				w.Comment(comment)
			}
		}
		return
	}
	snippet := "frontend_" + draft.Name(f.section.name)
	if n > 1 {
		w.Open("(" + snippet + ")")
		w.Comment(said...)
		w.Add(body.String())
		w.Close()
	}
	for _, secure := range []bool{false, true} {
		for _, host := range draft.Sorted(sites[secure]) {
			w.Blank()
			var addresses []string
			for _, b := range sites[secure][host] {
				addresses = append(addresses, map[bool]string{false: "http", true: "https"}[secure]+"://:"+b.port)
			}
			w.Open(strings.Split(strings.Join(addresses, ",\x00"), "\x00")...)
			if n == 1 {
				w.Comment(said...)
			}
			if host != "" {
				w.Line("bind", host)
			}
			if secure {
				f.writeTLS(w)
			}
			if n > 1 {
				w.Line("import", snippet)
			} else {
				w.Add(body.String())
			}
			w.Close()
		}
	}
}

func (f *frontend) writeTLS(w *draft.Writer) {
	var files, folders [][]string
	for _, line := range f.certs {
		if words := strings.Split(line, "\x00"); words[0] == "tls" {
			files = append(files, words[1:])
		} else {
			folders = append(folders, words)
		}
	}
	if len(files) == 0 && len(folders) == 0 {
		w.Comment("HAProxy's bind names no certificate here; give the site its names, and Caddy gets certificates for them")
		files = [][]string{{"internal"}}
	}
	inside := func() {
		for _, folder := range folders {
			w.Line(folder...)
		}
		for _, line := range append(slices.Compact(slices.Clone(f.tls)), f.clients...) {
			w.Add(line + "\n")
		}
	}
	folderText := len(folders) > 0 || len(f.tls) > 0 || len(f.clients) > 0
	if len(files) == 0 {
		w.Open("tls")
		inside()
		w.Close()
		return
	}
	for i, pair := range files {
		if i == 0 && folderText {
			w.Open(append([]string{"tls"}, pair...)...)
			inside()
			w.Close()
		} else {
			w.Line(append([]string{"tls"}, pair...)...)
		}
	}
}

func linesOf(directives []*directive) []*draft.Line {
	var lines []*draft.Line
	for _, d := range directives {
		lines = append(lines, d.line)
	}
	return lines
}
