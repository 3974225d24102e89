package told

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	"github.com/ballastlb/ballast/listener/h1"
)

const patience = 10 * time.Second

func init() { caddy.RegisterModule(script{}) }

// script is a handler that follows a script, and records the requests that it gets.
type script struct {
	Early  []int         `json:"early,omitempty"` // informational answers
	Status int           `json:"status,omitempty"`
	Header http.Header   `json:"header,omitempty"`
	Body   string        `json:"body,omitempty"`
	Fails  int           `json:"fails,omitempty"` // the status of a HandlerError
	Error  string        `json:"error,omitempty"` // without Fails: of another error
	Extra  string        `json:"extra,omitempty"` // of the access log
	Takes  time.Duration `json:"takes,omitempty"`
	Breaks bool          `json:"breaks,omitempty"`
	Next   bool          `json:"next,omitempty"` // only calls the next handler
}

func (script) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.express_script", New: func() caddy.Module { return new(script) }}
}

// seen are the requests of all scripts, in order.
var seen struct {
	sync.Mutex
	requests []*http.Request
}

func (s script) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if s.Next {
		return next.ServeHTTP(w, r)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	seen.Lock()
	seen.requests = append(seen.requests, r)
	seen.Unlock()
	if s.Takes > 0 {
		<-time.After(s.Takes)
	}
	if s.Extra != "" {
		r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields).Set(zap.String("load_balancer", s.Extra))
	}
	for _, status := range s.Early {
		w.WriteHeader(status)
	}
	for name, values := range s.Header {
		w.Header()[name] = values
	}
	if s.Status != 0 {
		w.WriteHeader(s.Status)
	}
	if s.Body != "" {
		_, _ = io.WriteString(w, s.Body)
	}
	if s.Breaks {
		panic(http.ErrAbortHandler)
	}
	return s.err()
}

// err returns the error of a script that fails.
func (s script) err() error {
	switch {
	case s.Fails != 0:
		return caddyhttp.HandlerError{StatusCode: s.Fails, ID: "i1", Trace: "t1", Err: causeOf(s.Error)}
	case s.Error != "":
		return causeOf(s.Error)
	default:
		return nil
	}
}

func causeOf(text string) error {
	if text == "" {
		return nil
	}
	return fmt.Errorf("%s", text)
}

// config is a config of Caddy with one server.
type config struct {
	ctx    caddy.Context
	app    *caddyhttp.App
	server *caddyhttp.Server
	log    string // the file to which the server logs
}

// provision provisions a server with these settings, beside its routes, and an http app with those in app. encoder is that of the log.
func provision(tb testing.TB, app, settings, routes, encoder string) *config {
	tb.Helper()
	c := &config{log: filepath.Join(tb.TempDir(), "log")}
	text := fmt.Sprintf(`{
		"admin": {"disabled": true},
		"storage": {"module": "file_system", "root": %q},
		"logging": {"logs": {
			"default": {"writer": {"output": "discard"}},
			"told": {"include": ["http.log"], "level": "DEBUG", "writer": {"output": "file", "filename": %q, "roll": false}, "encoder": %s}
		}},
		"apps": {"http": {%s "servers": {"s": {%s "listen": ["127.0.0.1:1"], "automatic_https": {"disable": true}, "routes": [%s]}}}}
	}`, tb.TempDir(), c.log, encoder, app, settings, routes)
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		tb.Fatal(err, text)
	}
	var err error
	if c.ctx, err = caddy.ProvisionContext(&cfg); err != nil {
		tb.Fatal(err)
	}
	loaded, err := c.ctx.App("http")
	if err != nil {
		tb.Fatal(err)
	}
	c.app = loaded.(*caddyhttp.App)
	c.server = c.app.Servers["s"]
	return c
}

// conn is one end of a pipe that looks like a connection of the Internet.
type conn struct {
	net.Conn
	remote string
}

var local = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80}

func (conn) LocalAddr() net.Addr    { return local }
func (c conn) RemoteAddr() net.Addr { return address(c.remote) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// secured is a conn with TLS.
type secured struct {
	conn
	state *tls.ConnectionState
}

func (s secured) ConnectionState() tls.ConnectionState { return *s.state }

// newConn wraps one end of a pipe.
func newConn(c net.Conn, remote string, state *tls.ConnectionState) net.Conn {
	if state != nil {
		return secured{conn{c, remote}, state}
	}
	return conn{c, remote}
}

// one is a listener to which one connection comes.
type one struct {
	conn   chan net.Conn
	closed chan struct{}
}

func (l *one) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (*one) Addr() net.Addr { return local }
func (l *one) Close() error { return nil }

// serve has net/http's server and Caddy's serve a request. It returns the server, and the status of the answer when all is over; 0 if it broke
// off.
func (c *config) serve(tb testing.TB, remote string, state *tls.ConnectionState, text string) (*http.Server, int) {
	tb.Helper()
	here, there := net.Pipe()
	defer here.Close()
	_ = here.SetDeadline(time.Now().Add(patience))
	l := &one{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conn <- newConn(there, remote, state)
	closed := make(chan struct{})
	server := &http.Server{Handler: c.server, ErrorLog: log.New(io.Discard, "", 0), ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateIdle || state == http.StateClosed {
			select {
			case <-closed:
			default:
				close(closed)
			}
		}
	}}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	defer serving.Wait()
	defer close(l.closed)
	if _, err := io.WriteString(here, text); err != nil {
		tb.Fatal(err)
	}
	r := bufio.NewReader(here)
	method, _, _ := strings.Cut(text, " ")
	status := 100
	for status < 200 {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			status = 0
			break
		}
		if status = res.StatusCode; status >= 200 {
			_, _ = io.Copy(io.Discard, res.Body)
		}
	}
	select {
	case <-closed: // the handler has returned
	case <-time.After(patience):
		tb.Fatal("the server does not end")
	}
	return server, status
}

