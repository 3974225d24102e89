package express

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/ballastlb/ballast/lbmodule"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/listener/h1"
)

func init() {
	caddy.RegisterModule(&balancerDouble{})
	caddy.RegisterModule(foreignDouble{})
	caddy.RegisterModule(foreignMatcher{})
}

// balancerDouble ends requests as a load balancer does. Its answer tells what it was asked for.
type balancerDouble struct {
	Name string `json:"name"`
	Why  string `json:"why,omitempty"`
	plan exchange.Plan
}

func (*balancerDouble) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.balancer_double", New: func() caddy.Module { return new(balancerDouble) }}
}

func (b *balancerDouble) Provision(caddy.Context) error {
	b.plan.Pool = new(pool.Registry).Acquire(b.Name)
	return nil
}

func (b *balancerDouble) Express() (*exchange.Plan, *service.Service, *front.Front, string) {
	return &b.plan, nil, nil, b.Why
}

func (b *balancerDouble) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	w.Header().Set("Balancer", b.Name)
	w.Header().Set("Path", r.URL.EscapedPath())
	return nil
}

// Interface guards
var (
	_ balancer = (*balancerDouble)(nil)
	_ balancer = (*lbmodule.Handler)(nil)
)

// foreignDouble is a handler that the express lane does not know.
type foreignDouble struct{}

func (foreignDouble) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.foreign", New: func() caddy.Module { return new(foreignDouble) }}
}

func (foreignDouble) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	w.Header().Set("Foreign", "handler")
	return next.ServeHTTP(w, r)
}

// foreignMatcher is a matcher that the express lane does not know. It matches paths of odd lengths.
type foreignMatcher struct {
	All bool `json:"all,omitempty"`
}

func (foreignMatcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.matchers.foreign", New: func() caddy.Module { return new(foreignMatcher) }}
}

func (m foreignMatcher) MatchWithError(r *http.Request) (bool, error) {
	return m.All || len(r.URL.Path)%2 == 1, nil
}

// newContext is the context of a config without apps.
func newContext(t testing.TB) caddy.Context {
	t.Helper()
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := caddy.ProvisionContext(&caddy.Config{
		Admin: &caddy.AdminConfig{Disabled: true}, StorageRaw: storage,
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(parent)
	t.Cleanup(func() { cancel() })
	return ctx
}

// serverOf is a server with these routes, as far as the http app provisions it.
func serverOf(t testing.TB, ctx caddy.Context, routes string) *caddyhttp.Server {
	t.Helper()
	s := &caddyhttp.Server{Protocols: []string{"h1", "h2"}, Listen: []string{":80"}}
	if err := json.Unmarshal([]byte(routes), &s.Routes); err != nil {
		t.Fatalf("%s: %v", routes, err)
	}
	if err := s.Routes.Provision(ctx); err != nil {
		t.Fatalf("%s: %v", routes, err)
	}
	return s
}

// asked is a request.
type asked struct {
	method, host, target string
	fields               string // lines
	length               int64
	tls                  bool
}

func get(host, target string) asked { return asked{method: "GET", host: host, target: target} }

func (a asked) raw() string {
	raw := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n%s", a.method, a.target, a.host, a.fields)
	if a.length > 0 {
		raw += fmt.Sprintf("Content-Length: %d\r\n", a.length)
	}
	return raw + "\r\n"
}

// head is the head of the request, nil if the parser does not take it.
func (a asked) head() *h1.Head {
	var h h1.Head
	if h.Read([]byte(a.raw()), 1<<14) != h1.Plain {
		return nil
	}
	return &h
}

// caddys is Caddy's answer to the request.
func (a asked) caddys(t testing.TB, s *caddyhttp.Server) http.Header {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(a.raw() + strings.Repeat("x", int(a.length)))))
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	r.TLS = stateOf(a.tls)
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s)
	end := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Empty", "1")
		return nil
	})
	if err := s.Routes.Compile(end).ServeHTTP(w, r); err != nil {
		w.Header().Set("Error", err.Error())
	}
	return w.Header()
}

// stateOf is the state of a connection with TLS or without.
func stateOf(encrypted bool) *tls.ConnectionState {
	if encrypted {
		return new(tls.ConnectionState)
	}
	return nil
}
