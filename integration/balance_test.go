package integration

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestDistribution(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		site string
		want []int64 // of 100 requests, one after the other; nil where chance decides
	}{
		{"round robin", "load_balancer B0 B1 B2 {\n lb_policy round_robin\n}", []int64{33, 34, 33}},
		{"weights of backends", "load_balancer {\n backend B0 {\n weight 5\n}\n backend B1 {\n weight 3\n}\n backend B2 {\n weight 2\n}\n lb_policy weighted_round_robin\n}", []int64{50, 30, 20}},
		{"round robin follows weights", "load_balancer B1 B2 {\n backend B0 {\n weight 2\n}\n lb_policy round_robin\n}", []int64{50, 25, 25}},
		{"weights by position", "load_balancer B0 B1 B2 {\n lb_policy weighted_round_robin 5 3 2\n}", []int64{50, 30, 20}},
		{"weights by position, mixed", "load_balancer {\n backend B0\n to B1\n backend B2\n lb_policy weighted_round_robin 5 3 2\n}", []int64{50, 30, 20}},
		{"weight 0", "load_balancer B1 {\n backend B0 {\n weight 0\n}\n backend B2 {\n weight 1\n}\n lb_policy round_robin\n}", []int64{0, 50, 50}},
		{"first", "load_balancer B0 B1 B2 {\n lb_policy first\n}", []int64{100, 0, 0}},
		{"given twice", "load_balancer B0 B0 B1 B2 {\n lb_policy round_robin\n}", []int64{50, 25, 25}},
		{"backup", "load_balancer B0 B1 {\n backend B2 {\n backup\n}\n lb_policy round_robin\n}", []int64{50, 50, 0}},
		{"default", "load_balancer B0 B1 B2", nil},
		{"random", "load_balancer B0 B1 B2 {\n lb_policy random\n}", nil},
		{"p2c", "load_balancer B0 B1 B2 {\n lb_policy p2c\n}", nil},
		{"random_choose", "load_balancer B0 B1 B2 {\n lb_policy random_choose 2\n}", nil},
		{"stock hash", "load_balancer B0 B1 B2 {\n lb_policy uri_hash\n}", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			backends, _ := startBackends(t, 3)
			c := startCaddy(t, fillBackends(tt.site, backends))
			for i := range 100 {
				if status, _, body := c.get(fmt.Sprintf("/%d", i)); status != http.StatusOK {
					t.Fatalf("status %d: %s", status, body)
				}
			}
			got := counts(backends)
			if tt.want == nil {
				// Each of three gets 33 of 100 on average; less than 6 has a chance below one in a hundred billion, but for one that stalls.
				if got[0]+got[1]+got[2] != 100 || slices.Min(got) < 6 && (tt.name != "default" || slices.Min(got) == 0) {
					t.Errorf("shares = %v, want about a third each", got)
				}
				return
			}
			slices.Sort(got[1:]) // who of equals gets the odd one is not promised
			want := slices.Clone(tt.want)
			slices.Sort(want[1:])
			if tt.want[0] == 34 {
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("shares = %v, want %v", got, want)
			}
		})
	}
}

// fillBackends puts addresses in the place of B0, B1, ...
func fillBackends(site string, backends []*backend) string {
	for i, b := range backends {
		site = strings.ReplaceAll(site, fmt.Sprintf("B%d", i), b.addr)
	}
	return site
}

