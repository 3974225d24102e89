package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mirrorState is what the API tells of a mirror.
type mirrorState struct {
	Upstreams []string
	InFlight  int64 `json:"in_flight"`

	Success, Failure, Timeout, Dropped int
	ServerError                        int `json:"server_error"`
}

func (m *mirrorState) outcomes() string {
	return fmt.Sprintf("success %d, server_error %d, failure %d, timeout %d, dropped %d", m.Success, m.ServerError, m.Failure, m.Timeout, m.Dropped)
}

func (c *caddy) mirrored() mirrorState {
	c.t.Helper()
	var p struct{ Mirror mirrorState }
	c.api(http.MethodGet, "/load_balancer/pools/p", &p)
	return p.Mirror
}

// mirroredInAll waits until that many copies have ended, and returns what became of them.
func (c *caddy) mirroredInAll(n int) string {
	c.t.Helper()
	var m mirrorState
	waitFor(c.t, fmt.Sprint(n, " copies to end"), func() bool {
		m = c.mirrored()
		return m.Success+m.ServerError+m.Failure+m.Timeout+m.Dropped == n && m.InFlight == 0
	})
	return m.outcomes()
}

// gotten are requests as a server has got them.
type gotten struct {
	mu  sync.Mutex
	all []string
}

// add adds a request: what must be the same in a copy.
func (s *gotten) add(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	text := fmt.Sprintln(r.Method, r.RequestURI, r.Host, len(body), r.ContentLength, r.TransferEncoding)
	for _, name := range []string{
		"Accept", "Accept-Encoding", "Authorization", "Connection", "Cookie", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-N", "X-Up", "X-Hop",
	} {
		text += fmt.Sprintf("%s: %q\n", name, r.Header[name])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, text)
}

// without returns the requests that are not among the others.
func (s *gotten) without(others ...*gotten) (alone []string) {
	times := make(map[string]int)
	for _, other := range others {
		for _, text := range other.all {
			times[text]++
		}
	}
	for _, text := range s.all {
		if times[text]--; times[text] < 0 {
			alone = append(alone, text)
		}
	}
	return alone
}

// TestMirror: the mirrors get the requests of several clients as the backends do, each once, and clients get none of their answers.
func TestMirror(t *testing.T) {
	t.Parallel()
	const clients, each = 8, 100
	backends, addresses := startBackends(t, 2)
	mirrors, copies := startBackends(t, 2)
	var original, first, second gotten
	var marked, unmarked atomic.Int64
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			unmarked.Add(int64(len(r.Header["X-Mirrored"])))
			if r.Method != http.MethodPost {
				original.add(r)
			}
			fmt.Fprint(w, "from a backend")
		})
	}
	for i, m := range mirrors {
		to := []*gotten{&first, &second}[i]
		m.handle(func(w http.ResponseWriter, r *http.Request) {
			marked.Add(int64(len(r.Header["X-Mirrored"])))
			to.add(r)
			w.Header().Set("X-From", "a mirror")
			w.Header().Set("Set-Cookie", "from=mirror")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprint(w, "from a mirror")
		})
	}
	c := startCaddy(t, `load_balancer `+addresses+` {
		name p
		mirror `+copies+` 100% {
			max_requests 1000
		}
		header_up X-Up {http.request.uri.path}
		header_up -X-Gone
	}`)
	var all sync.WaitGroup
	for k := range clients {
		all.Go(func() {
			for i := range each {
				method := []string{"GET", "HEAD", "DELETE", "OPTIONS", "POST"}[i%5]
				r, err := http.NewRequest(method, c.url(fmt.Sprintf("/a%%2Fb//%d/%d?q=%d&q=2;", k, i, i)), nil)
				if err != nil {
					t.Error(err)
					return
				}
				for name, value := range map[string]string{
					"Accept": "*/*", "Accept-Encoding": "br", "Authorization": "Basic " + strconv.Itoa(i), "Cookie": "a=b", "X-N": fmt.Sprint(k, i), "X-Gone": "x",
					"Connection": "X-Hop", "X-Hop": "x", "X-Forwarded-For": "1.2.3.4",
				} {
					r.Header.Set(name, value)
				}
				res, err := client.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if want := map[bool]string{false: "from a backend"}[method == "HEAD"]; err != nil || res.StatusCode != http.StatusOK || string(text) != want || res.Header["X-From"] != nil || res.Header["Set-Cookie"] != nil {
					t.Errorf("%s: %d %q %v, %v", method, res.StatusCode, text, res.Header, err)
				}
			}
		})
	}
	all.Wait()
	const idempotent = clients * each * 4 / 5
	if got, want := c.mirroredInAll(idempotent), fmt.Sprintf("success %d, server_error 0, failure 0, timeout 0, dropped 0", idempotent); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	if n, m := len(first.all), len(second.all); n != idempotent/2 || m != n || marked.Load() != idempotent || unmarked.Load() != 0 {
		t.Errorf("the mirrors had %d and %d, %d of them with a mark", n, m, marked.Load())
	}
	if lost := original.without(&first, &second); len(lost) > 0 {
		t.Errorf("%d were not copied as they are, such as\n%s\nA copy was\n%s", len(lost), lost[0], first.all[0])
	}
	if n := c.metric("caddy_load_balancer_mirrored_total", `outcome="success",pool="p"`); n != idempotent {
		t.Errorf("metric: %v", n)
	}
	if n := c.metric("caddy_load_balancer_mirror_duration_seconds_count", `pool="p"`); n != idempotent {
		t.Errorf("durations: %v", n)
	}
	if got := c.metrics(`caddy_load_balancer_attempts_total\{backend="([^"]*)",outcome="success"`); len(got) != 2 {
		t.Errorf("attempts: %v", got)
	}
}

