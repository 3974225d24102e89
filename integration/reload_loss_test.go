package integration

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// lossWays are the ways in which requests are sent while a proxy is given one config after the other.
var lossWays = []way{
	{"plain, keep-alive", "plain", "h1", true, asWhole, 1050},
	{"plain, new connection each", "plain", "h1", false, asWhole, 530},
	{"plain, pipelined", "plain", "h1", true, asPipelined, 300},
	{"plain, head in two parts", "plain", "h1", true, asHalves, 150},
	{"plain, head in two parts, new connection each", "plain", "h1", false, asHalves, 100},
	{"plain, body in three parts", "plain", "h1", true, asPieces, 100},
	{"plain, body after 100 Continue", "plain", "h1", true, asExpects, 100},
	{"plain, answer in three parts", "plain", "h1", true, asDrips, 100},
	{"TLS HTTP/1.1, keep-alive", "tls", "h1", true, asWhole, 880},
	{"TLS HTTP/1.1, new connections", "tls", "h1", false, asWhole, 330},
	{"TLS HTTP/1.1, head in two parts", "tls", "h1", true, asHalves, 100},
	{"TLS h2, keep-alive", "tls", "h2", true, asWhole, 880},
	{"TLS h2, new connections", "tls", "h2", false, asWhole, 215},
	{"unix socket, keep-alive", "unix", "h1", true, asWhole, 1050},
	{"unix socket, new connection each", "unix", "h1", false, asWhole, 530},
}

// reloaded is a proxy that is given one config after the other.
type reloaded struct {
	name   string
	sites  map[string]string   // address by the way's site
	reload func(n int64) error // to the config of that number
	epoch

	caddy  *caddy // nil if it is another proxy
	config func(n int64) string
	// prepare, if not nil, sets a client up.
	prepare func(*strictClient)
}

// next reloads.
func (p *reloaded) next() error {
	n := p.begun.Add(1)
	if err := p.reload(n); err != nil {
		return fmt.Errorf("reload %d: %w", n, err)
	}
	p.committed.Store(n)
	return nil
}

// client is a client of the proxy.
func (p *reloaded) client(w way) *strictClient {
	c := newStrictClient(w, p.sites[w.site], &p.epoch)
	if p.prepare != nil {
		p.prepare(c)
	}
	return c
}

// lossBackends start three backends that do what lossWays ask for.
func lossBackends(t *testing.T) []*backend {
	t.Helper()
	backends, _ := startBackends(t, 3)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/length":
				n, _ := discard(r.Body)
				fmt.Fprint(w, n)
			case "/drips":
				ms, _ := strconv.Atoi(r.URL.RawQuery)
				for i := range 3 {
					if i > 0 {
						_ = http.NewResponseController(w).Flush()
						takes(r.Context(), time.Duration(ms)*time.Millisecond)
					}
					_, _ = io.WriteString(w, strings.Repeat("x", pieceSize))
				}
			default:
				fmt.Fprint(w, b.addr)
			}
		})
	}
	return backends
}

// lossSettings differ from one config to the next: a backend comes, one goes, the policy changes, and what is sent to them.
var lossSettings = []string{
	"B0 B1", "B0 B1 B2 {\n lb_policy round_robin\n}", "B1 B2 {\n lb_policy random\n}", "B2 B1 {\n lb_policy least_conn\n header_up X-Kind 3\n}", "B1 {\n lb_policy first\n}",
}

// lossTimeouts are settings of the server that do.
var lossTimeouts = []string{"", "timeouts {\n idle 30s\n}", "timeouts {\n idle 45s\n read_header 20s\n}\nmax_header_size 32KB"}

// startReloadedCaddy starts Caddy with that directive on plain HTTP, TLS and a unix socket. servers are further settings of them.
func startReloadedCaddy(t *testing.T, name, directive, servers string) *reloaded {
	t.Helper()
	backends := lossBackends(t)
	certificate, key := selfSigned(t)
	secure, socket := freeAddress(t), filepath.Join(t.TempDir(), "site.sock")
	config := func(n int64) string {
		site := fmt.Sprintf("header X-Config %d\n%s %s", n, directive, fillBackends(lossSettings[n%int64(len(lossSettings))], backends))
		return "{\nadmin ADMIN_ADDRESS\npersist_config off\nauto_https off\ngrace_period 10s\nservers {\nprotocols h1 h2\n" + servers + "\n" + lossTimeouts[n%int64(len(lossTimeouts))] + "\n}\n}\n" +
			"http://SITE_ADDRESS {\n" + site + "\n}\nhttps://" + secure + " {\ntls " + certificate + " " + key + "\n" + site + "\n}\nhttp:// {\nbind unix/" + socket + "\n" + site + "\n}\n"
	}
	c := startCaddyConfig(t, config(0))
	waitFor(t, "the site with TLS", func() bool { return canConnect(secure) })
	return &reloaded{
		name: name, sites: map[string]string{"plain": c.site, "tls": secure, "unix": socket},
		reload: func(n int64) error { return c.reload(config(n)) }, caddy: c, config: config,
	}
}

