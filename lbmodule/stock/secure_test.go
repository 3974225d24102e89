package stock

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// tally counts attempts over the configured transport by reason.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	c.n[reason]++
}

// take returns the counts and begins anew.
func (c *tally) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = nil
	return n
}

// secureServer is a backend that speaks HTTP/2 or not, as told.
type secureServer struct {
	*httptest.Server
	http2 atomic.Bool
	conns atomic.Int32
}

func newSecureServer(t *testing.T) *secureServer {
	s := new(secureServer)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, body)
	}))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		config := s.TLS.Clone()
		if config.GetConfigForClient = nil; !s.http2.Load() {
			config.NextProtos = []string{"http/1.1"}
		}
		return config, nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// trusting returns the config of a transport that trusts the server.
func (s *secureServer) trusting(more string) string {
	root := base64.StdEncoding.EncodeToString(s.Certificate().Raw)
	return fmt.Sprintf(`{"protocol": "http", "tls": {"ca": {"provider": "inline", "trusted_ca_certs": [%q]}, "server_name": "example.com"}%s}`, root, more)
}

// loadCounting loads a transport whose attempts are counted and logged.
func loadCounting(t *testing.T, config string) (*Transport, *tally, *observer.ObservedLogs) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(func() { cancel() })
	loaded, err := loadTransport(ctx, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loaded.Cleanup)
	core, logs := observer.New(zapcore.DebugLevel)
	counted := new(tally)
	loaded.UseEngine(zap.New(core), counted.add)
	loaded.DeferWriteErrors()
	return loaded, counted, logs
}

// tripper makes each request on a trip of its own.
type tripper struct{ transport *Transport }

func (t tripper) RoundTrip(r *http.Request) (*http.Response, error) {
	var trip Trip
	trip.Init(t.transport, new(Handler).NewTarget(&reverseproxy.Upstream{Dial: r.URL.Host}), nil, nil)
	res, err := trip.RoundTrip(r)
	if err == nil && trip.Direct() && res.ProtoMajor != 1 {
		return nil, errors.New("the trip is told to be over the engine")
	}
	return res, err
}

