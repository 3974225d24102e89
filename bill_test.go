package ballast_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
)

func init() {
	caddy.RegisterModule(instantTransport{})
	caddy.RegisterModule(voidWriter{})
}

// instantTransport answers at once, so that what is left is the cost of the handlers.
type instantTransport struct{}

func (instantTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.bill_instant", New: func() caddy.Module { return new(instantTransport) }}
}

func (instantTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/plain"}}, Body: io.NopCloser(strings.NewReader("ok")),
	}, nil
}

// voidWriter takes log lines and drops them. Caddy's own discard writer is of no use here, because Caddy does not encode for it.
type voidWriter struct{}

func (voidWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.bill_void", New: func() caddy.Module { return new(voidWriter) }}
}
func (voidWriter) String() string                        { return "void" }
func (voidWriter) WriterKey() string                     { return "void" }
func (voidWriter) Write(p []byte) (int, error)           { return len(p), nil }
func (voidWriter) Close() error                          { return nil }
func (v voidWriter) OpenWriter() (io.WriteCloser, error) { return v, nil }

// extras are what can be on or off, besides the load balancer's own settings.
type extras struct{ metrics, log, limit bool }

// everything is on.
var everything = extras{metrics: true, log: true, limit: true}

// serverWith returns a server of Caddy with these handlers in its only route. It does not listen.
func serverWith(tb testing.TB, x extras, handlers ...string) *caddyhttp.Server {
	tb.Helper()
	if x.limit {
		handlers = append([]string{`{"handler": "ip_rate_limit", "rate": "1000000000/s"}`}, handlers...)
	}
	metrics, logs, appLogs := "", "", ""
	if x.metrics {
		metrics = `"metrics": {},`
	}
	if x.log {
		logs = `"logs": {},`
		appLogs = `"access": {"include": ["http.log.access"], "writer": {"output": "bill_void"}, "encoder": {"format": "json"}},`
	}
	var cfg caddy.Config
	text := fmt.Sprintf(`{
		"admin": {"disabled": true},
		"storage": {"module": "file_system", "root": %q},
		"logging": {"logs": {%s "default": {"writer": {"output": "discard"}}}},
		"apps": {"http": {%s "servers": {"s": {%s "listen": ["127.0.0.1:1"], "automatic_https": {"disable": true}, "routes": [{"handle": [%s]}]}}}}
	}`, tb.TempDir(), appLogs, metrics, logs, strings.Join(handlers, ","))
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		tb.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		tb.Fatal(err)
	}
	app, err := ctx.App("http")
	if err != nil {
		tb.Fatal(err)
	}
	return app.(*caddyhttp.App).Servers["s"]
}

const (
	respond = `{"handler": "static_response", "body": "ok"}`
	stock   = `{"handler": "reverse_proxy", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "transport": {"protocol": "bill_instant"}}`
	ours    = `{"handler": "load_balancer", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "transport": {"protocol": "bill_instant"}}`
	bare    = `{"handler": "load_balancer", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "transport": {"protocol": "bill_instant"},
		"breaker": {"disabled": true}, "retry": {"disabled": true}, "load_balancing": {"selection_policy": {"policy": "lb_round_robin"}}}`
)

// serveOnce has the server answer an ordinary request.
func serveOnce(tb testing.TB, s *caddyhttp.Server) {
	r := httptest.NewRequest(http.MethodGet, "http://example.com/1k", nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		tb.Fatal(w.Code, w.Body)
	}
}

// allocations returns how many allocations an ordinary request takes: the fewest of many, because pools are empty at times, and other
// goroutines allocate.
func allocations(t *testing.T, x extras, handlers ...string) int {
	t.Helper()
	s := serverWith(t, x, handlers...)
	fewest := math.MaxInt
	for range 500 {
		fewest = min(fewest, int(testing.AllocsPerRun(1, func() { serveOnce(t, s) })))
	}
	return fewest
}

// TestBill holds how many allocations of a request are due to what may be on, beside those of Caddy itself, which reverse_proxy has as
// well.
func TestBill(t *testing.T) {
	off, caddys := allocations(t, extras{}, ours), allocations(t, extras{}, stock)
	if n := allocations(t, extras{}, bare); off != n {
		t.Errorf("breaker, retry and the default policy: %d allocations, want 0", off-n)
	}
	for _, test := range []struct {
		name string
		on   extras
		want int
	}{
		{"metrics", extras{metrics: true}, 0},
		{"limit", extras{limit: true}, 0},
		// To set a field takes Caddy three: one for the list of fields, and two to forget the loggers that know of the old fields. The
		// fourth is for the attempts, the fifth for what Caddy adds to the replacer, where reverse_proxy has already made room.
		{"log", extras{log: true}, 5},
		{"everything", everything, 5},
	} {
		n := allocations(t, test.on, ours) - off - (allocations(t, test.on, stock) - caddys)
		if n > test.want {
			t.Errorf("%s: %d allocations beside Caddy's, want %d at most", test.name, n, test.want)
		}
	}
}

// BenchmarkBill is what each thing costs that may be on, and the same with Caddy's own handlers.
func BenchmarkBill(b *testing.B) {
	for _, handler := range []struct{ name, json string }{{"respond", respond}, {"reverse_proxy", stock}, {"bare", bare}, {"load_balancer", ours}} {
		for _, on := range []struct {
			name string
			extras
		}{{"nothing", extras{}}, {"metrics", extras{metrics: true}}, {"log", extras{log: true}}, {"limit", extras{limit: true}}, {"everything", everything}} {
			b.Run(handler.name+"/"+on.name, func(b *testing.B) {
				s := serverWith(b, on.extras, handler.json)
				b.ReportAllocs()
				for b.Loop() {
					serveOnce(b, s)
				}
			})
		}
	}
}
