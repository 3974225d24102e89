package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// mustLB runs `caddy lb` and wants it to succeed and to say these words on lines.
func (c *caddy) mustLB(command string, want ...string) string {
	c.t.Helper()
	stdout, stderr, code := c.lb(strings.Fields(command)...)
	if code != 0 {
		c.t.Fatalf("%s: exit code %d:\n%s%s", command, code, stdout, stderr)
	}
	for _, w := range want {
		if !strings.Contains(words(stdout), w) {
			c.t.Errorf("%s does not say %q:\n%s", command, w, words(stdout))
		}
	}
	return stdout
}

// TestCommandChanges does by the command line what can be done, on a pool and backends whose names must be encoded.
func TestCommandChanges(t *testing.T) {
	backends, _ := startBackends(t, 3)
	a, b, added := backends[0], backends[1], backends[2]
	config := siteConfig(fmt.Sprintf(`
	load_balancer {
		name a/b
		lb_policy round_robin
		slow_start off
		backend %s {
			name [::1]:80
		}
		backend %s
	}`, a.addr, b.addr))
	c := startCaddyConfig(t, config)
	ask := func(n int) []int64 {
		t.Helper()
		before := counts(backends)
		for range n {
			if status, _, _ := c.get("/"); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
		}
		after := counts(backends)
		for i := range after {
			after[i] -= before[i]
		}
		return after
	}

	c.mustLB("weight [::1]:80 3 --reason more", "[::1]:80 in pool a/b: up, weight 3, 0 in flight; weight 3, not 1 by eve@")
	if got := ask(8); !slices.Equal(got, []int64{6, 2, 0}) {
		t.Errorf("requests by weight 3 and 1: %v", got)
	}
	c.mustLB("diff", "a/b [::1]:80 weight 1 3 -\n")
	c.mustLB("diff a/b --caddyfile", "# pool a/b", "backend "+a.addr+" {\nname [::1]:80\nweight 3\n}")
	c.mustLB("weight a/b [::1]:80 config", "[::1]:80 in pool a/b: up, weight 1, 0 in flight\n")

	c.mustLB("drain a/b "+a.addr+" --for 1h --wait --timeout 20s --sync --yes", "[::1]:80 in pool a/b: drain,", " left)\n")
	if got := ask(4); !slices.Equal(got, []int64{0, 4, 0}) {
		t.Errorf("requests while the first drains: %v", got)
	}
	c.mustLB("backends a/b", "a/b [::1]:80 "+a.addr+" drain unknown closed 0/1")
	c.mustLB("explain", "pool a/b, policy round_robin", "[::1]:80 out 0/1 0 - - draining", b.addr+" * in 1 0")
	if _, stderr, code := c.lb("drain", b.addr); code != 1 || !strings.Contains(stderr, ", its last usable backend: needs confirmation") {
		t.Errorf("to drain the last one: exit code %d: %s", code, stderr)
	}
	if err := c.reload(config); err != nil {
		t.Fatal(err)
	}
	c.mustLB("backends", "a/b [::1]:80 "+a.addr+" drain")
	c.mustLB("ready [::1]:80", "[::1]:80 in pool a/b: up, weight 1, 0 in flight\n")

	c.mustLB("add "+added.addr+" --weight 2 --max-requests 7 --reason sale", added.addr+" in pool a/b: up, weight 2, 0/7 in flight; added by eve@", ": sale")
	if got := ask(4); !slices.Equal(got, []int64{1, 1, 2}) {
		t.Errorf("requests with the third: %v", got)
	}
	if _, stderr, code := c.lb("add", added.addr); code != 5 {
		t.Errorf("to add it again: exit code %d: %s", code, stderr)
	}
	etag := strings.TrimSpace(c.mustLB("backends a/b " + added.addr + " --etag"))
	c.mustLB("weight " + added.addr + " 1 --if-match " + etag)
	if _, stderr, code := c.lb("weight", added.addr, "2", "--if-match", etag); code != 5 || !strings.Contains(stderr, "Error: If-Match "+etag) {
		t.Errorf("with an old ETag: exit code %d: %s", code, stderr)
	}
	if _, stderr, code := c.lb("weight", added.addr, "70000"); code != 6 || !strings.Contains(stderr, "Error: weight 70000") {
		t.Errorf("a weight that cannot be: exit code %d: %s", code, stderr)
	}
	c.mustLB("maintenance "+added.addr+" --yes", added.addr+" in pool a/b: maint")
	c.mustLB("reset "+added.addr+" --yes", added.addr+" in pool a/b: maint")
	c.mustLB("remove "+added.addr+" --yes --wait --timeout 20s", added.addr+" in pool a/b: removed")
	if _, stderr, code := c.lb("ready", added.addr); code != 4 {
		t.Errorf("after it was removed: exit code %d: %s", code, stderr)
	}
	if got := c.mustLB("diff"); strings.Count(got, "\n") != 1 {
		t.Errorf("something is different in the end:\n%s", got)
	}
}

