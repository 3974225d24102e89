package integration

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestSeamlessReloadsLeaveNothing: after many reloads with open connections the process holds what it held before, and all that is
// known of backends and clients is as it was.
func TestSeamlessReloadsLeaveNothing(t *testing.T) {
	const pieces = 100
	n := 20
	if *soak {
		n = 50
	}
	backends := lossBackends(t)
	release := make(chan struct{})
	var asked atomic.Int64
	backends[0].handle(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/held" {
			_ = http.NewResponseController(w).Flush()
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	backends[2].handle(answers(http.StatusServiceUnavailable))
	config := func(n int64) string {
		return fmt.Sprintf("{\nadmin ADMIN_ADDRESS\npersist_config off\nservers {\n%s\n%s\n}\n}\nhttp://SITE_ADDRESS {\nheader X-Config %d\n"+
			"handle /limited {\nip_rate_limit {\nzone z\nrate 1/h\nburst %d\n}\nrespond ok\n}\n"+
			"handle {\nload_balancer {\nname p\nlb_policy %s\nheader_up X-Kind %d\nbackend %s {\nname a\n}\nbackend %s {\nname b\n}\nbackend %s {\nname c\n}\n"+
			"breaker {\nconsecutive_failures 2\nopen 10m 10m\nmax_ejected 100%%\n}\n}\n}\n}\n",
			seamless, lossTimeouts[n%int64(len(lossTimeouts))], n, pieces, []string{"round_robin", "random", "least_conn"}[n%3], n,
			backends[0].addr, backends[1].addr, backends[2].addr)
	}
	c := startCaddyConfig(t, config(0))
	p := &reloaded{name: "seamless", sites: map[string]string{"plain": c.site}, caddy: c}
	p.reload = func(n int64) error { return c.reload(config(n)) }

	// One backend is drained, another one's breaker is open, and the third has a request that takes as long as all reloads.
	c.edit(http.MethodPatch, "b", `{"state":"drain"}`).wants(t, http.StatusOK)
	waitFor(t, "the breaker to open", func() bool {
		c.get("/")
		return c.poolNamed("p").Backends[2].Breaker == "open"
	})
	held := make(chan error, 1)
	go func() {
		res, err := client.Get(c.url("/held"))
		if err == nil {
			_, err = discard(res.Body)
			res.Body.Close()
		}
		held <- err
	}()
	waitFor(t, "the held request", func() bool { return c.poolNamed("p").Backends[0].InFlight == 1 })
	others := [2]int64{backends[1].requests.Load(), backends[2].requests.Load()}

	ways := []way{{"keep-alive", "plain", "h1", true, asWhole, 100}, {"new connections", "plain", "h1", false, asWhole, 50}}
	reload := func(n int) {
		rows, samples := underReloads(t, p, ways, n, 50*time.Millisecond)
		judgeLosses(t, rows, samples)
	}
	kept := newStrictClient(way{"kept", "plain", "h1", true, asWhole, 1}, c.site, &p.epoch)
	kept.size = 50
	defer kept.close()
	askAll(t, "before", []*strictClient{kept})
	reload(3) // what is made once is there
	before := c.costNow()
	t.Logf("before: %+v", before)
	admitted := 0
	for i := range n {
		reloadOnce(t, p, ways, i)
		for range 2 * pieces / n {
			if status, _, _ := c.get("/limited"); status == http.StatusOK {
				admitted++
			}
		}
	}
	askAll(t, "after all reloads", []*strictClient{kept})
	c.settles(t, fmt.Sprint("after ", n, " reloads"), cost{before.goroutines + 10, before.descriptors + 10, before.heap + 2<<20})

	if admitted != pieces {
		t.Errorf("%d of %d requests admitted over the reloads, want the %d of one bucket", admitted, 2*pieces, pieces)
	}
	state := c.poolNamed("p")
	a, b, broken := state.Backends[0], state.Backends[1], state.Backends[2]
	if a.InFlight != 1 || !a.Usable {
		t.Errorf("%+v: want one request in flight", a)
	}
	if b.Usable || broken.Usable || broken.Breaker != "open" {
		t.Errorf("%+v, %+v: want one drained, and the other's breaker open", b, broken)
	}
	if now := [2]int64{backends[1].requests.Load(), backends[2].requests.Load()}; now != others {
		t.Errorf("the backends that were out got %v requests, then %v", others, now)
	}
	close(release)
	if err := <-held; err != nil {
		t.Errorf("the held request: %v", err)
	}
	waitFor(t, fmt.Sprintf("%d requests, and none in flight", asked.Load()), func() bool {
		a := c.poolNamed("p").Backends[0]
		return a.InFlight == 0 && int64(a.Requests) == asked.Load()
	})
}

// reloadOnce reloads; every fifth time under load.
func reloadOnce(t *testing.T, p *reloaded, ways []way, i int) {
	t.Helper()
	if i%5 == 0 {
		rows, samples := underReloads(t, p, ways, 1, 50*time.Millisecond)
		judgeLosses(t, rows, samples)
	} else if err := p.next(); err != nil {
		t.Fatal(err)
	}
}
