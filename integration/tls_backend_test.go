package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/websocket"
)

// tlsBackend is a backend that speaks HTTP/2 or not, as told.
type tlsBackend struct {
	*httptest.Server
	http2 atomic.Bool
	seen  [3]atomic.Int64 // requests by the major version of HTTP
	turns atomic.Int64
	every int64 // every answer of that number ends its connection; 0 for none
}

func startTLSBackend(t *testing.T, every int64) *tlsBackend {
	b := &tlsBackend{every: every}
	echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo.ServeHTTP(w, r)
			return
		}
		b.seen[r.ProtoMajor].Add(1)
		if b.every > 0 && b.turns.Add(1)%b.every == 0 {
			w.Header().Set("Connection", "close")
		}
		n, err := discard(r.Body)
		fmt.Fprintf(w, "%s %s %s %q %d %v", r.Method, r.URL, r.Proto, r.Header["X-Forwarded-Proto"], n, err)
	}))
	b.EnableHTTP2 = true
	b.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		config := b.TLS.Clone()
		if config.GetConfigForClient = nil; !b.http2.Load() {
			config.NextProtos = []string{"http/1.1"}
		}
		return config, nil
	}}
	b.StartTLS()
	t.Cleanup(b.Close)
	return b
}

// transportState is what the admin endpoint tells of how attempts went to the backends.
type transportState struct {
	Engine uint64
	Others map[string]uint64
}

// sum is the number of all attempts.
func (s transportState) sum() uint64 {
	sum := s.Engine
	for _, n := range s.Others {
		sum += n
	}
	return sum
}

func (c *caddy) transport(pool string) transportState {
	c.t.Helper()
	var state struct{ Transport transportState }
	c.api("GET", "/load_balancer/pools/"+pool, &state)
	return state.Transport
}

// TestTLSProtocols: whatever a backend speaks over TLS, clients get from it what they get through reverse_proxy, over the same protocol.
func TestTLSProtocols(t *testing.T) {
	t.Parallel()
	old, both := startTLSBackend(t, 0), startTLSBackend(t, 0)
	both.http2.Store(true)
	site := ""
	for path, b := range map[string]*tlsBackend{"old": old, "both": both} {
		for side, directive := range map[string]string{"ours": "load_balancer", "stock": "reverse_proxy"} {
			name := ""
			if side == "ours" {
				name = "name " + path
			}
			site += fmt.Sprintf("handle_path /%s/%s/* {\n %s %s {\n %s\n transport http {\n tls_insecure_skip_verify\n }\n }\n }\n", side, path, directive, b.URL, name)
		}
	}
	c := startCaddy(t, site)
	for path, proto := range map[string]string{"old": "HTTP/1.1", "both": "HTTP/2.0"} {
		for _, size := range []int64{-1, 100, 1 << 20} {
			for range 3 {
				got := make(map[string]string)
				for _, side := range []string{"ours", "stock"} {
					method, body := http.MethodGet, io.Reader(nil)
					if size >= 0 {
						method, body = http.MethodPost, strings.NewReader(strings.Repeat("x", int(size)))
					}
					r, err := http.NewRequest(method, c.url("/"+side+"/"+path+"/a?b=c"), body)
					if err != nil {
						t.Fatal(err)
					}
					status, text := c.ask(r)
					got[side] = fmt.Sprint(status, " ", text)
				}
				if got["ours"] != got["stock"] || !strings.Contains(got["ours"], "200") || !strings.Contains(got["ours"], proto) {
					t.Errorf("%s, %d bytes: %s\nreverse_proxy: %s", path, size, got["ours"], got["stock"])
				}
			}
		}
		ws, err := websocket.Dial("ws://"+c.site+"/ours/"+path+"/ws", "", "http://"+c.site)
		if err != nil {
			t.Fatal(err)
		}
		var echoed string
		if err := websocket.Message.Send(ws, "hello"); err != nil {
			t.Error(err)
		}
		if err := websocket.Message.Receive(ws, &echoed); err != nil || echoed != "hello" {
			t.Errorf("%q, %v", echoed, err)
		}
		ws.Close()
	}
	for _, path := range []string{"old", "both"} {
		waitFor(t, "9 requests and an upgrade", func() bool {
			all, upgrades := c.transport(path).sum(), c.transport(path).Others["upgrade"]
			return all == 10 && upgrades == 1
		})
		if got := c.transport(path); path == "both" && got.Engine != 0 || path == "old" && (got.Others["http2"] != 0 || got.Engine < 3) {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

// TestTLSBackendChanges: no request is lost while a backend begins to speak HTTP/2, stops, and ends connections all the while.
func TestTLSBackendChanges(t *testing.T) {
	b := startTLSBackend(t, 7)
	c := startCaddy(t, "load_balancer "+b.URL+" {\n name web\n retry off\n transport http {\n tls_insecure_skip_verify\n }\n }")
	const clients, requests = 8, 100
	var group sync.WaitGroup
	var wrong, done atomic.Int64
	for range clients {
		group.Go(func() {
			for range requests {
				if status, _, body := c.fetch("/x"); status != http.StatusOK || !strings.HasPrefix(body, "GET /x HTTP/") {
					wrong.Add(1)
					t.Logf("%d %s", status, body)
				}
				if n := done.Add(1); n%100 == 0 {
					b.http2.Store(n/100%2 == 1)
				}
			}
		})
	}
	group.Wait()
	if wrong.Load() > 0 || b.seen[1].Load() == 0 || b.seen[2].Load() == 0 {
		t.Errorf("%d requests failed; %d over HTTP/1.1 and %d over HTTP/2, want some of both", wrong.Load(), b.seen[1].Load(), b.seen[2].Load())
	}
	waitFor(t, "the count of all attempts", func() bool { return c.transport("web").sum() == clients*requests })
	if got := c.transport("web"); got.Engine == 0 || got.Others["http2"] == 0 || len(got.Others) != 1 {
		t.Errorf("%+v, want some of both", got)
	}
}
