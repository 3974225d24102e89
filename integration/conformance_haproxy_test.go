//go:build trust

package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// HAProxy is tested with scripted scenarios (reg-tests in its sources). What follows is after those whose meaning carries over to a load
// balancer in Caddy: told in other words, with backends of our own.

// scenario is one thing that such a script wants to be so.
type scenario struct {
	name string
	file string // of the script, in reg-tests
	run  func(s *scene) error
}

// scenarios are all of them.
func scenarios() []scenario {
	return slices.Concat(framingScenarios(), targetScenarios(), http2Scenarios(), balancingScenarios(), checkScenarios(), wrongScenarios(), headerScenarios(), runtimeScenarios())
}

// runScenarios runs each with both.
func runScenarios(t *testing.T) (ours, stock results) {
	ours, stock = results{}, results{}
	var mu sync.Mutex // guards the results
	t.Run("all", func(t *testing.T) {
		for _, test := range scenarios() {
			for directive, found := range map[string]results{"load_balancer": ours, "reverse_proxy": stock} {
				name := strings.TrimSuffix(test.file, ".vtc") + ": " + test.name
				t.Run(directive+" "+name, func(t *testing.T) {
					t.Parallel()
					wrong := ""
					if err := test.run(&scene{t, directive}); err != nil {
						wrong = err.Error()
					}
					mu.Lock()
					defer mu.Unlock()
					if _, twice := found[name]; twice {
						t.Error("there are two of that name")
					}
					found[name] = wrong
				})
			}
		}
	})
	return ours, stock
}

// scene is where a scenario takes place.
type scene struct {
	t         *testing.T
	directive string
}

// either returns the settings for what is looked at.
func (s *scene) either(ours, stock string) string {
	if s.directive == "load_balancer" {
		return ours
	}
	return stock
}

// start starts a Caddy whose one site is whatever host is asked for. It has PROXY where the directive is to be.
func (s *scene) start(site string) *caddy {
	s.t.Helper()
	address := freeAddress(s.t)
	return startCaddyAt(s.t, address, s.config(site, anyHost(s, address)))
}

// anyHost is how a site begins that listens there, for all hosts.
func anyHost(s *scene, address string) string {
	return "http://:" + port(s.t, address) + " {\n bind 127.0.0.1\n"
}

// config is a Caddyfile with a site that begins like this.
func (s *scene) config(site, begin string) string {
	config := siteConfig(strings.ReplaceAll(site, "PROXY", s.directive))
	config = strings.Replace(config, seamless, s.either(seamless, ""), 1)
	return strings.Replace(config, "http://SITE_ADDRESS {\n", begin, 1)
}

// farEnds is a backend that writes what it is told to, and remembers what it has read.
type farEnds struct {
	addr     string
	mu       sync.Mutex
	requests []farRequest
	conns    int
	gone     int // connections that were closed while it was to answer
}

// farRequest is a request as it was on the wire.
type farRequest struct {
	conn       int // of which connection, from 1 on
	head, body string
}

// field is all values of a field.
func (r farRequest) field(name string) string { return strings.Join(fieldValues(r.head, name), "|") }

// target is the request's.
func (r farRequest) target() string {
	words := strings.Fields(r.head)
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

// backend starts one. It closes a connection after an answer that is empty or announces that.
func (s *scene) backend(answer func(r farRequest) string) *farEnds {
	s.t.Helper()
	f := &farEnds{}
	f.addr = startRaw(s.t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		f.mu.Lock()
		f.conns++
		r := farRequest{conn: f.conns}
		f.mu.Unlock()
		for {
			var err error
			if r.head, r.body, err = readRequest(br); err != nil {
				return
			}
			f.mu.Lock()
			f.requests = append(f.requests, r)
			f.mu.Unlock()
			text := answer(r)
			if text == staysSilent {
				_, _ = br.ReadByte()
				f.mu.Lock()
				f.gone++
				f.mu.Unlock()
				return
			}
			_, err = io.WriteString(conn, text)
			if err != nil || text == "" || strings.Contains(text, "Connection: close") {
				return
			}
		}
	})
	return f
}

// staysSilent is the answer of a backend that waits until its connection is closed.
const staysSilent = "staysSilent"

// readRequest reads a request.
func readRequest(br *bufio.Reader) (head, body string, err error) {
	if head, err = readMessageHead(br); err != nil {
		return "", "", err
	}
	if len(fieldValues(head, "Transfer-Encoding")) > 0 {
		text, _, err := readChunks(br, func(int) {})
		return head, string(text), err
	}
	length, _ := strconv.Atoi(strings.Join(fieldValues(head, "Content-Length"), ""))
	text := make([]byte, length)
	_, err = io.ReadFull(br, text)
	return head, string(text), err
}

// got is what the backend has been asked.
func (f *farEnds) got() []farRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// lines are the first lines of what it has been asked.
func (f *farEnds) lines() string {
	var lines []string
	for _, r := range f.got() {
		line, _, _ := strings.Cut(r.head, "\r\n")
		lines = append(lines, line)
	}
	return cmp.Or(strings.Join(lines, " and "), "nothing")
}

// only is the one request that it has got.
func (f *farEnds) only() (farRequest, error) {
	got := f.got()
	if len(got) != 1 {
		return farRequest{}, fmt.Errorf("the backend got %d requests", len(got))
	}
	return got[0], nil
}