// TestLeastConnAvoidsBusyBackend: while one backend sits on its requests, the others get all new ones.
func TestLeastConnAvoidsBusyBackend(t *testing.T) {
	backends, addresses := startBackends(t, 3)
	release := make(chan struct{})
	var hung atomic.Int64
	backends[0].handle(func(http.ResponseWriter, *http.Request) {
		hung.Add(1)
		<-release
	})
	c := startCaddy(t, "load_balancer "+addresses+" {\n lb_policy least_conn\n}")
	var wg sync.WaitGroup
	// Idle backends are equal, so the first requests may go to any; one of them will be stuck in the end. The next is sent when the
	// one before has been answered: all backends are idle then.
	for hung.Load() == 0 {
		answered := make(chan struct{})
		wg.Go(func() {
			defer close(answered)
			if res, err := client.Get(c.url("/")); err == nil {
				res.Body.Close()
			}
		})
		waitFor(t, "an answer, or none", func() bool {
			select {
			case <-answered:
				return true
			default:
				return hung.Load() > 0
			}
		})
	}
	for range 60 {
		c.get("/")
	}
	if n := backends[0].requests.Load(); n != 1 {
		t.Errorf("the busy backend got %d requests, want 1", n)
	}
	close(release)
	wg.Wait()
}

// TestMaxRequestsIsExact asks with far more clients than there are slots.
func TestMaxRequestsIsExact(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"round_robin", "weighted_round_robin", "least_conn", "random", "first", "random_choose 2", "peak_ewma", "ip_hash"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			backends, _ := startBackends(t, 2)
			full := make(chan struct{}) // closed when a request has been refused
			for _, b := range backends {
				b.handle(func(w http.ResponseWriter, _ *http.Request) {
					<-full
					time.Sleep(2 * time.Millisecond)
					fmt.Fprint(w, "ok")
				})
			}
			c := startCaddy(t, fillBackends("load_balancer {\n backend B0 {\n max_requests 3\n }\n backend B1 {\n max_requests 2\n }\n lb_policy "+policy+"\n}", backends))
			var refused, served atomic.Int64
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					for range 25 {
						res, err := client.Get(c.url("/"))
						if err != nil {
							t.Error(err)
							return
						}
						res.Body.Close()
						switch res.StatusCode {
						case http.StatusOK:
							served.Add(1)
						case http.StatusServiceUnavailable:
							if refused.Add(1) == 1 {
								close(full)
							}
							if res.Header.Get("Retry-After") == "" {
								t.Error("503 without Retry-After")
							}
						default:
							t.Errorf("status %d", res.StatusCode)
						}
					}
				})
			}
			wg.Wait()
			for i, limit := range []int64{3, 2} {
				if got := backends[i].maxInFlight.Load(); got > limit {
					t.Errorf("backend %d had %d requests at a time, cap %d", i, got, limit)
				}
			}
			if served.Load() == 0 || refused.Load() == 0 {
				t.Errorf("%d served, %d refused: want some of both", served.Load(), refused.Load())
			}
			if status, _, _ := c.get("/"); status != http.StatusOK {
				t.Errorf("status %d when nobody is busy any more", status)
			}
		})
	}
}

func TestRetryGoesElsewhere(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"round_robin", "weighted_round_robin", "least_conn", "random", "first", "uri_hash"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			backends, addresses := startBackends(t, 3)
			c := startCaddy(t, "load_balancer "+addresses+" {\n lb_retries 2\n lb_policy "+policy+"\n}")
			backends[0].kill()
			backends[1].kill()
			for range 30 {
				if status, _, body := c.get("/"); status != http.StatusOK || body != backends[2].addr {
					t.Fatalf("status %d, %q; want an answer of the only backend alive", status, body)
				}
			}
		})
	}
}

func TestRetryReachesBackup(t *testing.T) {
	backends, _ := startBackends(t, 2)
	c := startCaddy(t, fillBackends("load_balancer B0 {\n backend B1 {\n backup\n }\n lb_retries 1\n}", backends))
	backends[0].kill()
	if status, _, body := c.get("/"); status != http.StatusOK || body != backends[1].addr {
		t.Errorf("status %d, %q; want the backup's answer", status, body)
	}
}

