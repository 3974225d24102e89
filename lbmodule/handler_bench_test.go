package lbmodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(new(instantTransport))
}

// instantTransport answers at once: what is left is what a load balancer costs.
type instantTransport struct{}

// CaddyModule returns the Caddy module information.
func (*instantTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.instant", New: func() caddy.Module { return new(instantTransport) }}
}

func (*instantTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain"}}, Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

// BenchmarkHandler is what a request costs from the handler on, without the network.
func BenchmarkHandler(b *testing.B) {
	for _, policy := range []string{"lb_round_robin", "lb_peak_ewma"} {
		b.Run(policy, func(b *testing.B) {
			h := newConfig(b).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}], "transport": {"protocol": "instant"},
				"load_balancing": {"selection_policy": {"policy": "` + policy + `"}}}`)
			b.ReportAllocs()
			for b.Loop() {
				if err := h.ServeHTTP(httptest.NewRecorder(), newRequest(b), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
