package httputil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
)

// ServeHTTP is the handler alone: what is around it in a test, Caddy's server does not know.
func (p *ReverseProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.once.Do(func() { p.handle = p.provision() })
	err := p.handle(w, r)
	if err == nil {
		return
	}
	status := http.StatusInternalServerError
	if e := (caddyhttp.HandlerError{}); errors.As(err, &e) {
		status = e.StatusCode
	}
	w.WriteHeader(p.errorStatus(err, status))
}

// provision provisions the handler, in a config of its own that no server runs.
func (p *ReverseProxy) provision() func(http.ResponseWriter, *http.Request) error {
	ctx, err := caddy.ProvisionContext(&caddy.Config{Logging: p.logging(), StorageRaw: storage()})
	check(err)
	module, err := ctx.LoadModuleByID("http.handlers."+os.Getenv(handlers), marshal(p.settings()))
	check(err)
	nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	return func(w http.ResponseWriter, r *http.Request) error {
		r = r.WithContext(r.Context()) // the server makes its own, too
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
		return module.(caddyhttp.MiddlewareHandler).ServeHTTP(w, r, nothing)
	}
}

// server is a test server, or a Caddy whose site is a proxy and nothing else.
type server struct {
	URL      string
	Listener net.Listener
	Config   *http.Server
	client   *http.Client
	stop     func()
}

func (s *server) Client() *http.Client { return s.client }
func (s *server) Close()               { s.stop() }

// newServer starts a Caddy for a proxy, and a test server for all else.
func newServer(handler http.Handler) *server {
	p, ok := handler.(*ReverseProxy)
	if !ok {
		s := httptest.NewServer(handler)
		return &server{URL: s.URL, Listener: s.Listener, Config: s.Config, client: s.Client(), stop: s.Close}
	}
	folder, err := os.MkdirTemp("", "caddy")
	check(err)
	handle := p.settings()
	handle["handler"] = os.Getenv(handlers)
	route := func(handle any) any { return []any{map[string]any{"handle": []any{handle}}} }
	site := map[string]any{
		"listen": []string{"127.0.0.1:0"}, "automatic_https": map[string]any{"disable": true}, "routes": route(handle),
		"max_header_bytes": http.DefaultMaxHeaderBytes, // as in the servers of the tests
	}
	if p.ErrorHandler != nil {
		status := p.errorStatus(nil, 0)
		site["errors"] = map[string]any{"routes": route(map[string]any{"handler": "static_response", "status_code": status})}
	}
	if os.Getenv(seamless) != "" {
		site["listener_wrappers"] = []any{map[string]any{"wrapper": "seamless"}}
	}
	persist := false
	socket := filepath.Join(folder, "admin")
	check(caddy.Run(&caddy.Config{
		Admin:      &caddy.AdminConfig{Listen: "unix/" + socket, Config: &caddy.ConfigSettings{Persist: &persist}},
		Logging:    p.logging(),
		StorageRaw: storage(),
		AppsRaw:    caddy.ModuleMap{"http": marshal(map[string]any{"grace_period": "5s", "servers": map[string]any{"site": site}})},
	}))
	app, err := caddy.ActiveContext().App("http")
	check(err)
	listener := app.(*caddyhttp.App).Servers["site"].Listeners()[0]
	transport := new(http.Transport)
	return &server{
		URL: "http://" + listener.Addr().String(), Listener: listener, Config: new(http.Server), client: &http.Client{Transport: transport},
		stop: func() {
			transport.CloseIdleConnections()
			note(socket)
			check(caddy.Stop())
			os.RemoveAll(folder)
		},
	}
}

// note writes what the express lanes of the running Caddy did.
func note(socket string) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) },
	}}
	res, err := client.Get("http://127.0.0.1/load_balancer/express")
	if err != nil {
		return
	}
	defer res.Body.Close()
	var lanes []struct {
		Served     uint64            `json:"served"`
		HandedOver map[string]uint64 `json:"handed_over"`
	}
	if json.NewDecoder(res.Body).Decode(&lanes) != nil || len(lanes) == 0 {
		return
	}
	f, err := os.OpenFile(os.Getenv(record), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	defer f.Close()
	for _, l := range lanes {
		var handedOver uint64
		for _, n := range l.HandedOver {
			handedOver += n
		}
		fmt.Fprintln(f, "lane httputil", l.Served, handedOver)
	}
}

// modifying gives what a hook makes of answers that it does not just add header fields to.
type modifying struct {
	http.RoundTripper
	hook func(*http.Response) error
}

func (m modifying) RoundTrip(r *http.Request) (*http.Response, error) {
	transport := m.RoundTripper
	if transport == nil {
		transport = http.DefaultTransport
		r.URL.Scheme = "http"
	}
	res, err := transport.RoundTrip(r)
	if err == nil {
		err = m.hook(res)
	}
	return res, err
}

// describe is the config of a transport: that of Caddy's HTTP transport with the fields that the tests set, or one of the tests'.
func describe(transport http.RoundTripper) map[string]any {
	if t, ok := transport.(*http.Transport); ok {
		enabled := !t.DisableKeepAlives
		return map[string]any{
			"protocol": "http", "expect_continue_timeout": t.ExpectContinueTimeout, "keep_alive": map[string]any{"enabled": enabled},
		}
	}
	given.Lock()
	defer given.Unlock()
	given.transports = append(given.transports, transport)
	return map[string]any{"protocol": "of_a_test", "number": len(given.transports) - 1}
}

// given are the tests' transports, by number.
var given struct {
	sync.Mutex
	transports []http.RoundTripper
}

// ofTest is a transport of a test as a module.
type ofTest struct {
	Number    int `json:"number"`
	transport http.RoundTripper
}

func (ofTest) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.of_a_test", New: func() caddy.Module { return new(ofTest) }}
}

func (t *ofTest) Provision(caddy.Context) error {
	given.Lock()
	defer given.Unlock()
	t.transport = given.transports[t.Number]
	return nil
}

func (t *ofTest) RoundTrip(r *http.Request) (*http.Response, error) { return t.transport.RoundTrip(r) }

// logs is a log of a test as a module.
type logs struct{}

func (logs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.of_a_test", New: func() caddy.Module { return new(logs) }}
}

func (logs) String() string    { return "test" }
func (logs) WriterKey() string { return fmt.Sprint("test", time.Now().UnixNano()) }
func (logs) OpenWriter() (io.WriteCloser, error) {
	return struct {
		io.Writer
		io.Closer
	}{logged, io.NopCloser(nil)}, nil
}

// logged is the log of the newest proxy that has one.
var logged = new(latest)

type latest struct {
	sync.Mutex
	log *log.Logger
}

func (l *latest) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.log.Writer().Write(p)
}

// logging has Caddy write to the log of the tests.
func (p *ReverseProxy) logging() *caddy.Logging {
	logged.Lock()
	defer logged.Unlock()
	logged.log = p.ErrorLog
	if p.ErrorLog == nil {
		logged.log = log.New(io.Discard, "", 0)
	}
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {
		BaseLog: caddy.BaseLog{WriterRaw: marshal(map[string]any{"output": "of_a_test"}), EncoderRaw: marshal(map[string]any{"format": "json"})},
	}}}
}

func storage() json.RawMessage {
	return marshal(map[string]any{"module": "file_system", "root": filepath.Join(os.TempDir(), "storage")})
}

func marshal(v any) json.RawMessage {
	text, err := json.Marshal(v)
	check(err)
	return text
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func init() {
	caddy.RegisterModule(ofTest{})
	caddy.RegisterModule(logs{})
}
