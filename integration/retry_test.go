package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers with the body of the request, when it has come in whole.
func echo(w http.ResponseWriter, r *http.Request) {
	if body, err := io.ReadAll(r.Body); err == nil {
		_, _ = w.Write(body)
	}
}

// readAnd reads the request's body first.
func readAnd(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = discard(r.Body)
		next(w, r)
	}
}

// TestRetryConditions: which requests are made again, and which are not.
func TestRetryConditions(t *testing.T) {
	body := func(n int) string { return strings.Repeat("0123456789abcdef", n/16) }
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, test := range map[string]struct {
		settings string
		fault    http.HandlerFunc // of the first backend; nil for not there
		method   string
		body     string
		chunked  bool
		header   []string
		want     int // status; 200 comes from the second backend, which echoes
	}{
		"GET, gone":                       {"", nil, "GET", "", false, nil, 200},
		"POST, gone":                      {"", nil, "POST", body(160), false, nil, 200},
		"POST of 1 MB, gone":              {"", nil, "POST", body(1 << 20), false, nil, 200},
		"POST in chunks, gone":            {"", nil, "POST", body(1 << 20), true, nil, 200},
		"POST, gone, retry off":           {"retry off", nil, "POST", body(160), false, nil, 502},
		"GET, gone, not on connect":       {"retry {\n on reset 503\n }", nil, "GET", "", false, nil, 502},
		"GET, 503":                        {"", answers(503), "GET", "", false, nil, 200},
		"HEAD, 503":                       {"", answers(503), "HEAD", "", false, nil, 200},
		"GET, 500":                        {"", answers(500), "GET", "", false, nil, 500},
		"GET, 429":                        {"", answers(429), "GET", "", false, nil, 429},
		"GET, 503, on 502 only":           {"retry {\n on 502\n }", answers(503), "GET", "", false, nil, 503},
		"GET, 500, on 500":                {"retry {\n on 500\n }", answers(500), "GET", "", false, nil, 200},
		"POST, 503":                       {"", readAnd(answers(503)), "POST", body(160), false, nil, 503},
		"POST, reset":                     {"", readAnd(writes()), "POST", body(160), false, nil, 502},
		"POST, reset, non_idempotent":     {"retry {\n non_idempotent\n }", readAnd(writes()), "POST", body(160), false, nil, 200},
		"POST with a key, reset":          {"", readAnd(writes()), "POST", body(160), false, []string{"Idempotency-Key", "k"}, 502},
		"POST with a key, 503":            {"", readAnd(answers(503)), "POST", body(160), false, []string{"Idempotency-Key", "k"}, 503},
		"POST with a key, asked for":      {"retry {\n idempotency_key\n }", readAnd(writes()), "POST", body(160), false, []string{"Idempotency-Key", "k"}, 200},
		"POST without, asked for":         {"retry {\n idempotency_key\n }", readAnd(writes()), "POST", body(160), false, nil, 502},
		"PUT, reset":                      {"", readAnd(writes()), "PUT", body(160), false, nil, 200},
		"PUT of 64 KiB, 503":              {"", readAnd(answers(503)), "PUT", body(64 << 10), false, nil, 200},
		"PUT of more, 503":                {"", readAnd(answers(503)), "PUT", body(65 << 10), false, nil, 503},
		"PUT of more, larger limit":       {"retry {\n body_limit 1MiB\n }", readAnd(answers(503)), "PUT", body(65 << 10), false, nil, 200},
		"PUT in chunks, reset":            {"", readAnd(writes()), "PUT", body(1600), true, nil, 200},
		"PUT in many chunks, reset":       {"", readAnd(writes()), "PUT", body(1 << 20), true, nil, 502},
		"PUT of more, buffered":           {"request_buffers 1MiB", readAnd(answers(503)), "PUT", body(65 << 10), false, nil, 200},
		"PUT, 503 before it was read":     {"", answers(503), "PUT", body(160), false, nil, 200},
		"GET, hangs":                      {"retry {\n try_timeout 3s\n }", hang, "GET", "", false, nil, 200},
		"PUT, hangs":                      {"retry {\n try_timeout 3s\n }", readAnd(hang), "PUT", body(160), false, nil, 200},
		"POST, hangs":                     {"retry {\n try_timeout 3s\n }", readAnd(hang), "POST", body(160), false, nil, 504},
		"GET, hangs, not on timeout":      {"retry {\n try_timeout 3s\n on connect\n }", hang, "GET", "", false, nil, 504},
		"GET, hangs, transport's timeout": {"transport http {\n response_header_timeout 3s\n }", hang, "GET", "", false, nil, 200},
		"lb_retries, GET, reset":          {"lb_retries 1", writes(), "GET", "", false, nil, 200},
		"lb_retries, POST, reset":         {"lb_retries 1", readAnd(writes()), "POST", body(160), false, nil, 502},
		"lb_retries, POST, gone":          {"lb_retries 1", nil, "POST", body(160), false, nil, 200},
		"lb_retries, GET, 503":            {"lb_retries 1", answers(503), "GET", "", false, nil, 503},
		"lb_retry_match, POST, reset":     {"lb_retries 1\n lb_retry_match {\n method POST\n }", writes(), "POST", "", false, nil, 200},
		"lb_retry_match, GET, reset":      {"lb_retries 1\n lb_retry_match {\n method POST\n }", writes(), "GET", "", false, nil, 502},
		"lb_retry_match, GET, answer":     {"lb_retries 1\n lb_retry_match `{rp.status_code} == 500`", answers(500), "GET", "", false, nil, 200},
		"lb_retry_match, GET, other":      {"lb_retries 1\n lb_retry_match `{rp.status_code} == 500`", answers(501), "GET", "", false, nil, 501},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backends, addresses := startBackends(t, 2)
			c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy first\n"+test.settings+"\n}")
			if test.fault == nil {
				backends[0].kill()
			} else {
				backends[0].handle(test.fault)
			}
			backends[1].handle(echo)
			var reader io.Reader
			if test.body != "" {
				reader = strings.NewReader(test.body)
				if test.chunked {
					reader = io.MultiReader(reader)
				}
			}
			status, got := c.ask(c.request(test.method, reader, test.header...))
			if status != test.want {
				t.Errorf("status %d, want %d", status, test.want)
			}
			if status == 200 && test.method != "HEAD" && got != test.body {
				t.Errorf("the second backend got %d bytes, want the %d that were sent", len(got), len(test.body))
			}
		})
	}
}

