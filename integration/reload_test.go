package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// load asks in closed loops until it is stopped.
type load struct {
	stopping       atomic.Bool
	wg             sync.WaitGroup
	served, failed atomic.Int64
	firstFailure   atomic.Pointer[string]
}

// startLoad asks url with n clients.
func startLoad(url string, n int) *load {
	l := new(load)
	for range n {
		l.wg.Go(func() {
			transport := &http.Transport{MaxIdleConnsPerHost: 1}
			defer transport.CloseIdleConnections()
			own := &http.Client{Transport: transport, Timeout: patience}
			for !l.stopping.Load() {
				if err := ask(own, url); err != nil {
					l.failed.Add(1)
					text := err.Error()
					l.firstFailure.CompareAndSwap(nil, &text)
					continue
				}
				l.served.Add(1)
			}
		})
	}
	return l
}

func ask(c *http.Client, url string) error {
	res, err := c.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%w %d", errStatus, res.StatusCode)
	}
	return nil
}

func isDisconnect(err error) bool {
	text := err.Error()
	return strings.Contains(text, "EOF") || strings.Contains(text, "connection reset") || strings.Contains(text, "connection refused")
}

// stop ends the load and reports failures.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.stopping.Store(true)
	l.wg.Wait()
	t.Logf("%d requests served, %d failed", l.served.Load(), l.failed.Load())
	if first := l.firstFailure.Load(); first != nil {
		t.Errorf("%d requests failed, the first with: %s", l.failed.Load(), *first)
	}
	if l.served.Load() == 0 {
		t.Error("no request was served")
	}
}

// TestReloadsUnderLoad reloads twenty times, adding and removing backends and changing the policy, while clients ask.
func TestReloadsUnderLoad(t *testing.T) {
	backends, _ := startBackends(t, 3)
	configs := []string{
		"load_balancer B0 B1 {\n name web\n}",
		"load_balancer B0 B1 B2 {\n name web\n lb_policy round_robin\n}",
		"load_balancer B1 B2 {\n name web\n backend B0 {\n weight 3\n max_requests 100\n }\n}",
		"load_balancer B2 B1 {\n name web\n lb_policy weighted_round_robin 2 1\n}",
	}
	c := startCaddy(t, fillBackends(configs[0], backends))
	l := startLoad(c.url("/"), 8)
	for i := range 20 {
		// A config serves for a while before the next comes.
		served := l.served.Load()
		waitFor(t, "requests under this config", func() bool { return l.served.Load() > served+200 })
		if err := c.reload(siteConfig(fillBackends(configs[(i+1)%len(configs)], backends))); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
	}
	l.stop(t)
	for i, b := range backends {
		waitFor(t, "requests to end", func() bool { return b.inFlight.Load() == 0 })
		if b.requests.Load() == 0 {
			t.Errorf("backend %d got no request", i)
		}
	}
	if log := c.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "DATA RACE") {
		t.Error("caddy's log shows a panic")
	}
}

// TestReloadKeepsCounts: the cap counts requests that the config before this one accepted.
func TestReloadKeepsCounts(t *testing.T) {
	b := startBackend(t)
	release := make(chan struct{})
	b.handle(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	site := "load_balancer {\n name web\n backend " + b.addr + " {\n max_requests 1\n }\n %s\n}"
	c := startCaddy(t, fmt.Sprintf(site, ""))
	res, err := client.Get(c.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := c.reload(siteConfig(fmt.Sprintf(site, "header_up X-Reloaded 1"))); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := c.get("/"); status != http.StatusServiceUnavailable {
		t.Errorf("status %d while the only slot is taken since before the reload, want 503", status)
	}
	close(release)
	if _, err := discard(res.Body); err != nil {
		t.Errorf("the request of the old config broke: %v", err)
	}
	waitFor(t, "the slot to come back", func() bool {
		status, _, _ := c.get("/")
		return status == http.StatusOK
	})
}

// TestRejectedReload: a config that is refused, early or late, leaves the running one as it was.
func TestRejectedReload(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	site := "load_balancer " + addresses + " {\n name web\n lb_policy round_robin\n health_uri /healthz\n health_interval 50ms\n health_timeout 10s\n}"
	c := startCaddy(t, site)
	taken := startBackend(t)
	hosts := func() string {
		_, text := c.askAdmin("GET", "/reverse_proxy/upstreams")
		return string(text)
	}
	for _, b := range backends {
		if !strings.Contains(hosts(), b.addr) {
			t.Fatalf("%s is not among Caddy's upstreams: %s", b.addr, hosts())
		}
	}
	l := startLoad(c.url("/"), 4)
	wrong := []struct{ name, config string }{
		{"unknown word", siteConfig("load_balancer " + addresses + " {\n nonsense\n}")},
		{"fails in provisioning, after the load balancer was set up", siteConfig(site) + "\nhttp://SITE_ADDRESS {\n load_balancer " + addresses + " {\n transport http {\n tls_trust_pool file /nonexistent.pem\n }\n }\n}\n"},
		{"weights that do not fit", siteConfig("load_balancer " + addresses + " {\n name web\n lb_policy weighted_round_robin 0\n}")},
		{"fails in starting, for the port is taken", siteConfig(site) + "\nhttp://" + taken.addr + " {\n load_balancer " + addresses + " {\n name web2\n }\n}\n"},
	}
	for range 5 {
		for _, w := range wrong {
			if err := c.reload(w.config); err == nil {
				t.Errorf("%s: the config was accepted", w.name)
			}
		}
	}
	before := counts(backends)
	for range 20 {
		if status, _, body := c.get("/"); status != http.StatusOK {
			t.Fatalf("status %d after rejected reloads: %s", status, body)
		}
	}
	l.stop(t)
	after := counts(backends)
	for i, b := range backends {
		if after[i] == before[i] {
			t.Errorf("backend %d is not used any more", i)
		}
		if !strings.Contains(hosts(), b.addr) {
			t.Errorf("%s vanished from Caddy's upstreams: %s", b.addr, hosts())
		}
	}
}
