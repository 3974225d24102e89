package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestStreamsOutliveReloads: WebSockets to backends that the new config still has stay open over reloads, under plain defaults. Each keeps its
// slot, which is counted once, and when it ends nothing of the configs in between is left.
func TestStreamsOutliveReloads(t *testing.T) {
	t.Parallel()
	const n = 60
	one, two, three := startSocketBackend(t), startSocketBackend(t), startSocketBackend(t)
	configs := []string{
		balancing("", one, two),
		balancing("lb_policy least_conn\n header_up X-Reloaded 1", one, two, three),
		balancing("stream_timeout 1h\n stream_buffer_size 1KiB", two, one),
		balancing("lb_policy hash {path}", three, two, one),
		balancing(fmt.Sprintf("unhealthy_request_count %d", (n+8)/2), one, two),
	}
	c := startCaddyConfig(t, configs[0], extendedConnects)
	warm := openSockets(t, c, 2)
	warm.echo(t, "warm")
	for _, s := range warm {
		s.Close()
	}
	waitFor(t, "nothing to be in flight", func() bool { f := c.inFlight("p"); return f[one.addr] == 0 && f[two.addr] == 0 })
	reload := func(config string) {
		t.Helper()
		if err := c.reload(config); err != nil {
			t.Fatal(err)
		}
	}
	reload(configs[1])
	reload(configs[0])
	goroutines, descriptors := c.leftovers()
	all := openSockets(t, c, n)
	for range 8 {
		all = append(all, openSocketOverHTTP2(t, c, "/"))
	}
	all.echo(t, "before")
	half := int64(len(all) / 2)
	for i := 1; i <= 2*len(configs); i++ {
		reload(configs[i%len(configs)])
		when := fmt.Sprint("after reload ", i)
		all.echo(t, when)
		if f := c.inFlight("p"); f[one.addr] != half || f[two.addr] != half || f[three.addr] != 0 {
			t.Errorf("%s: %v in flight, want %d at each of two", when, f, half)
		}
		if i%len(configs) == len(configs)-1 { // the cap counts them
			if status, _, _ := c.get("/"); status != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d when all slots are taken, want 503", when, status)
			}
		}
	}
	for i, s := range all {
		s.Close()
		if left := int64(len(all) - 1 - i); left%20 == 0 {
			waitFor(t, "the slots to be free", func() bool { f := c.inFlight("p"); return f[one.addr]+f[two.addr] == left })
		}
	}
	if status, _, _ := c.get("/"); status != http.StatusOK {
		t.Errorf("status %d in the end", status)
	}
	var g, d int
	waitFor(t, "goroutines and descriptors to be as before", func() bool {
		g, d = c.leftovers()
		return g <= goroutines+10 && d <= descriptors+5
	})
	t.Logf("%d goroutines and %d descriptors before, %d and %d after", goroutines, descriptors, g, d)
}

// leftovers returns the numbers of goroutines and of open descriptors of the process.
func (c *caddy) leftovers() (goroutines, descriptors int) {
	c.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	return int(c.metric("go_goroutines", "")), len(all)
}

// TestStreamsBesideReverseProxy shows how both directives treat WebSockets at a reload and at the exit.
func TestStreamsBesideReverseProxy(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	site := func(settings string) string {
		return siteConfig("handle /ours {\n load_balancer " + one.addr + " {\n " + settings + "\n}\n}\nhandle /stock {\n reverse_proxy " + one.addr + " {\n" + settings + "\n}\n}")
	}
	c := startCaddyConfig(t, site(""))
	ours, stock := sockets{mustOpenSocket(t, c, "/ours")}, sockets{mustOpenSocket(t, c, "/stock")}
	if err := c.reload(site("header_up X-Reloaded 1\n stream_close_delay 1h")); err != nil {
		t.Fatal(err)
	}
	ours.echo(t, "after a reload")
	stock.each(t, "after a reload, with reverse_proxy", func(s *socket) error {
		if operation, payload, _, err := readFrame(s.from); operation != closeFrame || closeStatus(payload) != 1001 {
			return fmt.Errorf("frame %d, %w; want 1001", operation, err)
		}
		return nil
	})
	ours, stock = append(ours, mustOpenSocket(t, c, "/ours")), sockets{mustOpenSocket(t, c, "/stock")}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	ours.goAway(t, "at the exit")
	stock.each(t, "at the exit, with reverse_proxy", func(s *socket) error {
		if operation, _, _, err := readFrame(s.from); err == nil {
			return fmt.Errorf("frame %d", operation)
		}
		return nil
	})
}

