package lbmodule

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// The wait for an answer is bounded only if that is configured: by try_timeout, or on the transport.
func TestNoTimeoutUnlessSet(t *testing.T) {
	const h2c, tls, own = `"transport": {"protocol": "http", "versions": ["h2c", "2"]}`, `"transport": {"protocol": "http", "tls": {}}`,
		`"transport": {"protocol": "http", "response_header_timeout": "30s"}`
	for settings, want := range map[string]struct{ ours, transport time.Duration }{
		``:                                {},
		`"retry": {}`:                     {},
		`"retry": {"attempts": 3}`:        {},
		`"retry": {"disabled": true}`:     {},
		`"retry": {"try_timeout": 0}`:     {},
		`"retry": {"try_timeout": "-1s"}`: {},
		`"load_balancing": {"try_duration": "5s"}`: {},
		`"load_balancing": {"retries": 2}`:         {},
		h2c:                                        {},
		tls:                                        {},
		own:                                        {transport: 30 * time.Second},
		own + `, "retry": {"try_timeout": 0}`:      {transport: 30 * time.Second},
		own + `, "retry": {"try_timeout": -1}`:     {transport: 30 * time.Second},
		own + `, "retry": {"try_timeout": "5s"}`:   {transport: 5 * time.Second},
		`"retry": {"try_timeout": "5s"}`:           {transport: 5 * time.Second},
		h2c + `, "retry": {"try_timeout": "5s"}`:   {ours: 5 * time.Second},
		tls + `, "retry": {"try_timeout": "5s"}`:   {ours: 5 * time.Second},
	} {
		t.Run(settings, func(t *testing.T) {
			more := ""
			if settings != "" {
				more = ", " + settings
			}
			h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]` + more + `}`)
			transport := h.stock.Transport.Configured().(*reverseproxy.HTTPTransport).Transport
			if h.plan.TryTimeout != want.ours || transport.ResponseHeaderTimeout != want.transport {
				t.Errorf("bounds %v, and %v on the transport; want %v and %v", h.plan.TryTimeout, transport.ResponseHeaderTimeout, want.ours, want.transport)
			}
		})
	}
}
