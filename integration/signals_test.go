package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// scrape returns the metrics as text. A reload replaces the admin endpoint, and resets who is about to be served by the old one.
func (c *caddy) scrape() string {
	c.t.Helper()
	text, err := fetch("http://" + c.admin + "/metrics")
	for again := 0; err != nil && isDisconnect(err) && again < 5; again++ {
		text, err = fetch("http://" + c.admin + "/metrics")
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// fetch returns what a URL answers with 200. Connections are not kept: a reload ends those of the admin endpoint.
func fetch(url string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	r.Close = true
	res, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return string(text), err
}

// series are the values of a metric by their labels, of those that have all these labels.
func series(text, metric string, labels ...string) map[string]float64 {
	found := make(map[string]float64)
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, "{")
		of, value, complete := strings.Cut(rest, "} ")
		if !ok || !complete || name != metric || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(","+of+",", ","+l+",") }) {
			continue
		}
		found[of], _ = strconv.ParseFloat(strings.TrimSpace(value), 64)
	}
	return found
}

// total is the sum of series.
func total(text, metric string, labels ...string) int {
	sum := 0.0
	for _, value := range series(text, metric, labels...) {
		sum += value
	}
	return int(sum)
}

// promtool runs Prometheus's tool for checks.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || stdin != "" && len(out) > 0 {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// accessLine is a line of the access log.
type accessLine struct {
	Msg, UUID string
	Status    int
	Request   struct{ URI string }
	LB        *struct {
		Pool, Backend, Policy, Error string
		QueueMs                      float64 `json:"queue_ms"`
		Attempts                     []loggedAttempt
	} `json:"load_balancer"`
	Shown any // what log_append added
}

type loggedAttempt struct {
	Backend, Error string
	GRPC           string `json:"grpc_status"`
	Status         int
	Ms             float64
}

// accessLog waits for n lines of requests whose path begins so and returns them.
func (c *caddy) accessLog(path string, n int) []accessLine {
	c.t.Helper()
	var found []accessLine
	waitFor(c.t, fmt.Sprintf("%d lines in the log about %s", n, path), func() bool {
		found = nil
		lines := bufio.NewScanner(strings.NewReader(c.log.String()))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var line accessLine
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "handled request" && strings.HasPrefix(line.Request.URI, path) {
				found = append(found, line)
			}
		}
		return len(found) >= n
	})
	return found
}

// onLog is the part of a site that turns its access log on.
const onLog = "log {\n output stdout\n format json\n}\n"

