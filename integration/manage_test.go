package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/ballastlb/ballast/bench/openloop"
)

// managed is what the API tells of a backend.
type managed struct {
	Name, Address, State, Reason, Source string
	Weight                               int
	InFlight                             int64 `json:"in_flight"`
	Removing                             bool
	Persisted                            *bool

	status int
	etag   string
	body   string
}

// edit sends a request about a backend of pool p, or about all with "" for one, and returns the answer. Headers are pairs.
func (c *caddy) edit(method, backend, body string, header ...string) (m managed) {
	c.t.Helper()
	m, err := c.tryEdit(method, backend, body, header...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, backend, err)
	}
	return m
}

func (c *caddy) tryEdit(method, backend, body string, header ...string) (m managed, err error) {
	path, query, _ := strings.Cut(backend, "?")
	target := "http://" + c.admin + "/load_balancer/pools/p/backends"
	if path != "" {
		target += "/" + url.PathEscape(path)
	}
	err = c.again(func() error {
		r, err := http.NewRequest(method, target+"?"+query, strings.NewReader(body))
		if err != nil {
			return err
		}
		for i := 0; i < len(header); i += 2 {
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
			r.Header.Set(header[i], header[i+1])
		}
		r.Close = true // the endpoint is replaced by a reload
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		m = managed{}
		if len(text) > 0 && text[0] == '{' {
			if err := json.Unmarshal(text, &m); err != nil {
				return err
			}
		}
		m.status, m.etag, m.body = res.StatusCode, res.Header.Get("ETag"), string(text)
		return nil
	})
	return m, err
}

// wants fails the test unless the answer has that status.
func (m managed) wants(t *testing.T, status int) managed {
	t.Helper()
	if m.status != status {
		t.Fatalf("status %d, want %d: %s", m.status, status, m.body)
	}
	return m
}

// remove removes a backend and waits until it is gone.
func (c *caddy) remove(backend string) {
	c.t.Helper()
	if m := c.edit("DELETE", backend, ""); m.status != http.StatusNoContent && m.status != http.StatusAccepted && m.status != http.StatusOK {
		c.t.Errorf("removing %s: status %d: %s", backend, m.status, m.body)
	}
	waitFor(c.t, "the backend to leave", func() bool { return c.edit("GET", backend, "").status == http.StatusNotFound })
}

// TestEditsUnderLoad edits a pool under load: no request is lost, what is edited is in force with the next request, and a WebSocket
// to a backend that is not touched stays.
func TestEditsUnderLoad(t *testing.T) {
	backends, _ := startBackends(t, 4)
	echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
	backends[0].handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo.ServeHTTP(w, r)
		}
	})
	c := startCaddy(t, "load_balancer "+backends[0].addr+" {\n name p\n slow_start off\n}")
	socket, err := websocket.Dial("ws://"+c.site+"/", "", "http://"+c.site)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	stop := make(chan struct{})
	var stopped atomic.Bool
	var edits, late int
	var slowest time.Duration
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, b := range backends[1:] {
				select {
				case <-stop:
					return
				default:
				}
				c.edit("POST", "", `{"address": "`+b.addr+`", "weight": 3}`).wants(t, http.StatusCreated)
				c.edit("PATCH", b.addr, fmt.Sprintf(`{"weight": %d}`, 1+rand.IntN(9))).wants(t, http.StatusOK)
				c.edit("PATCH", b.addr, `{"state": "drain", "reason": "deploy"}`).wants(t, http.StatusOK)
				// Once those have ended that were on their way, nobody new comes, while others are served.
				drained := time.Now()
				waitFor(t, "requests to end", func() bool { return c.edit("GET", b.addr, "").InFlight == 0 })
				slowest = max(slowest, time.Since(drained))
				before, served := b.requests.Load(), backends[0].requests.Load()
				waitFor(t, "others to be served", func() bool { return backends[0].requests.Load() > served+5 || stopped.Load() })
				if b.requests.Load() > before {
					late++
				}
				c.remove(b.addr)
				edits += 4
			}
		}
	})
	s, err := openloop.Run(t.Context(), openloop.Options{URL: c.url("/"), Rate: 1000, Duration: 4 * time.Second, Timeout: patience})
	stopped.Store(true)
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d edits, slowest drain %v; sent %d, failed %d, p50 %v, p99 %v", edits, slowest, s.Sent, s.Failed(), s.Quantile(0.5), s.Quantile(0.99))
	if s.Failed() > 0 || late > 0 || edits == 0 {
		t.Errorf("%d of %d requests failed (%v, %v), %d came late, %d edits", s.Failed(), s.Sent, s.Statuses, s.Errors, late, edits)
	}
	if err := websocket.Message.Send(socket, "still there"); err != nil {
		t.Error(err)
	}
	var got string
	if err := websocket.Message.Receive(socket, &got); err != nil || got != "still there" {
		t.Errorf("the WebSocket answered %q, %v", got, err)
	}
}