// TestMirrorHarmsNobody: whatever mirrors do, requests on one connection are answered as if they were not there, and nothing is left of them.
// A client that waited for a mirror once would wait longer than all of its requests may take.
func TestMirrorHarmsNobody(t *testing.T) {
	t.Parallel()
	const n, timeout = 100, 10 * time.Second
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, test := range map[string]struct {
		start   func(t *testing.T) string
		options string
		want    string // of the first n requests, which come faster than any timeout
		later   string // "" if that is all
	}{
		"hangs": {serves(hangs), "timeout 10s\nmax_requests 10", "", "success 0, server_error 0, failure 0, timeout 10, dropped 90"},
		"hangs in its answer": {serves(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}), "timeout 10s\nmax_requests 10", "", "success 0, server_error 0, failure 0, timeout 10, dropped 90"},
		"does not accept": {stopped, "timeout 10s\nmax_requests 10", "", "success 0, server_error 0, failure 0, timeout 10, dropped 90"},
		"sends 10 MB": {serves(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 10<<20))
		}), "max_requests 1000", "success 100, server_error 0, failure 0, timeout 0, dropped 0", ""},
		"fails": {serves(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }), "max_requests 1000",
			"success 0, server_error 100, failure 0, timeout 0, dropped 0", ""},
		"is dead":     {freeAddress, "", "failures", ""},
		"resets":      {raw("", true), "", "failures", ""},
		"sends trash": {raw("SSH-2.0-OpenSSH_9.2p1\r\n", false), "", "failures", ""},
		"breaks off":  {raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", true), "", "failures", ""},
		"switches":    {raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false), "", "failures", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			c := startCaddy(t, "load_balancer "+b.addr+" {\n name p\n mirror "+test.start(t)+" 100% {\n"+test.options+"\n}\n}")
			k := c.kept()
			k.send(postOf("/", ""))
			k.expect(http.StatusOK, b.addr)
			goroutines, descriptors := c.leftovers()
			began := time.Now()
			for range n {
				k.send(getOf("/"))
				k.expect(http.StatusOK, b.addr)
			}
			if took := time.Since(began); took >= timeout {
				t.Errorf("%d requests took %v", n, took)
			}
			got := c.mirroredInAll(n)
			switch want := test.want + test.later; {
			case want == "failures":
				// How many are sent before the gate closes is a matter of chance.
				if m := c.mirrored(); m.Failure < 5 || m.Failure+m.Dropped != n {
					t.Errorf("%s; want failures", got)
				}
				if log := c.log.String(); strings.Count(log, "mirror does not answer") != 1 || strings.Contains(log, "mirror answers again") {
					t.Error("the log does not tell of it once")
				}
			case got != want:
				t.Errorf("%s; want %s", got, want)
			}
			if got := c.poolNamed("p"); got.State != "ok" || b.requests.Load() != n+1 {
				t.Errorf("%+v, %d requests", got, b.requests.Load())
			}
			waitFor(t, "goroutines and descriptors to be as before", func() bool {
				g, d := c.leftovers()
				return g <= goroutines+5 && d <= descriptors+5
			})
		})
	}
}

// serves is a mirror that does that.
func serves(f http.HandlerFunc) func(t *testing.T) string {
	return func(t *testing.T) string {
		b := startBackend(t)
		b.handle(f)
		return b.addr
	}
}

// stopped is a mirror whose process is stopped: connections are made, and nobody reads from them.
func stopped(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// raw is a mirror that answers with that text, and closes or resets the connection.
func raw(text string, resets bool) func(t *testing.T) string {
	return func(t *testing.T) string {
		return startRaw(t, func(conn *net.TCPConn) {
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, text)
			if resets {
				_ = conn.SetLinger(0)
			}
		})
	}
}