// TestTryDurationWaits: a request waits for a backend to come back when it is told to.
func TestTryDurationWaits(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	c := startCaddy(t, "load_balancer "+b.addr+" {\n lb_try_duration 1m\n lb_try_interval 20ms\n}")
	b.kill()
	done := make(chan error, 1)
	go func() {
		res, err := client.Get(c.url("/"))
		if err == nil {
			defer res.Body.Close()
			if res.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", res.StatusCode)
			}
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("the request ended before the backend was back: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	startBackendAt(t, "tcp", b.addr)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestActiveHealthChecks(t *testing.T) {
	backends, _ := startBackends(t, 3)
	var sick atomic.Bool
	backends[0].handle(func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() && r.URL.Path == "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, backends[0].addr)
	})
	// B2 is there to be used when the others are not.
	c := startCaddy(t, fillBackends("load_balancer B0 B1 {\n backend B2 {\n backup\n }\n lb_policy round_robin\n health_uri /healthz\n health_interval 50ms\n health_timeout 10s\n}", backends))
	seen := func() string {
		var answers []string
		for range 10 {
			_, _, body := c.get("/")
			answers = append(answers, body)
		}
		slices.Sort(answers)
		return strings.Join(slices.Compact(answers), " ")
	}
	both := []string{backends[0].addr, backends[1].addr}
	slices.Sort(both)
	waitFor(t, "both primaries to be used", func() bool { return seen() == strings.Join(both, " ") })
	sick.Store(true)
	waitFor(t, "the sick backend to be left alone", func() bool { return seen() == backends[1].addr })
	backends[1].kill()
	waitFor(t, "the backup to be used", func() bool { return seen() == backends[2].addr })
	sick.Store(false)
	waitFor(t, "the first backend to be used again", func() bool { return seen() == backends[0].addr })
}

func TestPassiveHealthChecks(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 2)
	site := "load_balancer " + addresses + " {\n lb_policy round_robin\n fail_duration %s\n max_fails 2\n unhealthy_status 5xx\n}"
	c := startCaddy(t, fmt.Sprintf(site, "1h"))
	backends[0].handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	failed := 0
	for range 20 {
		if status, _, _ := c.get("/"); status != http.StatusOK {
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("%d of 20 requests failed, want the two it takes to mark the backend", failed)
	}
	// Another Caddy forgets failures soon.
	c = startCaddy(t, fmt.Sprintf(site, "500ms"))
	waitFor(t, "the backend to be taken out", func() bool { c.get("/"); return c.logged("backend is down", "passive check") > 0 })
	backends[0].handle(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "back") })
	waitFor(t, "the backend to be used again", func() bool {
		_, _, body := c.get("/")
		return body == "back"
	})
}

// TestNobodyIsUsable: an outage is answered at once and asks clients to come back later.
func TestNobodyIsUsable(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	nobody := freeAddress(t)
	sites := map[string]string{
		"weight 0":        "load_balancer {\n backend " + b.addr + " {\n weight 0\n }\n}",
		"all dead":        "load_balancer " + nobody + " {\n health_uri /healthz\n health_interval 50ms\n health_timeout 10s\n}",
		"all dead by tcp": "load_balancer " + nobody + " {\n health_check {\n tcp\n interval 50ms\n timeout 10s\n }\n}",
	}
	for name, site := range sites {
		t.Run(name, func(t *testing.T) {
			c := startCaddy(t, site+"\nhandle_errors {\n respond \"sorry: {err.status_code}\"\n}")
			waitFor(t, "a 503", func() bool {
				status, header, body := c.get("/")
				return status == http.StatusServiceUnavailable && header.Get("Retry-After") != "" && body == "sorry: 503"
			})
			// A busy machine delays some of them, but not all.
			quickest := time.Hour
			for range 20 {
				start := time.Now()
				c.get("/")
				quickest = min(quickest, time.Since(start))
			}
			if quickest > 100*time.Millisecond {
				t.Errorf("the quickest refusal took %v", quickest)
			}
		})
	}
}

