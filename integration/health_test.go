package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// probed is a backend whose health page is told apart from its site.
type probed struct {
	*backend
	sick   atomic.Bool
	slow   atomic.Int64 // nanoseconds that the health page takes
	served atomic.Int64 // requests for anything else

	mu     sync.Mutex
	probes []time.Time
	last   http.Header // of the last probe
	body   string
}

func startProbed(t *testing.T) *probed {
	t.Helper()
	p := &probed{backend: startBackend(t)}
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			p.served.Add(1)
			fmt.Fprint(w, p.addr)
			return
		}
		body := new(strings.Builder)
		_ = r.Write(body)
		p.mu.Lock()
		p.probes = append(p.probes, time.Now())
		p.last, p.body = r.Header.Clone(), r.Method+" "+r.Host+" "+body.String()
		p.mu.Unlock()
		select {
		case <-time.After(time.Duration(p.slow.Load())):
		case <-r.Context().Done():
			return
		}
		if p.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, "status: fine")
	})
	return p
}

func (p *probed) probeTimes() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.probes)
}

// quickCheck checks often, but has more time for a probe than a busy machine takes for it.
const quickCheck = "health_check {\n http /healthz\n interval 200ms\n fast_interval 50ms\n timeout 10s\n rise 2\n fall 3\n}\n"

// A backend that fails its first check never gets a request, and no request is lost while the first checks are made.
func TestFirstCheckDecides(t *testing.T) {
	good, bad := startProbed(t), startProbed(t)
	bad.sick.Store(true)
	good.slow.Store(int64(50 * time.Millisecond))
	c := startCaddy(t, "load_balancer "+bad.addr+" "+good.addr+" {\n lb_policy round_robin\n"+quickCheck+"}")
	for range 50 {
		start := time.Now()
		status, _, body := c.get("/")
		if status == http.StatusServiceUnavailable && time.Since(start) >= time.Second {
			continue // it has waited as long as it may, for a probe on a machine that is that slow
		}
		if status != http.StatusOK || body != good.addr {
			t.Fatalf("status %d from %s, want 200 from %s", status, body, good.addr)
		}
	}
	if n := bad.served.Load(); n != 0 {
		t.Errorf("the backend that failed its first check got %d requests", n)
	}
	c.waitLogged("backend is down", bad.addr, "active check", "status 503 is not expected")
	bad.sick.Store(false)
	waitFor(t, "the other to be used", func() bool { c.get("/"); return bad.served.Load() > 0 })
	c.waitLogged("backend is up", bad.addr)
}

// While nobody has been checked, requests wait for a second at most.
func TestHeldRequests(t *testing.T) {
	t.Parallel()
	b := startProbed(t)
	b.slow.Store(int64(time.Minute))
	c := startCaddy(t, "load_balancer "+b.addr+" {\n health_check {\n http /healthz\n timeout 1m\n interval 2m\n }\n}")
	start := time.Now()
	status, header, _ := c.get("/")
	if took := time.Since(start); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || took < time.Second || took > 20*time.Second {
		t.Errorf("status %d after %v, want 503 after a second at most", status, took)
	}
	if b.served.Load() != 0 {
		t.Error("a backend that was never checked got a request")
	}
}

// Alternating results never take a backend out; a failing one is out in time.
func TestRiseAndFall(t *testing.T) {
	t.Parallel()
	steady, other := startProbed(t), startProbed(t)
	var odd atomic.Int64
	flaky := startBackend(t)
	flaky.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && odd.Add(1)%2 == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	c := startCaddy(t, "load_balancer "+steady.addr+" "+other.addr+" "+flaky.addr+" {\n"+quickCheck+"}")
	waitFor(t, "40 checks", func() bool { return odd.Load() > 40 })
	if n := c.logged("backend is down"); n != 0 {
		t.Errorf("%d backends went down", n)
	}
	before, start := len(other.probeTimes()), time.Now()
	other.sick.Store(true)
	c.waitLogged("backend is down", other.addr)
	// Three that fail, of which one may have been on its way before; and those since, till this test has read of it.
	if n, most := len(other.probeTimes())-before, 4+int(time.Since(start)/(180*time.Millisecond)); n < 2 || n > most {
		t.Errorf("out after %d probes, want 3", n)
	}
	served := other.served.Load()
	for range 30 {
		c.get("/")
	}
	if other.served.Load() != served {
		t.Error("a backend that is down got requests")
	}
	if n := c.logged("backend is down"); n != 1 {
		t.Errorf("%d log lines of backends that are down, want 1", n)
	}
}