// TestMirrorReload: a reload ends the copies in flight at once, however long they may take, and counts go on.
func TestMirrorReload(t *testing.T) {
	t.Parallel()
	b, slow, quick := startBackend(t), startBackend(t), startBackend(t)
	slow.handle(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	config := func(mirror string) string {
		return siteConfig("load_balancer " + b.addr + " {\n name p\n mirror " + mirror + " 100% {\n timeout 1m\n }\n}")
	}
	c := startCaddyConfig(t, config(slow.addr))
	goroutines, _ := c.leftovers()
	for range 20 {
		if status, _, body := c.get("/"); status != http.StatusOK || body != b.addr {
			t.Fatalf("%d %q", status, body)
		}
	}
	waitFor(t, "copies to be in flight", func() bool { return slow.inFlight.Load() == 20 && c.mirrored().InFlight == 20 })
	began := time.Now()
	if err := c.reload(config(quick.addr)); err != nil {
		t.Fatal(err)
	}
	if got, want := c.mirroredInAll(20), "success 0, server_error 0, failure 0, timeout 0, dropped 20"; got != want || time.Since(began) > 30*time.Second {
		t.Errorf("%s after %v; want %s", got, time.Since(began), want)
	}
	waitFor(t, "the mirror to be left", func() bool { return slow.inFlight.Load() == 0 })
	for range 20 {
		if status, _, body := c.get("/"); status != http.StatusOK || body != b.addr {
			t.Fatalf("%d %q", status, body)
		}
	}
	if got, want := c.mirroredInAll(40), "success 20, server_error 0, failure 0, timeout 0, dropped 20"; got != want || quick.requests.Load() != 20 {
		t.Errorf("%s; want %s", got, want)
	}
	waitFor(t, "goroutines to be as before", func() bool { g, _ := c.leftovers(); return g <= goroutines+5 })
}

// TestMirrorOutlivesClient: a copy goes on when its client has left.
func TestMirrorOutlivesClient(t *testing.T) {
	t.Parallel()
	b, m := startBackend(t), startBackend(t)
	left := make(chan struct{})
	b.handle(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(left)
	})
	var ended atomic.Bool
	m.handle(func(w http.ResponseWriter, r *http.Request) {
		<-left // and Caddy has left the backend for that
		takes(r.Context(), time.Second)
		ended.Store(r.Context().Err() == nil)
		fmt.Fprint(w, "whole")
	})
	c := startCaddy(t, "load_balancer "+b.addr+" {\n name p\n mirror "+m.addr+" 100% {\n timeout 1m\n }\n}")
	k := c.kept()
	k.send(getOf("/"))
	waitFor(t, "the request and its copy", func() bool { return b.inFlight.Load() == 1 && m.inFlight.Load() == 1 })
	k.Close()
	if got, want := c.mirroredInAll(1), "success 1, server_error 0, failure 0, timeout 0, dropped 0"; got != want || !ended.Load() {
		t.Errorf("%s, whole: %v; want %s", got, ended.Load(), want)
	}
}

// TestMirrorShare: of many requests the share is copied, and the rest costs the mirror nothing.
func TestMirrorShare(t *testing.T) {
	t.Parallel()
	b, m := startBackend(t), startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n name p\n mirror "+m.addr+" 5% {\n max_requests 1000\n }\n}")
	const n = 2000
	k := c.kept()
	for range n {
		k.send(getOf("/"))
		k.expect(http.StatusOK, b.addr)
	}
	if _, left := c.laneServed(); *express && left["mirror"] == 0 {
		t.Errorf("the express lane does not say why: %v", left)
	}
	waitFor(t, "copies to end", func() bool { return c.mirrored().InFlight == 0 })
	if got := m.requests.Load(); got < n/20-6 || got > n/20+6 || c.mirrored().Success != int(got) {
		t.Errorf("%d copies of %d requests; %s", got, n, func() string { m := c.mirrored(); return m.outcomes() }())
	}
}

// TestMirrorTLS: copies go over the backends' transport, with TLS and the protocol that the mirror chooses, and count as no attempts.
func TestMirrorTLS(t *testing.T) {
	t.Parallel()
	const n = 20
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			b, m := startTLSBackend(t, 0), startTLSBackend(t, 0)
			m.http2.Store(http2)
			c := startCaddy(t, "load_balancer "+b.URL+" {\n name p\n mirror "+m.URL+" 100%\n transport http {\n tls_trust_pool file "+certificateFile(t, b.Server)+"\n }\n}")
			for range n {
				if status, _, body := c.get("/"); status != http.StatusOK || !strings.Contains(body, "HTTP/1.1") {
					t.Fatalf("%d %s", status, body)
				}
			}
			if got, want := c.mirroredInAll(n), fmt.Sprintf("success %d, server_error 0, failure 0, timeout 0, dropped 0", n); got != want {
				t.Errorf("%s; want %s\n%s", got, want, c.log)
			}
			if got := m.seen[map[bool]int{false: 1, true: 2}[http2]].Load(); got != n {
				t.Errorf("%d copies", got)
			}
			if s := c.transport("p"); s.Engine != n || len(s.Others) != 0 {
				t.Errorf("attempts: %+v", s)
			}
		})
	}
}
