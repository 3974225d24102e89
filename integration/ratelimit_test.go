package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// limited is a site with limits in front of a short answer.
func limited(t *testing.T, limits string) *caddy {
	t.Helper()
	return startCaddyConfig(t, limitedConfig("", limits))
}

// behindProxy is the same behind a proxy that the tests play: the client's address is what X-Forwarded-For says.
func behindProxy(t *testing.T, limits string) *caddy {
	t.Helper()
	return startCaddyConfig(t, limitedConfig("trusted_proxies static 127.0.0.0/8\ntrusted_proxies_strict", limits))
}

func limitedConfig(server, limits string) string {
	return "{\nadmin ADMIN_ADDRESS\npersist_config off\nmetrics\nservers {\nprotocols h1 h2c\n" + server + "\n}\n}\nhttp://SITE_ADDRESS {\n" + limits + "\nrespond ok\n}\n"
}

// admitted asks n times, with the header fields that header returns, and counts the answers that are no refusals.
func (c *caddy) admitted(n int, header func(i int) []string) int {
	c.t.Helper()
	passed := 0
	for i := range n {
		switch status, _ := c.as(header(i)...); status {
		case http.StatusOK:
			passed++
		case http.StatusTooManyRequests:
		default:
			c.t.Fatalf("status %d", status)
		}
	}
	return passed
}

func same(header ...string) func(int) []string { return func(int) []string { return header } }

func TestRateLimit(t *testing.T) {
	c := limited(t, `ip_rate_limit {
		zone api
		rate 2/m
		burst 3
		exempt 127.0.0.9
	}
	handle_errors {
		header X-Zone {http.ip_rate_limit.zone}
		respond "{err.status_code} {err.message} {http.ip_rate_limit.retry_after}"
	}`)
	start := time.Now()
	if got := c.admitted(5, same()); got != 3 {
		t.Errorf("%d of 5 admitted, want 3", got)
	}
	status, header, body := c.get("/")
	left := secondsLeft(t, header, 30, start)
	if status != http.StatusTooManyRequests || body != "429 rate limit exceeded "+left {
		t.Errorf("refused with %d, %q", status, body)
	}
	for field, want := range map[string]string{
		"RateLimit": `"api";r=0;t=` + left, "RateLimit-Policy": `"api";q=3;w=90`, "X-Zone": "api",
	} {
		if got := header.Get(field); got != want {
			t.Errorf("%s: got %s, want %s", field, got, want)
		}
	}
	// Other clients have buckets of their own, and some have no limit.
	for from, want := range map[string]int{"127.0.0.2": 3, "127.0.0.9": 10} {
		if got := admittedFrom(t, c, from, 10); got != want {
			t.Errorf("%d of 10 from %s admitted, want %d", got, from, want)
		}
	}
	for what, want := range map[string]float64{"allowed": 6, "refused": 10, "exempt": 10, "dry_run": 0} {
		if got := c.limitMetric("decisions_total", `decision="`+what+`",zone="api"`); got != want {
			t.Errorf("%v %s in the metrics, want %v", got, what, want)
		}
	}
	if got := c.limitMetric("keys", `zone="api"`); got != 2 {
		t.Errorf("%v keys, want 2", got)
	}
}

// secondsLeft is the Retry-After of a refusal that is over so many seconds after start at the latest: less what has passed.
func secondsLeft(t *testing.T, header http.Header, seconds int, start time.Time) string {
	t.Helper()
	text := header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err != nil || n > seconds || float64(n) < float64(seconds)-time.Since(start).Seconds() {
		t.Errorf("Retry-After: got %q after %v, want what is left of %d", text, time.Since(start), seconds)
	}
	return text
}