// A health page that is slower than its timeout does not take a site down whose requests succeed.
func TestSlowHealthPageOfOnlyBackend(t *testing.T) {
	t.Parallel()
	b := startProbed(t)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n"+strings.Replace(quickCheck, "timeout 10s", "timeout 1s", 1)+"}\nload_balancer_ready /ready")
	waitFor(t, "it to be ready, when it has been checked", func() bool {
		status, _, body := c.get("/ready")
		return status == http.StatusOK && strings.Contains(body, `"ready":true`)
	})
	b.slow.Store(int64(time.Minute))
	c.waitLogged("backend is down", b.addr, "deadline exceeded")
	c.waitLogged("too few backends are usable")
	for range 10 {
		if status, _, _ := c.get("/"); status != http.StatusOK {
			t.Fatalf("status %d from a backend that works", status)
		}
	}
	status, _, body := c.get("/ready")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "no usable backend") || strings.Contains(body, "127.0.0.1") {
		t.Errorf("ready: %d %s, want 503 without addresses", status, body)
	}
	// Once it is dead, it is not tried any more.
	b.kill()
	waitFor(t, "a quick 503", func() bool {
		status, header, _ := c.get("/")
		return status == http.StatusServiceUnavailable && header.Get("Retry-After") != ""
	})
}

