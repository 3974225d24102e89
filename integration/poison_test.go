package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// marker is in every byte sequence that belongs to no answer but could be taken for one, or for a part of one.
const marker = "poison"

// oddAnswer is a way in which a backend makes an answer be read as two, or two as one, or leaves something on the connection.
type oddAnswer struct {
	name    string
	method  string // GET if empty
	answer  string
	late    string // said when the client has got the answer
	hangsUp bool   // the backend closes the connection after that: the answer ends with it, or never ends
	again   bool   // the connection may be used again
	differs bool   // reverse_proxy's client gets something else: see docs/differences.md
}

// oddAnswers is the table of them, with bodies of this size where that matters.
func oddAnswers(size int) []oddAnswer {
	const (
		begin    = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
		chunked  = "Transfer-Encoding: chunked\r\n"
		end      = "0\r\n\r\n"
		poison   = "HTTP/1.1 200 OK\r\nX-Poison: poison\r\nContent-Length: 6\r\n\r\npoison"
		early103 = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
	)
	text := filled(size)
	length := fmt.Sprintf("Content-Length: %d\r\n", size)
	in := func(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }
	whole := begin + length + "\r\n" + text
	return []oddAnswer{
		{name: "plain", answer: whole, again: true},
		{name: "chunks", answer: begin + chunked + "\r\n" + in(text) + end, again: true},
		{name: "LF only", answer: strings.ReplaceAll(begin+length+"\r\n", "\r", "") + text, again: true},
		{name: "folded", answer: begin + "X: a\r\n b\r\n" + length + "\r\n" + text, again: true},
		{name: "length in a fold", answer: begin + "X: a\r\n Content-Length: 1\r\n" + length + "\r\n" + text, again: true},
		{name: "folded length", answer: begin + "Content-Length:\r\n " + strconv.Itoa(size) + "\r\n\r\n" + text},
		{name: "CR in a value", answer: begin + "X: a\rContent-Length: 0\r\n" + length + "\r\n" + text + poison},
		{name: "CR before the empty line", answer: begin + length + "\r\r\n\r\n" + poison},
		{name: "CR only", answer: "HTTP/1.1 200 OK\rContent-Length: 2\r\rok" + poison, hangsUp: true},
		{name: "NUL in a value", answer: begin + "X: a\x00b\r\n" + length + "\r\n" + text + poison},
		{name: "NUL in a name", answer: begin + "X\x00Y: b\r\n" + length + "\r\n" + text + poison},
		{name: "NUL in the reason", answer: "HTTP/1.1 200 O\x00K\r\n" + length + "\r\n" + text},
		{name: "space in a name", answer: begin + "X Y: b\r\n" + length + "\r\n" + text},
		{name: "space before the colon", answer: begin + "Content-Length : 1\r\n" + length + "\r\n" + text},
		{name: "coding with a space before the colon", answer: begin + "Transfer-Encoding : chunked\r\n" + length + "\r\n" + text},
		{name: "tab before the colon", answer: begin + "X\t: 1\r\n" + length + "\r\n" + text + poison},
		{name: "no colon", answer: begin + "nonsense\r\n" + length + "\r\n" + text + poison},
		{name: "empty line before", answer: "\r\n" + whole + poison},
		{name: "another protocol", answer: "ICY 200 OK\r\n" + length + "\r\n" + text + poison},
		{name: "HTTP/1.0", answer: "HTTP/1.0 200 OK\r\n" + length + "\r\n" + text},
		{name: "HTTP/1.0 with chunks", answer: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + length + chunked + "\r\n" + text},
		{name: "close", answer: begin + "Connection: close\r\n" + length + "\r\n" + text + poison},

		{name: "length, then chunks", answer: begin + length + chunked + "\r\n" + in(text) + end},
		{name: "chunks, then length", answer: begin + chunked + length + "\r\n" + in(text) + end},
		{name: "short length, then chunks", answer: begin + "Content-Length: 1\r\n" + chunked + "\r\n" + in(text) + end},
		{name: "length, then chunks and poison", answer: begin + length + chunked + "\r\n" + in(text) + end + poison},
		{name: "chunked twice", answer: begin + "Transfer-Encoding: chunked, chunked\r\n\r\n" + in(text) + end + poison},
		{name: "two codings", answer: begin + chunked + chunked + "\r\n" + in(text) + end + poison},
		{name: "gzip, chunked", answer: begin + "Transfer-Encoding: gzip, chunked\r\n\r\n" + in(text) + end + poison},
		{name: "identity", answer: begin + "Transfer-Encoding: identity\r\n" + length + "\r\n" + text + poison},
		{name: "xchunked", answer: begin + "Transfer-Encoding: xchunked\r\n" + length + "\r\n" + text + poison},
		{name: "quoted coding", answer: begin + "Transfer-Encoding: \"chunked\"\r\n" + length + "\r\n" + text + poison},
		{name: "coding after a vertical tab", answer: begin + "Transfer-Encoding: \x0bchunked\r\n" + length + "\r\n" + text + poison},
		{name: "CHUNKED", answer: begin + "Transfer-Encoding: CHUNKED\r\n\r\n" + in(text) + end, again: true},

		{name: "equal lengths", answer: begin + length + length + "\r\n" + text, again: true},
		{name: "different lengths", answer: begin + length + "Content-Length: 1\r\n\r\n" + text + poison},
		{name: "list of lengths", answer: begin + "Content-Length: 2, 2\r\n\r\nok" + poison},
		{name: "length with plus", answer: begin + "Content-Length: +2\r\n\r\nok" + poison},
		{name: "length with minus", answer: begin + "Content-Length: -2\r\n\r\nok" + poison},
		{name: "length in hexadecimal", answer: begin + "Content-Length: 0x2\r\n\r\nok" + poison},
		{name: "length of 2^64 and 2", answer: begin + "Content-Length: 18446744073709551618\r\n\r\nok" + poison},
		{name: "empty length", answer: begin + "Content-Length:\r\n\r\nok" + poison},
		{name: "more than its length", answer: whole + marker},
		{name: "one byte more", answer: whole + "\n"},
		{name: "a second answer", answer: whole + poison},
		{name: "a second answer after chunks", answer: begin + chunked + "\r\n" + in(text) + end + poison},
		{name: "a second answer after no body", answer: begin + "Content-Length: 0\r\n\r\n" + poison},
		{name: "a second answer, late", answer: whole, late: poison},
		{name: "a second answer after chunks, late", answer: begin + chunked + "\r\n" + in(text) + end, late: poison},
		{name: "one byte, late", answer: whole, late: "p"},
		{name: "less than its length", answer: begin + fmt.Sprintf("Content-Length: %d\r\n\r\n", size+1) + text, hangsUp: true},
		{name: "without a length", answer: begin + "\r\n" + text, hangsUp: true},

		{name: "size with 0x", answer: begin + chunked + "\r\n0x2\r\nok\r\n" + end + poison},
		{name: "size with plus", answer: begin + chunked + "\r\n+2\r\nok\r\n" + end + poison},
		{name: "size with minus", answer: begin + chunked + "\r\n-2\r\nok\r\n" + end + poison},
		{name: "size of 2^64 and 2", answer: begin + chunked + "\r\n10000000000000002\r\nok\r\n" + end + poison},
		{name: "huge size", answer: begin + chunked + "\r\nffffffffffffffff\r\nok\r\n" + end + poison, hangsUp: true},
		{name: "no size", answer: begin + chunked + "\r\n\r\nok\r\n" + end + poison},
		{name: "space before the size", answer: begin + chunked + "\r\n 2\r\nok\r\n" + end + poison},
		{name: "extension", answer: begin + chunked + "\r\n2;a=\"b\"\r\nok\r\n" + end, again: true},
		{name: "CR in an extension", answer: begin + chunked + "\r\n2;a\rb\r\nok\r\n" + end + poison},
		{name: "LF in an extension", answer: begin + chunked + "\r\n2;a\nok\r\n" + end + poison},
		{name: "LF after the size", answer: begin + chunked + "\r\n2\nok\r\n" + end + poison},
		{name: "LF after the data", answer: begin + chunked + "\r\n2\r\nok\n" + end + poison},
		{name: "nothing after the data", answer: begin + chunked + "\r\n2\r\nok" + end + poison},
		{name: "LF at the end", answer: begin + chunked + "\r\n" + in(text) + "0\r\n\n" + poison},
		{name: "more data than its size", answer: begin + chunked + "\r\n2\r\nok" + marker + "\r\n" + end + poison},
		{name: "chunks that end early", answer: begin + chunked + "\r\n" + in(text) + "0\r\n", hangsUp: true},
		{name: "trailer", answer: begin + chunked + "Trailer: X-T\r\n\r\n" + in(text) + "0\r\nX-T: y\r\n\r\n", again: true},
		{name: "trailer with a length", answer: begin + chunked + "\r\n" + in(text) + "0\r\nContent-Length: 50\r\n\r\n", again: true},
		{name: "trailer with a coding", answer: begin + chunked + "\r\n" + in(text) + "0\r\nTransfer-Encoding: chunked\r\n\r\n" + poison},
		{name: "announced trailer with a length", answer: begin + chunked + "Trailer: Content-Length\r\n\r\n" + in(text) + "0\r\nContent-Length: 50\r\n\r\n" + poison},
		{name: "trailer without a colon", answer: begin + chunked + "\r\n" + in(text) + "0\r\nnonsense\r\n\r\n" + poison},

		{name: "204 with a body", answer: "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison"},
		{name: "204 with chunks", answer: "HTTP/1.1 204 No Content\r\n" + chunked + "\r\n6\r\npoison\r\n" + end},
		{name: "204 with an answer as its body", answer: "HTTP/1.1 204 No Content\r\n\r\n" + poison},
		{name: "304 with a body", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison"},
		{name: "304 with a length", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", again: true},
		{name: "HEAD with a body", method: "HEAD", answer: begin + "Content-Length: 6\r\n\r\npoison"},
		{name: "HEAD with an answer as its body", method: "HEAD", answer: begin + "Content-Length: 70\r\n\r\n" + poison},
		{name: "HEAD with chunks", method: "HEAD", answer: begin + chunked + "\r\n6\r\npoison\r\n" + end},
		{name: "HEAD", method: "HEAD", answer: begin + length + "\r\n", again: true},
		{name: "103 with a body", answer: "HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\npoison" + whole},
		{name: "103 with chunks", answer: "HTTP/1.1 103 Early Hints\r\n" + chunked + "\r\n6\r\npoison\r\n" + end + whole},
		{name: "100, 103 and the answer", answer: "HTTP/1.1 100 Continue\r\n\r\n" + early103 + whole, again: true},
		{name: "100, 103 and two answers", answer: "HTTP/1.1 100 Continue\r\n\r\n" + early103 + whole + poison},
		{name: "nothing but 103", answer: early103, hangsUp: true},
		{name: "switch of protocols", answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + poison, differs: true},
		{name: "14 MB of header", answer: begin + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 14_000) + length + "\r\n" + text + poison},
	}
}

// poisoner is a backend that gives the odd answers of a table: a request names one of them in its field Odd. Others get their field Name.
type poisoner struct {
	address string
	odd     []oddAnswer

	mu   sync.Mutex      // guards the fields below
	used map[string]bool // the names of answers after whose connection got another request
	got  map[string]chan struct{}
	said map[string]chan struct{}
}

func startPoisoner(t *testing.T, odd []oddAnswer, secure *tls.Config) *poisoner {
	t.Helper()
	p := &poisoner{odd: odd, used: map[string]bool{}, got: map[string]chan struct{}{}, said: map[string]chan struct{}{}}
	p.address = startRaw(t, func(plain *net.TCPConn) {
		_ = plain.SetDeadline(time.Now().Add(patience))
		conn := net.Conn(plain)
		if secure != nil {
			conn = tls.Server(plain, secure)
			defer conn.Close()
		}
		p.serve(conn)
	})
	return p
}

// serve serves a connection.
func (p *poisoner) serve(conn net.Conn) {
	br, before := bufio.NewReader(conn), ""
	for { // bound: each turn reads a request
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		at, err := strconv.Atoi(r.Header.Get("Odd"))
		if before != "" {
			p.mu.Lock()
			p.used[before] = true
			p.mu.Unlock()
		}
		if err != nil {
			name := r.Header.Get("Name")
			if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nX-Name: %s\r\nContent-Length: %d\r\n\r\n%s", name, len(name), name); err != nil {
				return
			}
			continue
		}
		odd := p.odd[at]
		before = odd.name
		got, said := p.wait(p.got, r), p.wait(p.said, r)
		_, err = io.WriteString(conn, odd.answer)
		if odd.late != "" && err == nil {
			<-got
			_, _ = io.WriteString(conn, odd.late)
		}
		if odd.hangsUp {
			conn.Close()
		}
		p.mu.Lock()
		select {
		case <-said: // by an attempt before
		default:
			close(said)
		}
		p.mu.Unlock()
		if odd.hangsUp {
			return
		}
	}
}