// TestRetryOnlyBackend: with nobody else there the same one is asked, but not when it asked for a pause.
func TestRetryOnlyBackend(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr)
	var calm atomic.Bool
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if b.requests.Load()%2 == 1 {
			if calm.Load() {
				w.Header().Set("Retry-After", "1")
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if status, _, _ := c.get("/"); status != http.StatusOK || b.requests.Load() != 2 {
		t.Errorf("status %d after %d attempts, want 200 after 2", status, b.requests.Load())
	}
	calm.Store(true)
	if status, header, _ := c.get("/"); status != http.StatusServiceUnavailable || header.Get("Retry-After") != "1" || b.requests.Load() != 3 {
		t.Errorf("status %d after %d attempts, Retry-After %q; want its 503 after 1", status, b.requests.Load()-2, header.Get("Retry-After"))
	}
}

// TestNoRetryOnceAnswered: what the client has seen the beginning of is not made again.
func TestNoRetryOnceAnswered(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy first\n}")
	backends[0].handle(writes("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning"))
	if status, body := c.ask(c.request("GET", nil)); status != 200 || !strings.HasPrefix(body, "broken") || backends[1].requests.Load() != 0 {
		t.Errorf("status %d, %q, %d requests to the other backend; want a broken answer of the first", status, body, backends[1].requests.Load())
	}
	// An upgrade that fails is not repeated either: nobody knows what was done with it.
	backends[0].handle(writes())
	if status, _ := c.ask(c.request("GET", nil, "Connection", "Upgrade", "Upgrade", "websocket")); status != 502 || backends[1].requests.Load() != 0 {
		t.Errorf("upgrade: status %d, %d requests to the other backend; want 502 and none", status, backends[1].requests.Load())
	}
}

