package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// lightWays are a few requests of each kind, all at once.
var lightWays = []way{
	{"plain, keep-alive", "plain", "h1", true, asWhole, 100},
	{"plain, new connection each", "plain", "h1", false, asWhole, 60},
	{"plain, body in three parts", "plain", "h1", true, asPieces, 30},
	{"TLS HTTP/1.1, keep-alive", "tls", "h1", true, asWhole, 50},
	{"TLS HTTP/1.1, new connections", "tls", "h1", false, asWhole, 30},
	{"TLS h2, keep-alive", "tls", "h2", true, asWhole, 50},
	{"TLS h2, new connections", "tls", "h2", false, asWhole, 20},
	{"unix socket, keep-alive", "unix", "h1", true, asWhole, 50},
	{"unix socket, new connection each", "unix", "h1", false, asWhole, 50},
}

// keptClients are clients of all sites with four connections each.
func keptClients(t *testing.T, p *reloaded) []*strictClient {
	t.Helper()
	var clients []*strictClient
	for _, w := range lightWays {
		if w.kept && w.shape == asWhole {
			c := p.client(w)
			c.size = 4
			t.Cleanup(c.close)
			clients = append(clients, c)
		}
	}
	return clients
}

// askAll sends a request on each of their connections and wants it answered by a config that may.
func askAll(t *testing.T, when string, clients []*strictClient) {
	t.Helper()
	for _, c := range clients {
		for i := range c.size {
			c.send(i)
		}
		if _, failed, kinds := c.result(); failed > 0 {
			t.Fatalf("%s: %s: %d failed: %s %q", when, c.name, failed, kinds, c.samples)
		}
		if n := int(c.opened.Load()); n != c.size {
			t.Errorf("%s: %s: %d connections were needed, want the first %d for all requests", when, c.name, n, c.size)
		}
	}
}

// TestSeamlessKeepsConnections: connections outlive configs, and what is sent on them after a reload is answered by the new one.
func TestSeamlessKeepsConnections(t *testing.T) {
	p := startReloadedCaddy(t, "seamless", "load_balancer", seamless)
	clients := keptClients(t, p)
	askAll(t, "before", clients)
	for n := range longer(10) {
		if err := p.next(); err != nil {
			t.Fatal(err)
		}
		askAll(t, fmt.Sprint("after reload ", n+1), clients)
	}
}

// TestSeamlessRejectedReload: a config that is given up, however late, serves nothing and costs nothing.
func TestSeamlessRejectedReload(t *testing.T) {
	p := startReloadedCaddy(t, "seamless", "load_balancer", seamless)
	clients := keptClients(t, p)
	askAll(t, "before", clients)
	taken := startBackend(t)
	bad := strings.ReplaceAll(p.config(3), "X-Config 3", "X-Config 1000")
	options, sites, _ := strings.Cut(bad, "\n}\n}\n")
	options += "\n}\n}\n"
	unbound := "http://" + taken.addr + " {\nrespond no\n}\n"
	rejected := map[string]string{
		"the last server cannot listen":  bad + unbound,
		"the first server cannot listen": options + unbound + sites,
		"no such file":                   bad + "http://" + freeAddress(t) + " {\nload_balancer 127.0.0.1:1 {\ntransport http {\ntls_trust_pool file /nonexistent.pem\n}\n}\n}\n",
		"nobody's address":               bad + "http://:" + port(t, freeAddress(t)) + " {\nbind 192.0.2.1\nrespond no\n}\n",
	}
	rows, samples := underLoad(t, p, lightWays, func() {
		for range 3 {
			for name, config := range rejected {
				if err := p.caddy.reload(config); err == nil {
					t.Errorf("%s: the config was accepted", name)
				}
				askAll(t, name, clients)
			}
		}
		if err := p.next(); err != nil {
			t.Error(err)
		}
		askAll(t, "after a good reload", clients)
	})
	judgeLosses(t, rows, samples)
}

// load posts a config, and does so again if the admin endpoint was replaced meanwhile.
func (c *caddy) load(config string) error {
	var failed error
	for range 20 {
		r, err := http.NewRequest(http.MethodPost, "http://"+c.admin+"/load", strings.NewReader(c.fill(config)))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "text/caddyfile")
		r.Close = true
		res, err := client.Do(r)
		if err == nil {
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("status %d: %s", res.StatusCode, text)
			}
			return nil
		}
		if failed = err; !isDisconnect(err) {
			break
		}
	}
	return failed
}

// TestSeamlessReloadsAtOnce: of two reloads at the same moment one is the last, for all connections.
func TestSeamlessReloadsAtOnce(t *testing.T) {
	p := startReloadedCaddy(t, "seamless", "load_balancer", seamless)
	clients := keptClients(t, p)
	askAll(t, "before", clients)
	var won epoch
	for _, c := range clients {
		c.configs = &won
	}
	rows, samples := underLoad(t, p, lightWays, func() {
		for range longer(4) {
			first := p.begun.Add(2) - 1
			var wg sync.WaitGroup
			for n := range int64(2) {
				wg.Go(func() {
					if err := p.caddy.load(p.config(first + n)); err != nil {
						t.Errorf("reload %d: %v", first+n, err)
					}
				})
			}
			wg.Wait()
			p.committed.Store(first)
			last := namedConfig(p.sites["plain"])
			won.committed.Store(last)
			won.begun.Store(last)
			askAll(t, fmt.Sprintf("config %d of %d and %d", last, first, first+1), clients)
		}
	})
	judgeLosses(t, rows, samples)
}

