package integration

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What the tests here put on the wire, or look for there, no HTTP library would say.

// startRaw starts a backend whose connections are served by serve, which has read nothing yet, and closed when it returns. It returns
// the address.
func startRaw(t *testing.T, serve func(conn *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			wait.Go(func() {
				serve(conn.(*net.TCPConn))
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		wait.Wait()
	})
	return l.Addr().String()
}

// startRawAnswer starts a backend that answers every request with that text, and goes on. Requests have no body.
func startRawAnswer(t *testing.T, text string) string {
	t.Helper()
	return startRaw(t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		for readHead(br) != "" {
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	})
}

// readHead reads a message up to its body; "" if there is none.
func readHead(br *bufio.Reader) string {
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return ""
		}
		head.WriteString(line)
		if strings.TrimRight(line, "\r\n") == "" {
			return head.String()
		}
	}
}

// dial opens a connection to the site.
func (c *caddy) dial() net.Conn {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.site)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	return conn
}

// overTransport are settings with which requests take Caddy's transport.
const overTransport = "transport http {\n max_conns_per_host 100000\n }"

// ways are the settings with which requests take either way to a backend.
var ways = map[string]string{"engine": "", "transport": overTransport}

// failures is how many attempts the backend is blamed for.
func (c *caddy) failures(address string) float64 {
	return c.metrics(`caddy_load_balancer_attempts_total{backend="(` + regexp.QuoteMeta(address) + `)",outcome="failure"`)[address]
}

// TestStatusThatHTTPDoesNotHave: an answer with such a status is no answer. Those that nobody has given a meaning are passed on.
func TestStatusThatHTTPDoesNotHave(t *testing.T) {
	t.Parallel()
	type route struct{ path, status, address string }
	var routes []route
	var site strings.Builder
	for way, transport := range ways {
		for _, status := range []string{"099", "000", "+99", "1000", "-1", "-01", "9x9", "200", "299", "599", "600", "999"} {
			r := route{fmt.Sprintf("/%s/%d", way, len(routes)), status, startRawAnswer(t, "HTTP/1.1 "+status+" Odd\r\nContent-Length: 2\r\n\r\nok")}
			routes = append(routes, r)
			fmt.Fprintf(&site, "handle %s {\n load_balancer %s {\n %s\n }\n}\n", r.path, r.address, transport)
		}
	}
	c := startCaddy(t, site.String())
	for _, r := range routes {
		res, err := client.Get(c.url(r.path))
		if err != nil {
			t.Errorf("%s, %s: %v", r.path, r.status, err)
			continue
		}
		res.Body.Close()
		want, _ := strconv.Atoi(r.status)
		if want < 200 || want > 999 {
			want = http.StatusBadGateway
		}
		if failed := c.failures(r.address) > 0; res.StatusCode != want || failed != (want == http.StatusBadGateway) {
			t.Errorf("%s, %s: %d, failure of the backend %v, want %d", r.path, r.status, res.StatusCode, failed, want)
		}
	}
	if c.logged("panic") > 0 {
		t.Error("the server panicked")
	}
}

// TestSwitchOfProtocols: a backend may switch to the protocol that was asked for, and to no other.
func TestSwitchOfProtocols(t *testing.T) {
	t.Parallel()
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
	type route struct {
		asked, answer string
		want          int
		path, address string
	}
	var routes []route
	var site strings.Builder
	for way, transport := range ways {
		for _, r := range []route{
			{asked: "websocket", answer: switching + "WebSocket\r\n\r\n", want: http.StatusSwitchingProtocols},
			{asked: "websocket", answer: switching + "h2c\r\n\r\n", want: http.StatusBadGateway},
			{asked: "websocket", answer: "HTTP/1.1 101 Switching Protocols\r\n\r\n", want: http.StatusBadGateway},
			{asked: "websocket", answer: switching + "\x80\r\n\r\n", want: http.StatusBadGateway},
			{asked: "", answer: switching + "websocket\r\n\r\n", want: http.StatusBadGateway},
		} {
			r.path, r.address = fmt.Sprintf("/%s/%d", way, len(routes)), startRawAnswer(t, r.answer)
			routes = append(routes, r)
			fmt.Fprintf(&site, "handle %s {\n load_balancer %s {\n %s\n }\n}\n", r.path, r.address, transport)
		}
	}
	c := startCaddy(t, site.String())
	for _, r := range routes {
		head := "GET " + r.path + " HTTP/1.1\r\nHost: " + c.site + "\r\n"
		if r.asked != "" {
			head += "Connection: Upgrade\r\nUpgrade: " + r.asked + "\r\n"
		}
		conn := c.dial()
		if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		failed := c.failures(r.address) > 0
		if res.StatusCode != r.want || failed != (r.want == http.StatusBadGateway) {
			t.Errorf("%s, asked for %q, answered %q: %d, failure of the backend %v, want %d", r.path, r.asked, r.answer, res.StatusCode, failed, r.want)
		}
		conn.Close()
	}
}