// TestSignalsAgree: over a run with faults, metrics, access log, clients and the backends' own counts say the same.
func TestSignalsAgree(t *testing.T) {
	backends, addresses := startBackends(t, 3)
	gone := freeAddress(t)
	hanging := make(chan struct{})
	behave := func(normally http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hang" {
				hanging <- struct{}{}
				<-r.Context().Done()
				return
			}
			normally(w, r)
		}
	}
	backends[0].handle(behave(answers(http.StatusOK)))
	backends[1].handle(behave(answers(http.StatusServiceUnavailable)))
	backends[2].handle(behave(writes()))
	// On kept connections the transport may try again by itself, and nobody would know.
	c := startCaddy(t, onLog+"load_balancer "+addresses+" "+gone+" {\n name web\n lb_policy round_robin\n breaker off\n retry {\n attempts 3\n }\n transport http {\n keepalive off\n }\n}")
	const clients, each, leaving = 4, 50, 5
	var mu sync.Mutex
	answered := make(map[int]int)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			method := []string{http.MethodGet, http.MethodPost}[i%2]
			for range each {
				status, _ := c.ask(c.request(method, nil))
				mu.Lock()
				answered[status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for range leaving {
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("/hang"), nil)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if res, err := client.Do(r); err == nil {
				res.Body.Close()
			}
		}()
		<-hanging
		leave()
		<-ended
		answered[499]++
	}

	logged, attempts, retries := make(map[int]int), make(map[string]int), 0
	unavailable, failed := 0, 0
	for _, line := range c.accessLog("/", clients*each+leaving) {
		logged[line.Status]++
		retries += len(line.LB.Attempts) - 1
		for _, a := range line.LB.Attempts {
			attempts[a.Backend]++
			if a.Status == http.StatusServiceUnavailable {
				unavailable++
			}
			if a.Status == 0 && a.Backend == backends[2].addr {
				failed++
			}
		}
	}
	text := c.scrape()
	promtool(t, text, "check", "metrics")
	if !maps.Equal(logged, answered) {
		t.Errorf("the log tells of statuses %v, clients of %v", logged, answered)
	}
	for status, n := range logged {
		if got := total(text, "caddy_load_balancer_requests_total", `pool="web"`, fmt.Sprintf(`code="%d"`, status)); got != n {
			t.Errorf("requests_total of %d is %d, in the log there are %d", status, got, n)
		}
	}
	if got, want := total(text, "caddy_load_balancer_requests_total"), clients*each+leaving; got != want {
		t.Errorf("requests_total is %d, want %d", got, want)
	}
	for _, b := range backends {
		if got := int(b.requests.Load()); got != attempts[b.addr] || got == 0 {
			t.Errorf("%s got %d requests, the log tells of %d", b.addr, got, attempts[b.addr])
		}
	}
	for backend, n := range attempts {
		if got := total(text, "caddy_load_balancer_attempts_total", `backend="`+backend+`"`); got != n {
			t.Errorf("attempts_total of %s is %d, the log tells of %d", backend, got, n)
		}
		if got := total(text, "caddy_load_balancer_attempt_duration_seconds_count", `backend="`+backend+`"`, `phase="total"`); got != n {
			t.Errorf("%d durations of %s, the log tells of %d attempts", got, backend, n)
		}
	}
	if attempts[gone] == 0 || retries == 0 {
		t.Errorf("%d attempts on a backend that is gone, %d retries; want some", attempts[gone], retries)
	}
	if got := total(text, "caddy_load_balancer_retries_total"); got != retries {
		t.Errorf("retries_total is %d, the log tells of %d", got, retries)
	}
	if got := total(text, "caddy_load_balancer_attempts_repeated_total"); got != retries {
		t.Errorf("attempts_repeated_total is %d, the log tells of %d", got, retries)
	}
	if got := total(text, "caddy_load_balancer_responses_total", `class="5xx"`, `backend="`+backends[1].addr+`"`); got != unavailable || got == 0 {
		t.Errorf("%d answers with 5xx, the log tells of %d", got, unavailable)
	}
	ignored := total(text, "caddy_load_balancer_attempts_total", `outcome="ignored"`)
	if got := total(text, "caddy_load_balancer_attempts_total", `outcome="failure"`, `backend="`+backends[2].addr+`"`); ignored != leaving || got > failed || got < failed-leaving {
		t.Errorf("%d attempts are ignored, want %d; %d failures of one that resets, the log tells of %d", ignored, leaving, got, failed)
	}
}

// TestMetricsOverReloads: no scrape is refused or has anything twice, and counters never go back.
func TestMetricsOverReloads(t *testing.T) {
	_, addresses := startBackends(t, 2)
	site := func(extra string) string {
		return siteConfig("load_balancer " + addresses + " " + extra + " {\n name web\n}")
	}
	c := startCaddyConfig(t, site(""))
	var stop sync.WaitGroup
	done := make(chan struct{})
	stop.Go(func() {
		last := 0
		for {
			select {
			case <-done:
				return
			default:
			}
			text, err := fetch("http://" + c.admin + "/metrics")
			if err != nil {
				if strings.Contains(err.Error(), "status") {
					t.Error(err)
				}
				continue // the endpoint is being replaced
			}
			now := total(text, "caddy_load_balancer_requests_total")
			if now < last {
				t.Errorf("requests_total went from %d to %d", last, now)
			}
			last = now
		}
	})
	const reloads = 50
	extra := freeAddress(t)
	for i := range reloads {
		c.get("/")
		config := site([]string{"", extra}[i%2])
		if err := c.reload(config); err != nil {
			t.Fatal(err)
		}
		text := c.scrape()
		if got, want := len(series(text, "caddy_load_balancer_in_flight")), 2+i%2; got != want {
			t.Errorf("reload %d: %d backends are told of, want %d", i, got, want)
		}
	}
	close(done)
	stop.Wait()
	// Where a connection was reset by a reload, get has asked again.
	if got := total(c.scrape(), "caddy_load_balancer_requests_total"); got < reloads || got > 6*reloads {
		t.Errorf("requests_total is %d after %d requests", got, reloads)
	}
}