// TestStreamsToRemovedBackends: WebSockets to a backend that the new config does not have any more end after drain_timeout, those to others do
// not. Without drain_timeout, they stay.
func TestStreamsToRemovedBackends(t *testing.T) {
	t.Parallel()
	one, two, three := startSocketBackend(t), startSocketBackend(t), startSocketBackend(t)
	c := startCaddyConfig(t, balancing("", one, two, three), extendedConnects)
	all := openSockets(t, c, 30)
	for range 3 {
		all = append(all, openSocketOverHTTP2(t, c, "/"))
	}
	for i, config := range []string{balancing("", two, three), balancing("stream_timeout 1h", two, three)} {
		if err := c.reload(config); err != nil {
			t.Fatal(err)
		}
		all.echo(t, fmt.Sprint("without drain_timeout, reload ", i))
	}
	// The backend returns in time, at first at the API and then in the config.
	if err := c.reload(balancing("drain_timeout 3s", two, three)); err != nil {
		t.Fatal(err)
	}
	c.edit("POST", "", `{"address": "`+one.addr+`"}`).wants(t, http.StatusCreated)
	start := time.Now()
	all.each(t, "when the backend was added", func(s *socket) error {
		for time.Since(start) < 3500*time.Millisecond {
			if err := s.echo("added"); err != nil {
				return err
			}
		}
		return nil
	})
	if err := c.reload(balancing("drain_timeout 1s", one, two, three)); err != nil {
		t.Fatal(err)
	}
	all.echo(t, "when the backend is back")
	if f := c.inFlight("p"); f[one.addr] != 11 || f[two.addr] != 11 || f[three.addr] != 11 {
		t.Errorf("%v in flight, want 11 each", f)
	}
	start = time.Now()
	if err := c.reload(balancing("drain_timeout 1s", one, three)); err != nil {
		t.Fatal(err)
	}
	all.to(two.addr, false).goAway(t, "removed")
	if took := time.Since(start); took < time.Second || took > 20*time.Second {
		t.Errorf("closed after %v, want 1s", took)
	}
	all.to(two.addr, true).echo(t, "to backends that are left")
	waitFor(t, "the backend to be told", func() bool { return two.closings(1001) == 11 })
	if f := c.inFlight("p"); f[one.addr] != 11 || f[three.addr] != 11 {
		t.Errorf("%v in flight, want 11 each", f)
	}
	if n := one.closings(1001) + three.closings(1001); n != 0 {
		t.Errorf("%d WebSockets to other backends were closed", n)
	}
}

// TestStreamsWithoutTheirPool: WebSockets stay when the config has no such pool any more, and are counted when it is back.
func TestStreamsWithoutTheirPool(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	c := startCaddyConfig(t, balancing("", one))
	all := openSockets(t, c, 10)
	for i, site := range []string{"respond none", "load_balancer " + one.addr + " {\n name other\n}"} {
		if err := c.reload(siteConfig(site)); err != nil {
			t.Fatal(err)
		}
		all.echo(t, fmt.Sprint("without the pool ", i))
	}
	if err := c.reload(balancing("drain_timeout 1s", one)); err != nil {
		t.Fatal(err)
	}
	all.echo(t, "with the pool")
	if f := c.inFlight("p"); f[one.addr] != 10 {
		t.Errorf("%v in flight, want 10", f)
	}
	if err := c.reload(siteConfig("respond none")); err != nil {
		t.Fatal(err)
	}
	all.goAway(t, "without the pool, with drain_timeout")
}

// TestStreamCloseDelay: with it, WebSockets of the old config are closed that long after a reload, whatever backends the new one has.
func TestStreamCloseDelay(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	c := startCaddyConfig(t, balancing("stream_close_delay 1500ms", one), extendedConnects)
	all := append(openSockets(t, c, 10), openSocketOverHTTP2(t, c, "/"))
	start := time.Now()
	if err := c.reload(balancing("", one)); err != nil {
		t.Fatal(err)
	}
	later := openSockets(t, c, 5)
	all.echo(t, "before the delay")
	all.goAway(t, "after the delay")
	if took := time.Since(start); took < 1500*time.Millisecond || took > 20*time.Second {
		t.Errorf("closed after %v, want 1.5s", took)
	}
	later.echo(t, "of the new config")
	waitFor(t, "the slots to be free", func() bool { return c.inFlight("p")[one.addr] == 5 })
}