// headOf returns the head that text begins with. Its fields are well-formed.
func headOf(tb testing.TB, text string) *h1.Head {
	tb.Helper()
	head, _, ok := strings.Cut(text, "\r\n\r\n")
	if !ok {
		tb.Fatal("no head")
	}
	h := &h1.Head{Raw: []byte(head + "\r\n\r\n")}
	line, rest, _ := strings.Cut(head, "\r\n")
	method, target, _ := strings.Cut(line, " ")
	target, _, _ = strings.Cut(target, " ")
	h.Method = method
	h.Target = h1.Span{Start: len(method) + 1, End: len(method) + 1 + len(target)}
	path, query, asked := strings.Cut(target, "?")
	h.Path = h1.Span{Start: h.Target.Start, End: h.Target.Start + len(path)}
	h.Query, h.Asked = h1.Span{Start: h.Target.End - len(query), End: h.Target.End}, asked
	at := len(line) + 2
	for line := range strings.SplitSeq(rest, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		trimmed := strings.Trim(value, " \t")
		start := at + len(name) + 1 + strings.Index(value, trimmed)
		f := h1.Field{Name: h1.Span{Start: at, End: at + len(name)}, Value: h1.Span{Start: start, End: start + len(trimmed)}}
		h.Fields = append(h.Fields, f)
		switch name {
		case "Host":
			h.Host = f.Value
		case "Content-Length":
			h.HasBody = true
			if _, err := fmt.Sscan(trimmed, &h.Length); err != nil {
				tb.Fatal(err)
			}
		case "Connection":
			h.Close = trimmed == "close"
		}
		at += len(line) + 2
	}
	return h
}

// manyFields are more fields than are compared with each other.
func manyFields() string {
	var b strings.Builder
	for i := range 2 * few {
		fmt.Fprintf(&b, "X-%d: %d\r\n", i%(few+7), i)
	}
	return b.String()
}

// heads are requests of all kinds that there are on the lane.
func heads() map[string]string {
	return map[string]string{
		"bare":          "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"query":         "GET /a/b?x=%20y&z=?# HTTP/1.1\r\nHost: A.example:8080\r\nUser-Agent: u\r\nAccept: */*\r\n\r\n",
		"asked":         "GET /a? HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
		"escaped":       "GET /%41%2f/b%20c/%e2%82%ac HTTP/1.1\r\nHost: a\r\n\r\n",
		"raw":           "GET /a\"<>[]|^!$&'()*+,;=:@~{}`#\\/\xe2\x82\xac HTTP/1.1\r\nHost: a\r\n\r\n",
		"slashes":       "GET //a//b/./../c: HTTP/1.1\r\nHost: a\r\n\r\n",
		"repeated":      "GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nX-B:\t2 \r\nX-A:   \r\nX-A: 3\r\nCookie: a=b\r\nCookie: c=d\r\nAuthorization: Basic x\r\nProxy-Authorization: y\r\n\r\n",
		"pragma":        "GET / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\nPragma: x\r\n\r\n",
		"other pragma":  "GET / HTTP/1.1\r\nHost: a\r\nPragma: x\r\nPragma: no-cache\r\n\r\n",
		"cache control": "GET / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\nCache-Control: max-age=0\r\n\r\n",
		"body":          "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Type: text/plain\r\nTrailer: X\r\n\r\nbody",
		"empty body":    "PUT /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
		"close":         "DELETE /p HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"many":          "PROPFIND / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n" + manyFields() + "\r\n",
		"forwarded":     "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7, 192.0.2.1\r\n\r\n",
	}
}

var peers = map[string]string{"v4": "198.51.100.9:4711", "v6": "[2001:db8::1%eth0]:4711", "trusted": "10.1.2.3:4711", "unix": "@"}

func tlsState() *tls.ConnectionState {
	return &tls.ConnectionState{
		Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256, NegotiatedProtocol: "http/1.1", ServerName: "a.example",
	}
}