func TestReadyNames(t *testing.T) {
	up, down := startProbed(t), startProbed(t)
	down.sick.Store(true)
	c := startCaddy(t, "handle /a {\n load_balancer "+up.addr+" {\n name one\n"+quickCheck+"}\n}\nhandle /b {\n load_balancer "+down.addr+
		" {\n name two\n"+quickCheck+"}\n}\nload_balancer_ready /ready\nload_balancer_ready /ready/one one\nload_balancer_ready /ready/two one two")
	c.waitLogged("backend is down", down.addr)
	waitFor(t, "the pool one to be ready", func() bool { status, _, _ := c.get("/ready/one"); return status == http.StatusOK })
	for _, path := range []string{"/ready", "/ready/two"} {
		if status, _, body := c.get(path); status != http.StatusServiceUnavailable || body != `{"ready":false,"reason":"no usable backend","pools":["two"]}`+"\n" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if err := c.reload(siteConfig("load_balancer " + up.addr + "\nload_balancer_ready /ready nobody")); err == nil || !strings.Contains(err.Error(), "there is no pool named nobody") {
		t.Errorf("a name that no pool has: %v", err)
	}
	if status, _, _ := c.get("/ready/one"); status != http.StatusOK {
		t.Errorf("status %d after a rejected reload", status)
	}
}

// The ways to check, each against a server that passes and one that does not.
func TestProbers(t *testing.T) {
	good, sick := startProbed(t), startProbed(t)
	sick.sick.Store(true)
	redirecting := startBackend(t)
	redirecting.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}
	})
	silent := startSilent(t)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(secure.Close)
	ca := certificateFile(t, secure)
	rpc := startGRPCHealth(t, map[string]grpc_health_v1.HealthCheckResponse_ServingStatus{
		"": grpc_health_v1.HealthCheckResponse_SERVING, "shop": grpc_health_v1.HealthCheckResponse_NOT_SERVING,
	})
	socket := filepath.Join(t.TempDir(), "app.sock")
	startBackendAt(t, "unix", socket)
	nobody := freeAddress(t)
	tlsTransport := "transport http {\n tls_trust_pool file " + ca + "\n tls_server_name example.com\n}\n"

	for name, test := range map[string]struct {
		address, settings, check string
		down                     string // the error, "" for a backend that is up
	}{
		"http":                  {good.addr, "", "http /healthz", ""},
		"http, sick":            {sick.addr, "", "http /healthz", "status 503 is not expected"},
		"http, expected 5xx":    {sick.addr, "", "http /healthz 2xx 5xx", ""},
		"http, body":            {good.addr, "", "http /healthz\nexpect_body \"^status: (fine|ok)$\"", ""},
		"http, other body":      {good.addr, "", "http /healthz\nexpect_body ^ok", "body does not match"},
		"http, body cut":        {good.addr, "", "http /healthz\nexpect_body fine\nmax_size 8B", "body does not match"},
		"http, redirect":        {redirecting.addr, "", "http /healthz", "status 302 is not expected"},
		"http, followed":        {redirecting.addr, "", "http /healthz\nfollow_redirects", ""},
		"http, silent":          {silent, "", "http /healthz", "deadline exceeded"},
		"http, refused":         {nobody, "", "http /healthz", "refused"},
		"http, unix":            {"unix/" + socket, "", "http /healthz", ""},
		"http, unix, port":      {"unix/" + socket, "", "http /healthz\nport 1", ""},
		"tcp, unix, port":       {"unix/" + socket, "", "tcp\nport 1", ""},
		"http, h2c":             {"h2c://" + good.addr, "", "http /healthz", ""},
		"http, other port":      {nobody, "", "http /healthz\nport " + port(t, good.addr), ""},
		"http, other host":      {nobody, "", "http /healthz\nupstream " + good.addr, ""},
		"https":                 {secure.Listener.Addr().String(), tlsTransport, "http /", ""},
		"https, not trusted":    {"https://" + secure.Listener.Addr().String(), "", "http /", "certificate"},
		"https, own transport":  {secure.Listener.Addr().String(), "", "http /\n" + tlsTransport, ""},
		"tcp":                   {silent, "", "tcp", ""},
		"tcp, refused":          {nobody, "", "tcp", "refused"},
		"tls":                   {secure.Listener.Addr().String(), tlsTransport, "tls", ""},
		"tls, not trusted":      {secure.Listener.Addr().String(), "", "tls", "certificate"},
		"tls, silent":           {silent, tlsTransport, "tls", "deadline exceeded"},
		"grpc":                  {"h2c://" + rpc, "", "grpc", ""},
		"grpc, not serving":     {"h2c://" + rpc, "", "grpc shop", "service is NOT_SERVING"},
		"grpc, unknown service": {"h2c://" + rpc, "", "grpc nobody", "service is not known"},
		"grpc, not a server":    {"h2c://" + good.addr, "", "grpc", "it has no grpc-status"},
		"grpc, own transport":   {silent, "", "grpc\nupstream " + rpc + "\ntransport http {\nversions h2c\n}", ""},
		"stock words":           {good.addr, "health_uri /healthz\nhealth_interval 100ms\nhealth_timeout 10s\nhealth_status 2xx\nhealth_body fine", "", ""},
		"stock words, sick":     {sick.addr, "health_uri /healthz\nhealth_interval 100ms\nhealth_timeout 10s", "", "status 503 is not expected"},
		"stock words, port":     {nobody, "health_port " + port(t, good.addr) + "\nhealth_interval 100ms\nhealth_timeout 10s", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := "load_balancer " + test.address + " {\n" + test.settings + "\n"
			if test.check != "" {
				// A busy machine is not to be taken for one that does not answer.
				timeout := "10s"
				if strings.Contains(test.down, "deadline") {
					timeout = "200ms"
				}
				site += "health_check {\n" + test.check + "\ninterval 300ms\ntimeout " + timeout + "\n}\n"
			}
			c := startCaddy(t, site+"}\nload_balancer_ready /ready")
			if test.down != "" {
				c.waitLogged("backend is down", test.down)
				return
			}
			waitFor(t, "the backend to be usable", func() bool { status, _, _ := c.get("/ready"); return status == http.StatusOK })
			if c.logged("backend is down") > 0 {
				t.Error("it was down")
			}
		})
	}
}