// TestConnectionsAreOfWhatIsDialed: two backends whose host and port are the same share no connections. The second one is dead: there is
// nobody at the address of IPv6, or no such address.
func TestConnectionsAreOfWhatIsDialed(t *testing.T) {
	t.Parallel()
	plain := startBackend(t)
	tls := httptest.NewTLSServer(http.HandlerFunc(healthy))
	t.Cleanup(tls.Close)
	secure := "transport http {\n tls\n tls_server_name example.com\n tls_trust_pool file " + certificateFile(t, tls) + "\n }"
	var site strings.Builder
	for path, of := range map[string]struct{ address, transport string }{
		"engine":    {plain.addr, ""},
		"transport": {plain.addr, overTransport},
		"tls":       {tls.Listener.Addr().String(), secure},
	} {
		_, port, err := net.SplitHostPort(of.address)
		if err != nil {
			t.Fatal(err)
		}
		const rules = "lb_policy round_robin\n %s\n"
		ours := " name " + path + "\n breaker {\n consecutive_failures 1000\n min_requests 1000\n }\n retry off\n"
		for directive, more := range map[string]string{"load_balancer": ours, "reverse_proxy": ""} {
			fmt.Fprintf(&site, "handle /%s/%s {\n %s tcp4/localhost:%s tcp6/localhost:%s {\n"+rules+more+" }\n}\n",
				directive, path, directive, port, port, of.transport)
		}
	}
	c := startCaddy(t, site.String())
	ask := func(path string) (answered, failed int) {
		for range 10 {
			switch status, _, body := c.get(path); {
			case status == http.StatusOK && body == "ok" || body == plain.addr:
				answered++
			case status == http.StatusBadGateway:
				failed++
			default:
				t.Errorf("%s: %d %q", path, status, body)
			}
		}
		return answered, failed
	}
	for _, path := range []string{"engine", "transport", "tls"} {
		answered, failed := ask("/reverse_proxy/" + path)
		t.Logf("reverse_proxy, %s: %d answered, %d failed", path, answered, failed)
		if answered, failed := ask("/load_balancer/" + path); answered != 5 || failed != 5 {
			t.Errorf("%s: %d answered, %d failed, want 5 and 5", path, answered, failed)
		}
		outcomes := c.metrics(`caddy_load_balancer_attempts_total{backend="(tcp.)/localhost:\d+",outcome="(\w+)",pool="` + path + `"`)
		if want := map[string]float64{"tcp4 success": 5, "tcp6 failure": 5}; !maps.Equal(outcomes, want) {
			t.Errorf("%s: outcomes %v, want %v", path, outcomes, want)
		}
	}
}

