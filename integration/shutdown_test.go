package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stops are the ways to have Caddy stop.
var stops = map[string]func(c *caddy){
	"SIGTERM": func(c *caddy) {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			c.t.Fatal(err)
		}
	},
	"caddy stop": func(c *caddy) {
		cmd := exec.Command(caddyBinary, "stop", "--address", c.admin)
		if err := cmd.Start(); err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = cmd.Wait() })
	},
}

// wrappers returns the listener wrappers that a shutdown is tried with, by name.
func wrappers() map[string]string { return map[string]string{"plain": "", "seamless": seamless} }

// stoppingConfig is siteConfig with global options, and with options of its servers.
func stoppingConfig(options, servers, site string) string {
	return "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n" + options + "\n\tservers {\n\t\tprotocols h1 h2c\n" + servers + "\n\t}\n}\n\nhttp://SITE_ADDRESS {\n" + site + "\n}\n"
}

// exited waits for the end of the process, which is to be as it should.
func (c *caddy) exited() {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatalf("caddy runs %v after it was stopped", patience)
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("exit code %d, want 0", code)
	}
}

// outcome is how a request ended.
type outcome struct {
	status int // 0 if there was no answer
	body   string
	err    error
	at     time.Time
}

// began sends a request for that path and tells in the end how it ended.
func (c *caddy) began(path string) <-chan outcome {
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Get(c.url(path))
		if o.err = err; err == nil {
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			o.status, o.body, o.err = res.StatusCode, string(text), err
		}
		o.at = time.Now()
		ended <- o
	}()
	return ended
}

// stored is the edits of a pool as they are in the storage of c.
func (c *caddy) stored() string {
	c.t.Helper()
	var all strings.Builder
	for _, variable := range c.cmd.Env {
		dir, found := strings.CutPrefix(variable, "XDG_DATA_HOME=")
		if !found {
			continue
		}
		files, _ := filepath.Glob(filepath.Join(dir, "caddy", "load_balancer", "pools", "*.json"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				c.t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}

// TestShutdownGoesOn: from the first moment of a shutdown load_balancer_ready says so, requests are served for shutdown_delay, and the load
// balancer lives until the last request has ended: Caddy stops its apps in any order, so each way is tried more than once.
func TestShutdownGoesOn(t *testing.T) {
	t.Parallel()
	for stop := range stops {
		for wrapper := range wrappers() {
			for n := range 2 {
				t.Run(fmt.Sprint(stop, " ", wrapper, " ", n), func(t *testing.T) {
					t.Parallel()
					testShutdownGoesOn(t, stops[stop], wrappers()[wrapper])
				})
			}
		}
	}
}

func testShutdownGoesOn(t *testing.T, stop func(*caddy), wrapper string) {
	const delay = 2 * time.Second
	let := make(chan struct{})
	var ill atomic.Bool // the first backend
	backends, addresses := startBackends(t, 2)
	for i, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/healthz" && i == 0 && ill.Load():
				w.WriteHeader(http.StatusServiceUnavailable)
			case r.URL.Path == "/long":
				<-let
			}
		})
	}
	c := startCaddyConfig(t, stoppingConfig(fmt.Sprintf("shutdown_delay %v\n grace_period 10m", delay), wrapper, `
		handle /ready {
			load_balancer_ready
		}
		handle {
			ip_rate_limit {
				zone z
				rate 100000/s
			}
			load_balancer `+addresses+` {
				name p
				health_check {
					http /healthz
					interval 100ms
					timeout 90ms
					fall 1
				}
			}
		}`))
	waitFor(t, "all backends to be usable", func() bool { return c.poolNamed("p").Usable == 2 })
	long := c.began("/long")
	waitFor(t, "a long request to be on its way", func() bool { return backends[0].inFlight.Load()+backends[1].inFlight.Load() > 0 && c.waiting("p") > 0 })

	sent := time.Now()
	stop(c)
	var first time.Time // when it was known that Caddy stops
	served := 0
	for {
		ready, answer := <-c.began("/ready"), <-c.began("/")
		if time.Since(sent) >= delay {
			break // it may be over by now
		}
		switch {
		case ready.err != nil || answer.err != nil || answer.status != http.StatusOK:
			t.Fatalf("%v after the signal: ready %+v, answer %+v", time.Since(sent), ready, answer)
		case ready.status == http.StatusServiceUnavailable && strings.Contains(ready.body, "stopping"):
			if first.IsZero() {
				first = time.Now()
			}
			served++
		case !first.IsZero():
			t.Fatalf("ready again: %+v", ready)
		}
	}
	if served == 0 {
		t.Errorf("no request was served of which it is known that it came while Caddy stopped")
	}

	// Requests are on their way for as long as the test wants.
	ill.Store(true)
	waitFor(t, "the loss of a backend to be seen", func() bool {
		for _, b := range c.poolNamed("p").Backends {
			if b.Address == backends[0].addr {
				return !b.Usable
			}
		}
		return false
	})
	c.edit("PATCH", backends[1].addr, `{"weight": 7}`).wants(t, http.StatusOK)
	var zones []struct{ Zone string }
	if c.api("GET", "/load_balancer/rate_limits", &zones); len(zones) != 1 || zones[0].Zone != "z" {
		t.Errorf("rate limits %+v", zones)
	}
	if usable := c.metric("caddy_load_balancer_backend_healthy", `backend="`+backends[0].addr+`",pool="p"`); usable != 0 {
		t.Errorf("the metrics say %v of a backend that is down", usable)
	}
	close(let)
	if o := <-long; o.status != http.StatusOK || o.err != nil {
		t.Errorf("the request that was on its way: %+v", o)
	}
	c.exited()
	if text := c.stored(); !json.Valid([]byte(text)) || !strings.Contains(text, backends[1].addr) || !strings.Contains(text, "7") {
		t.Errorf("in storage: %s", text)
	}
}