func TestProbeRequest(t *testing.T) {
	b := startProbed(t)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n health_check {\n http /healthz\n method POST\n body \"{\\\"are\\\": \\\"you\\\"}\"\n"+
		"header Host probe.example\n header X-Target {http.reverse_proxy.active.target_upstream}\n header X-Two a\n header X-Two b\n }\n}")
	waitFor(t, "a probe", func() bool { return len(b.probeTimes()) > 0 })
	c.get("/")
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.HasPrefix(b.body, "POST probe.example ") || !strings.HasSuffix(b.body, `{"are": "you"}`) {
		t.Errorf("the probe was %q", b.body)
	}
	if got := b.last.Get("X-Target"); got != b.addr {
		t.Errorf("X-Target = %q, want %q", got, b.addr)
	}
	if got := b.last.Values("X-Two"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("X-Two = %q", got)
	}
}

// A backend that is down stays so over reloads, also when the settings change, and 20 reloads make no more probes
// than time does.
func TestReloadsKeepHealth(t *testing.T) {
	t.Parallel()
	up, down := startProbed(t), startProbed(t)
	down.sick.Store(true)
	config := func(interval string) string {
		return siteConfig("load_balancer " + down.addr + " " + up.addr + " {\n lb_policy round_robin\n health_check {\n http /healthz\n interval " + interval + "\n timeout 10s\n }\n}")
	}
	c := startCaddyConfig(t, config("1s"))
	c.waitLogged("backend is down", down.addr)
	waitFor(t, "the other to be used", func() bool { c.get("/"); return up.served.Load() > 0 })
	before := len(up.probeTimes())
	start := time.Now()
	for i := range 20 {
		interval := "1s"
		if i%2 == 1 {
			interval = "1100ms"
		}
		if i < 10 {
			interval = "1s"
		}
		if err := c.reload(config(interval)); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			c.get("/")
		}
		time.Sleep(100 * time.Millisecond)
	}
	took := time.Since(start)
	// Ten of the reloads change the check, so that each has a turn of its own.
	if n := len(up.probeTimes()) - before; float64(n) > 2*took.Seconds()+12 {
		t.Errorf("%d probes of one backend in %v of reloads", n, took)
	}
	if n := down.served.Load(); n != 0 {
		t.Errorf("the backend that is down got %d requests", n)
	}
	if n := c.logged("backend is down"); n != 1 {
		t.Errorf("%d log lines of backends that are down, want 1", n)
	}
}

// Two handlers and a reload share the checks of a backend.
func TestSharedChecks(t *testing.T) {
	t.Parallel()
	b := startProbed(t)
	site := "handle /a {\n load_balancer " + b.addr + " {\n name a\n health_check {\n http /healthz\n interval 300ms\n }\n }\n}\n" +
		"handle /b {\n load_balancer " + b.addr + " {\n name b\n health_check {\n http /healthz\n interval 300ms\n }\n }\n}"
	start := time.Now()
	startCaddy(t, site)
	waitFor(t, "some probes", func() bool { return len(b.probeTimes()) >= 20 })
	took, n := time.Since(start), len(b.probeTimes())
	// There is one at the beginning, and the turns of two are a tenth less than the interval apart at least.
	if most := 2 + int(took/(270*time.Millisecond)); n > most {
		t.Errorf("%d probes in %v, want one in 300 ms", n, took)
	}
}

