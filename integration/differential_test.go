package integration

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The differential test sends the same bytes through load_balancer, with and without the express lane, and through reverse_proxy, in one
// Caddy and to the same backend, and compares what that backend read and what the client got. Each is on a port of its own of the same
// server settings, so that nothing has to differ but the word. What may differ all the same stands in a list (see intended), and a case
// says which entry it shows.

// site is what both directives are configured with. Its requests are those for the host name.test.
type site struct {
	name      string
	settings  string   // in the directive's block
	ours      string   // more of them for load_balancer: what takes an intended difference away
	route     string   // what stands around the directive, which is PROXY there; "" for nothing
	server    string   // options of its server
	tail      string   // what stands at the end of its server's block
	tls       bool     // the client speaks TLS
	socket    bool     // its server listens on a socket
	backend   farKind  // what the backend is; raw connections if empty
	ordered   bool     // fields of requests come in net/http's order
	differs   []string // in every exchange
	exchanges []exchange
}

// exchange is a connection of a client: one request or more, one after the other, and what the backend does about each.
type exchange struct {
	name      string
	request   string           // its bytes; SITE is the host of the site
	more      []string         // requests that follow over the same connection, each when the one before has been answered
	uploads   []string         // pieces of the body that follow the request's bytes, each when the backend has read what was sent before
	http2     bool             // the request is sent over HTTP/2
	continues bool             // the backend says 100 Continue before it reads a body
	waits     bool             // the client sends the pieces of its body when it was told to continue, not when the backend has read the request
	blind     bool             // what the backend sees depends on time; the path is /blind where it may come late
	early     bool             // the backend answers when it has read the head
	answer    string           // the bytes of the answer; a 200 if empty
	answers   []string         // to each of the requests, in place of answer
	pieces    []string         // that follow, each when the client has read the body that was sent before
	then      ending           // what the backend does after that
	received  int              // before that, the client has got so many bytes of the body
	leaves    leaving          // what the client does not wait for
	near      func(c *nearEnd) // what the client does, instead
	far       func(f *farEnd)  // what the backend does, instead
	other     string           // what the second backend answers
	echoes    bool             // an HTTP/2 backend sends back what comes, as it comes
	packs     bool             // the proxy packs the answer's body
	randomKey bool             // the proxy makes up the key of a WebSocket
	differs   []string         // names of the intended differences that it shows
}

// ending is what a backend does with its connection after an answer.
type ending int

const (
	keeps ending = iota
	hangsUp
	resetsIt
	listens // until the proxy closes the connection; that is part of what it saw
)

// leaving is when a client goes away.
type leaving int

const (
	stays        leaving = iota
	beforeAnswer         // the backend has read the request
	inAnswer             // some of the body has come
)

// transcript is what was seen in an exchange.
type transcript struct{ backend, client string }

func (t transcript) String() string {
	return "the backend saw:\n" + t.backend + "\nthe client got:\n" + t.client
}

// side is one of those that are compared.
type side struct {
	name      string // short: it is part of the names of pools and hosts
	directive string
	wrappers  string // of its servers' listeners
}

func (s side) String() string { return s.directive + " (" + s.name + ")" }

// sides are all of them. Each of ours is compared with the one that is right.
var sides = [...]side{
	{"handler", "load_balancer", expressOff}, // nor does the door change anything
	{"express", "load_balancer", expressOn},
	{"stock", "reverse_proxy", ""},
}

// right is the side that is right. Those before it are ours.
const right = len(sides) - 1

// differentialPatience is how long either end of an exchange waits for the other.
const differentialPatience = 20 * time.Second

// usedDifferences are the names of intended differences that were seen.
type usedDifferences struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (u *usedDifferences) add(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen[name] = true
}

