package integration

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestReloadWhileWaiting: requests that wait for a backend to be back get there, although other configs are loaded meanwhile, whatever
// has become of the pool.
func TestReloadWhileWaiting(t *testing.T) {
	t.Parallel()
	live := startBackend(t)
	same := func(site string) []string { return []string{"header X-Config new\n" + site} }
	for name, test := range map[string]struct {
		site func(backend string) string
		next func(site string) []string

		outage time.Duration // after that
	}{
		"hold":            {waitingSite("hold 1m"), same, 0},
		"breaker off":     {waitingSite("hold 1m\n breaker off"), same, 0},
		"lb_try_duration": {waitingSite("lb_try_duration 1m"), same, 0},
		"round_robin":     {waitingSite("hold 1m\n lb_policy round_robin"), same, 0},
		"asked per request": {func(backend string) string {
			host, port, _ := strings.Cut(backend, ":")
			return "vars where " + host + "\nload_balancer {\n name p\n hold 1m\n dynamic a {vars.where} " + port + "\n}"
		}, same, 2500 * time.Millisecond},
		"renamed": {waitingSite("hold 1m"), func(site string) []string {
			return []string{strings.Replace(site, "name p", "name k", 1)}
		}, 0},
		"renamed and back": {waitingSite("hold 1m"), func(site string) []string {
			return []string{strings.Replace(site, "name p", "name k", 1), site}
		}, 0},
		"renamed, lb_try_duration": {waitingSite("lb_try_duration 1m"), func(site string) []string {
			return []string{strings.Replace(site, "name p", "name k", 1)}
		}, 0},
		"another backend": {waitingSite("hold 1m"), func(string) []string { return []string{waitingSite("hold 1m")(live.addr)} }, 0},
		"no balancer":     {waitingSite("hold 1m"), func(string) []string { return []string{"respond new"} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			site := test.site(b.addr)
			c := startCaddy(t, site)
			if status, _, _ := c.get("/"); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			b.kill()
			requests := 4
			if test.outage > 0 {
				requests = 1 // nobody else keeps alive what it needs
			}
			statuses := make(chan int, requests)
			for n := range requests {
				go func() {
					r := c.request([]string{http.MethodGet, http.MethodPost}[n%2], strings.NewReader("kept"))
					status := 0
					if res, err := client.Do(r); err == nil {
						res.Body.Close()
						status = res.StatusCode
					}
					statuses <- status
				}()
			}
			waitFor(t, "the requests to wait", func() bool {
				return c.waiting("p") == requests && total(c.scrape(), "caddy_load_balancer_held_requests", `pool="p"`) == requests
			})
			for _, next := range test.next(site) {
				if err := c.reload(siteConfig(next)); err != nil {
					t.Fatal(err)
				}
			}
			// A source that is asked per request is asked once a second while a request waits.
			reloaded := time.Now()
			waitFor(t, "the requests to have looked a few times", func() bool { return time.Since(reloaded) > test.outage })
			startBackendAt(t, "tcp", b.addr)
			for range requests {
				if status := <-statuses; status != http.StatusOK {
					t.Errorf("a request that waited is answered %d", status)
				}
			}
		})
	}
}

// waitingSite has one backend, for which requests wait as the settings say.
func waitingSite(settings string) func(backend string) string {
	return func(backend string) string { return "load_balancer " + backend + " {\n name p\n" + settings + "\n}" }
}

// TestPutBack: a backend that was dead, and has been repaired where nobody tried it, serves the first request after it is put back.
func TestPutBack(t *testing.T) {
	t.Parallel()
	site := func(addr string) string {
		return "load_balancer " + addr + " {\n name p\n hold 20ms\n}"
	}
	other := startBackend(t)
	for name, away := range map[string]func(c *caddy, b *backend) (back func()){
		"maintenance": func(c *caddy, b *backend) func() {
			c.edit("PATCH", b.addr, `{"state": "maintenance"}`)
			return func() { c.edit("PATCH", b.addr, `{"state": "ready"}`) }
		},
		"removed": func(c *caddy, b *backend) func() {
			c.remove(b.addr)
			return func() { c.edit("POST", "", `{"address": "`+b.addr+`"}`) }
		},
		"in no config": func(c *caddy, b *backend) func() {
			reload := func(addr string) {
				if err := c.reload(siteConfig(site(addr))); err != nil {
					c.t.Fatal(err)
				}
			}
			reload(other.addr)
			return func() { reload(b.addr) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			c := startCaddy(t, site(b.addr))
			b.kill()
			waitFor(t, "an outage that is older than hold", func() bool {
				status, _, _ := c.get("/")
				return status == http.StatusServiceUnavailable
			})
			back := away(c, b)
			startBackendAt(t, "tcp", b.addr)
			back()
			for n := range 5 {
				if status, _, _ := c.get("/"); status != http.StatusOK {
					t.Errorf("request %d: status %d", n+1, status)
				}
			}
		})
	}
}

// waiting is how many requests of a pool have not been answered.
func (c *caddy) waiting(pool string) int {
	c.t.Helper()
	var explained struct{ Live []struct{ ID string } }
	c.api("GET", "/load_balancer/pools/"+pool+"/explain", &explained)
	return len(explained.Live)
}

// TestLeaveWhileWaiting: a client that does not wait until a backend is back has left. It is not the pool that refuses its request.
func TestLeaveWhileWaiting(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"hold": "hold 1m", "lb_try_duration": "lb_try_duration 1m"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, onLog+"load_balancer "+freeAddress(t)+" {\n name p\n"+settings+"\n}")
			c.poolNamed("p")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if res, err := client.Do(c.request(http.MethodGet, nil).WithContext(ctx)); err == nil {
					res.Body.Close()
				}
			}()
			waitFor(t, "the request to wait", func() bool { return c.waiting("p") == 1 })
			cancel()
			<-gone
			if line := c.accessLog("/", 1)[0]; line.Status != 499 {
				t.Errorf("the access log says %d, want 499", line.Status)
			}
			if n := c.metrics(`caddy_load_balancer_requests_total{code="(\d+)",pool="p"`); n["499"] != 1 || len(n) != 1 {
				t.Errorf("requests by code: %v, want one of 499", n)
			}
		})
	}
}
