package stock

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi" // a transport that is not "http"

	"github.com/ballastlb/ballast/lbmodule/engine"
)

// load loads a transport in a config of its own, which ends with the test or before.
func load(t *testing.T, config string) (*Transport, func()) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(func() { cancel() })
	loaded, err := loadTransport(ctx, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	loaded.UseEngine(zap.NewNop(), func(string) {})
	return loaded, func() { cancel() }
}

// The engine replaces the transport only if it supports all settings of the transport.
func TestShortWay(t *testing.T) {
	for transport, why := range map[string]engine.Reason{
		`null`:                 "",
		`{"protocol": "http"}`: "",
		`{"protocol": "http", "compression": false, "dial_timeout": "1s", "response_header_timeout": "1s", "expect_continue_timeout": "1s", "max_response_header_size": 5000}`: "",
		`{"protocol": "http", "versions": ["1.1"], "read_buffer_size": 8192, "write_buffer_size": 8192, "local_address": "127.0.0.1"}`:                                         "",
		`{"protocol": "http", "keep_alive": {"max_idle_conns": 5, "max_idle_conns_per_host": 3, "idle_timeout": "4s"}}`:                                                        "",
		`{"protocol": "http", "read_timeout": "1s"}`:                                                         "",
		`{"protocol": "http", "write_timeout": "1s", "response_header_timeout": "1s"}`:                       "",
		`{"protocol": "http", "tls": {}}`:                                                                    "",
		`{"protocol": "http", "tls": {"server_name": "a", "handshake_timeout": "1s"}, "versions": ["1.1"]}`:  "",
		`{"protocol": "http", "tls": {"renegotiation": "never", "except_ports": ["80"]}, "versions": ["2"]}`: "",
		`{"protocol": "http", "tls": {"server_name": "{http.request.host}"}}`:                                reasonServerName,
		`{"protocol": "http", "tls": {"renegotiation": "once"}}`:                                             reasonRenegotiates,
		`{"protocol": "http", "tls": {}, "proxy_protocol": "v1"}`:                                            reasonProxy,
		`{"protocol": "http", "tls": {}, "versions": ["3"]}`:                                                 reasonHTTP3,
		`{"protocol": "http", "keep_alive": {"enabled": false}}`:                                             reasonKeepalive,
		`{"protocol": "http", "keep_alive": {"max_idle_conns_per_host": -1}}`:                                reasonKeepalive,
		`{"protocol": "http", "proxy_protocol": "v1"}`:                                                       reasonProxy,
		`{"protocol": "http", "max_conns_per_host": 5}`:                                                      reasonConns,
		`{"protocol": "http", "read_timeout": "1s", "response_header_timeout": "1s"}`:                        reasonTimeouts,
		`{"protocol": "http", "versions": ["h2c", "2"]}`:                                                     reasonH2C,
		`{"protocol": "http", "forward_proxy_url": "http://127.0.0.1:1"}`:                                    reasonForwardProxy,
		`{"protocol": "http", "network_proxy": {"from": "url", "url": "http://127.0.0.1:1"}}`:                reasonForwardProxy,
		`{"protocol": "fastcgi"}`:                                                                            reasonFastCGI,
	} {
		loaded, _ := load(t, transport)
		d := loaded.direct
		if (d == nil) != (why != "") || loaded.ways.none != why {
			t.Errorf("%s: short way %v, want %q for not taking it, have %q", transport, d != nil, why, loaded.ways.none)
		}
		if d == nil {
			continue
		}
		// Whatever the engine has a setting for has come over.
		from, c := loaded.next.(*reverseproxy.HTTPTransport).Transport, &d.client
		if c.ResponseHeaderTimeout != from.ResponseHeaderTimeout || c.MaxResponseHeaderBytes != from.MaxResponseHeaderBytes ||
			c.MaxIdleConns != from.MaxIdleConns || c.MaxIdleConnsPerHost != from.MaxIdleConnsPerHost || c.IdleConnTimeout != from.IdleConnTimeout ||
			c.DisableCompression != from.DisableCompression || c.ReadBufferSize != from.ReadBufferSize ||
			c.TLSClientConfig != from.TLSClientConfig || c.TLSHandshakeTimeout != from.TLSHandshakeTimeout || c.ExpectContinueTimeout != from.ExpectContinueTimeout {
			t.Errorf("%s: settings differ from those of the transport", transport)
		}
	}
	for name, transport := range map[string]string{
		"HTTP_PROXY": `null`, "http_proxy": `null`, "HTTPS_PROXY": `{"protocol": "http", "tls": {}}`, "https_proxy": `{"protocol": "http", "tls": {}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "http://127.0.0.1:1")
			if loaded, _ := load(t, transport); loaded.ways.none != reasonForwardProxy {
				t.Error("goes past the proxy")
			}
		})
	}
	t.Run("proxy for https", func(t *testing.T) {
		t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
		if loaded, _ := load(t, `null`); loaded.direct == nil {
			t.Error("plain requests do not go to that proxy")
		}
	})
}

// A config that is abandoned leaves no connections behind.
func TestShortWayIsClosed(t *testing.T) {
	var open atomic.Int32
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	backend.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	backend.Start()
	t.Cleanup(backend.Close)
	loaded, cancel := load(t, `null`)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, backend.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["User-Agent"] = []string{""}
	d := loaded.direct
	if !d.client.Takes(r) {
		t.Fatal("not taken")
	}
	res, err := d.client.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); open.Load() != 1 {
		t.Errorf("%d connections are kept", open.Load())
	}
	cancel()
	loaded.Cleanup()
	for deadline := time.Now().Add(10 * time.Second); open.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the connection stays open")
		}
	}
}

// A trip over a transport that does not end with its context cannot be broken off, and does not claim to wait.
func TestOnlyCaddysTransportBreaksOff(t *testing.T) {
	for config, want := range map[string]bool{`{"protocol": "http", "max_conns_per_host": 7}`: true, `{"protocol": "fastcgi"}`: false} {
		transport, _ := load(t, config)
		trip := Trip{transport: transport}
		trip.Arm(true)
		ctx := trip.breakable(t.Context())
		trip.BreakOff(context.Canceled)
		if trip.Waits() != want || (ctx.Err() != nil) != want {
			t.Errorf("%s: waits %v, broken off %v, want %v", config, trip.Waits(), ctx.Err() != nil, want)
		}
	}
}