// TestDrainsOfEarlierStreams: a backend that is drained or removed by the API has its WebSockets closed after drain_timeout, those that were
// opened under earlier configs, too.
func TestDrainsOfEarlierStreams(t *testing.T) {
	t.Parallel()
	one, two, three := startSocketBackend(t), startSocketBackend(t), startSocketBackend(t)
	c := startCaddyConfig(t, balancing("", one), extendedConnects)
	stuck := sockets{mustOpenSocket(t, c, "/flood"), openSocketOverHTTP2(t, c, "/flood")} // their clients do not read
	if err := c.reload(balancing("", one, two, three)); err != nil {
		t.Fatal(err)
	}
	all := openSockets(t, c, 9)
	for _, config := range []string{balancing("drain_timeout 1h", one, two, three), balancing("drain_timeout 1s", one, two, three)} {
		if err := c.reload(config); err != nil {
			t.Fatal(err)
		}
		all = append(all, openSockets(t, c, 9)...)
	}
	start := time.Now()
	c.edit("PATCH", one.addr, `{"state": "drain"}`).wants(t, http.StatusOK)
	c.edit("DELETE", two.addr, "").wants(t, http.StatusAccepted)
	all.echo(t, "before the time is up")
	all.to(three.addr, true).goAway(t, "drained")
	if took := time.Since(start); took < time.Second || took > 20*time.Second {
		t.Errorf("closed after %v, want 1s", took)
	}
	all.to(three.addr, false).echo(t, "to the backend that is left")
	waitFor(t, "the slots to be free", func() bool { f := c.inFlight("p"); return f[one.addr] == 0 && f[two.addr] == 0 && f[three.addr] == 9 })
	for _, s := range stuck {
		s.Close()
	}
}

// TestShutdownClosesStreams: at the exit of the process, WebSockets of all configs are closed with 1001, between two frames. A client that does
// not answer, or does not even read, cannot keep the process.
func TestShutdownClosesStreams(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(c *caddy){
		"SIGTERM":    func(c *caddy) { _ = c.cmd.Process.Signal(syscall.SIGTERM) },
		"caddy stop": func(c *caddy) { c.askAdmin(http.MethodPost, "/stop") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := startSocketBackend(t), startSocketBackend(t)
			c := startCaddyConfig(t, balancing("", one, two), extendedConnects)
			var quiet, busy sockets
			open := func() {
				quiet = append(append(quiet, openSockets(t, c, 10)...), openSocketOverHTTP2(t, c, "/"))
				busy = append(busy, mustOpenSocket(t, c, "/pieces"), openSocketOverHTTP2(t, c, "/pieces"))
			}
			open()
			for _, config := range []string{balancing("stream_close_delay 1h", one, two), balancing("", one), balancing("", one, two)} {
				if err := c.reload(config); err != nil {
					t.Fatal(err)
				}
				open()
			}
			mute := openSockets(t, c, 2)
			stuck := sockets{mustOpenSocket(t, c, "/flood"), mustOpenSocket(t, c, "/flood")}
			quiet.echo(t, "before")
			var wg sync.WaitGroup
			wg.Go(func() { busy.goAway(t, "busy, at the exit") })
			stop(c)
			quiet.goAway(t, "at the exit")
			wg.Wait()
			c.exits(t, 20*time.Second)
			mute.each(t, "mute", func(s *socket) error {
				operation, payload, _, err := readFrame(s.from)
				if operation != closeFrame || closeStatus(payload) != 1001 {
					return fmt.Errorf("frame %d %q, %w; want 1001", operation, payload, err)
				}
				return nil
			})
			for _, s := range stuck {
				s.Close()
			}
			if n := one.closings(1001) + two.closings(1001); n < len(quiet)+len(mute) {
				t.Errorf("backends were told of %d closings, want at least %d", n, len(quiet)+len(mute))
			}
		})
	}
}

// TestExitWaitsForClients: a client is given two seconds to close its side, so that it does not lose the close frame to a reset.
func TestExitWaitsForClients(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	c := startCaddyConfig(t, balancing("", one))
	mute := mustOpenSocket(t, c, "/")
	start := time.Now()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	if operation, payload, _, err := readFrame(mute.from); operation != closeFrame || closeStatus(payload) != 1001 {
		t.Errorf("frame %d %q, %v; want 1001", operation, payload, err)
	}
	c.exits(t, 20*time.Second)
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("caddy exited after %v, want at least 2s", took)
	}
}

// TestShutdownDelayKeepsStreams: during shutdown_delay, WebSockets stay open.
func TestShutdownDelayKeepsStreams(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	config := strings.Replace(balancing("", one), "{\n", "{\n\tshutdown_delay 2s\n\tgrace_period 5s\n", 1)
	c := startCaddyConfig(t, config, extendedConnects)
	all := append(openSockets(t, c, 5), openSocketOverHTTP2(t, c, "/"))
	if err := c.reload(strings.Replace(config, "2s", "3s", 1)); err != nil {
		t.Fatal(err)
	}
	all.echo(t, "before")
	start := time.Now()
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	var echoes atomic.Int64
	all.each(t, "during the delay", func(s *socket) error {
		for ctx.Err() == nil {
			if err := s.echo("delay"); err != nil {
				return err
			}
			echoes.Add(1)
		}
		return nil
	})
	all.goAway(t, "after the delay")
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("closed after %v, want 3s", took)
	}
	c.exits(t, 20*time.Second)
	t.Logf("%d echoes during the delay", echoes.Load())
}

