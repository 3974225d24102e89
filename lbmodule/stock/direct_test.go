package stock

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
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
	loaded.UseEngine()
	return loaded, func() { cancel() }
}

// Only where the engine does all that the transport was told to does it take the transport's place.
func TestShortWay(t *testing.T) {
	for transport, short := range map[string]bool{
		`null`:                 true,
		`{"protocol": "http"}`: true,
		`{"protocol": "http", "compression": false, "dial_timeout": "1s", "response_header_timeout": "1s", "max_response_header_size": 5000}`: true,
		`{"protocol": "http", "versions": ["1.1"], "read_buffer_size": 8192, "write_buffer_size": 8192, "local_address": "127.0.0.1"}`:        true,
		`{"protocol": "http", "keep_alive": {"max_idle_conns": 5, "max_idle_conns_per_host": 3, "idle_timeout": "4s"}}`:                       true,
		`{"protocol": "http", "keep_alive": {"enabled": false}}`:                                                                              false,
		`{"protocol": "http", "keep_alive": {"max_idle_conns_per_host": -1}}`:                                                                 false,
		`{"protocol": "http", "tls": {}}`:                                                     false,
		`{"protocol": "http", "proxy_protocol": "v1"}`:                                        false,
		`{"protocol": "http", "max_conns_per_host": 5}`:                                       false,
		`{"protocol": "http", "read_timeout": "1s"}`:                                          false,
		`{"protocol": "http", "write_timeout": "1s"}`:                                         false,
		`{"protocol": "http", "versions": ["h2c", "2"]}`:                                      false,
		`{"protocol": "http", "forward_proxy_url": "http://127.0.0.1:1"}`:                     false,
		`{"protocol": "http", "network_proxy": {"from": "url", "url": "http://127.0.0.1:1"}}`: false,
	} {
		loaded, _ := load(t, transport)
		d := loaded.direct
		if (d != nil) != short {
			t.Errorf("%s: short way %v, want %v", transport, d != nil, short)
		}
		if d == nil {
			continue
		}
		// Whatever the engine has a setting for has come over.
		from, c := loaded.next.(*reverseproxy.HTTPTransport).Transport, &d.client
		if c.ResponseHeaderTimeout != from.ResponseHeaderTimeout || c.MaxResponseHeaderBytes != from.MaxResponseHeaderBytes ||
			c.MaxIdleConns != from.MaxIdleConns || c.MaxIdleConnsPerHost != from.MaxIdleConnsPerHost || c.IdleConnTimeout != from.IdleConnTimeout ||
			c.DisableCompression != from.DisableCompression || c.ReadBufferSize != from.ReadBufferSize {
			t.Errorf("%s: settings differ from those of the transport", transport)
		}
	}
	for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "http://127.0.0.1:1")
			if loaded, _ := load(t, `null`); loaded.direct != nil {
				t.Error("goes past the proxy")
			}
		})
	}
}

// A config that is given up leaves no connections behind.
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
