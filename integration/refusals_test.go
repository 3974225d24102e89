package integration

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// A pool whose backend is fit and whose queue is full does not look well: the API, the command line and the dashboard say how many requests
// it refuses, and why. That holds on the express lane and beside it.
func TestRefusalsAreShown(t *testing.T) {
	for name, lane := range map[string]string{"express": expressOn, "handlers": expressOff} {
		t.Run(name, func(t *testing.T) {
			b := startBackend(t)
			b.handle(func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(50 * time.Millisecond) // how long it works on a request
				w.WriteHeader(http.StatusOK)
			})
			site := "handle /lb* {\n load_balancer_dashboard\n}\nload_balancer " + b.addr + " {\n name api\n max_requests 1\n queue 2 10s\n}"
			c := startCaddyConfig(t, strings.Replace(siteConfig(site), seamless, lane, 1))
			stop, done := make(chan struct{}), sync.WaitGroup{}
			for range 12 {
				done.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							c.get("/")
						}
					}
				})
			}
			t.Cleanup(func() {
				close(stop)
				done.Wait()
			})
			var p struct {
				State     string
				Requests  uint64
				Codes     map[string]uint64
				Refused   map[string]uint64
				PerSecond struct {
					Requests float64
					Refused  map[string]float64
				} `json:"per_second"`
				Problems []struct{ Severity, What, Why string }
				Backends []struct{ Failures uint64 }
			}
			waitFor(t, "refusals per second", func() bool {
				return c.api("GET", "/load_balancer/pools/api", &p) == http.StatusOK && p.PerSecond.Refused["queue_full"] > 5
			})
			if p.Refused["queue_full"] == 0 || p.Codes["5xx"] < p.Refused["queue_full"] || p.Codes["2xx"] == 0 || p.Requests < p.Codes["2xx"]+p.Codes["5xx"] {
				t.Errorf("answers: %+v", p)
			}
			if p.State != "ok" || p.Backends[0].Failures != 0 {
				t.Errorf("the backend is fit, and the pool is %q after %d failures", p.State, p.Backends[0].Failures)
			}
			if len(p.Problems) == 0 || p.Problems[0].Severity != "bad" || !strings.HasPrefix(p.Problems[0].What, "refuses ") || p.Problems[0].Why != "queue full" {
				t.Errorf("problems %+v", p.Problems)
			}
			if n := c.metric("caddy_load_balancer_refused_total", `cause="queue_full",pool="api"`); n < float64(p.Refused["queue_full"]) {
				t.Errorf("the metric is %v, the API had said %d", n, p.Refused["queue_full"])
			}
			out, _, code := c.lb("pools")
			if code != 0 || !strings.Contains(out, "failing") || !strings.Contains(out, "api refuses ") || !strings.Contains(out, "requests/s: queue full") {
				t.Errorf("lb pools ended with %d:\n%s", code, out)
			}
			if out, _, _ = c.lb("top", "--once"); !strings.Contains(out, "failing") || !strings.Contains(out, "requests/s: queue full") {
				t.Errorf("lb top:\n%s", out)
			}
			page := openTab(t)
			page.open(c.url("/lb/"), nil)
			page.await("the verdict", "document.getElementById('verdict').dataset.tone === 'bad' && document.getElementById('verdict-title').textContent.includes('Clients of api get errors')")
			page.await("the problem", "/api refuses [0-9]+ requests.s/.test(document.getElementById('problems').textContent) && document.getElementById('problems').textContent.includes('queue full')")
			page.await("the tile of errors", "[...document.querySelectorAll('#tiles .tile')].some(n => n.textContent.startsWith('Errors') && n.querySelector('.big').dataset.tone === 'bad')")
			page.await("the state", "document.querySelector('tr.pool .pill').textContent === 'Failing'")
		})
	}
}