// TestAbsentTypeStaysAbsent: a proxy does not say what type an answer is of when its backend did not (RFC 9110, 8.3). Answers that are
// made here have the types that they have always had.
func TestAbsentTypeStaysAbsent(t *testing.T) {
	t.Parallel()
	const page = "<html>" // what sniffing takes for HTML
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		w.Header().Set("Server", "backend")
		if status, err := strconv.Atoi(r.Header.Get("Status")); err == nil {
			w.WriteHeader(status)
			return
		}
		fmt.Fprint(w, page)
	})
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "page"), []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, settings string
		before         string // another directive
		want           string // "" for none
	}{
		{name: "plain"},
		{name: "transport", settings: overTransport},
		{name: "set", settings: "header_down Content-Type text/x", want: "text/x"},
		{name: "added", settings: "header_down +Content-Type text/x", want: "text/x"},
		{name: "outer-default", before: "header ?Content-Type text/x", want: "text/x"},
		{name: "outer-set", before: "header >Content-Type text/x", want: "text/x"},
		{name: "removed", settings: "header_down -Content-Type"},
		{name: "status", settings: "replace_status 201"},
		{name: "copied", settings: "handle_response {\n copy_response\n }"},
		{name: "made", settings: "handle_response {\n respond " + page + "\n }", want: "text/plain; charset=utf-8"},
		{name: "made-with-header", settings: "handle_response {\n copy_response_headers\n respond " + page + "\n }", want: "text/plain; charset=utf-8"},
		{name: "file", settings: "handle_response {\n root * " + files + "\n rewrite * /page\n file_server\n }"},
		{name: "error", settings: "handle_response {\n error 418\n }", want: "text/plain; charset=utf-8"},
		{name: "templates", before: "templates"},
		{name: "intercept", before: "intercept {\n handle_response {\n respond " + page + "\n }\n }", want: "text/plain; charset=utf-8"},
	}
	var site strings.Builder
	for _, test := range cases {
		for _, directive := range []string{"load_balancer", "reverse_proxy"} {
			fmt.Fprintf(&site, "handle /%s/%s {\n %s\n %s %s {\n %s\n }\n}\n", directive, test.name, test.before, directive, b.addr, test.settings)
		}
	}
	site.WriteString("handle_errors {\n respond \"" + page + "\"\n}\n")
	c := startCaddy(t, site.String())
	h2 := &http.Client{Timeout: patience, Transport: &http.Transport{Protocols: new(http.Protocols)}}
	h2.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(h2.CloseIdleConnections)
	for _, test := range cases {
		for version, client := range map[string]*http.Client{"HTTP/1.1": client, "HTTP/2": h2} {
			ask := func(directive, method, status string) (string, bool) {
				r, err := http.NewRequest(method, c.url("/"+directive+"/"+test.name), nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Status", status)
				res, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Error(err)
				}
				return res.Header.Get("Content-Type"), len(res.Header["Content-Type"]) > 0
			}
			stock, _ := ask("reverse_proxy", http.MethodGet, "")
			got, has := ask("load_balancer", http.MethodGet, "")
			if got != test.want || has != (test.want != "") {
				t.Errorf("%s, %s: type %q, want %q; reverse_proxy %q", test.name, version, got, test.want, stock)
			} else if got != stock {
				t.Logf("%s, %s: type %q, reverse_proxy %q", test.name, version, got, stock)
			}
			for _, without := range [][2]string{{http.MethodHead, ""}, {http.MethodGet, "204"}, {http.MethodGet, "304"}} {
				stock, _ := ask("reverse_proxy", without[0], without[1])
				if got, _ := ask("load_balancer", without[0], without[1]); got != stock {
					t.Errorf("%s, %s, %v: type %q, reverse_proxy %q", test.name, version, without, got, stock)
				}
			}
		}
	}
}

// startRefusing starts a backend that answers an upload when it has read the header, and closes the connection with the body unread, so
// that the kernel resets it. It counts requests.
func startRefusing(t *testing.T, answer string) (address string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	return startRaw(t, func(conn *net.TCPConn) {
		if readHead(bufio.NewReaderSize(conn, 512)) != "" {
			requests.Add(1)
			_, _ = io.WriteString(conn, answer)
		}
	}), requests
}

// uploadOnce sends a POST of that size over a connection of its own, and reads the answer while it does: the status and how much body
// there was; 0 for none.
func uploadOnce(t *testing.T, site, path string, size int64) (status int, body int64) {
	t.Helper()
	conn, err := net.Dial("tcp", site)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() {
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", path, site, size)
		_, _ = io.CopyN(conn, zeros{}, size)
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, 0
	}
	body, err = io.Copy(io.Discard, res.Body)
	if err != nil {
		return 0, body
	}
	return res.StatusCode, body
}

