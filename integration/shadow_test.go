package integration

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// shadowState is what the API tells of a pool with a shadow policy.
type shadowState struct {
	Shadow *struct {
		Policy           string
		Agreed, Differed uint64
		Agreement        float64
		ExpectedMs       struct{ P50, P99 float64 } `json:"expected_ms"`
		TookMs           struct{ P50, P99 float64 } `json:"took_ms"`
	}
	Backends []struct {
		Address  string
		Requests uint64
		Shadow   struct {
			Requests, Given uint64
			InFlight        int64 `json:"in_flight"`
		}
	}
}

// TestShadowPredicts has three backends of unlike speed. What a shadow policy says under round robin is what happens when it is used.
func TestShadowPredicts(t *testing.T) {
	config, err := os.ReadFile("../examples/shadow.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, delay := range []string{"10ms", "20ms", "60ms"} {
		addresses = append(addresses, startCrew(t, `{"delay": "`+delay+`", "workers": 32}`).addr)
	}
	for _, shadow := range []string{"least_conn", "peak_ewma"} {
		t.Run(shadow, func(t *testing.T) {
			start := func(policy string) *caddy {
				return startCaddyConfig(t, string(config), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS", "BACKENDS="+strings.Join(addresses, " "), "POLICY="+policy, "SHADOW="+shadow)
			}
			look := func(c *caddy) (s shadowState) {
				t.Helper()
				if status := c.api(http.MethodGet, "/load_balancer/pools/web", &s); status != http.StatusOK || s.Shadow == nil {
					t.Fatalf("status %d, %+v", status, s)
				}
				return s
			}
			load := func(c *caddy) (s shadowState) {
				t.Helper()
				summary, err := openloop.Run(context.Background(), openloop.Options{URL: c.url("/"), Rate: 200, Duration: 3 * time.Second, Timeout: 10 * time.Second, Connections: 200})
				if err != nil || summary.Failed() > 0 {
					t.Fatalf("%v, %+v", err, summary.Statuses)
				}
				return look(c)
			}
			before := start("round_robin")
			said := load(before)
			after := load(start(shadow))
			total, off := 0.0, 0.0
			for _, b := range said.Backends {
				total += float64(b.Shadow.Requests)
			}
			line := fmt.Sprintf("%s: agrees %.0f %%", shadow, said.Shadow.Agreement*100)
			for i, b := range said.Backends {
				would, given, was := float64(b.Shadow.Requests)/total, float64(b.Shadow.Given)/total, float64(after.Backends[i].Requests)/total
				off = max(off, math.Abs(would-was))
				line += fmt.Sprintf("; %.0f %% -> %.0f %%, then %.0f %%", given*100, would*100, was*100)
			}
			t.Logf("%s; p50 %.0f -> %.0f, then %.0f ms; p99 %.0f -> %.0f, then %.0f ms", line, said.Shadow.TookMs.P50, said.Shadow.ExpectedMs.P50, after.Shadow.TookMs.P50,
				said.Shadow.TookMs.P99, said.Shadow.ExpectedMs.P99, after.Shadow.TookMs.P99)
			if total != 600 || said.Shadow.Agreed+said.Shadow.Differed != 600 {
				t.Errorf("%v decisions on 600 requests", total)
			}
			if off > 0.1 {
				t.Errorf("a share is %.2f off", off)
			}
			if ratio := said.Shadow.ExpectedMs.P50 / after.Shadow.TookMs.P50; ratio < 0.6 || ratio > 1.6 {
				t.Errorf("p50 is %.2f times what it was said to be", ratio)
			}
			// Where nothing comes any more, the requests that it supposes have ended.
			waitFor(t, "the supposed requests to end", func() bool {
				var inFlight int64
				for _, b := range look(before).Backends {
					inFlight += b.Shadow.InFlight
				}
				return inFlight == 0
			})
			if agreed := before.metric("caddy_load_balancer_shadow_decisions_total", `pool="web",result="agreed"`); agreed != float64(said.Shadow.Agreed) {
				t.Errorf("%v agreed in the metrics, %d in the API", agreed, said.Shadow.Agreed)
			}
		})
	}
}

// TestShadowOverReloads: counts go on over a reload, begin anew with another shadow policy, and stay when a config is refused.
func TestShadowOverReloads(t *testing.T) {
	t.Parallel()
	_, addresses := startBackends(t, 2)
	site := func(shadow, more string) string {
		return siteConfig("header X-Version " + more + "\nload_balancer " + addresses + " {\n name web\n lb_policy round_robin\n shadow_policy " + shadow + "\n}")
	}
	c := startCaddyConfig(t, site("first", "1"))
	decisions := func(want uint64) {
		t.Helper()
		var s shadowState
		if c.api(http.MethodGet, "/load_balancer/pools/web", &s); s.Shadow == nil || s.Shadow.Agreed+s.Shadow.Differed != want {
			t.Errorf("%+v, want %d decisions", s.Shadow, want)
		}
	}
	ask := func() {
		for range 10 {
			c.get("/")
		}
	}
	ask()
	decisions(10)
	if err := c.reload(site("first", "2")); err != nil {
		t.Fatal(err)
	}
	ask()
	decisions(20)
	if err := c.reload(site("sticky {\n secret 0123456789abcdef\n}", "3")); err == nil || !strings.Contains(err.Error(), "shadow_policy sticky: must be a policy without sessions") {
		t.Errorf("accepted: %v", err)
	}
	ask()
	decisions(30)
	if err := c.reload(site("random", "4")); err != nil {
		t.Fatal(err)
	}
	decisions(0)
	ask()
	decisions(10)
}