// A name server's backends are checked like others.
func TestDynamicBackendsAreChecked(t *testing.T) {
	t.Parallel()
	names := startNameServer(t)
	hosts := []string{"127.0.1.11", "127.0.1.12"}
	backends, port := startOnOnePort(t, hosts...)
	backends[1].handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "sick")
	})
	names.set(false, hosts, nil)
	c := startCaddy(t, `load_balancer {
		dynamic a app.example.test `+port+` {
			refresh 100ms
			resolvers `+names.addr+`
			versions ipv4
		}
		lb_policy round_robin
		`+quickCheck+`
	}`)
	c.waitLogged("backend is down", backends[1].addr)
	if got := c.answers(20); got != backends[0].addr {
		t.Errorf("answers from %s, want %s only", got, backends[0].addr)
	}
	// It leaves and comes back: it is known to be down.
	names.set(false, hosts[:1], nil)
	time.Sleep(2500 * time.Millisecond) // two turns of the poller
	names.set(false, hosts, nil)
	for range 30 {
		if got := c.answers(2); strings.Contains(got, "sick") {
			t.Fatal("a backend that came back within a minute was taken for new")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// startSilent starts a server that accepts connections and never answers.
func startSilent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range open {
			conn.Close()
		}
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
		}
	}()
	return l.Addr().String()
}

func startGRPCHealth(t *testing.T, services map[string]grpc_health_v1.HealthCheckResponse_ServingStatus) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	checks := health.NewServer()
	for service, status := range services {
		checks.SetServingStatus(service, status)
	}
	grpc_health_v1.RegisterHealthServer(server, checks)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// TestSocketIsChecked: a backend at a socket is checked there, with a port for checks or without one; it is the only one, and serves.
func TestSocketIsChecked(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"health_port " + port(t, freeAddress(t)), ""} {
		var checks [2]atomic.Int64
		site := ""
		directives := []string{"load_balancer", "reverse_proxy"}
		for i, directive := range directives {
			socket := filepath.Join(t.TempDir(), "app.sock")
			b := startBackendAt(t, "unix", socket)
			b.handle(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/health" {
					checks[i].Add(1)
				}
				fmt.Fprint(w, "Hello")
			})
			site += "handle /" + directive + " {\n " + directive + " unix/" + socket + " {\n health_uri /health\n health_interval 50ms\n health_timeout 5s\n " + words + "\n}\n}\n"
		}
		c := startCaddy(t, site)
		waitFor(t, "three checks at the socket", func() bool {
			if status, _, body := c.get("/load_balancer"); status != http.StatusOK || body != "Hello" {
				t.Fatalf("%s: status %d, %q", words, status, body)
			}
			return checks[0].Load() >= 3
		})
		for i, directive := range directives {
			status, _, _ := c.get("/" + directive)
			t.Logf("%s, %q: status %d, %d checks at the socket", directive, words, status, checks[i].Load())
		}
	}
}