// says is the backend whose answers are all alike.
func says(text string) func(farRequest) string {
	return func(farRequest) string { return text }
}

// textAnswer is an ordinary answer.
func textAnswer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// near is a client's connection.
type near struct {
	conn net.Conn
	br   *bufio.Reader
}

func (s *scene) dial(c *caddy) *near {
	s.t.Helper()
	conn := c.dial()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &near{conn, bufio.NewReader(conn)}
}

// nearAnswer is an answer that a client has got.
type nearAnswer struct {
	status int
	header http.Header
	body   string
	cut    bool // it has no proper end
}

// ask sends a request and reads its answer.
func (n *near) ask(text string) (nearAnswer, error) {
	if _, err := io.WriteString(n.conn, text); err != nil {
		return nearAnswer{}, err
	}
	method, _, _ := strings.Cut(text, " ")
	return n.read(method)
}

// read reads the answer to a request of that method.
func (n *near) read(method string) (nearAnswer, error) {
	res, err := http.ReadResponse(n.br, &http.Request{Method: method})
	if err != nil {
		return nearAnswer{}, err
	}
	defer res.Body.Close()
	a := nearAnswer{status: res.StatusCode, header: res.Header}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return a, nil
	}
	body, err := io.ReadAll(res.Body)
	a.body, a.cut = string(body), err != nil
	if len(res.TransferEncoding) > 0 {
		a.header.Set("Transfer-Encoding", strings.Join(res.TransferEncoding, ", "))
	}
	if res.Close {
		a.header.Set("Connection", "close")
	}
	return a, nil
}

// ended reports what else comes.
func (n *near) ended() error {
	rest, err := io.ReadAll(n.br)
	if len(rest) > 0 || err != nil && !isDisconnect(err) {
		return fmt.Errorf("the connection is not closed: %q, %w", rest, cmp.Or(err, io.EOF))
	}
	return nil
}

// wants is the error of an answer that is another one.
func (a nearAnswer) wants(status int, body string) error {
	if a.status != status || a.body != body || a.cut {
		return fmt.Errorf("status %d, body %.80q, cut off %v", a.status, a.body, a.cut)
	}
	return nil
}

// askOnce asks on a connection of its own.
func (s *scene) askOnce(c *caddy, text string) (nearAnswer, error) {
	conn, err := net.Dial("tcp", c.site)
	if err != nil {
		return nearAnswer{}, err // the listener of a reverse_proxy may be gone for a moment
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return (&near{conn, bufio.NewReader(conn)}).ask(text)
}

// askPath is askOnce for a GET of that path, with more fields.
func (s *scene) askPath(c *caddy, path string, fields ...string) (nearAnswer, error) {
	return s.askOnce(c, request("GET "+path, append(fields, "Connection: close")...))
}

// request is one without a body; host and version are added.
func request(line string, fields ...string) string {
	return line + " HTTP/1.1\r\n" + strings.Join(append([]string{"Host: hostname", "User-Agent: vtc"}, fields...), "\r\n") + "\r\n\r\n"
}

// nearStream is what a client sees of a stream of HTTP/2.
type nearStream struct {
	nearAnswer
	reset bool // by the other side, or with its connection
}

// askHTTP2 sends a request as HTTP/2 with prior knowledge: these fields, and bodies one frame each. If open is set, it does not end, and
// only the head of the answer is waited for.
func (s *scene) askHTTP2(c *caddy, fields [][2]string, open bool, bodies ...string) (found nearStream, err error) {
	n := s.dial(c)
	defer n.conn.Close()
	if _, err := io.WriteString(n.conn, http2.ClientPreface); err != nil {
		return found, err
	}
	framer := http2.NewFramer(n.conn, n.br)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range fields {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	err = errors.Join(framer.WriteSettings(), framer.WriteWindowUpdate(0, 1<<20),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: !open && len(bodies) == 0}))
	for i, body := range bodies {
		err = errors.Join(err, framer.WriteData(1, !open && i == len(bodies)-1, []byte(body)))
	}
	if err != nil && !isDisconnect(err) {
		return found, err
	}
	found.header = http.Header{}
	for {
		frame, err := framer.ReadFrame()
		switch {
		case errors.Is(err, io.EOF), err != nil && isDisconnect(err):
			found.reset = true
			return found, nil
		case err != nil:
			return found, err
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, f := range frame.Fields {
				if f.Name == ":status" {
					found.status, _ = strconv.Atoi(f.Value)
				}
				found.header.Add(f.Name, f.Value)
			}
			ended = frame.StreamEnded() || open
		case *http2.DataFrame:
			found.body += string(frame.Data())
			ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			found.reset = found.status == 0 || frame.ErrCode != http2.ErrCodeNo
			ended = true
		case *http2.GoAwayFrame:
			found.reset, ended = found.status == 0, true
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		}
		if ended {
			return found, nil
		}
	}
}

// http2Request is the head of one.
func http2Request(method, path string, more ...string) [][2]string {
	fields := [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "hostname"}, {":path", path}}
	for i := 0; i < len(more); i += 2 {
		fields = append(fields, [2]string{more[i], more[i+1]})
	}
	return fields
}