// TestEarlyAnswer: what a backend has answered reaches the client, though the backend does not read the upload to its end.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	const uploads, size = 20, 5 << 20
	for name, length := range map[string]int64{"short": 9, "long": 20 << 10} {
		answer := fmt.Sprintf("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat("x", int(length)))
		address, requests := startRefusing(t, answer)
		c := startCaddy(t, "handle /lb {\n load_balancer "+address+" {\n retry {\n non_idempotent\n }\n }\n}\nhandle /rp {\n reverse_proxy "+address+"\n}")
		delivered := func(site, path string) (n int) {
			for range uploads {
				if status, body := uploadOnce(t, site, path, size); status == http.StatusRequestEntityTooLarge && body == length {
					n++
				}
			}
			return n
		}
		got := delivered(c.site, "/lb")
		if n := requests.Load(); n != uploads {
			t.Errorf("%s: %d requests for %d uploads", name, n, uploads)
		}
		stock, haproxy := delivered(c.site, "/rp"), -1
		if site := startHAProxy(t, address); site != "" {
			haproxy = delivered(site, "/")
		}
		t.Logf("%s: delivered of %d: load_balancer %d, reverse_proxy %d, HAProxy %d", name, uploads, got, stock, haproxy)
		if got < uploads-1 {
			t.Errorf("%s: %d of %d answers were delivered", name, got, uploads)
		}
		if failed := c.failures(address); failed > float64(uploads-got) {
			t.Errorf("%s: the backend is blamed for %v answers", name, failed)
		}
	}
}

// TestTricklingBody: what has come of a request reaches the backend, and what it answers reaches the client, while the rest is yet to come.
func TestTricklingBody(t *testing.T) {
	t.Parallel()
	const body = "0123456789"
	came := make(chan string, 100) // parts of bodies, as the backend sees them
	address := startRaw(t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		read := func(n int) bool {
			part := make([]byte, n)
			_, err := io.ReadFull(br, part)
			came <- string(part)
			return err == nil
		}
		for head := readHead(br); head != ""; head = readHead(br) {
			_, after, _ := strings.Cut(head, "\r\nThere: ")
			there, _ := strconv.Atoi(after[:1])
			if !read(there) || !strings.HasPrefix(head, "POST /early") && !read(len(body)-there) {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	server := func(options string) *caddy {
		return startCaddyConfig(t, "{\n admin ADMIN_ADDRESS\n persist_config off\n servers {\n protocols h1 h2c\n "+options+"\n }\n}\n\nhttp://SITE_ADDRESS {\n"+
			"handle /*/load_balancer {\n load_balancer "+address+"\n }\n handle /*/reverse_proxy {\n reverse_proxy "+address+"\n }\n}\n")
	}
	half, full := server(""), server("enable_full_duplex")
	for _, way := range []struct {
		name  string
		c     *caddy
		http2 bool
		paths []string
	}{
		{"HTTP/1.1", half, false, []string{"/late/"}}, // net/http's server does not answer before it has read the rest
		{"HTTP/1.1, full duplex", full, false, []string{"/late/", "/early/"}},
		{"HTTP/2", half, true, []string{"/late/", "/early/"}},
	} {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(!way.http2)
		transport.Protocols.SetUnencryptedHTTP2(way.http2)
		t.Cleanup(transport.CloseIdleConnections)
		for _, path := range way.paths {
			for _, directive := range []string{"reverse_proxy", "load_balancer"} {
				var longest time.Duration
				for _, there := range []string{"", "0", "012"} {
					for _, incremental := range []string{"", "?1"} {
						reader, writer := io.Pipe()
						r := way.c.request(http.MethodPost, reader, "There", strconv.Itoa(len(there)))
						if incremental != "" {
							r.Header.Set("Incremental", incremental)
						}
						r.URL.Path, r.ContentLength = path+directive, int64(len(body))
						answered := make(chan string, 1)
						go func() {
							res, err := transport.RoundTrip(r)
							if err != nil {
								answered <- err.Error()
								return
							}
							text, _ := io.ReadAll(res.Body)
							res.Body.Close()
							answered <- string(text)
						}()
						wait := func(what string, from <-chan string, want string) {
							t.Helper()
							start := time.Now()
							select {
							case got := <-from:
								if longest = max(longest, time.Since(start)); got != want {
									t.Errorf("%s, %s, %q there, Incremental %q: %s %q, want %q", way.name, r.URL.Path, there, incremental, what, got, want)
								}
							case <-time.After(10 * time.Second):
								t.Fatalf("%s, %s, %q there, Incremental %q: no %s", way.name, r.URL.Path, there, incremental, what)
							}
						}
						_, _ = io.WriteString(writer, there)
						wait("beginning", came, there)
						if path == "/early/" {
							wait("answer", answered, "ok")
							writer.Close()
							continue
						}
						_, _ = io.WriteString(writer, body[len(there):])
						writer.Close()
						wait("rest", came, body[len(there):])
						wait("answer", answered, "ok")
					}
				}
				t.Logf("%s, %s%s: longest wait %v", way.name, path, directive, longest)
			}
		}
	}
}
