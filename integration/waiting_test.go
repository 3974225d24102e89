package integration

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

// TestReloadWhileWaiting: requests that wait for a backend to be back get there, although another config is loaded meanwhile.
func TestReloadWhileWaiting(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{
		"hold":            "hold 1m",
		"breaker off":     "hold 1m\n breaker off",
		"lb_try_duration": "lb_try_duration 1m",
		"round_robin":     "hold 1m\n lb_policy round_robin",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			site := "load_balancer " + b.addr + " {\n name p\n" + settings + "\n}"
			c := startCaddy(t, site)
			if status, _, _ := c.get("/"); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			b.kill()
			const requests = 4
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
			if err := c.reload(siteConfig("header X-Config new\n" + site)); err != nil {
				t.Fatal(err)
			}
			startBackendAt(t, "tcp", b.addr)
			for range requests {
				if status := <-statuses; status != http.StatusOK {
					t.Errorf("a request that waited is answered %d", status)
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