// TestWritersAndReloads: of writers that increase a weight with If-Match, none is lost, whatever else goes on.
func TestWritersAndReloads(t *testing.T) {
	_, addresses := startBackends(t, 2)
	config := "load_balancer " + addresses + " {\n name p\n}"
	c := startCaddy(t, config)
	backend, _, _ := strings.Cut(addresses, " ")
	const writers, each = 16, 15
	var wg sync.WaitGroup
	var stale, seen atomic.Int64
	for range writers {
		wg.Go(func() {
			for range each {
				for { // bound: a write fails only because another one succeeded
					now, err := c.tryEdit("GET", backend, "")
					if err != nil || now.status != http.StatusOK {
						t.Errorf("reading: %v, status %d: %s", err, now.status, now.body)
						return
					}
					change := fmt.Sprintf(`{"weight": %d}`, now.Weight+1)
					answer, err := c.tryEdit("PATCH", backend, change, "If-Match", now.etag)
					if err == nil && answer.status == http.StatusOK {
						break
					}
					if err != nil || answer.status != http.StatusPreconditionFailed {
						t.Errorf("writing: %v, status %d: %s", err, answer.status, answer.body)
						return
					}
					stale.Add(1)
				}
			}
		})
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		// A weight never goes back.
		for {
			select {
			case <-stop:
				return
			default:
				n := int64(c.edit("GET", backend, "").Weight)
				if before := seen.Swap(n); n < before {
					t.Errorf("weight %d after %d", n, before)
				}
			}
		}
	})
	wg.Wait()
	close(stop)
	others.Wait()
	if got := c.edit("GET", backend, "").Weight; got != 1+writers*each {
		t.Errorf("weight %d, want %d", got, 1+writers*each)
	}
	t.Logf("%d writes, %d refused for being stale", writers*each, stale.Load())
	for i := range 3 {
		if err := c.reload(siteConfig(config + fmt.Sprintf("\nheader X-Config %d", i))); err != nil {
			t.Fatal(err)
		}
		if got := c.edit("GET", backend, "").Weight; got != 1+writers*each {
			t.Errorf("weight %d after a reload", got)
		}
	}
}

// TestKilledWhileWriting kills Caddy while edits are written: what was said to be in storage is there afterwards.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	_, addresses := startBackends(t, 1)
	store := t.TempDir()
	config := "{\n admin ADMIN_ADDRESS\n persist_config off\n storage file_system " + store + "\n}\nhttp://SITE_ADDRESS {\n load_balancer " + addresses + " {\n name p\n }\n}\n"
	kept, sure := 1, 1 // weights: written for sure, and the last that was asked for
	writes := 0
	for range 8 {
		c := startCaddyConfig(t, config)
		got := c.edit("GET", addresses, "").Weight
		if got < sure || got > kept {
			t.Fatalf("weight %d after kill -9, want %d to %d:\n%s", got, sure, kept, c.log)
		}
		if strings.Contains(c.log.String(), "cannot be read") {
			t.Fatalf("what was written is corrupt:\n%s", c.log)
		}
		sure, kept = got, got
		write := func() bool {
			kept++
			answer, err := c.tryEdit("PATCH", addresses, fmt.Sprintf(`{"weight": %d}`, kept))
			if err != nil {
				return false
			}
			if writes++; answer.Persisted != nil && *answer.Persisted {
				sure = kept
			}
			return true
		}
		write() // also where a lock that the one before left behind is waited for
		killed := make(chan struct{})
		go func() {
			<-time.After(time.Duration(rand.IntN(150)) * time.Millisecond) // at any moment of a write
			_ = c.cmd.Process.Signal(syscall.SIGKILL)
			close(killed)
		}()
		for write() {
			continue
		}
		<-killed
		<-c.ended
	}
	t.Logf("%d writes, killed 8 times, weight %d of %d", writes, sure, kept)
	if writes < 8 {
		t.Errorf("%d writes, too few to mean anything", writes)
	}
}