// TestShutdownWithoutLoadBalancers: WebSockets of earlier configs are closed with 1001, although the last config has no load balancer.
func TestShutdownWithoutLoadBalancers(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	c := startCaddyConfig(t, balancing("", one), extendedConnects)
	all := append(openSockets(t, c, 5), openSocketOverHTTP2(t, c, "/"))
	if err := c.reload(siteConfig("respond none")); err != nil {
		t.Fatal(err)
	}
	all.echo(t, "before")
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	all.goAway(t, "at the exit")
	c.exits(t, 20*time.Second)
}

// TestStreamsOverTLS: with TLS, WebSockets stay over reloads and are closed with 1001 in the same way, over HTTP/2 too. The last config has no load
// balancer, whose servers would wait for them.
func TestStreamsOverTLS(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{"with a load balancer": "", "without": "respond none"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := startSocketBackend(t), startSocketBackend(t)
			c := startCaddyConfig(t, overTLS(balancing("drain_timeout 1s", one, two)), extendedConnects)
			all := append(openSockets(t, c, 4), openSocketOverHTTP2(t, c, "/"), openSocketOverHTTP2(t, c, "/"))
			all.echo(t, "before")
			if err := c.reload(overTLS(balancing("drain_timeout 1s", one))); err != nil {
				t.Fatal(err)
			}
			all.to(one.addr, true).goAway(t, "removed")
			configs := []string{balancing("", one)}
			if last != "" {
				configs = append(configs, siteConfig(last))
			}
			for _, config := range configs {
				if err := c.reload(overTLS(config)); err != nil {
					t.Fatal(err)
				}
			}
			left := all.to(one.addr, false)
			left.echo(t, "left")
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
			left.goAway(t, "at the exit")
			c.exits(t, 20*time.Second)
		})
	}
}

// TestStreamsOfRejectedConfigs: a reload that is rejected ends no WebSocket, nor does the backend that it would have removed.
func TestStreamsOfRejectedConfigs(t *testing.T) {
	t.Parallel()
	one, two := startSocketBackend(t), startSocketBackend(t)
	c := startCaddyConfig(t, balancing("drain_timeout 1s", one, two))
	all := openSockets(t, c, 10)
	rejected := balancing("drain_timeout 1ms\n stream_close_delay 1ms", one) + "\nhttp://" + one.addr + " {\n respond taken\n}\n"
	for range 3 {
		if err := c.reload(rejected); err == nil {
			t.Fatal("a config whose address is taken is accepted")
		}
		all.echo(t, "after a rejected reload")
	}
	deadline := time.Now().Add(1500 * time.Millisecond)
	all.each(t, "later", func(s *socket) error {
		for time.Now().Before(deadline) {
			if err := s.echo("later"); err != nil {
				return errors.Join(errors.New("closed"), err)
			}
		}
		return nil
	})
	if f := c.inFlight("p"); f[one.addr] != 5 || f[two.addr] != 5 {
		t.Errorf("%v in flight, want 5 each", f)
	}
}

// TestLogOfEarlierStreams: a WebSocket that outlives its config is logged when it ends, in the log of its config.
func TestLogOfEarlierStreams(t *testing.T) {
	t.Parallel()
	one := startSocketBackend(t)
	dir := t.TempDir()
	config := func(file string) string {
		return strings.Replace(balancing("", one), "load_balancer {", "log {\n output file "+dir+"/"+file+"\n}\nload_balancer {", 1)
	}
	c := startCaddyConfig(t, config("old"))
	all := openSockets(t, c, 5)
	all.echo(t, "before")
	if err := c.reload(config("new")); err != nil {
		t.Fatal(err)
	}
	all.echo(t, "after")
	for _, s := range all {
		s.Close()
	}
	waitFor(t, "five lines in the old log", func() bool {
		text, err := os.ReadFile(dir + "/old")
		return err == nil && strings.Count(string(text), `"status":101,"resp_headers"`) == len(all) && strings.Count(string(text), `"pool":"p"`) == len(all)
	})
	if text, err := os.ReadFile(dir + "/new"); err == nil && strings.Contains(string(text), `"status":101`) {
		t.Errorf("the new log has them: %s", text)
	}
}