// TestSlowUpload: the time that a client takes to send its request is not the backend's.
func TestSlowUpload(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	b.handle(echo)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n retry {\n try_timeout 1s\n }\n}")
	r, w := io.Pipe()
	go func() {
		for range 8 {
			time.Sleep(250 * time.Millisecond)
			if _, err := w.Write([]byte("part ")); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	if status, body := c.ask(c.request("PUT", r)); status != 200 || body != strings.Repeat("part ", 8) {
		t.Errorf("status %d, %q", status, body)
	}
}

// TestStaleConnections: connections that backends close at the moment they are used cost no request that may be made again.
func TestStaleConnections(t *testing.T) {
	b := startBackend(t)
	b.handle(echo)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n retry {\n idempotency_key\n }\n}")
	for n := range 30 {
		for _, r := range []*http.Request{
			c.request("GET", nil),
			c.request("PUT", strings.NewReader(fmt.Sprint(n))),
			c.request("POST", strings.NewReader(fmt.Sprint(n)), "Idempotency-Key", fmt.Sprint(n)),
		} {
			b.server.SetKeepAlivesEnabled(false) // closes idle connections
			b.server.SetKeepAlivesEnabled(true)
			if status, body := c.ask(r); status != 200 || r.Method != http.MethodGet && body != fmt.Sprint(n) {
				t.Fatalf("%s %d: status %d, %q", r.Method, n, status, body)
			}
		}
	}
}

// TestSlowAnswers: nobody has set a bound, so nothing is cut, and nothing delivered twice.
func TestSlowAnswers(t *testing.T) {
	t.Parallel()
	for _, directive := range []string{"reverse_proxy %s", "load_balancer %s", "load_balancer %s {\n retry off\n}", "load_balancer %s {\n lb_try_duration 1s\n}"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(method+" "+directive, func(t *testing.T) {
				t.Parallel()
				backends, addresses := startBackends(t, 2)
				for _, b := range backends {
					b.handle(readAnd(func(w http.ResponseWriter, r *http.Request) {
						takes(r.Context(), 3*time.Second)
						fmt.Fprint(w, "at last")
					}))
				}
				c := startCaddy(t, fmt.Sprintf(directive, addresses))
				var body io.Reader
				if method == http.MethodPost {
					body = strings.NewReader("hello")
				}
				status, text := c.ask(c.request(method, body))
				if n := backends[0].requests.Load() + backends[1].requests.Load(); status != http.StatusOK || text != "at last" || n != 1 {
					t.Errorf("status %d, %q, delivered %d times", status, text, n)
				}
			})
		}
	}
}