// TestFleet: two nodes on one storage see each other's edits, and neither loses what only the other has edited.
func TestFleet(t *testing.T) {
	_, addresses := startBackends(t, 3)
	one, rest, _ := strings.Cut(addresses, " ")
	two, three, _ := strings.Cut(rest, " ")
	config := "{\n admin ADMIN_ADDRESS\n persist_config off\n storage file_system " + t.TempDir() + "\n}\nhttp://SITE_ADDRESS {\n load_balancer " + addresses + " {\n name p\n }\n}\n"
	a, b := startCaddyConfig(t, config), startCaddyConfig(t, config)
	sees := func(c *caddy, backend string, want func(managed) bool) {
		t.Helper()
		start := time.Now()
		waitFor(t, "the other node to see it", func() bool { return want(c.edit("GET", backend, "")) })
		t.Logf("seen after %v", time.Since(start))
	}
	a.edit("PATCH", one+"?sync=1", `{"weight": 5}`).wants(t, http.StatusOK)
	sees(b, one, func(m managed) bool { return m.Weight == 5 })
	b.edit("PATCH", one+"?sync=1", `{"weight": 6, "state": "drain"}`).wants(t, http.StatusOK)
	sees(a, one, func(m managed) bool { return m.Weight == 6 && m.State == "drain" })
	// At the same time, before either has seen the other's.
	var wg sync.WaitGroup
	wg.Go(func() { a.edit("PATCH", two+"?sync=1", `{"weight": 7}`).wants(t, http.StatusOK) })
	wg.Go(func() { b.edit("PATCH", three+"?sync=1", `{"weight": 8}`).wants(t, http.StatusOK) })
	wg.Wait()
	for _, c := range []*caddy{a, b} {
		sees(c, two, func(m managed) bool { return m.Weight == 7 })
		sees(c, three, func(m managed) bool { return m.Weight == 8 })
	}
	// Of the same backend the last one to write wins, on both nodes.
	wg.Go(func() { a.edit("PATCH", two+"?sync=1", `{"weight": 100}`).wants(t, http.StatusOK) })
	wg.Go(func() { b.edit("PATCH", two+"?sync=1", `{"weight": 200}`).wants(t, http.StatusOK) })
	wg.Wait()
	waitFor(t, "the nodes to agree", func() bool {
		x, y := a.edit("GET", two, "").Weight, b.edit("GET", two, "").Weight
		return x == y && (x == 100 || x == 200)
	})
}

// TestDrainTimeout closes what is still open when a drain has taken too long, a WebSocket too, and nothing else.
func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	backends, _ := startBackends(t, 2)
	echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
	release := make(chan struct{})
	defer close(release)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("Upgrade") != "":
				echo.ServeHTTP(w, r)
			case r.URL.Path == "/hang":
				select {
				case <-release:
				case <-r.Context().Done():
				}
			}
		})
	}
	c := startCaddy(t, "load_balancer "+backends[0].addr+" {\n name p\n drain_timeout 1s\n slow_start off\n}")
	dial := func() *websocket.Conn {
		socket, err := websocket.Dial("ws://"+c.site+"/", "", "http://"+c.site)
		if err != nil {
			t.Fatal(err)
		}
		return socket
	}
	old := dial()
	defer old.Close()
	hanging := make(chan int, 1)
	go func() {
		status, _, _ := c.get("/hang")
		hanging <- status
	}()
	waitFor(t, "the request", func() bool { return backends[0].inFlight.Load() == 2 })
	c.edit("POST", "", `{"address": "`+backends[1].addr+`"}`).wants(t, http.StatusCreated)
	start := time.Now()
	m := c.edit("PATCH", backends[0].addr, `{"state": "drain"}`).wants(t, http.StatusOK)
	if m.InFlight != 2 {
		t.Errorf("%d in flight, want 2", m.InFlight)
	}
	other := dial()
	defer other.Close()
	if status := <-hanging; status != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", status)
	}
	if took := time.Since(start); took < 900*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	var text string
	if err := websocket.Message.Receive(old, &text); err == nil {
		t.Error("the WebSocket is open still")
	}
	if err := websocket.Message.Send(other, "hello"); err != nil {
		t.Error(err)
	}
	if err := websocket.Message.Receive(other, &text); err != nil || text != "hello" {
		t.Errorf("the WebSocket to the other backend: %q, %v", text, err)
	}
	waitFor(t, "nothing to be in flight", func() bool { return c.edit("GET", backends[0].addr, "").InFlight == 0 })
}