// TestDifferential: what reverse_proxy does, load_balancer does.
func TestDifferential(t *testing.T) {
	t.Parallel()
	sites := slices.Concat(requestSites(), answerSites(), faultSites(), configSites(), upgradeSites(), streamSites(), logSites())
	p := startColumns(t, sites)
	used := usedDifferences{seen: map[string]bool{}}
	exchanges := 0
	var asked atomic.Int64 // sites
	t.Run("sites", func(t *testing.T) {
		for _, s := range sites {
			exchanges += len(s.exchanges)
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				asked.Add(1)
				names := map[string]bool{}
				for _, x := range s.exchanges {
					if names[x.name] {
						t.Errorf("two exchanges are called %q", x.name)
					}
					names[x.name] = true
					p.compare(t, s, x, &used)
				}
				if strings.Contains(s.tail, "LOG") {
					p.compareLogs(t)
				}
			})
		}
	})
	served, left := p.caddy.laneServed()
	t.Logf("%d exchanges at %d sites; the express lane served %d requests, and left to Caddy %v", exchanges, len(sites), served, left)
	checkRoutes(t, p, named(headerSites()), leftOperations)
	if !t.Failed() && int(asked.Load()) == len(sites) {
		if served < 700 {
			t.Error("the express lane served too little to show anything")
		}
		for name := range intended {
			if !used.seen[name] {
				t.Errorf("intended difference %q: no exchange shows it", name)
			}
		}
	}
}

// columns is a Caddy that serves all sites on all sides.
type columns struct {
	caddy *caddy
	ports map[string][len(sides)]string // the addresses of the servers, by what they are configured with
	ends  map[string]far                // the backends of each site
	other map[string]*rawFar            // their second backends
	logs  [len(sides)]string            // files with the access logs
}

// startColumns starts it, and the backends.
func startColumns(t *testing.T, sites []site) *columns {
	t.Helper()
	p := &columns{ports: map[string][len(sides)]string{}, ends: map[string]far{}, other: map[string]*rawFar{}}
	byServer := map[string][]site{}
	for _, s := range sites {
		if p.ends[s.name] != nil {
			t.Fatalf("two sites are called %s", s.name)
		}
		p.ends[s.name] = s.backend.start(t)
		if strings.Contains(s.route+s.settings+s.tail, "OTHER") {
			p.other[s.name] = startRawFar(t, "tcp", freeAddress(t), nil)
		}
		byServer[s.serverKey()] = append(byServer[s.serverKey()], s)
	}
	certificate, key := selfSigned(t)
	logs := t.TempDir()
	var global, servers strings.Builder
	for _, name := range slices.Sorted(maps.Keys(byServer)) {
		of := byServer[name]
		var addresses [len(sides)]string
		for i, on := range sides {
			addresses[i] = freeAddress(t)
			scheme, tls, host, bind := "http", "", ":"+port(t, addresses[i]), "127.0.0.1"
			if of[0].socket {
				addresses[i] = "unix/" + socketPath(t)
				host, bind = "sockets-"+on.name, addresses[i]
			}
			if of[0].tls {
				scheme, tls = "https", "tls "+certificate+" "+key
			}
			fmt.Fprintf(&global, "servers %s {\n protocols h1 h2 h2c\n %s\n%s\n}\n", addresses[i], of[0].server, on.wrappers)
			fmt.Fprintf(&servers, "%s://%s {\n bind %s\n %s\n handle /differential-end {\n respond end\n }\n", scheme, host, bind, tls)
			for _, s := range of {
				matcher := ""
				if s.name != "plain" { // which has all other hosts
					matcher = "@" + s.name
					fmt.Fprintf(&servers, " %s host %s.test\n", matcher, s.name)
				}
				fmt.Fprintf(&servers, " handle %s {\n %s\n }\n", matcher, p.routeOf(s, on))
			}
			p.logs[i] = filepath.Join(logs, on.name)
			servers.WriteString(p.fill(of[0], on.directive, strings.ReplaceAll(of[0].tail, "LOG", p.logs[i])) + "\n}\n")
		}
		p.ports[name] = addresses
	}
	p.caddy = startCaddyConfig(t, "{\n admin ADMIN_ADDRESS\n persist_config off\n log {\n level ERROR\n exclude http\n }\n auto_https disable_redirects\n"+
		global.String()+"}\nhttp://SITE_ADDRESS {\n respond ok\n}\n"+servers.String(), "GODEBUG=http2xconnect=1")
	return p
}

// serverKey tells servers that are configured differently apart.
func (s site) serverKey() string {
	return fmt.Sprintf("%s %s %v %v", s.server, s.tail, s.tls, s.socket)
}

