package told

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// lines returns what was logged since the last call.
func (c *config) lines(t *testing.T, from *int) []string {
	t.Helper()
	text, err := os.ReadFile(c.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	added := string(text[*from:])
	*from = len(text)
	return strings.Split(strings.TrimSuffix(added, "\n"), "\n")
}

// parsed is a line of a JSON log: its keys in order, and its values but for times.
type parsed struct {
	keys   []string
	values map[string]any
}

func parse(t *testing.T, line string) parsed {
	t.Helper()
	var p parsed
	if line == "" {
		return p
	}
	if err := json.Unmarshal([]byte(line), &p.values); err != nil {
		t.Fatal(err, line)
	}
	delete(p.values, "ts")
	delete(p.values, "duration")
	d := json.NewDecoder(strings.NewReader(line))
	for depth := 0; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			continue
		case json.Delim('}'), json.Delim(']'):
			depth--
			continue
		}
		if depth == 1 {
			p.keys = append(p.keys, fmt.Sprint(token))
			var value json.RawMessage
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// tell has the lane log what the server has logged of the same request, which s has answered.
func (c *config) tell(t *testing.T, s script, text, remote, clientIP string, state *tls.ConnectionState, writeErr error) {
	t.Helper()
	h := headOf(t, text)
	client := NewClient(t.Context(), new(http.Server), newConn(nil, remote, state))
	l := NewLog(c.ctx, c.app, c.server)
	line := Line{
		Client: client, Head: h, ClientIP: clientIP, Took: time.Millisecond, WriteErr: writeErr,
		Status: s.Status, Size: len(s.Body), Read: int(h.Length), Header: http.Header{"Server": {"Caddy"}},
	}
	for name, values := range s.Header {
		line.Header[name] = values
	}
	if s.Extra != "" {
		line.Extra = zap.String("load_balancer", s.Extra)
	}
	if line.Status == 0 && s.Body != "" {
		line.Status = http.StatusOK
	}
	if err := s.err(); err != nil {
		switch routes := c.server.Errors; {
		case routes == nil || len(routes.Routes) == 0:
			l.Failed(&line, err)
		case routes.Routes[0].Handlers[0].(*script).Fails != 0:
			l.FailedAgain(&line, err, routes.Routes[0].Handlers[0].(*script).err())
		default:
			l.Handled(&line, err)
		}
		if line.Status == 0 {
			line.Status = http.StatusInternalServerError
			if s.Fails != 0 {
				line.Status = s.Fails
			}
			if routes := c.server.Errors; routes != nil && routes.Routes[0].Handlers[0].(*script).Status != 0 {
				line.Status = routes.Routes[0].Handlers[0].(*script).Status
			}
		}
	}
	if l.Wants(h.Host.Of(h.Raw)) {
		l.Write(&line)
	}
}

// handler returns the config of s.
func (s script) handler() string {
	text, err := json.Marshal(struct {
		Handler string `json:"handler"`
		script
	}{"express_script", s})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// route returns the config of a route to s.
func route(s script) string { return `{"handle": [` + s.handler() + `]}` }

const jsonEncoder = `{"format": "json"}`

// The logs get the lines that Caddy writes.
func TestLog(t *testing.T) {
	plain := script{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}, "Set-Cookie": {"a=b", "c=d"}, "X": {"1", "2"}}, Body: "hello", Extra: "x"}
	hosts := `"logs": {"default_logger_name": "rest", "logger_names": {"A.example": ["one", ""], "*.b.example": ["two"], "c.example": [], "[::1]": ["six"]},
		"skip_hosts": ["d.example", "*.e.example", "two.b.example"]},`
	of := func(host string) string {
		return "GET / HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: x\r\n\r\n"
	}
	certified := tlsState()
	certified.PeerCertificates = []*x509.Certificate{{Subject: pkix.Name{CommonName: "me"}, SerialNumber: big.NewInt(7)}}
	type test struct {
		settings string
		script   script
		text     string
		remote   string
		clientIP string
		state    *tls.ConnectionState
		none     bool // nothing is logged
	}
	tests := map[string]test{
		"off":                {script: plain, none: true},
		"no answer":          {settings: `"logs": {},`},
		"found":              {settings: `"logs": {},`, script: script{Status: 404}},
		"bad gateway":        {settings: `"logs": {},`, script: script{Status: 502, Body: "x"}},
		"credentials":        {settings: `"logs": {"should_log_credentials": true},`, script: plain, text: heads()["repeated"]},
		"many, credentials":  {settings: `"logs": {"should_log_credentials": true},`, script: plain, text: heads()["many"]},
		"IPv6":               {settings: `"logs": {},`, script: plain, remote: peers["v6"], clientIP: "2001:db8::1"},
		"unix":               {settings: `"logs": {},`, script: plain, remote: "@"},
		"TLS":                {settings: `"logs": {},`, script: plain, state: tlsState()},
		"client certificate": {settings: `"logs": {},`, script: plain, state: certified},
		"trusted": {
			settings: `"logs": {}, "trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8"]},`, script: plain,
			remote: peers["trusted"], clientIP: "203.0.113.7", text: heads()["forwarded"],
		},
		"unmapped":                       {settings: strings.Replace(hosts, `"skip_hosts"`, `"skip_unmapped_hosts": true, "skip_hosts"`, 1), script: plain, text: of("x.example"), none: true},
		"mapped":                         {settings: strings.Replace(hosts, `"skip_hosts"`, `"skip_unmapped_hosts": true, "skip_hosts"`, 1), script: plain, text: of("a.example")},
		"refused":                        {script: script{Fails: 429, Error: "too many"}},
		"refused, logged":                {settings: `"logs": {},`, script: script{Fails: 429, Error: "too many"}},
		"refused without cause":          {settings: `"logs": {},`, script: script{Fails: 429}},
		"failed":                         {settings: `"logs": {},`, script: script{Fails: 503, Error: "nobody"}},
		"failed otherwise":               {settings: `"logs": {},`, script: script{Error: "broken"}},
		"failed at a host":               {settings: hosts, script: script{Fails: 503, Error: "nobody"}, text: of("a.example")},
		"failed where nothing is logged": {settings: hosts, script: script{Fails: 503, Error: "nobody"}, text: of("c.example"), none: true},
		"handled": {
			settings: `"logs": {}, "errors": {"routes": [` + route(script{Status: 418}) + `]},`, script: script{Fails: 503, Error: "nobody"},
		},
		"failed again": {
			settings: `"logs": {}, "errors": {"routes": [` + route(script{Fails: 500, Error: "too"}) + `]},`, script: script{Fails: 503, Error: "nobody"},
		},
	}
	for name, text := range heads() {
		tests["head "+name] = test{settings: `"logs": {},`, script: plain, text: text}
	}
	for _, host := range []string{
		"a.example", "A.EXAMPLE:80", "x.b.example", "two.b.example", "x.y.b.example", "c.example", "d.example", "x.e.example", "f.example", "[::1]", "[::1]:80", ".b.example",
	} {
		tests["host "+host] = test{settings: hosts, script: plain, text: of(host), none: host == "d.example" || host == "x.e.example" || host == "c.example"}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.remote == "" {
				test.remote, test.clientIP = peers["v4"], "198.51.100.9"
			}
			if test.text == "" {
				test.text = heads()["query"]
			}
			c := provision(t, "", test.settings, route(test.script), jsonEncoder)
			at := 0
			c.serve(t, test.remote, test.state, test.text)
			want := c.lines(t, &at)
			c.tell(t, test.script, test.text, test.remote, test.clientIP, test.state, nil)
			got := c.lines(t, &at)
			if len(got) != len(want) || (want[0] == "") != test.none {
				t.Fatalf("logged\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for i := range got {
				if got, want := parse(t, got[i]), parse(t, want[i]); !reflect.DeepEqual(got, want) {
					t.Errorf("logged\n%v\nwant\n%v", got, want)
				}
			}
		})
	}
}

