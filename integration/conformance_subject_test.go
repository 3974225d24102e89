//go:build trust

package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// What other people's clients are run against: one backend behind each directive, in front of it a site with TLS and one without.

// subject is a Caddy with two sites that have the same directive, in front of a backend. Its own site is the one with TLS.
type subject struct {
	*caddy
	directive string
	plain     string // host:port of the site without TLS
	backend   *witness
}

// startSubject runs a Caddy whose directive stands in front of a new backend. The site's other directives come with it. With seamless the door
// owns connections and there is an express lane.
func startSubject(t *testing.T, directive, others string, seamless bool, serve http.HandlerFunc) *subject {
	t.Helper()
	f := &subject{directive: directive, plain: freeAddress(t), backend: &witness{backend: startBackend(t), serve: serve, seen: map[string][]string{}}}
	f.backend.handle(f.backend.record)
	wrappers := ""
	if seamless {
		wrappers = expressOn
	}
	certificate, key := selfSigned(t)
	site := onLog + others + "\n" + directive + " " + f.backend.addr + "\n}\n"
	f.caddy = startCaddyConfig(t, "{\n admin ADMIN_ADDRESS\n persist_config off\n auto_https disable_redirects\n servers {\n protocols h1 h2 h2c\n"+wrappers+
		"\n}\n}\nhttps://SITE_ADDRESS {\n tls "+certificate+" "+key+"\n"+site+"http://"+f.plain+" {\n"+site, extendedConnects)
	return f
}

// both runs cases against load_balancer, with seamless or without, and against reverse_proxy, each in a Caddy of its own.
func both(t *testing.T, others string, seamless bool, serve http.HandlerFunc, run func(t *testing.T, f *subject) results) (ours, stock results) {
	t.Helper()
	all := map[string]results{}
	for _, directive := range []string{"load_balancer", "reverse_proxy"} {
		t.Run(directive, func(t *testing.T) {
			all[directive] = run(t, startSubject(t, directive, others, seamless && directive == "load_balancer", serve))
		})
	}
	return all["load_balancer"], all["reverse_proxy"]
}

// site is the address of the site with TLS or of that without.
func (f *subject) address(secure bool) string {
	if secure {
		return f.site
	}
	return f.plain
}

// url is that of a path of the site with TLS or of that without.
func (f *subject) at(secure bool, path string) string {
	if secure {
		return "https://" + f.site + path
	}
	return "http://" + f.plain + path
}

// agree waits until the access log has a line for each of n requests whose path begins so, and tells where the log, the backend and, in
// front of it, the metrics count otherwise, or have another status than 200. There may be up to spare more of them.
func (f *subject) agree(path string, n, spare int) string {
	f.t.Helper()
	var wrong []string
	say := func(format string, values ...any) { wrong = append(wrong, fmt.Sprintf(format, values...)) }
	requests, selections, retries := -1, -1, -1
	if f.directive == "load_balancer" {
		waitFor(f.t, "all requests to end", func() bool { return f.pool().Backends[0].InFlight == 0 })
	}
	lines := f.accessLog(path, n)
	seen := len(f.backend.take(path))
	if len(lines) > n+spare || seen != len(lines) {
		say("the client counts %d requests, the access log %d, the backend %d", n, len(lines), seen)
	}
	ended := 0
	for _, line := range lines {
		if line.Status == http.StatusOK {
			ended++
		}
		if lb := line.LB; f.directive == "load_balancer" && (lb == nil || len(lb.Attempts) != 1) {
			say("a request without one attempt: %+v", lb)
		}
	}
	if ended < n {
		say("%d requests are answered 200, want %d", ended, n)
	}
	if f.directive == "load_balancer" {
		text := f.scrape()
		requests, selections, retries = total(text, "caddy_load_balancer_requests_total"), total(text, "caddy_load_balancer_attempts_total"), total(text, "caddy_load_balancer_retries_total")
		if all := int(f.backend.requests.Load()); requests != all || selections != all || retries != 0 {
			say("the backend counts %d requests since the start, the metrics %d, with %d attempts and %d retries", all, requests, selections, retries)
		}
	}
	return strings.Join(wrong, "; ")
}

// witness is a backend that remembers what it was asked.
type witness struct {
	*backend
	serve http.HandlerFunc

	mu   sync.Mutex
	seen map[string][]string // by path
}

// noted lets a handler say what it has seen.
type noted struct {
	http.ResponseWriter
	text string
}

// Unwrap is for http.ResponseController.
func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }

func (b *witness) record(w http.ResponseWriter, r *http.Request) {
	n := &noted{ResponseWriter: w}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seen[r.URL.Path] = append(b.seen[r.URL.Path], n.text)
	}()
	b.serve(n, r)
}

// take returns what was seen of requests whose path begins so, when all of them have ended, and forgets it.
func (b *witness) take(path string) (all []string) {
	for n := 0; b.inFlight.Load() > 0 && n < 1000; n++ {
		time.Sleep(time.Millisecond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for of, texts := range b.seen {
		if strings.HasPrefix(of, path) {
			all = append(all, texts...)
			delete(b.seen, of)
		}
	}
	return all
}

// program is the path of a program: one that tools/go.mod pins is built first, others are Debian's.
func program(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil && name != "h2spec" && name != "vegeta" {
		return path
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile=../tools/go.mod", "-n", name)
	var said bytes.Buffer
	cmd.Stderr = &said
	path, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s is neither installed nor a tool of this tree: %v\n%s", name, err, &said)
	}
	return strings.TrimSpace(string(path))
}

// ran is how a program ended.
type ran struct {
	status         int // with which it exited; -1 if it was killed
	stdout, stderr string
}

// runProgram runs a program that is to end within some time.
func runProgram(t *testing.T, within time.Duration, stdin, path string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// brief is the beginning of a text, in one line.
func brief(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}