// routeOf is the configuration of a site for one side. Our sides have pools of their own, so that no side knows what has happened on
// another.
func (p *columns) routeOf(s site, on side) string {
	settings := s.settings
	if on != sides[right] {
		settings += "\n name " + on.name + "-" + s.name + "\n" + s.ours
	}
	route := s.route
	if route == "" {
		route = "PROXY"
	}
	return p.fill(s, on.directive, strings.ReplaceAll(route, "PROXY", "DIRECTIVE BACKEND {\n "+settings+"\n }\n"))
}

// fill fills in the directive and the addresses.
func (p *columns) fill(s site, directive, text string) string {
	other := ""
	if o := p.other[s.name]; o != nil {
		other = o.address()
	}
	backend := p.ends[s.name].address()
	return strings.NewReplacer("DIRECTIVE", directive, "BACKENDPORT", backend[strings.LastIndex(backend, ":")+1:], "BACKEND", backend, "OTHER", other).Replace(text)
}

// compare makes the exchange on all sides and compares.
func (p *columns) compare(t *testing.T, s site, x exchange, used *usedDifferences) {
	t.Helper()
	var seen [len(sides)]transcript
	inVain := false
	for i, on := range sides {
		seen[i] = p.run(s, x, p.ports[s.serverKey()][i])
		if strings.Contains(seen[i].String(), timedOut) {
			t.Errorf("%s/%s: %v: an end waited for more than %v; %v", s.name, x.name, on, differentialPatience, seen[i])
			inVain = true
		}
	}
	if inVain {
		return
	}
	for i, got := range seen[:right] {
		p.judge(t, s, x, sides[i], got, seen[right], used)
	}
}

// judge compares what was seen on one of our sides with what is right but for the differences that are intended.
func (p *columns) judge(t *testing.T, s site, x exchange, on side, got, want transcript, used *usedDifferences) {
	t.Helper()
	names := slices.Concat(s.differs, x.differs)
	if !s.ordered && (s.backend == "" || s.backend == rawTLS) {
		names = append(names, "order of fields")
	}
	for _, name := range names {
		d, ok := intended[name]
		if !ok {
			t.Errorf("%s/%s: there is no intended difference %q", s.name, x.name, name)
			continue
		}
		before := want
		if want = d.makes(want); d.sometimes {
			if got != want {
				used.add(name)
			}
			got = d.makes(got)
		} else if want == before {
			t.Errorf("%s/%s: reverse_proxy does not show what is different by %q; %v", s.name, x.name, name, before)
		} else {
			used.add(name)
		}
	}
	if got.backend != want.backend {
		t.Errorf("%s/%s: the backend saw (- reverse_proxy, + %v)\n%s", s.name, x.name, on, lineDiff(want.backend, got.backend))
	}
	if got.client != want.client {
		t.Errorf("%s/%s: the client got (- reverse_proxy, + %v)\n%s", s.name, x.name, on, lineDiff(want.client, got.client))
	}
}

// run makes the exchange over one server.
func (p *columns) run(s site, x exchange, address string) transcript {
	r := &run{x: x, site: s, address: address, host: s.name + ".test"}
	end, other := p.ends[s.name], p.other[s.name]
	end.begin(r)
	if other != nil {
		other.begin(&run{x: exchange{name: x.name, answer: x.other}, site: s, host: r.host})
	}
	talk := r.talk
	if x.http2 {
		talk = r.ask
	}
	seen := transcript{client: talk()}
	seen.backend = end.finish()
	if other != nil {
		seen.backend += "the second backend saw:\n" + other.finish()
	}
	seen.backend = proxied.ReplaceAllString(seen.backend, "$1 PORT PORT")
	return normal(x, seen)
}