// TestSeamlessAddressGoesAndReturns: a reload that takes an address away ends what goes on there in good order, and costs the other
// addresses nothing; one that brings it back serves there at once.
func TestSeamlessAddressGoesAndReturns(t *testing.T) {
	backends := lossBackends(t)
	other := freeAddress(t)
	config := func(n int64, address string) string {
		site := func(address, backend string) string {
			return fmt.Sprintf("http://%s {\nheader X-Config %d\nload_balancer %s\n}\n", address, n, backend)
		}
		text := "{\nadmin ADMIN_ADDRESS\npersist_config off\nservers {\n" + seamless + "\n}\n}\n" + site("SITE_ADDRESS", backends[0].addr)
		if address != "" {
			text += site(address, backends[1].addr)
		}
		return text
	}
	c := startCaddyConfig(t, config(0, other))
	p := &reloaded{name: "seamless", sites: map[string]string{"plain": c.site}}
	p.reload = func(n int64) error {
		if n%2 == 1 {
			return c.reload(config(n, ""))
		}
		return c.reload(config(n, other))
	}
	rows, samples := underLoad(t, p, lightWays[:3], func() {
		for range 3 {
			kept := newStrictClient(lightWays[0], other, &p.epoch)
			kept.size = 1
			kept.send(0)
			slow := newStrictClient(way{"answer in parts", "plain", "h1", true, asDrips, 1}, other, &p.epoch)
			var wg sync.WaitGroup
			wg.Go(func() { slow.send(8) }) // 296 ms between its parts
			waitFor(t, "the slow request to be at the backend", func() bool { return backends[1].inFlight.Load() > 0 })
			if err := p.next(); err != nil {
				t.Error(err)
			}
			waitFor(t, "the address to be gone", func() bool { return !canConnect(other) })
			for _, conn := range kept.idle {
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the idle connection to the address that is gone: %v, want its end", err)
				}
			}
			wg.Wait()
			if err := p.next(); err != nil {
				t.Error(err)
			}
			back := newStrictClient(lightWays[1], other, &p.epoch)
			for i := range 10 {
				back.send(i)
			}
			for _, c := range []*strictClient{kept, slow, back} {
				if n, failed, kinds := c.result(); n == 0 || failed > 0 {
					t.Errorf("%s: %d of %d failed: %s", c.name, failed, n, kinds)
				}
				c.close()
			}
		}
	})
	judgeLosses(t, rows, samples)
}

// TestSeamlessSeveralAddresses: each address of a server has its own door.
func TestSeamlessSeveralAddresses(t *testing.T) {
	backends := lossBackends(t)
	config := func(n int64, hosts string) string {
		return fmt.Sprintf("{\nadmin ADMIN_ADDRESS\npersist_config off\nservers {\n%s\n}\n}\nhttp://:PORT {\nbind %s\nheader X-Config %d\nload_balancer %s\n}\n",
			seamless, hosts, n, backends[0].addr)
	}
	site := freeAddress(t)
	second := net.JoinHostPort("127.0.0.2", port(t, site))
	fill := func(text string) string { return strings.ReplaceAll(text, "PORT", port(t, site)) }
	c := startCaddyAt(t, site, fill(config(0, "127.0.0.1 127.0.0.2")))
	p := &reloaded{name: "seamless", sites: map[string]string{"plain": site, "second": second}}
	hosts := "127.0.0.1 127.0.0.2"
	p.reload = func(n int64) error { return c.reload(fill(config(n, hosts))) }
	ways := []way{
		{"keep-alive", "plain", "h1", true, asWhole, 100}, {"new connections", "plain", "h1", false, asWhole, 50},
		{"second address, keep-alive", "second", "h1", true, asWhole, 100}, {"second address, new connections", "second", "h1", false, asWhole, 50},
	}
	both := func() {
		rows, samples := underReloads(t, p, ways, 4, 100*time.Millisecond)
		judgeLosses(t, rows, samples)
	}
	both()
	rows, samples := underLoad(t, p, ways[:2], func() {
		hosts = "127.0.0.1"
		if err := p.next(); err != nil {
			t.Error(err)
		}
		waitFor(t, "the second address to be gone", func() bool { return !canConnect(second) })
		hosts = "127.0.0.2 127.0.0.1"
		if err := p.next(); err != nil {
			t.Error(err)
		}
	})
	judgeLosses(t, rows, samples)
	both()
}

// startCaddyAt is startCaddyConfig for a site at that address, which the config names by itself.
func startCaddyAt(t *testing.T, site, config string, files ...*os.File) *caddy {
	t.Helper()
	c := &caddy{t: t, site: site, admin: freeAddress(t), log: newLogFile(t), files: files}
	c.start(config)
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("caddy's log:\n%s", c.log)
		}
	})
	return c
}

// start starts the process, and waits until it serves.
func (c *caddy) start(config string) {
	c.t.Helper()
	c.ended = make(chan struct{})
	c.run(config, nil)
	if !c.serves() {
		c.t.Fatalf("caddy ended:\n%s", c.log)
	}
}