// TestNativeHistograms: who asks for them gets native histograms.
func TestNativeHistograms(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr)
	c.get("/")
	r, err := http.NewRequest(http.MethodGet, "http://"+c.admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	found := false
	for _, f := range decodeMetrics(t, r) {
		if f.GetName() != "caddy_load_balancer_attempt_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			h := m.GetHistogram()
			found = found || h.GetSampleCount() == 1 && len(h.GetPositiveSpan()) == 1 && len(h.GetBucket()) > 0
		}
	}
	if !found {
		t.Error("no duration with native and classic buckets")
	}
}

// TestConnectTime: connections that are made for requests are timed, and those of checks are not.
func TestConnectTime(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n health_check {\n http /\n interval 1s\n }\n}")
	waitFor(t, "a check", func() bool { return total(c.scrape(), "caddy_load_balancer_last_check_ok") == 1 })
	for range 3 {
		c.get("/")
	}
	text := c.scrape()
	connected := total(text, "caddy_load_balancer_attempt_duration_seconds_count", `phase="connect"`)
	if answered := total(text, "caddy_load_balancer_attempt_duration_seconds_count", `phase="first_byte"`); connected < 1 || connected > answered || answered != 3 {
		t.Errorf("%d connections for %d requests; want one for all, as far as they are kept, and none of checks", connected, answered)
	}
	if at := total(text, "caddy_load_balancer_last_check_timestamp_seconds"); time.Since(time.Unix(int64(at), 0)) > time.Minute {
		t.Errorf("the last check was at %v", time.Unix(int64(at), 0))
	}
}

// TestStockGauge: what watches reverse_proxy's gauge goes on to see the truth.
func TestStockGauge(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 2)
	plain := startBackend(t)
	gauge := func(c *caddy) string { return fmt.Sprint(series(c.scrape(), "caddy_reverse_proxy_upstreams_healthy")) }
	want := func(c *caddy, what string, states ...string) {
		t.Helper()
		all := make(map[string]float64)
		for i, state := range states {
			all[fmt.Sprintf("upstream=%q", append(slices.Collect(addressesOf(backends)), plain.addr)[i])] = map[string]float64{"up": 1, "down": 0}[state]
			if state == "gone" {
				delete(all, fmt.Sprintf("upstream=%q", backends[i].addr))
			}
		}
		waitFor(t, what+": "+fmt.Sprint(all), func() bool { return gauge(c) == fmt.Sprint(all) })
	}
	site := func(addresses string) string {
		return siteConfig("load_balancer /lb " + addresses + " {\n name web\n health_check {\n http /\n interval 200ms\n fast_interval 50ms\n }\n}\nreverse_proxy " + plain.addr)
	}
	c := startCaddyConfig(t, site(addresses))
	want(c, "all well", "up", "up", "up")
	backends[1].handle(answers(500))
	want(c, "one fails its checks", "up", "down", "up")
	if err := c.reload(strings.Replace(site(addresses), "name web", "name web\n slow_start off", 1)); err != nil {
		t.Fatal(err)
	}
	want(c, "after a reload", "up", "down", "up")
	backends[1].handle(answers(200))
	want(c, "it is back", "up", "up", "up")
	if err := c.reload(site(backends[0].addr)); err != nil {
		t.Fatal(err)
	}
	want(c, "one is removed", "up", "gone", "up")
}

func addressesOf(backends []*backend) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, b := range backends {
			if !yield(b.addr) {
				return
			}
		}
	}
}