// lossRow is what became of the requests of a way.
type lossRow struct {
	way              way
	requests, failed int
	kinds            string
	took             time.Duration
}

func (r lossRow) String() string {
	return fmt.Sprintf("%d of %d at %.0f/s %s", r.failed, r.requests, float64(r.requests)/r.took.Seconds(), r.kinds)
}

// underReloads sends requests in these ways while the proxy is reloaded n times, one time every pace.
func underReloads(t *testing.T, p *reloaded, ways []way, n int, pace time.Duration) (rows []lossRow, samples []string) {
	t.Helper()
	return underLoad(t, p, ways, func() {
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		for range n {
			<-ticker.C
			if err := p.next(); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		}
		<-ticker.C
	})
}

// underLoad sends requests in these ways while something happens.
func underLoad(t *testing.T, p *reloaded, ways []way, happens func()) (rows []lossRow, samples []string) {
	t.Helper()
	stop := make(chan struct{})
	clients := make([]*strictClient, len(ways))
	var wg sync.WaitGroup
	start := time.Now()
	for i, w := range ways {
		clients[i] = p.client(w)
		defer clients[i].close()
		wg.Go(func() { clients[i].run(stop) })
	}
	waitFor(t, "answers in each way", func() bool {
		return !slices.ContainsFunc(clients, func(c *strictClient) bool { n, _, _ := c.result(); return n < 5 })
	})
	happens()
	took := time.Since(start)
	close(stop)
	wg.Wait()
	for _, c := range clients {
		requests, failed, kinds := c.result()
		rows = append(rows, lossRow{c.way, requests, failed, kinds, took})
		samples = append(samples, c.samples...)
	}
	return rows, samples
}

// TestReloadsLoseNothing: no request is lost by reloads, however it is sent, where the servers are seamless. In a soak each way has
// the machine for itself, and is tried with proxies to compare with.
func TestReloadsLoseNothing(t *testing.T) {
	p := startReloadedCaddy(t, "seamless", "load_balancer", seamless)
	if !*soak {
		ways := make([]way, len(lossWays))
		for i, w := range lossWays {
			w.rate = max(w.rate/8, 30) // all at once
			ways[i] = w
		}
		rows, samples := underReloads(t, p, ways, 8, 250*time.Millisecond)
		for _, r := range rows {
			t.Logf("%-46s %v", r.way.name, r)
		}
		judgeLosses(t, rows, samples)
		return
	}
	proxies := []*reloaded{
		p, startReloadedCaddy(t, "load_balancer", "load_balancer", ""), startReloadedCaddy(t, "reverse_proxy", "reverse_proxy", ""),
	}
	if h := startReloadedHAProxy(t); h != nil {
		proxies = append(proxies, h)
	}
	table := make([]string, len(lossWays))
	for i, w := range lossWays {
		for _, p := range proxies {
			rows, samples := underReloads(t, p, []way{w}, 50, 260*time.Millisecond)
			table[i] += fmt.Sprintf(" | %s: %v", p.name, rows[0])
			if p.name == "seamless" {
				judgeLosses(t, rows, samples)
			}
		}
		t.Logf("%-46s%s", w.name, table[i])
	}
	for i, w := range lossWays {
		t.Logf("%-46s%s", w.name, table[i])
	}
}

// judgeLosses wants no loss.
func judgeLosses(t *testing.T, rows []lossRow, samples []string) {
	t.Helper()
	for _, r := range rows {
		if r.failed > 0 {
			t.Errorf("%s: %v failed", r.way.name, r)
		}
		if r.requests == 0 {
			t.Errorf("%s: no requests", r.way.name)
		}
	}
	for _, s := range samples {
		t.Log(s)
	}
}