// TestIdempotencyKey: what a client says of its POST makes it no request to be delivered twice, unless that was asked for. With
// reverse_proxy it is delivered once; one without a body, on a kept connection that breaks, net/http's transport sends again.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	const stock, asked = "reverse_proxy", "retry {\n idempotency_key\n }"
	for _, test := range []struct {
		name, settings string
		length         int
		want           [4]int // deliveries: 503, 503 on a kept connection, broken connection, broken kept connection
	}{
		{"small", stock, 160, [4]int{1, 1, 1, 1}},
		{"small", "", 160, [4]int{1, 1, 1, 1}},
		{"small", "retry off", 160, [4]int{1, 1, 1, 1}},
		{"small", asked, 160, [4]int{2, 2, 2, 3}}, // the last by the transport, and by the retry
		{"large", stock, 20 << 10, [4]int{1, 1, 1, 1}},
		{"large", "", 20 << 10, [4]int{1, 1, 1, 1}},
		{"buffered", stock + " request_buffers 1MiB", 160, [4]int{1, 1, 1, 1}},
		{"buffered", "request_buffers 1MiB", 160, [4]int{1, 1, 1, 1}},
		{"empty", stock, 0, [4]int{1, 1, 1, 2}},
		{"empty", "", 0, [4]int{1, 1, 1, 2}},
	} {
		for n, want := range test.want {
			fault, kept := [2]http.HandlerFunc{answers(503), writes("")}[n/2], n%2 == 1
			t.Run(fmt.Sprintf("%s, %s, %d", test.name, test.settings, n), func(t *testing.T) {
				backends, addresses := startBackends(t, 2)
				directive, settings := "load_balancer", test.settings
				if rest, ok := strings.CutPrefix(settings, stock); ok {
					directive, settings = stock, rest
				}
				c := startCaddy(t, directive+" "+addresses+" {\n lb_policy first\n "+settings+"\n}")
				var delivered atomic.Int64
				for _, b := range backends {
					b.handle(func(w http.ResponseWriter, r *http.Request) {
						if r.Method == http.MethodPost {
							delivered.Add(1)
							readAnd(fault)(w, r)
						}
					})
				}
				if kept {
					c.get("/")
				}
				status, _ := c.ask(c.request(http.MethodPost, strings.NewReader(strings.Repeat("x", test.length)), "Idempotency-Key", "k"))
				got := int(delivered.Load())
				if got != want {
					t.Errorf("delivered %d times, want %d; status %d", got, want, status)
				}
			})
		}
	}
}

// TestClientBreaksUpload: a client that breaks off is no backend's failure.
func TestClientBreaksUpload(t *testing.T) {
	b := startBackend(t)
	b.handle(echo)
	c := startCaddy(t, "request_body {\n max_size 1MB\n }\n load_balancer "+b.addr)
	for range 10 {
		conn, err := net.Dial("tcp", c.site)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n\r\n%s", c.site, strings.Repeat("beginning", 5000))
		waitFor(t, "the request to reach the backend", func() bool { return b.inFlight.Load() > 0 })
		conn.Close()
		waitFor(t, "the request to end", func() bool { return b.inFlight.Load() == 0 })
		if status, _ := c.upload(2 << 20); status != http.StatusRequestEntityTooLarge {
			t.Errorf("too large: status %d, want 413", status)
		}
	}
	if got := c.pool().Backends[0]; got.Failures != 0 || got.Breaker != "closed" {
		t.Errorf("%d failures, breaker %s", got.Failures, got.Breaker)
	}
}

// TestQueue: caps are exact, requests beyond them wait their turn, and a client with many does not hold up the others.
func TestQueue(t *testing.T) {
	const modest = 5 // clients with one request each
	backends, _ := startBackends(t, 2)
	c := startCaddy(t, "load_balancer {\n backend "+backends[0].addr+" {\n max_requests 2\n }\n backend "+backends[1].addr+" {\n max_requests 1\n }\n queue 50 1m\n}")
	next := make(chan struct{}) // has a backend answer
	var begun, ofModest atomic.Int64
	for _, b := range backends {
		b.handle(func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Modest") != "" {
				ofModest.Add(1)
			}
			begun.Add(1)
			<-next
		})
	}
	var served, refused atomic.Int64
	var wg sync.WaitGroup
	send := func(client *http.Client, header ...string) {
		wg.Go(func() {
			res, err := client.Do(c.request("GET", nil, header...))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			switch {
			case res.StatusCode == http.StatusOK:
				served.Add(1)
			case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "":
				refused.Add(1)
			default:
				t.Errorf("status %d, %v", res.StatusCode, res.Header)
			}
		})
	}
	greedy := clientFrom(t, "127.0.0.2")
	for range 80 {
		send(greedy)
	}
	waitFor(t, "3 in flight, 50 waiting and 27 refused", func() bool {
		return begun.Load() == 3 && refused.Load() == 27 && c.pool().Queue == 50
	})
	for n := range modest {
		send(clientFrom(t, fmt.Sprintf("127.0.0.%d", 10+n)), "X-Modest", "yes")
	}
	waitFor(t, "those with one request to wait in place of others", func() bool { return refused.Load() == 27+modest })
	// Six clients wait: in six turns it is everybody's.
	for turn := range modest + 1 {
		next <- struct{}{}
		waitFor(t, "the next to be served", func() bool { return begun.Load() == int64(4+turn) })
	}
	if n := ofModest.Load(); n != modest {
		t.Errorf("%d of %d clients with one request were served when each had had a turn", n, modest)
	}
	close(next)
	wg.Wait()
	if served.Load() != 53 || refused.Load() != 27+modest {
		t.Errorf("%d served, %d refused; want 53 and %d", served.Load(), refused.Load(), 27+modest)
	}
	for i, most := range []int64{2, 1} {
		if got := backends[i].maxInFlight.Load(); got != most {
			t.Errorf("backend %d served %d at a time, want %d", i, got, most)
		}
	}
	if state := c.pool(); state.Queue != 0 {
		t.Errorf("%d wait in the end", state.Queue)
	}
}

