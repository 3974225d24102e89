package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func TestWebSocket(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
	for _, b := range backends {
		b.handle(echo.ServeHTTP)
	}
	c := startCaddy(t, "load_balancer "+addresses+" {\n name ws\n lb_policy round_robin\n stream_close_delay 1m\n}")
	conns := make([]*websocket.Conn, 4)
	for i := range conns {
		conn, err := websocket.Dial("ws://"+c.site+"/ws", "", "http://"+c.site)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	say := func(text string) {
		t.Helper()
		for i, conn := range conns {
			if err := websocket.Message.Send(conn, text); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			var got string
			if err := websocket.Message.Receive(conn, &got); err != nil || got != text {
				t.Fatalf("connection %d: got %q, %v; want %q", i, got, err, text)
			}
		}
	}
	say("hello")
	// An open connection counts as a request in flight.
	for i, b := range backends {
		if n := b.inFlight.Load(); n != 2 {
			t.Errorf("backend %d has %d connections, want 2", i, n)
		}
	}
	if err := c.reload(siteConfig("load_balancer " + addresses + " {\n name ws\n lb_policy least_conn\n stream_close_delay 1m\n}")); err != nil {
		t.Fatal(err)
	}
	say("still there after a reload")
}

// TestServerSentEvents: each event arrives when it is sent, not when the next one is.
func TestServerSentEvents(t *testing.T) {
	b := startBackend(t)
	next := make(chan string)
	b.handle(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			_ = http.NewResponseController(w).Flush()
		}
	})
	c := startCaddy(t, "load_balancer "+b.addr)
	go func() { next <- "1" }()
	res, err := client.Get(c.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	read := func(want string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == "data: "+want {
				return
			}
		}
		t.Fatalf("the stream ended before event %s: %v", want, lines.Err())
	}
	read("1")
	// Nothing is sent after each of these: only an answer that is passed on at once gets through.
	for i := 2; i <= 5; i++ {
		next <- fmt.Sprint(i)
		read(fmt.Sprint(i))
	}
	close(next)
}

func TestGRPC(t *testing.T) {
	var addresses []string
	for range 2 {
		addresses = append(addresses, "h2c://"+startGRPCHealth(t, map[string]grpc_health_v1.HealthCheckResponse_ServingStatus{
			"shop": grpc_health_v1.HealthCheckResponse_SERVING,
		}))
	}
	c := startCaddy(t, "load_balancer "+strings.Join(addresses, " "))
	conn, err := grpc.NewClient(c.site, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	checks := grpc_health_v1.NewHealthClient(conn)
	for range 10 {
		got, err := checks.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"})
		if err != nil || got.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Fatalf("Check: %v, %v", got, err)
		}
	}
	// The status of an error travels in the trailers.
	if _, err := checks.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("Check of an unknown service: %v, want NotFound", err)
	}
	stream, err := checks.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stream.Recv(); err != nil || got.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("Watch: %v, %v", got, err)
	}
}

// TestLargeBodies sends 100 MB and gets 100 MB.
func TestLargeBodies(t *testing.T) {
	const size = 100 << 20
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		n, err := discard(r.Body)
		if n != size || err != nil {
			http.Error(w, fmt.Sprintf("got %d bytes, %v", n, err), http.StatusBadRequest)
			return
		}
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		_, _ = io.Copy(w, io.LimitReader(zeros{}, size))
	})
	c := startCaddy(t, "load_balancer "+b.addr)
	for _, length := range []int64{size, -1} { // -1 is chunked
		r, err := http.NewRequest(http.MethodPost, c.url("/"), io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		n, err := discard(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK || err != nil || n != size {
			t.Errorf("length %d: status %d, %d bytes came back, %v; want %d", length, res.StatusCode, n, err, size)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestTrailersAndInformationalAnswers(t *testing.T) {
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		_, _ = discard(r.Body)
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprint(w, "body, request trailer: "+r.Trailer.Get("X-Sent"))
		w.Header().Set("X-Sum", "42")
	})
	c := startCaddy(t, "load_balancer "+b.addr)
	hints := ""
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints = fmt.Sprint(code, header.Get("Link"))
		return nil
	}}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, c.url("/"), io.MultiReader(strings.NewReader("data")))
	if err != nil {
		t.Fatal(err)
	}
	r.Trailer = http.Header{"X-Sent": {"yes"}}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "body, request trailer: yes" {
		t.Errorf("body %q, %v", body, err)
	}
	if got := res.Trailer.Get("X-Sum"); got != "42" {
		t.Errorf("trailer X-Sum = %q, want 42", got)
	}
	if hints != "103</style.css>; rel=preload" {
		t.Errorf("early hints: %q", hints)
	}
}