// ask makes a request to the backend, as an attempt does, and returns the answer's body.
func ask(t *testing.T, rt http.RoundTripper, address, method, body string, header ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errors.New("test waited too long"))
	defer cancel()
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	r, err := http.NewRequestWithContext(ctx, method, "", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Host, r.Host, r.URL.Path = address, address, "/"
	r.Header["User-Agent"] = []string{""}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if body == "" {
		r.Body = nil
	}
	res, err := rt.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// Whether requests go over the engine depends on what each backend speaks at that time.
func TestSecureBackends(t *testing.T) {
	one, two := newSecureServer(t), newSecureServer(t)
	two.http2.Store(true)
	loaded, counted, logs := loadCounting(t, one.trusting(""))
	check := func(s *secureServer, proto string, over map[string]int, conns int32) {
		t.Helper()
		address, before := s.Listener.Addr().String(), s.conns.Load()
		for range 3 {
			for method, body := range map[string]string{http.MethodGet: "", http.MethodPost: "body"} {
				got, err := ask(t, tripper{loaded}, address, method, body)
				if want := fmt.Sprintf("%s %s %s", proto, address, body); got != want || err != nil {
					t.Fatalf("%q, %v; want %q", got, err, want)
				}
			}
		}
		if got := counted.take(); !maps.Equal(got, over) {
			t.Errorf("over the transport: %v, want %v", got, over)
		}
		if got := s.conns.Load() - before; got != conns {
			t.Errorf("%d connections, want %d", got, conns)
		}
	}
	check(one, "HTTP/1.1", nil, 1)
	check(one, "HTTP/1.1", nil, 0)
	check(two, "HTTP/2.0", map[string]int{"http2": 6}, 1)
	check(two, "HTTP/2.0", map[string]int{"http2": 6}, 0)
	check(one, "HTTP/1.1", nil, 0)
	// Each of them changes its mind.
	one.http2.Store(true)
	two.http2.Store(false)
	one.CloseClientConnections()
	two.CloseClientConnections()
	check(one, "HTTP/2.0", map[string]int{"http2": 6}, 1)
	check(two, "HTTP/1.1", map[string]int{"http2": 1}, 2) // the answer to the first one tells, over a connection of the transport's
	check(one, "HTTP/2.0", map[string]int{"http2": 6}, 0)
	check(two, "HTTP/1.1", nil, 0)
	if found := logs.FilterMessage("attempt does not go over the engine").FilterField(zap.String("reason", "http2")).Len(); found != 25 {
		t.Errorf("%d lines in the log, want 25", found)
	}
}

// An upgrade is asked for over HTTP/1.1 even if the backend prefers HTTP/2.
func TestUpgradeSaysNothing(t *testing.T) {
	s := newSecureServer(t)
	s.http2.Store(true)
	loaded, counted, _ := loadCounting(t, s.trusting(""))
	address := s.Listener.Addr().String()
	for range 2 {
		if got, err := ask(t, tripper{loaded}, address, http.MethodGet, ""); !strings.HasPrefix(got, "HTTP/2.0") || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		got, err := ask(t, tripper{loaded}, address, http.MethodGet, "", "Connection", "Upgrade", "Upgrade", "websocket")
		if !strings.HasPrefix(got, "HTTP/1.1") || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if got, want := counted.take(), map[string]int{"http2": 2, "upgrade": 2}; !maps.Equal(got, want) || s.conns.Load() != 2 {
		t.Errorf("%v over %d connections, want %v over 2", got, s.conns.Load(), want)
	}
}

// Only the versions of the config are offered.
func TestSecureVersions(t *testing.T) {
	s := newSecureServer(t)
	s.http2.Store(true)
	loaded, counted, _ := loadCounting(t, s.trusting(`, "versions": ["1.1"]`))
	got, err := ask(t, tripper{loaded}, s.Listener.Addr().String(), http.MethodGet, "")
	if !strings.HasPrefix(got, "HTTP/1.1") || err != nil || counted.take() != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// Failures are those of the transport, so that attempts are judged in the same way.
func TestSecureFailures(t *testing.T) {
	s := newSecureServer(t)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for name, test := range map[string]struct{ config, address string }{
		"untrusted":  {`{"protocol": "http", "tls": {}}`, s.Listener.Addr().String()},
		"other name": {strings.Replace(s.trusting(""), "example.com", "other.example", 1), s.Listener.Addr().String()},
		"no TLS":     {s.trusting(""), plain.Listener.Addr().String()},
		"refused":    {s.trusting(""), "127.0.0.1:0"},
	} {
		loaded, counted, _ := loadCounting(t, test.config)
		_, err := ask(t, tripper{loaded}, test.address, http.MethodGet, "")
		if counted.take() != nil {
			t.Errorf("%s: not over the engine", name)
		}
		_, want := ask(t, loaded.next, test.address, http.MethodGet, "")
		if err == nil || want == nil || err.Error() != want.Error() || fmt.Sprintf("%T", err) != fmt.Sprintf("%T", want) || !IsConnectError(err) {
			t.Errorf("%s: %T %v, want %T %v", name, err, err, want, want)
		}
	}
}

// What the engine does not take is counted by the reason.
func TestReasons(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(s.Close)
	for config, want := range map[string]string{
		`null`: "upgrade", `{"protocol": "http", "max_conns_per_host": 1}`: "max_conns_per_host", `{"protocol": "http", "proxy_protocol": "v1"}`: "proxy_protocol",
	} {
		loaded, counted, logs := loadCounting(t, config)
		ask(t, tripper{loaded}, s.Listener.Addr().String(), http.MethodGet, "", "Connection", "Upgrade", "Upgrade", "x")
		if got := counted.take(); !maps.Equal(got, map[string]int{want: 1}) || logs.Len() != 1 {
			t.Errorf("%s: %v, %d lines; want %s", config, got, logs.Len(), want)
		}
	}
}

// Timeouts of single reads hold on this way, too.
func TestReadTimeout(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(hold) })
	loaded, counted, _ := loadCounting(t, `{"protocol": "http", "read_timeout": "20ms", "write_timeout": "10s"}`)
	for name, rt := range map[string]http.RoundTripper{"engine": tripper{loaded}, "transport": loaded.next} {
		if _, err := ask(t, rt, s.Listener.Addr().String(), http.MethodGet, ""); !IsTimeout(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := counted.take(); got != nil {
		t.Errorf("over the transport: %v", got)
	}
}

func TestHTTP2HostsAreBounded(t *testing.T) {
	var h http2Hosts
	for i := range 2 * maxHTTP2Hosts {
		h.add(fmt.Sprint(i))
	}
	last := fmt.Sprint(2*maxHTTP2Hosts - 1)
	if !h.has(last) || len(*h.all.Load()) != maxHTTP2Hosts {
		t.Errorf("%d hosts, with the last one: %v", len(*h.all.Load()), h.has(last))
	}
	h.drop("absent")
	if h.drop(last); h.has(last) {
		t.Error("not dropped")
	}
}