// TestQueueGivesUp: after its time a request is refused, and one whose client has left is gone.
func TestQueueGivesUp(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	c := startCaddy(t, "load_balancer {\n backend "+b.addr+" {\n max_requests 1\n }\n queue 10 500ms\n}")
	release := make(chan struct{})
	b.handle(func(http.ResponseWriter, *http.Request) { <-release })
	var wg sync.WaitGroup
	wg.Go(func() { c.get("/") })
	waitFor(t, "the backend to be busy", func() bool { return b.inFlight.Load() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		if res, err := client.Do(c.request("GET", nil).WithContext(ctx)); err == nil {
			res.Body.Close()
			t.Error("a client that left was answered")
		}
	})
	waitFor(t, "a request to wait", func() bool { return c.pool().Queue == 1 })
	cancel()
	waitFor(t, "nobody to wait", func() bool { return c.pool().Queue == 0 })
	start := time.Now()
	status, _ := c.ask(c.request("GET", nil))
	if took := time.Since(start); status != 503 || took < 500*time.Millisecond || took > 20*time.Second {
		t.Errorf("status %d after %v, want 503 after 500 ms", status, took)
	}
	close(release)
	wg.Wait()
	if b.requests.Load() != 1 {
		t.Errorf("the backend got %d requests, want 1", b.requests.Load())
	}
}

// startHedged starts three backends of which the next may be told to be slow, and a pool of them. The pool knows how long requests
// take when it is returned.
func startHedged(t *testing.T, settings string, pause time.Duration) (c *caddy, backends []*backend, slow *atomic.Bool) {
	t.Helper()
	backends, addresses := startBackends(t, 3)
	c = startCaddy(t, "load_balancer "+addresses+" {\n lb_policy round_robin\n "+settings+"\n header_down X-Upstream {rp.upstream.hostport}\n}")
	slow = new(atomic.Bool)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if slow.CompareAndSwap(true, false) {
				select {
				case <-time.After(pause):
				case <-r.Context().Done():
					return
				}
			}
			w.Header().Set("X-Backend", b.addr)
			fmt.Fprint(w, b.addr)
		})
	}
	for range 500 {
		c.get("/")
	}
	<-time.After(150 * time.Millisecond) // what is known of 100 requests is known a tenth of a second later
	return c, backends, slow
}

func sum(counts []int64) (n int64) {
	for _, one := range counts {
		n += one
	}
	return n
}