// normal takes out of a transcript what differs from one run to the next, whichever side it is.
func normal(x exchange, seen transcript) transcript {
	seen.client = dates.ReplaceAllStringFunc(seen.client, func(line string) string {
		date, err := http.ParseTime(strings.TrimPrefix(line, "Date: "))
		if err != nil || time.Since(date).Abs() > time.Hour { // that is one of the backend
			return line
		}
		return "Date: DATE"
	})
	seen.client = announcements.ReplaceAllStringFunc(seen.client, func(line string) string { // in the order of a map
		names := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "Trailer: "), "\r"), ", ")
		slices.Sort(names)
		return "Trailer: " + strings.Join(names, ", ") + "\r"
	})
	if strings.Contains(x.request, "\r\nExpect: 100-continue\r\n") { // the server and the backend both say so, the former if it is the first
		if without := continued.ReplaceAllString(seen.client, ""); without != seen.client {
			seen.client = "[continue]\n" + without
		}
	}
	seen.client = retryAfter.ReplaceAllString(seen.client, "Retry-After: SECONDS\r\nServer: Caddy\r\n")
	seen.client = strings.ReplaceAll(seen.client, "[one more]\n[reset]\n", "[one more]\n[closed]\n") // which of both depends on when it was closed
	// The timer that is to flush the header of an answer of unknown length competes with the end of an answer that is empty.
	seen.client = strings.ReplaceAll(seen.client, "Transfer-Encoding: chunked\r\n\r\n[chunks] \"\"\n", "Content-Length: 0\r\n\r\n[body] \"\"\n")
	if x.randomKey {
		seen.backend = madeUpKey.ReplaceAllString(seen.backend, "Sec-WebSocket-Key: KEY\r\n")
	}
	if x.blind {
		seen.backend = ""
	}
	return seen
}

var (
	dates         = regexp.MustCompile(`(?m)^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT`)
	announcements = regexp.MustCompile(`(?m)^Trailer: .*\r`)
	madeUpKey     = regexp.MustCompile(`Sec-WebSocket-Key: [A-Za-z0-9+/]{22}==\r\n`)
	retryAfter    = regexp.MustCompile(`Retry-After: \d+\r\nServer: Caddy\r\n`) // of answers that are made here
	continued     = regexp.MustCompile(`HTTP/1.1 100 Continue\r\n(Server: Caddy\r\n)?\r\n`)
)

// proxied is the header of PROXY protocol 1, up to the ports.
var proxied = regexp.MustCompile(`(?m)^(PROXY TCP4 \S+ \S+) \d+ \d+`)

// run is an exchange that is being made.
type run struct {
	x       exchange
	site    site
	address string // of the server
	host    string

	replies              atomic.Int64
	downloaded, uploaded progress // bytes of bodies that the client has got, and the backend
	events               events
}

// text fills in what the bytes of an exchange leave open.
func (r *run) text(s string) string { return strings.ReplaceAll(s, "SITE", r.host) }

// progress is how far something has come.
type progress struct {
	mu      sync.Mutex
	n       int
	changed chan struct{}
}

func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n += n
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// await waits until it is n, and reports whether it was.
func (p *progress) await(n int) bool {
	deadline := time.After(differentialPatience)
	for {
		p.mu.Lock()
		if p.n >= n {
			p.mu.Unlock()
			return true
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			return false
		}
	}
}

// events are what one end tells the other beside the wire.
type events struct {
	mu   sync.Mutex
	have map[string]chan struct{}
}

func (e *events) of(name string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.have == nil {
		e.have = map[string]chan struct{}{}
	}
	if e.have[name] == nil {
		e.have[name] = make(chan struct{})
	}
	return e.have[name]
}

// lineDiff shows how b is made of a, line by line.
func lineDiff(a, b string) string {
	from, to := strings.Split(a, "\n"), strings.Split(b, "\n")
	common := make([][]int, len(from)+1) // how many lines are common from here on
	for i := range common {
		common[i] = make([]int, len(to)+1)
	}
	for i := len(from) - 1; i >= 0; i-- {
		for j := len(to) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); from[i] == to[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(from) || j < len(to); {
		switch {
		case i < len(from) && j < len(to) && from[i] == to[j]:
			fmt.Fprintf(&out, "    %s\n", from[i])
			i, j = i+1, j+1
		case j == len(to) || i < len(from) && common[i+1][j] >= common[i][j+1]:
			fmt.Fprintf(&out, "  - %s\n", from[i])
			i++
		default:
			fmt.Fprintf(&out, "  + %s\n", to[j])
			j++
		}
	}
	return out.String()
}
