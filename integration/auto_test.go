package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
	"github.com/ballastlb/ballast/examples/backend/server"
)

// crew is the example backend, with workers.
type crew struct {
	t      *testing.T
	server *server.Server
	addr   string
}

func startCrew(t *testing.T, settings string) *crew {
	t.Helper()
	l, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	b := &crew{t: t, server: server.New("crew"), addr: l.Addr().String()}
	s := &http.Server{Handler: b.server}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	b.set(settings)
	return b
}

func (b *crew) set(settings string) {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.server.ServeHTTP(w, httptest.NewRequest(http.MethodPatch, "/_settings", strings.NewReader(settings)))
	if w.Code != http.StatusOK {
		b.t.Fatalf("settings %s: %s", settings, w.Body)
	}
}

// does watches the backend for two seconds, and returns how many requests it had at a time on average, and how many it answered per second.
func (b *crew) does() (inFlight, perSecond float64) {
	const span, step = 2 * time.Second, 10 * time.Millisecond
	began, before, looks := time.Now(), b.server.Stats().Statuses[http.StatusOK], 0
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for time.Since(began) < span {
		<-ticker.C
		inFlight += float64(b.server.Stats().InFlight)
		looks++
	}
	return inFlight / float64(looks), float64(b.server.Stats().Statuses[http.StatusOK]-before) / time.Since(began).Seconds()
}

// becomes waits until the backend has at most so many requests at a time, and answers at least so many per second.
func (b *crew) becomes(what string, mostInFlight, leastPerSecond float64) {
	b.t.Helper()
	const patience = time.Minute
	var inFlight, perSecond float64
	began := time.Now()
	for time.Since(began) < patience {
		if inFlight, perSecond = b.does(); inFlight <= mostInFlight && perSecond >= leastPerSecond {
			b.t.Logf("%s: %.1f requests at a time, %.0f/s, after %.0f s", what, inFlight, perSecond, time.Since(began).Seconds())
			return
		}
	}
	b.t.Fatalf("%s: %.1f requests at a time, want at most %v; %.0f/s, want %v", what, inFlight, mostInFlight, perSecond, leastPerSecond)
}

// TestAutoMaxRequests: a backend that is asked for more than it can do is given about as many requests at a time as it has workers, whatever
// their number. What is in its own queue without a limit waits in Caddy, for a second at most.
func TestAutoMaxRequests(t *testing.T) {
	b := startCrew(t, `{"delay": "50ms", "workers": 4}`) // 80/s
	c := startCaddy(t, "load_balancer "+b.addr+" {\n name p\n max_requests auto\n}")
	stop := make(chan struct{})
	ended := make(chan *openloop.Summary, 1)
	go func() {
		summary, err := openloop.Run(context.Background(), openloop.Options{URL: c.url("/"), Rate: 400, Duration: 10 * time.Minute, Stop: stop, Timeout: 30 * time.Second, Connections: 2000})
		if err != nil {
			t.Error(err)
		}
		ended <- summary
	}()
	b.becomes("four workers", 9, 60)
	var shown struct {
		MaxRequests any `json:"max_requests"`
		Limit       int `json:"limit"`
	}
	if status := c.api(http.MethodGet, "/load_balancer/pools/p/backends/"+b.addr, &shown); status != http.StatusOK || shown.MaxRequests != "auto" || shown.Limit < 1 || shown.Limit > 40 {
		t.Errorf("status %d, %+v", status, shown)
	}
	if n := c.metric("caddy_load_balancer_limit", fmt.Sprintf(`backend="%s",pool="p"`, b.addr)); n < 1 || n > 40 {
		t.Errorf("the metric shows a limit of %v", n)
	}
	b.set(`{"workers": 12}`) // 240/s
	b.becomes("twelve workers", 27, 180)
	b.set(`{"workers": 4}`)
	b.becomes("four again", 9, 60)
	close(stop)
	summary := <-ended
	if summary == nil {
		return
	}
	for status := range summary.Statuses {
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Errorf("%d answers with status %d", summary.Statuses[status], status)
		}
	}
	if len(summary.Errors) > 0 {
		t.Errorf("requests without an answer: %v", summary.Errors)
	}
	if p99 := summary.Quantile(0.99); p99 > 6*time.Second {
		t.Errorf("p99 %v", p99)
	}
	t.Logf("%d requests, statuses %v, p50 %v, p99 %v", summary.Sent, summary.Statuses, summary.Quantile(0.5), summary.Quantile(0.99))
}

// TestExampleConcurrency: the example serves, and finds out a limit for each backend.
func TestExampleConcurrency(t *testing.T) {
	config, err := os.ReadFile("../examples/concurrency.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	backends, addresses := startBackends(t, 2)
	c := startCaddyConfig(t, string(config), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS", "BACKENDS="+addresses)
	if status, _, _ := c.get("/"); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	for _, b := range backends {
		var shown struct {
			Limit int `json:"limit"`
		}
		if status := c.api(http.MethodGet, "/load_balancer/pools/web/backends/"+b.addr, &shown); status != http.StatusOK || shown.Limit < 1 {
			t.Errorf("%s: status %d, limit %d", b.addr, status, shown.Limit)
		}
	}
}