// TestHedge: when a backend is slow now and then, a copy of the request is answered meanwhile.
func TestHedge(t *testing.T) {
	c, backends, slow := startHedged(t, "hedge 95% 100%\n retry {\n budget 100% 100\n }", time.Second)
	const requests = 20
	quick := 0
	for range requests {
		slow.Store(true)
		start := time.Now()
		status, header, body := c.get("/")
		if status != 200 || header.Get("X-Upstream") != body || header.Get("X-Backend") != body {
			t.Fatalf("status %d, %q from %s (%s)", status, body, header.Get("X-Backend"), header.Get("X-Upstream"))
		}
		if time.Since(start) < time.Second {
			quick++
		}
	}
	t.Logf("%d of %d slow requests were answered by a copy", quick, requests)
	// All, but where the machine has made other requests slow that the pool takes for its usual.
	if quick < requests/2 {
		t.Errorf("%d of %d slow requests were answered by a copy", quick, requests)
	}
	// A request that is not to be made twice is not.
	slow.Store(false)
	before := sum(counts(backends))
	for range 200 {
		if status, _ := c.ask(c.request("POST", strings.NewReader("x"))); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	if sent := sum(counts(backends)); sent != before+200 {
		t.Errorf("%d attempts for 200 POST requests", sent-before)
	}
}

// TestHedgesAreFew: there are no more copies than may be, however many requests are slow.
func TestHedgesAreFew(t *testing.T) {
	t.Parallel()
	c, backends, slow := startHedged(t, "hedge 95% 1%", 300*time.Millisecond)
	const requests = 12
	for range requests {
		slow.Store(true)
		c.get("/")
	}
	copies := sum(counts(backends)) - 500 - requests
	t.Logf("%d copies of %d slow requests", copies, requests)
	if copies > (500+requests)/100 {
		t.Errorf("%d copies of %d requests, want one in a hundred at most", copies, 500+requests)
	}
}

// TestRetryTLS: a failed handshake is no connection, so that every request goes elsewhere; but there is somebody who can be reached. The
// try timeout holds over TLS.
func TestRetryTLS(t *testing.T) {
	t.Parallel()
	plain := startBackend(t) // answers a handshake with 400
	var hang atomic.Bool
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			_, _ = discard(r.Body) // or else the server would not notice that its client leaves
			<-r.Context().Done()
			return
		}
		echo(w, r)
	}))
	defer secure.Close()
	ca := certificateFile(t, secure)
	c := startCaddy(t, "load_balancer https://"+plain.addr+" "+secure.URL+" {\n lb_policy first\n retry {\n try_timeout 3s\n }\n"+
		" transport http {\n tls_trust_pool file "+ca+"\n tls_server_name example.com\n }\n}")
	for range 10 {
		if status, body := c.ask(c.request("POST", strings.NewReader("once"))); status != 200 || body != "once" {
			t.Fatalf("status %d, %q", status, body)
		}
	}
	for _, b := range c.pool().Backends {
		if b.Address == plain.addr && (b.Usable || !strings.HasPrefix(b.Reason, "breaker is open: consecutive failures (last: ")) {
			t.Errorf("the backend without TLS is usable: %v, %q", b.Usable, b.Reason)
		}
	}
	hang.Store(true)
	start := time.Now()
	if status, _ := c.ask(c.request("POST", strings.NewReader("once"))); status != http.StatusGatewayTimeout || time.Since(start) < 3*time.Second || time.Since(start) > 20*time.Second {
		t.Errorf("status %d after %v, want 504 soon after 3 s", status, time.Since(start))
	}
}

// TestRoundRobinBegins: the first request goes to the backend that it goes to with reverse_proxy, and from there to the other one when
// the answer asks for that.
func TestRoundRobinBegins(t *testing.T) {
	for _, directive := range []string{"load_balancer", "reverse_proxy"} {
		backends, addresses := startBackends(t, 2)
		backends[1].handle(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Try-Another", "yes")
			fmt.Fprint(w, "not here")
		})
		c := startCaddy(t, directive+" "+addresses+" {\n lb_policy round_robin\n lb_retries 1\n lb_retry_match {\n expression `{rp.header.X-Try-Another} == \"yes\"`\n }\n}")
		status, _, body := c.get("/")
		if got := counts(backends); status != http.StatusOK || body != backends[0].addr || got[0] != 1 || got[1] != 1 {
			t.Errorf("%s: status %d from %q after requests %v, want 200 from the first after one request to each", directive, status, body, got)
		}
	}
}