// wait is a channel for what happens to a request.
func (p *poisoner) wait(of map[string]chan struct{}, r *http.Request) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := r.Header.Get("Name")
	if of[name] == nil {
		of[name] = make(chan struct{})
	}
	return of[name]
}

// usedAfter reports whether the connection of an answer was used again.
func (p *poisoner) usedAfter(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[name]
}

// seen is what a client got.
type seen struct {
	status int // 0 for none
	body   string
	broken bool   // the answer did not end as it should
	wire   []byte // all that came
}

func (s seen) String() string {
	if s.broken {
		return fmt.Sprint(s.status, " broken")
	}
	if len(s.body) > 40 {
		return fmt.Sprintf("%d %q... (%d bytes)", s.status, s.body[:40], len(s.body))
	}
	return fmt.Sprintf("%d %q", s.status, s.body)
}

// askRaw makes a request over a connection of its own. then is called when there is an answer.
func askRaw(site, method, path, fields string, then func()) (s seen) {
	conn, err := net.Dial("tcp", site)
	if err != nil {
		return s
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, path, site, fields); err != nil {
		return s
	}
	var wire bytes.Buffer
	br := bufio.NewReader(io.TeeReader(conn, &wire))
	for { // bound: the deadline
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			break
		}
		if s.status = res.StatusCode; s.status < 200 && s.status != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(res.Body)
		s.body, s.broken = string(body), err != nil
		break
	}
	then()
	s.wire = wire.Bytes()
	return s
}