func TestUnixSocketBackend(t *testing.T) {
	socket := t.TempDir() + "/app.sock"
	startBackendAt(t, "unix", socket)
	c := startCaddy(t, "load_balancer unix/"+socket)
	if status, _, body := c.get("/"); status != http.StatusOK || body != socket {
		t.Errorf("status %d, body %q", status, body)
	}
}

// TestPlainReverseProxy: our policies serve Caddy's own directive.
func TestPlainReverseProxy(t *testing.T) {
	backends, addresses := startBackends(t, 3)
	c := startCaddy(t, "reverse_proxy "+addresses+" {\n lb_policy lb_weighted_round_robin 5 3 2\n}")
	for range 100 {
		c.get("/")
	}
	if got := counts(backends); !slices.Equal(got, []int64{50, 30, 20}) {
		t.Errorf("shares = %v, want 50 30 20", got)
	}
}

func TestWrongConfig(t *testing.T) {
	tests := []struct{ site, want string }{
		{"load_balancer {\n lb_policy first\n}", "at least one backend, at "},
		{"load_balancer 127.0.0.1:1 {\n wieght 3\n}", "unrecognized subdirective wieght, at "},
		{"load_balancer 127.0.0.1:1 127.0.0.1:2 {\n lb_policy weighted_round_robin 1\n}", "1 weights for 2 backends"},
		{"load_balancer 127.0.0.1:1 {\n name a\n}\nload_balancer /b 127.0.0.1:2 {\n name a\n}", "name a: is already the name of a pool with other settings"},
	}
	for _, tt := range tests {
		out, err := runCaddy(t, ":8080 {\n"+tt.site+"\n}\n", "validate")
		if err == nil || !strings.Contains(out, tt.want) || !strings.Contains(out, "Caddyfile:") {
			t.Errorf("validate of %q: %v\n%s\nwant an error with %q and a line", tt.site, err, out, tt.want)
		}
	}
	if out, err := runCaddy(t, ":8080 {\nload_balancer 127.0.0.1:1\n}\n", "validate"); err != nil {
		t.Errorf("validate of a good config: %v\n%s", err, out)
	}
}

var errStatus = errors.New("unexpected status")

// With lb_hash a key has one backend, over restarts too, and only the keys of one that is gone move.
func TestHashedRequests(t *testing.T) {
	t.Parallel()
	backends, _ := startBackends(t, 4)
	site := fillBackends("load_balancer B0 B1 B2 B3 {\n lb_policy hash {path}\n}", backends)
	where := func(c *caddy) map[string]string {
		t.Helper()
		at := make(map[string]string)
		for i := range 200 {
			path := fmt.Sprintf("/%d", i)
			status, header, _ := c.get(path)
			if status != http.StatusOK {
				t.Fatalf("%s: status %d", path, status)
			}
			at[path] = header.Get("X-Backend")
		}
		return at
	}
	c := startCaddy(t, site)
	first := where(c)
	if err := c.reload(siteConfig(site + "\nheader X-Reloaded yes")); err != nil {
		t.Fatal(err)
	}
	again, restarted := where(c), where(startCaddy(t, site))
	gone := first["/0"]
	for _, b := range backends {
		if b.addr == gone {
			b.kill()
		}
	}
	without := where(c)
	stayed := 0
	for path, backend := range first {
		if again[path] != backend || restarted[path] != backend {
			t.Errorf("%s: %s, then %s after a reload and %s after a restart", path, backend, again[path], restarted[path])
		}
		switch {
		case without[path] == gone:
			t.Errorf("%s: answered by a backend that is gone", path)
		case backend != gone && without[path] == backend:
			stayed++
		case backend != gone:
			t.Logf("%s moved from %s to %s", path, backend, without[path])
		}
	}
	others := 0
	for _, backend := range first {
		if backend != gone {
			others++
		}
	}
	if others == 0 || stayed < others*97/100 {
		t.Errorf("%d of %d keys stayed where they were", stayed, others)
	}
}