// TestCommandWaits lets a drain wait for a request in flight.
func TestCommandWaits(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	c := startCaddy(t, "load_balancer "+addresses+" {\n\tlb_policy first\n}")
	release, inside := make(chan struct{}), make(chan struct{})
	first := backends[0]
	first.handle(func(http.ResponseWriter, *http.Request) {
		close(inside)
		<-release
	})
	answered := make(chan error, 1)
	go func() {
		res, err := client.Get(c.url("/"))
		if err == nil {
			res.Body.Close()
		}
		answered <- err
	}()
	<-inside
	if _, stderr, code := c.lb("drain", first.addr, "--wait", "--timeout", "300ms"); code != 8 || !strings.Contains(stderr, "1 in flight after 300ms") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	c.mustLB("explain", "REQUEST BACKEND SINCE ATTEMPTS")
	close(release)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	c.mustLB("drain " + first.addr + " --wait --timeout 20s")
}

// TestCommandEvents follows events over a reload.
func TestCommandEvents(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	config := siteConfig("load_balancer " + addresses + " {\n\tname web\n}")
	c := startCaddyConfig(t, config)
	cmd := exec.CommandContext(t.Context(), caddyBinary, "lb", "events", "web", "--json", "--address", c.admin)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := new(lockedBuffer)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("events said: %s", said)
		}
	})
	type line struct{ Event, Pool, Backend string }
	events := make(chan line, 100)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var l line
			if json.Unmarshal(lines.Bytes(), &l) == nil {
				events <- l
			}
		}
	}()
	// The stream may not be there yet when the command has just begun: change until one of the changes is told.
	toldOf := func(what string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for weight := 2; ; weight++ {
			c.mustLB(fmt.Sprintf("weight %s %d", backends[0].addr, weight))
			select {
			case l := <-events:
				if want := (line{"backend_changed", "web", backends[0].addr}); l != want {
					t.Errorf("%s: %+v, want %+v", what, l, want)
				}
				return
			case <-time.After(300 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s: waited for 20 s", what)
			}
		}
	}
	toldOf("before the reload")
	if err := c.reload(strings.Replace(config, "name web", "name web\n\tslow_start 5s", 1)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the stream to end", func() bool { return strings.Contains(said.String(), "stream ended") })
	for len(events) > 0 {
		<-events
	}
	toldOf("after the reload")
}

// TestCommandTopWrites changes a backend from the live view.
func TestCommandTopWrites(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	c := startCaddy(t, "load_balancer "+addresses+" {\n\tname web\n}")
	slices.SortFunc(backends, func(a, b *backend) int { return strings.Compare(a.addr, b.addr) }) // as they are shown
	x := c.openTerminal(160, 20, "top", "--write", "--interval", "100ms")
	x.waitForFrame("> " + backends[0].addr)
	x.press("d")
	x.waitForFrame("drain " + backends[0].addr + " of pool web? y/n")
	x.press("y")
	x.waitForFrame("drain ", "set by")
	x.press("r")
	x.waitForFrame("make " + backends[0].addr + " of pool web ready? y/n")
	x.press("y")
	waitFor(t, "it to be ready", func() bool {
		return !strings.Contains(x.frame(), "draining") && strings.Contains(x.frame(), "2/2 usable")
	})
	x.press("++y")
	waitFor(t, "another weight", func() bool { return strings.Contains(c.mustLB("backends"), "weight 3, not 1") })
	x.press("q")
	x.checkRestored()
}