// TestClientDisconnect: a client that leaves frees its slot, and nobody is blamed for it.
func TestClientDisconnect(t *testing.T) {
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, "ok")
	})
	c := startCaddy(t, "load_balancer {\n backend "+b.addr+" {\n max_requests 1\n }\n fail_duration 1m\n max_fails 1\n}")
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("/hang"), nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if res, err := client.Do(r); err == nil {
				res.Body.Close()
			}
		}()
		waitFor(t, "the request to be in flight", func() bool { return b.inFlight.Load() == 1 })
		cancel()
		<-done
		waitFor(t, "the slot to come back", func() bool {
			status, _, _ := c.get("/")
			return status == http.StatusOK
		})
	}
}

// TestBrokenBody: a body that breaks off is never presented as complete, and its slot comes back.
func TestBrokenBody(t *testing.T) {
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/break" {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "beginning")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "ok")
	})
	c := startCaddy(t, "load_balancer {\n backend "+b.addr+" {\n max_requests 1\n }\n}")
	for range 3 {
		res, err := client.Get(c.url("/break"))
		if err == nil {
			_, err = discard(res.Body)
			res.Body.Close()
		}
		if err == nil {
			t.Error("the client took half a body for a whole one")
		}
		waitFor(t, "the slot to come back", func() bool {
			status, _, _ := c.get("/")
			return status == http.StatusOK
		})
	}
}

func TestHeadersAndPlaceholders(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s|%s|%s|%s|%s", b.addr, r.Header.Get("X-Up"), r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Secret"), r.URL.Path)
		})
	}
	c := startCaddy(t, `load_balancer `+addresses+` {
		lb_policy round_robin
		header_up X-Up {upstream_hostport}
		header_up -X-Secret
		header_down X-Down {http.reverse_proxy.upstream.hostport}
		rewrite /rewritten{path}
	}`)
	for range 4 {
		r, err := http.NewRequest(http.MethodGet, c.url("/p"), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Secret", "s")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		addr, _, _ := strings.Cut(string(body), "|")
		if want := addr + "|" + addr + "|" + c.site + "||/rewritten/p"; string(body) != want {
			t.Errorf("got %s, want %s", body, want)
		}
		if got := res.Header.Get("X-Down"); got != addr {
			t.Errorf("X-Down = %s, want %s", got, addr)
		}
	}
}

func TestTLSBackends(t *testing.T) {
	var addresses []string
	var ca string
	for range 2 {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Proto, " ", r.Host)
		}))
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		server.StartTLS()
		t.Cleanup(server.Close)
		ca = certificateFile(t, server) // the same for all of them
		addresses = append(addresses, server.URL)
	}
	site := "load_balancer " + addresses[0] + " {\n backend " + addresses[1] + " {\n weight 1\n }\n lb_policy round_robin\n transport http {\n tls_trust_pool file " + ca + "\n tls_server_name example.com\n }\n}"
	c := startCaddy(t, site)
	seen := make(map[string]bool)
	for range 4 {
		status, _, body := c.get("/")
		if status != http.StatusOK {
			t.Fatalf("status %d: %s", status, body)
		}
		seen[body] = true
	}
	// As with reverse_proxy, an HTTPS backend sees its own name in the Host field.
	for _, a := range addresses {
		if want := "HTTP/2.0 " + strings.TrimPrefix(a, "https://"); !seen[want] {
			t.Errorf("answers %v, want %q among them", seen, want)
		}
	}
}

// TestHandleResponse routes an answer through Caddy's handlers, with another load balancer among them.
func TestHandleResponse(t *testing.T) {
	backends, _ := startBackends(t, 2)
	backends[0].handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	c := startCaddy(t, fillBackends(`load_balancer {
		backend B0 {
			max_requests 1
		}
		@teapot status 418
		handle_response @teapot {
			load_balancer B1
		}
	}`, backends))
	for range 3 {
		if status, _, body := c.get("/"); status != http.StatusOK || body != backends[1].addr {
			t.Errorf("status %d, body %q; want the second backend's answer", status, body)
		}
	}
}

// TestStatusesPassThrough: what a backend answers is passed on, whatever it is.
func TestStatusesPassThrough(t *testing.T) {
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		status := 0
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		w.WriteHeader(status)
	})
	c := startCaddy(t, "load_balancer "+b.addr)
	for _, want := range []int{200, 204, 304, 404, 429, 500, 502, 503, 504} {
		if got, header, _ := c.get(fmt.Sprintf("/%d", want)); got != want || header.Get("Retry-After") != "" {
			t.Errorf("status %d, Retry-After %q; want the backend's %d and nothing of ours", got, header.Get("Retry-After"), want)
		}
	}
}