// Encoders that change fields find those that they know.
func TestLogEncoders(t *testing.T) {
	for name, encoder := range map[string]string{
		"filter": `{"format": "filter", "wrap": {"format": "json"}, "fields": {
			"request>headers>Authorization": {"filter": "delete"}, "request>remote_ip": {"filter": "ip_mask", "ipv4_cidr": 16, "ipv6_cidr": 32},
			"request>headers>X-A": {"filter": "hash"}, "request>headers>Cookie": {"filter": "cookie", "actions": [{"type": "replace", "name": "a", "value": "z"}]},
			"request>uri": {"filter": "query", "actions": [{"type": "delete", "parameter": "x"}]}, "resp_headers>X": {"filter": "replace", "value": "y"},
			"request>method": {"filter": "rename", "name": "verb"}, "size": {"filter": "delete"}}}`,
		"append": `{"format": "append", "wrap": {"format": "json"}, "fields": {"more": "value"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := script{Status: 200, Header: http.Header{"X": {"1", "2"}}, Body: "hello"}
			c := provision(t, "", `"logs": {"should_log_credentials": true},`, route(s), encoder)
			for _, text := range heads() {
				at := 0
				c.lines(t, &at)
				c.serve(t, peers["v4"], nil, text)
				want := c.lines(t, &at)
				c.tell(t, s, text, peers["v4"], "198.51.100.9", nil, nil)
				got := c.lines(t, &at)
				if len(want) != 1 || len(got) != 1 || !reflect.DeepEqual(parse(t, got[0]), parse(t, want[0])) {
					t.Errorf("logged\n%s\nwant\n%s", got, want)
				}
			}
		})
	}
	t.Run("console", func(t *testing.T) {
		s := script{Status: 200, Body: "hello"}
		c := provision(t, "", `"logs": {},`, route(s), `{"format": "console", "time_format": "none", "duration_format": "none"}`)
		text, at := "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n", 0
		c.serve(t, peers["v4"], nil, text)
		want := c.lines(t, &at)
		c.tell(t, s, text, peers["v4"], "198.51.100.9", nil, nil)
		cut := func(line string) string { // without times
			before, after, _ := strings.Cut(line, `"duration": `)
			_, after, _ = strings.Cut(after, ",")
			_, before, _ = strings.Cut(before, "\t")
			return before + after
		}
		if got := c.lines(t, &at); len(want) != 1 || len(got) != 1 || !strings.Contains(want[0], "duration") || cut(got[0]) != cut(want[0]) {
			t.Errorf("logged\n%s\nwant\n%s", got, want)
		}
	})
}

// What goes wrong with writing the answer is logged.
func TestLogWriteError(t *testing.T) {
	s := script{Status: 200, Takes: 20 * time.Millisecond, Extra: "x"}
	c := provision(t, "", `"logs": {}, "write_timeout": "1ms",`, route(s), jsonEncoder)
	at := 0
	c.serve(t, peers["v4"], nil, heads()["bare"])
	want := c.lines(t, &at)
	c.tell(t, s, heads()["bare"], peers["v4"], "198.51.100.9", nil, &net.OpError{Op: "write", Net: "pipe", Err: os.ErrDeadlineExceeded})
	got := c.lines(t, &at)
	if len(want) != 1 || len(got) != 1 || !strings.Contains(want[0], "write_error") || !reflect.DeepEqual(parse(t, got[0]), parse(t, want[0])) {
		t.Errorf("logged\n%s\nwant\n%s", got, want)
	}
}

// Hosts that clients make up do not fill the memory.
func TestLogHosts(t *testing.T) {
	c := provision(t, "", `"logs": {"logger_names": {"a.example": ["one"]}, "skip_unmapped_hosts": true},`, "", jsonEncoder)
	l := NewLog(c.ctx, c.app, c.server)
	for i := range 2 * maxHosts {
		if l.Wants(fmt.Appendf(nil, "%d.example", i)) {
			t.Fatal("a host that has no log is logged")
		}
	}
	if n := len(*l.byHost.Load()); n > maxHosts+1 {
		t.Errorf("%d hosts are kept, want at most %d", n, maxHosts)
	}
	if !l.Wants([]byte("a.example")) {
		t.Error("a host that has a log is not logged")
	}
}

func BenchmarkLog(b *testing.B) {
	s := script{Status: 200}
	c := provision(b, "", `"logs": {},`, route(s), jsonEncoder)
	h := headOf(b, "GET /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"+
		"Accept-Language: en\r\nCookie: a=b\r\n\r\n")
	l := NewLog(c.ctx, c.app, c.server)
	line := Line{
		Client: NewClient(b.Context(), new(http.Server), newConn(nil, peers["v4"], nil)), Head: h, ClientIP: "198.51.100.9", Took: time.Millisecond,
		Status: 200, Size: 1024, Header: http.Header{"Server": {"Caddy"}, "Content-Type": {"text/plain"}, "Content-Length": {"1024"}, "Date": {"x"}},
	}
	b.ReportAllocs()
	for b.Loop() {
		if l.Wants(h.Host.Of(h.Raw)) {
			l.Write(&line)
		}
	}
}