// TestShutdownAnswersAll: who waits for a backend when Caddy exits is answered within grace_period, however long it would have waited.
func TestShutdownAnswersAll(t *testing.T) {
	t.Parallel()
	for wrapper := range wrappers() {
		t.Run(wrapper, func(t *testing.T) {
			t.Parallel()
			const grace = 4 * time.Second
			let := make(chan struct{})
			b := startBackend(t)
			b.handle(func(http.ResponseWriter, *http.Request) { <-let })
			nobody := freeAddress(t)
			c := startCaddyConfig(t, stoppingConfig(fmt.Sprintf("grace_period %v", grace), wrappers()[wrapper], `
				handle /queue {
					load_balancer {
						name queue
						backend `+b.addr+` {
							max_requests 1
						}
						queue 10 10m
					}
				}
				handle /hold {
					load_balancer `+nobody+` {
						name hold
						hold 1m
					}
				}
				handle /try {
					load_balancer `+nobody+` {
						name try
						lb_try_duration 10m
					}
				}`))
			first := c.began("/queue")
			waitFor(t, "the slot to be taken", func() bool { return b.inFlight.Load() == 1 })
			waiting := map[string]<-chan outcome{}
			for _, pool := range []string{"queue", "hold", "try"} {
				waiting[pool] = c.began("/" + pool)
			}
			for pool, most := range map[string]int{"queue": 2, "hold": 1, "try": 1} {
				waitFor(t, "a request to wait", func() bool { return c.waiting(pool) == most })
			}
			sent := time.Now()
			stops["SIGTERM"](c)
			for pool, ended := range waiting {
				o := <-ended
				if o.err != nil || o.status != http.StatusServiceUnavailable && o.status != http.StatusBadGateway {
					t.Errorf("%s: %+v, want an answer", pool, o)
				}
				if took := o.at.Sub(sent); took < grace/2 {
					t.Errorf("%s: answered after %v, though it could have waited longer", pool, took)
				}
			}
			close(let)
			if o := <-first; o.err != nil && time.Since(sent) < grace || o.err == nil && o.status != http.StatusOK {
				t.Errorf("the request that was on its way: %+v", o)
			}
			c.exited()
		})
	}
}