// TestEventStream follows what happens, until a reload; there are not more streams than may be.
func TestEventStream(t *testing.T) {
	_, addresses := startBackends(t, 1)
	config := "load_balancer " + addresses + " {\n name p\n}"
	c := startCaddy(t, config)
	open := func() (*http.Response, *bufio.Scanner) {
		res, err := client.Get("http://" + c.admin + "/load_balancer/events")
		if err != nil {
			t.Fatal(err)
		}
		return res, bufio.NewScanner(res.Body)
	}
	first, lines := open()
	defer first.Body.Close()
	for range 15 {
		res, _ := open()
		defer res.Body.Close()
	}
	if res, _ := open(); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("stream 17: status %d", res.StatusCode)
	} else {
		res.Body.Close()
	}
	c.edit("PATCH", addresses, `{"weight": 5, "reason": "<b>\"why\"</b>"}`).wants(t, http.StatusOK)
	var event []string
	for lines.Scan() && (len(event) < 3) {
		if line := lines.Text(); strings.Contains(line, ": ") && !strings.HasPrefix(line, ":") {
			event = append(event, line)
		}
	}
	text := strings.Join(event, "\n")
	for _, part := range []string{"event: backend_changed", `"backend":"` + addresses + `"`, `"after":{"weight":5}`, `"before":{"weight":1}`, `"time":"`} {
		if !strings.Contains(text, part) {
			t.Errorf("event %q lacks %q", text, part)
		}
	}
	for query, want := range map[string]string{
		"last=1": "backend_changed", "last=256&pool=p": "backend_changed", "last=9&pool=other": "", "": "", "last=256&all=1": "event: config_loaded",
	} {
		res, err := client.Get("http://" + c.admin + "/load_balancer/events?follow=0&" + query)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || want == "" && len(body) > 0 || !strings.Contains(string(body), want) || query == "last=1" && strings.Count(string(body), "\n\n") != 1 {
			t.Errorf("%s: %v, %q, want %s", query, err, body, want)
		}
	}
	if res, err := client.Get("http://" + c.admin + "/load_balancer/events?last=-1"); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("last=-1: %v, %v", res, err)
	} else {
		res.Body.Close()
	}
	if err := c.reload(siteConfig(config + "\nheader X-Config again")); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		continue // the stream has an end
	}
	res, err := client.Get("http://" + c.admin + "/load_balancer/events?last=1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("after the reload: status %d", res.StatusCode)
	}
	lines = bufio.NewScanner(res.Body)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "event: ") {
		continue
	}
	if lines.Text() != "event: backend_changed" {
		t.Errorf("the stream begins with %q", lines.Text())
	}
}

// TestForeignOrigins: other sites' pages cannot make a browser edit.
func TestForeignOrigins(t *testing.T) {
	_, addresses := startBackends(t, 1)
	c := startCaddy(t, "load_balancer "+addresses+" {\n name p\n}")
	for _, header := range [][]string{{"Origin", "http://example.com"}, {"Host", "example.com"}} {
		if m := c.edit("PATCH", addresses, `{"weight": 5}`, header...); m.status != http.StatusForbidden {
			t.Errorf("%v: status %d", header, m.status)
		}
	}
	if got := c.edit("GET", addresses, "").Weight; got != 1 {
		t.Errorf("weight %d", got)
	}
}

// TestDebugHeader explains the choice to clients in the ranges, and nobody else.
func TestDebugHeader(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	c := startCaddyConfig(t, strings.Replace(siteConfig("load_balancer "+addresses+" {\n name p\n lb_policy first\n debug_header X-Balance 192.0.2.0/24\n}"),
		"servers {", "servers {\n trusted_proxies static 127.0.0.1/32\n", 1))
	_, header := c.as("X-Forwarded-For", "192.0.2.7")
	var x struct {
		Pool, Chosen string
		Candidates   []struct {
			Backend string
			In      bool
		}
	}
	if err := json.Unmarshal([]byte(header.Get("X-Balance")), &x); err != nil || x.Pool != "p" || x.Chosen != backends[0].addr || len(x.Candidates) != 2 {
		t.Errorf("%q: %v", header.Get("X-Balance"), err)
	}
	if _, header := c.as("X-Forwarded-For", "192.0.3.7"); header.Get("X-Balance") != "" {
		t.Error("others are told, too")
	}
}