// clientFrom is a client with that address.
func clientFrom(t *testing.T, address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func admittedFrom(t *testing.T, c *caddy, address string, n int) int {
	t.Helper()
	from := clientFrom(t, address)
	passed := 0
	for range n {
		res, err := from.Get(c.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			passed++
		}
	}
	return passed
}

func TestRetryAfterIsTrue(t *testing.T) {
	t.Parallel()
	c := limited(t, "ip_rate_limit {\n rate 1/s\n burst 2\n}")
	status, header := http.StatusOK, http.Header(nil)
	waitFor(t, "a refusal", func() bool {
		status, header = c.as()
		return status != http.StatusOK
	})
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "1" {
		t.Fatalf("status %d, Retry-After %q", status, header.Get("Retry-After"))
	}
	<-time.After(time.Second) // as it was told
	if status, _ := c.as(); status != http.StatusOK {
		t.Errorf("status %d after the second that was told", status)
	}
}

// Clients write what they like into these fields; nobody is taken for another for it.
func TestForgedAddresses(t *testing.T) {
	forged := func(i int) []string {
		a := fmt.Sprintf("203.0.113.%d", i)
		return []string{"X-Forwarded-For", a, "X-Real-IP", a, "Forwarded", "for=" + a, "X_Forwarded_For", a, "X-Client-IP", a, "True-Client-IP", a}
	}
	const limit = "ip_rate_limit {\n rate 1/h\n burst 5\n}"
	c := limited(t, limit)
	if got := c.admitted(50, forged); got != 5 {
		t.Errorf("%d of 50 admitted, want 5", got)
	}

	// Behind a proxy that adds the client's address at the end, as proxies do.
	c = behindProxy(t, limit)
	behind := func(i int) []string {
		h := forged(i)
		h[1] += ", 198.51.100.7"
		return h
	}
	if got := c.admitted(50, behind); got != 5 {
		t.Errorf("%d of 50 admitted behind a proxy, want 5", got)
	}
	if c.logged("trusted_proxies_strict") > 0 {
		t.Error("warned of a server that is strict")
	}

	// Without trusted_proxies_strict the first address counts, which is a forged one. There is a warning.
	c = startCaddyConfig(t, limitedConfig("trusted_proxies static 127.0.0.0/8", limit))
	c.waitLogged("trusted_proxies without trusted_proxies_strict", `"zone":"zone-1"`)
}

// A rate per minute without a burst lets one request at a time pass, which surprises people: there is a warning.
func TestRateWithoutBurst(t *testing.T) {
	c := startCaddyConfig(t, limitedConfig("", "ip_rate_limit 100/m"))
	c.waitLogged("rate without a burst", `"rate":"100/m"`)
	if got := c.admitted(5, func(int) []string { return nil }); got != 1 {
		t.Errorf("%d of 5 admitted, want 1", got)
	}
	c = startCaddyConfig(t, limitedConfig("", "ip_rate_limit 100/m {\nburst 3\n}"))
	if got := c.admitted(5, func(int) []string { return nil }); got != 3 || c.logged("rate without a burst") > 0 {
		t.Errorf("with a burst of 3 %d of 5 admitted, want 3; warned %d times", got, c.logged("rate without a burst"))
	}
}

// An address can be written in several ways, and is one client.
func TestAddressForms(t *testing.T) {
	c := behindProxy(t, "ip_rate_limit {\n rate 1/h\n burst 5\n}")
	forms := [][]string{
		{"198.51.100.7", "::ffff:198.51.100.7", "::ffff:c633:6407", "0:0:0:0:0:FFFF:C633:6407"},
		{"2001:db8::1", "2001:DB8::1", "2001:db8:0:0:0:0:0:1", "2001:0db8::0001", "2001:db8::ffff"},
		{"fe80::1", "fe80::1%eth0", "fe80::1%other"},
	}
	for _, f := range forms {
		if got := c.admitted(20, func(i int) []string { return []string{"X-Forwarded-For", f[i%len(f)]} }); got != 5 {
			t.Errorf("%v: %d of 20 admitted, want 5", f, got)
		}
	}
}

// Who has a /64, a /56 or a /48 has many addresses.
func TestIPv6Rotation(t *testing.T) {
	c := behindProxy(t, "ip_rate_limit {\n zone tiers\n rate 1/h\n burst 5\n}")
	rotate := func(format string, n int) int {
		return c.admitted(n, func(i int) []string { return []string{"X-Forwarded-For", fmt.Sprintf(format, i)} })
	}
	for _, tt := range []struct {
		format string
		want   int
	}{
		{"2001:db8:1:1::%x", 5},      // within a /64
		{"2001:db8:2:%02x::1", 20},   // within a /56
		{"2001:db8:3:%02x00::1", 80}, // within a /48
		{"2001:db8:4%02x::1", 120},   // different sites
	} {
		if got := rotate(tt.format, 120); got != tt.want {
			t.Errorf("%s: %d of 120 admitted, want %d", tt.format, got, tt.want)
		}
	}
	_, header := c.as("X-Forwarded-For", "2001:db8:3:ff00::1")
	if got := header.Get("RateLimit-Policy"); got != `"tiers";q=80;w=18000` {
		t.Errorf("policy of a /48: %s", got)
	}
	// A neighbour in the /48 that is used up is told so by its tier, and has lost nothing of its own.
	var key struct {
		Key    string
		Tokens float64
	}
	if status := c.api("GET", "/load_balancer/rate_limits/tiers/2001:db8:3:ff00::1", &key); status != 200 || key.Key != "2001:db8:3:ff00::/64" || key.Tokens != 5 {
		t.Errorf("status %d, %+v, want 5 tokens", status, key)
	}

	c = behindProxy(t, "ip_rate_limit {\n rate 1/h\n burst 5\n ipv6_tiers off\n ipv6_prefix 128\n}")
	if got := rotate("2001:db8::%x", 50); got != 50 {
		t.Errorf("%d of 50 admitted with ipv6_prefix 128, want all", got)
	}
}

func TestRateLimitByKey(t *testing.T) {
	c := behindProxy(t, `ip_rate_limit {
		zone keys
		rate 1/h
		burst 3
		key {header.X-Api-Key}
	}`)
	long := strings.Repeat("k", 5000)
	for _, key := range []string{"alice", "bob", long, long + "2"} {
		got := c.admitted(10, func(i int) []string {
			return []string{"X-Api-Key", key, "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)}
		})
		if got != 3 {
			t.Errorf("key of %d bytes: %d of 10 admitted, want 3", len(key), got)
		}
	}
	// Without a key it is the address that counts.
	for _, a := range []string{"192.0.2.1", "192.0.2.2"} {
		if got := c.admitted(10, same("X-Forwarded-For", a)); got != 3 {
			t.Errorf("%d of 10 of %s admitted, want 3", got, a)
		}
	}
	for _, name := range []string{"alice", long, "192.0.2.1"} {
		if status := c.api("DELETE", "/load_balancer/rate_limits/keys/"+name, nil); status != http.StatusNoContent {
			t.Errorf("forgetting a key of %d bytes: status %d", len(name), status)
		}
	}
	if got := c.admitted(10, same("X-Api-Key", "alice")); got != 3 {
		t.Errorf("%d of 10 admitted after the key was forgotten, want 3", got)
	}

	// An address within a key is as wide as a client is, and its tiers count, too.
	c = behindProxy(t, "ip_rate_limit {\n zone mixed\n rate 1/h\n burst 3\n key \"{method} {client_ip}\"\n}")
	for format, want := range map[string]int{"2001:db8:1::%x": 3, "2001:db8:2:%02x::1": 12, "2001:db8:3:%02x00::1": 48, "192.0.2.%d": 60} {
		if got := c.admitted(60, func(i int) []string { return []string{"X-Forwarded-For", fmt.Sprintf(format, i)} }); got != want {
			t.Errorf("%s: %d of 60 admitted, want %d", format, got, want)
		}
	}
	if status := c.api("DELETE", "/load_balancer/rate_limits/mixed/GET%20192.0.2.1%2f32", nil); status != http.StatusNoContent {
		t.Errorf("forgetting a key with an address: status %d", status)
	}
}

// claims is what workers got that asked for all they could get.
type claims struct {
	passed, asked int64

	// The bucket was new between these two, and empty when the last was refused, which was between the other two.
	start, first, refused, end time.Time
}

// claim has workers ask for that long, and until they are refused.
func claim(workers int, duration time.Duration, ask func(worker, turn int) (passed bool, err error)) (claims, error) {
	c := claims{start: time.Now()}
	var failed error
	var mu sync.Mutex // guards both
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for turn, more := 0, true; more; turn++ {
				sent := time.Now()
				passed, err := ask(w, turn)
				mu.Lock()
				c.asked++
				switch {
				case err != nil:
					failed, more = err, false
				case passed:
					c.passed++
					if c.first.IsZero() {
						c.first = time.Now()
					}
				default:
					if sent.After(c.refused) {
						c.refused = sent
					}
					more = time.Since(c.start) < duration
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	c.end = time.Now()
	return c, failed
}

// check fails the test unless that was what the bucket grants, give or take a hundredth. It must not have been full in between: the
// burst is to be what comes in for longer than a machine may stop.
func (c claims) check(t *testing.T, rate, burst float64) {
	t.Helper()
	least := (burst+rate*c.refused.Sub(c.first).Seconds())*0.99 - 2
	most := (burst+rate*c.end.Sub(c.start).Seconds())*1.01 + 2
	t.Logf("%d of %d admitted, want %.1f to %.1f", c.passed, c.asked, least, most)
	if got := float64(c.passed); got < least || got > most {
		t.Errorf("%v admitted, want %.1f to %.1f", got, least, most)
	}
}

// Sixty-four connections ask for all that they can get.
func TestHammering(t *testing.T) {
	const rate, burst = 100, 1000
	c := limited(t, fmt.Sprintf("ip_rate_limit {\n rate %d/s\n burst %d\n}", rate, burst))
	got, err := hammer(t, []*caddy{c}, 64, time.Duration(longer(3))*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	got.check(t, rate, burst)
}

func TestConcurrencyLimit(t *testing.T) {
	backends, _ := startBackends(t, 1)
	echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
	slow := make(chan struct{})
	backends[0].handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo.ServeHTTP(w, r)
			return
		}
		<-slow
	})
	c := startCaddy(t, fillBackends("ip_rate_limit {\n zone open\n concurrency 2\n}\nload_balancer B0", backends))
	socket, err := websocket.Dial("ws://"+c.site+"/", "", "http://"+c.site)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan int)
	go func() {
		status, _ := c.as()
		answered <- status
	}()
	waitFor(t, "both to be in flight", func() bool { return backends[0].requests.Load() == 2 })
	status, header := c.as()
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "1" || header.Get("RateLimit-Policy") != `"open";q=2;qu="concurrent-requests"` {
		t.Errorf("status %d, %v, want it refused", status, header)
	}
	close(slow)
	if status := <-answered; status != http.StatusOK {
		t.Errorf("status %d of what was in flight", status)
	}
	// The socket is still open, and still counts.
	var key struct {
		InFlight int `json:"in_flight"`
		Refused  int
	}
	inFlight := func(want int) func() bool {
		return func() bool {
			c.api("GET", "/load_balancer/rate_limits/open/127.0.0.1", &key)
			return key.InFlight == want
		}
	}
	waitFor(t, "the request to be over", inFlight(1))
	if err := websocket.Message.Send(socket, "still there"); err != nil {
		t.Error(err)
	}
	socket.Close()
	waitFor(t, "the socket to be over", inFlight(0))
	if key.Refused != 1 {
		t.Errorf("%+v, want one refused", key)
	}
}

func TestSeveralLimits(t *testing.T) {
	c := limited(t, `@login path /login
	ip_rate_limit {
		zone site
		rate 1/h
		burst 20
	}
	ip_rate_limit @login {
		zone login
		rate 1/h
		burst 3
	}
	ip_rate_limit {
		zone last
		rate 1/h
		burst 10
	}`)
	ask := func(path string, n int) (passed int) {
		for range n {
			if status, _, _ := c.get(path); status == http.StatusOK {
				passed++
			}
		}
		return passed
	}
	tokens := func(zone string) float64 {
		var key struct{ Tokens float64 }
		if c.api("GET", "/load_balancer/rate_limits/"+zone+"/127.0.0.1", &key) != http.StatusOK {
			t.Fatalf("nothing known in zone %s", zone)
		}
		return float64(int(key.Tokens + 0.01))
	}
	if got := ask("/login", 8); got != 3 {
		t.Errorf("%d of 8 logins admitted, want 3", got)
	}
	for zone, want := range map[string]float64{"site": 17, "login": 0, "last": 7} {
		if got := tokens(zone); got != want {
			t.Errorf("zone %s: %v tokens left, want %v", zone, got, want)
		}
	}
	if got := ask("/", 15); got != 7 {
		t.Errorf("%d of 15 admitted, want what the last zone has left, 7", got)
	}
	if got := tokens("site"); got != 10 {
		t.Errorf("zone site: %v tokens left, want 10: who is refused by one limit is charged to none", got)
	}
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	c := limited(t, "ip_rate_limit {\n zone trial\n rate 1/h\n burst 2\n dry_run\n}")
	start := time.Now()
	n := 0
	line := func() int { return c.logged("requests would be refused") }
	waitFor(t, "a second line in the log", func() bool {
		for range 100 {
			if status, _ := c.as(); status != http.StatusOK {
				t.Fatalf("status %d in a dry run", status)
			}
			n++
		}
		return line() >= 2
	})
	if lines, most := line(), 1+int(time.Since(start)/time.Second); lines > most {
		t.Errorf("%d lines for %d requests in %v, want one a second", lines, n, time.Since(start))
	}
	if got := c.limitMetric("decisions_total", `decision="dry_run",zone="trial"`); got != float64(n-2) {
		t.Errorf("%v counted, want %d", got, n-2)
	}
}

func TestRateLimitReloads(t *testing.T) {
	config := func(settings string) string {
		return limitedConfig("", "ip_rate_limit {\n zone kept\n "+settings+"\n}")
	}
	c := startCaddyConfig(t, config("rate 1/h\n burst 10"))
	load := func(settings string) {
		t.Helper()
		if err := c.reload(config(settings)); err != nil {
			t.Fatal(err)
		}
	}
	tokens := func() float64 {
		var key struct{ Tokens float64 }
		c.api("GET", "/load_balancer/rate_limits/kept/127.0.0.1", &key)
		return key.Tokens
	}
	near := func(got, want float64) bool { return got > want-0.01 && got < want+0.02 }
	c.admitted(6, same())
	load("rate 1/h\n burst 10\n exempt 10.0.0.0/8")
	if got := tokens(); !near(got, 4) {
		t.Errorf("%v tokens after a reload, want 4", got)
	}
	load("rate 2/h\n burst 100\n max_keys 1000")
	if got := tokens(); !near(got, 40) {
		t.Errorf("%v tokens of 100, want 40", got)
	}
	// A config that is rejected changes nothing: neither at once nor when its apps have begun to start. Those start in any
	// order, so it takes some tries.
	for _, wrong := range []string{
		config("rate 1/h\n burst 10\n redis ftp://127.0.0.1"),
		strings.Replace(config("rate 1/h\n burst 10"), "http://SITE_ADDRESS {", "http://SITE_ADDRESS {\nbind 192.0.2.1", 1),
	} {
		for range 6 {
			if err := c.reload(wrong); err == nil {
				t.Fatal("a wrong config was taken")
			}
			if got := tokens(); !near(got, 40) {
				t.Fatalf("%v tokens after a reload that failed, want 40", got)
			}
			if got := c.limitOf("kept"); got != 100 {
				t.Fatalf("a burst of %d after a reload that failed, want 100", got)
			}
		}
	}
	var zone struct {
		Burst   int
		MaxKeys int `json:"max_keys"`
	}
	if c.api("GET", "/load_balancer/rate_limits/kept", &zone); zone.Burst != 100 || zone.MaxKeys != 1000 {
		t.Errorf("%+v, want a burst of 100 and 1000 keys", zone)
	}
	if err := c.reload(strings.Replace(config("rate 1/h\n burst 10"), "zone kept", "zone other", 1)); err != nil {
		t.Fatal(err)
	}
	if got := c.admitted(12, same()); got != 10 {
		t.Errorf("%d of 12 admitted in a new zone, want 10", got)
	}
	if status := c.api("GET", "/load_balancer/rate_limits/kept", nil); status != http.StatusNotFound {
		t.Errorf("the old zone is still there: status %d", status)
	}
}

// Requests that are in flight at a reload count on.
func TestConcurrencyOverReload(t *testing.T) {
	backends, _ := startBackends(t, 1)
	slow := make(chan struct{})
	backends[0].handle(func(http.ResponseWriter, *http.Request) { <-slow })
	config := siteConfig(fillBackends("ip_rate_limit {\n zone open\n concurrency 1\n}\nload_balancer B0 {\n name p\n}", backends))
	c := startCaddyConfig(t, config)
	done := make(chan int)
	go func() {
		status, _ := c.as()
		done <- status
	}()
	waitFor(t, "a request in flight", func() bool { return backends[0].requests.Load() == 1 })
	if err := c.reload(strings.Replace(config, "name p", "name p\n slow_start off", 1)); err != nil {
		t.Fatal(err)
	}
	if status, _ := c.as(); status != http.StatusTooManyRequests {
		t.Errorf("status %d while another is in flight", status)
	}
	close(slow)
	if status := <-done; status != http.StatusOK {
		t.Errorf("status %d of the request over the reload", status)
	}
	waitFor(t, "it to be over", func() bool {
		status, _ := c.as()
		return status == http.StatusOK
	})
}

func TestRateLimitAPI(t *testing.T) {
	c := behindProxy(t, "ip_rate_limit {\n rate 60/h\n burst 4\n}\nip_rate_limit {\n zone b\n concurrency 7\n dry_run\n}")
	for i := range 5 {
		c.admitted(1+i, same("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)))
	}
	c.admitted(2, same("X-Forwarded-For", "2001:db8::1"))
	const path = "/load_balancer/rate_limits"
	type zone struct {
		Zone, Rate               string
		Burst, Concurrency, Keys int
		DryRun                   bool `json:"dry_run"`
		Decisions                map[string]int
		Busiest                  []struct {
			Key               string
			Requests, Refused int
		}
	}
	var zones []zone
	if status := c.api("GET", path, &zones); status != 200 || len(zones) != 2 || zones[0].Zone != "b" || zones[0].Concurrency != 7 || !zones[0].DryRun {
		t.Errorf("status %d: %+v", status, zones)
	}
	var one zone
	status := c.api("GET", path+"/zone-1", &one)
	if status != 200 || one.Rate != "60/h" || one.Burst != 4 || one.Keys != 8 || one.Decisions["refused"] != 1 || len(one.Busiest) != 8 ||
		one.Busiest[0].Key != "192.0.2.4" || one.Busiest[0].Requests != 5 || one.Busiest[0].Refused != 1 {
		t.Errorf("status %d: %+v", status, one)
	}
	var key struct {
		Key    string
		Tokens float64
	}
	for name, want := range map[string]string{"192.0.2.4": "192.0.2.4", "2001:db8::5": "2001:db8::/64", "2001:db8::%2f64": "2001:db8::/64", "2001:db8::/56": "2001:db8::/56"} {
		if status := c.api("GET", path+"/zone-1/"+name, &key); status != 200 || key.Key != want {
			t.Errorf("%s: status %d, %+v", name, status, key)
		}
	}
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/zone-1/192.0.2.99", 404},
		{"GET", "/zone-1/nobody", 404},
		{"GET", "/zone-1/2001:db8::%2f60", 404},
		{"GET", "/none", 404},
		{"DELETE", "/none", 404},
		{"DELETE", "/zone-1/192.0.2.99", 404},
		{"DELETE", "", 405},
		{"POST", "/zone-1", 405},
		{"DELETE", "/zone-1/192.0.2.4", 204},
	} {
		if status := c.api(tt.method, path+tt.path, nil); status != tt.want {
			t.Errorf("%s %s: status %d, want %d", tt.method, tt.path, status, tt.want)
		}
	}
	if got := c.admitted(9, same("X-Forwarded-For", "192.0.2.4")); got != 4 {
		t.Errorf("%d of 9 admitted after the key was forgotten, want 4", got)
	}
	if status := c.api("DELETE", path+"/zone-1", nil); status != 204 {
		t.Errorf("forgetting the zone: status %d", status)
	}
	if got := c.admitted(9, same("X-Forwarded-For", "192.0.2.4")); got != 4 {
		t.Errorf("%d of 9 admitted after the zone was forgotten, want 4", got)
	}
}

// limitOf is the burst that the buckets of a zone have now.
func (c *caddy) limitOf(zone string) int {
	c.t.Helper()
	var o struct{ Busiest []struct{ Burst int } }
	if status := c.api("GET", "/load_balancer/rate_limits/"+zone, &o); status != http.StatusOK || len(o.Busiest) == 0 {
		c.t.Fatalf("status %d: %+v", status, o)
	}
	return o.Busiest[0].Burst
}

// On a unix socket nobody has an address: all are one client.
func TestRateLimitOnUnixSocket(t *testing.T) {
	socket := t.TempDir() + "/site.sock"
	c := startCaddyConfig(t, strings.Replace(limitedConfig("", "ip_rate_limit {\n rate 1/h\n burst 3\n}"), "\n}\nhttp://SITE_ADDRESS {",
		"\n}\nhttp://SITE_ADDRESS {\n respond here\n}\nhttp:// {\n bind unix/"+socket, 1))
	local := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	passed := 0
	for range 6 {
		res, err := local.Get("http://local/")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			passed++
		}
	}
	if passed != 3 {
		t.Errorf("%d of 6 admitted, want 3", passed)
	}
	if status := c.api("GET", "/load_balancer/rate_limits/zone-1/unknown", nil); status != http.StatusOK {
		t.Errorf("status %d of the key of all", status)
	}
}