// TestPoisonedConnections: one client gets an odd answer; the next one, who is somebody else, gets its own answer and nothing of the odd one.
func TestPoisonedConnections(t *testing.T) {
	certificate, key := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, DynamicRecordSizingDisabled: true}
	const large = 100_000
	type route struct {
		path, control string
		of            *poisoner
	}
	var routes []route
	var site strings.Builder
	add := func(name string, size int, over *tls.Config, settings, ours string) {
		backend := startPoisoner(t, oddAnswers(size), over)
		to := backend.address
		if over != nil {
			to = "https://" + to
			settings += "\n transport http {\n tls_insecure_skip_verify\n }"
		}
		r := route{path: "/" + name, control: "/stock/" + name, of: backend}
		fmt.Fprintf(&site, "handle %s {\n load_balancer %s {\n breaker off\n hold off\n %s\n %s\n }\n}\n", r.path, to, ours, settings)
		// Backends of their own, whose connections nobody else uses.
		control := startPoisoner(t, oddAnswers(size), over)
		fmt.Fprintf(&site, "handle %s {\n reverse_proxy %s {\n %s\n }\n}\n", r.control, strings.Replace(to, backend.address, control.address, 1), settings)
		routes = append(routes, r, route{path: r.control, of: control})
	}
	add("plain", 3, nil, "", "retry off")
	add("plain-retried", 3, nil, "", "")
	add("plain-large", large, nil, "", "retry off")
	add("plain-large-retried", large, nil, "", "")
	add("tls", 3, secure, "", "retry off")
	add("tls-record", 9000, secure, "", "retry off") // the rest of the record is read and not asked for
	add("tls-large", large, secure, "", "")
	c := startCaddy(t, site.String())
	outcomes := make([]map[string]string, len(routes))
	var wg sync.WaitGroup
	for at, r := range routes {
		outcomes[at] = map[string]string{}
		wg.Go(func() {
			for n, odd := range r.of.odd {
				name := fmt.Sprintf("%d of %s", n, r.path)
				asked := &http.Request{Header: http.Header{"Name": {name}}}
				got, said := r.of.wait(r.of.got, asked), r.of.wait(r.of.said, asked)
				method := odd.method
				if method == "" {
					method = http.MethodGet
				}
				first := askRaw(c.site, method, r.path, fmt.Sprintf("Odd: %d\r\nName: %s\r\n", n, name), func() { close(got) })
				<-said
				outcomes[at][odd.name] = first.String()
				for again := range 2 {
					name := fmt.Sprintf("next %d of %s", again, name)
					next := askRaw(c.site, http.MethodGet, r.path, "Name: "+name+"\r\n", func() {})
					if next.status == http.StatusOK && next.body == name && !next.broken && !bytes.Contains(next.wire, []byte(marker)) {
						continue
					}
					report := t.Errorf
					if r.control == "" {
						report = t.Logf // that is what it is
					}
					report("%s, %s: the next client gets %v", r.path, odd.name, next)
				}
			}
		})
	}
	wg.Wait()
	again := map[string]bool{}
	for at, r := range routes {
		if r.control == "" {
			continue
		}
		control := routes[at+1]
		for _, odd := range r.of.odd {
			ours, stock := outcomes[at][odd.name], outcomes[at+1][odd.name]
			if (ours != stock) != odd.differs {
				t.Errorf("%s, %s: the client gets %s, with reverse_proxy %s", r.path, odd.name, ours, stock)
			}
			if again[odd.name] = again[odd.name] || r.of.usedAfter(odd.name); !odd.again && r.of.usedAfter(odd.name) {
				t.Errorf("%s, %s: the connection was used again", r.path, odd.name)
			}
			if !odd.again && control.of.usedAfter(odd.name) {
				t.Logf("%s, %s: reverse_proxy used the connection again", r.path, odd.name)
			}
		}
	}
	// The next client may come before the connection is free, but hardly every time.
	for _, odd := range oddAnswers(0) {
		if odd.again && !again[odd.name] {
			t.Errorf("%s: the connection was never used again", odd.name)
		}
	}
	if c.logged("panic") > 0 {
		t.Error("the server panicked")
	}
}