// Probes reuse their connection, and one that the backend has closed meanwhile says nothing about the backend.
func TestProbeConnections(t *testing.T) {
	t.Parallel()
	var opened, probes, closed atomic.Int64
	var closing atomic.Bool
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "ping" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		probes.Add(1)
		fmt.Fprint(w, strings.Repeat("x", 10_000))
	}))
	server.Config.ConnState = func(conn net.Conn, s http.ConnState) {
		switch {
		case s == http.StateNew:
			opened.Add(1)
		case s == http.StateIdle && closing.Load(): // the answer is out: no probe is cut off
			conn.Close()
			closed.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	check := "health_check {\n http /\n method POST\n body ping\n interval 50ms\n timeout 10s\n fall 1\n }\n"
	c := startCaddy(t, "load_balancer "+server.Listener.Addr().String()+" {\n"+check+"}")
	waitFor(t, "20 probes", func() bool { return probes.Load() >= 20 })
	if n := opened.Load(); n > 3 {
		t.Errorf("%d connections for %d probes", n, probes.Load())
	}
	closing.Store(true)
	waitFor(t, "10 closed connections", func() bool { return closed.Load() >= 10 })
	if c.logged("backend is down") > 0 {
		t.Error("a connection that was closed between two probes took the backend down")
	}
}

// Sixty addresses from a name server, of which two are there: the others are found dead, and nothing is lost then.
func TestManyDynamicBackends(t *testing.T) {
	names := startNameServer(t)
	hosts := make([]string, 60)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("127.0.2.%d", i+1)
	}
	backends, port := startOnOnePort(t, hosts[:2]...)
	names.set(false, hosts, nil)
	c := startCaddy(t, `load_balancer {
		dynamic a app.example.test `+port+` {
			refresh 1s
			resolvers `+names.addr+`
			versions ipv4
		}
		health_check {
			tcp
			interval 300ms
			timeout 10s
		}
	}`)
	waitFor(t, "58 dead backends to be found", func() bool { return c.logged("backend is down", "refused") == 58 })
	want := []string{backends[0].addr, backends[1].addr}
	slices.Sort(want)
	waitFor(t, "both to be used", func() bool { return c.answers(50) == strings.Join(want, " ") })
	if got := c.answers(50); got != strings.Join(want, " ") {
		t.Errorf("answers from %s, want %s", got, strings.Join(want, " "))
	}
}

// A backend that comes and goes every 400 ms costs no request that is retried, and what is reported stays true.
func TestFlapping(t *testing.T) {
	t.Parallel()
	steady, flapping := startProbed(t), startProbed(t)
	c := startCaddy(t, "load_balancer "+steady.addr+" "+flapping.addr+" {\n lb_policy round_robin\n"+quickCheck+"}")
	for i := range 8 {
		sick := i%2 == 0
		flapping.sick.Store(sick)
		change := "backend is up"
		if sick {
			change = "backend is down"
		}
		waitFor(t, change, func() bool { return c.logged(change, flapping.addr) == i/2+1 })
		before := flapping.served.Load()
		for range 40 {
			if status, _, _ := c.get("/"); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
		}
		if got := flapping.served.Load() - before; sick && got > 0 || !sick && got == 0 {
			t.Errorf("turn %d: it got %d of 40 requests", i, got)
		}
	}
}

// With reverse_proxy's passive checks, too, a pool is never without anybody who can be reached.
func TestPassivePanic(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	}
	c := startCaddy(t, "load_balancer "+addresses+" {\n fail_duration 1m\n unhealthy_status 5xx\n}")
	for range 20 {
		if status, _, _ := c.get("/"); status != http.StatusInternalServerError {
			t.Fatalf("status %d, want the backends' own 500", status)
		}
	}
	c.waitLogged("too few backends are usable")
	waitFor(t, "two log lines of backends that are down", func() bool { return c.logged("backend is down", "passive check") == 2 })
}

// With a share of failed requests instead of a number, a few failures among many successes do no harm.
func TestPassiveRatio(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	var n atomic.Int64
	var each atomic.Int64
	each.Store(10)
	backends[0].handle(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1)%each.Load() == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy round_robin\n fail_duration 1m\n max_fails 50%\n unhealthy_status 5xx\n}")
	for range 100 {
		c.get("/")
	}
	if c.logged("backend is down") != 0 {
		t.Error("a tenth of failures took the backend down")
	}
	each.Store(1)
	waitFor(t, "the backend to be taken out", func() bool { c.get("/"); return c.logged("backend is down", backends[0].addr) == 1 })
}

// A status that the user calls unhealthy is, also where it tells of overload.
func TestPassiveOverload(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	backends[0].handle(answers(http.StatusTooManyRequests))
	c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy round_robin\n fail_duration 1m\n unhealthy_status 429\n}")
	waitFor(t, "the backend to be taken out", func() bool { c.get("/"); return c.logged("backend is down", backends[0].addr) == 1 })
}
