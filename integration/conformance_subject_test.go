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
	counted   tally // by the metrics, when they were last looked at
}

// startSubject runs a Caddy whose directive stands in front of a new backend. The site's other directives come with it. With seamless the door
// owns connections and there is an express lane.
func startSubject(t *testing.T, directive, others string, seamless bool, serve http.HandlerFunc) *subject {
	t.Helper()
	s := &subject{directive: directive, plain: freeAddress(t), backend: &witness{backend: startBackend(t), serve: serve, seen: map[string]int{}}}
	s.backend.handle(s.backend.record)
	wrappers := ""
	if seamless {
		wrappers = expressOn
	}
	certificate, key := selfSigned(t)
	site := onLog + others + "\n" + directive + " " + s.backend.addr + "\n}\n"
	s.caddy = startCaddyConfig(t, "{\n admin ADMIN_ADDRESS\n persist_config off\n auto_https disable_redirects\n servers {\n protocols h1 h2 h2c\n"+wrappers+
		"\n}\n}\nhttps://SITE_ADDRESS {\n tls "+certificate+" "+key+"\n"+site+"http://"+s.plain+" {\n"+site, extendedConnects)
	return s
}

// both runs cases against load_balancer, with seamless or without, and against reverse_proxy, each in a Caddy of its own.
func both(t *testing.T, others string, seamless bool, serve http.HandlerFunc, run func(t *testing.T, s *subject) results) (ours, stock results) {
	t.Helper()
	all := map[string]results{}
	for _, directive := range []string{"load_balancer", "reverse_proxy"} {
		t.Run(directive, func(t *testing.T) {
			all[directive] = run(t, startSubject(t, directive, others, seamless && directive == "load_balancer", serve))
		})
	}
	return all["load_balancer"], all["reverse_proxy"]
}

// address is that of the site with TLS or of that without.
func (s *subject) address(secure bool) string {
	if secure {
		return s.site
	}
	return s.plain
}

// at is the URL of a path of the site with TLS or of that without.
func (s *subject) at(secure bool, path string) string {
	if secure {
		return "https://" + s.site + path
	}
	return "http://" + s.plain + path
}

// agree waits until the access log has a line for each of n requests whose path begins so, and the backend and, of load_balancer, the
// metrics have counted as many, and tells where that does not come to pass or a status is not right. There may be up to spare more requests,
// whose clients did not wait.
func (s *subject) agree(path string, n, spare int, right func(status int) bool) (wrong string) {
	s.t.Helper()
	seen := 0
	for begun := time.Now(); ; {
		seen += s.backend.take(path)
		if wrong = s.disagreement(path, seen, n, spare, right); wrong == "" || time.Since(begun) > 10*time.Second {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if s.directive == "load_balancer" {
		s.counted = s.tally()
	}
	return wrong
}

// disagreement is where they disagree by now.
func (s *subject) disagreement(path string, seen, n, spare int, right func(status int) bool) string {
	answered, attempts := 0, 0
	lines := s.accessLog(path, 0)
	for _, line := range lines {
		if right(line.Status) {
			answered++
		}
		if line.LB != nil {
			attempts += len(line.LB.Attempts)
		}
	}
	if len(lines) < n || len(lines) > n+spare || seen > len(lines) || seen < len(lines)-spare || answered < n {
		return fmt.Sprintf("the client counts %d requests, the backend %d, the access log %d, of which %d have the right status", n, seen, len(lines), answered)
	}
	if s.directive != "load_balancer" {
		return ""
	}
	if attempts > len(lines) || attempts < len(lines)-spare {
		return fmt.Sprintf("the log tells of %d attempts of %d requests", attempts, len(lines))
	}
	if told, logged := s.tally().since(s.counted), (tally{requests: len(lines), attempts: attempts}); told != logged {
		return fmt.Sprintf("the log tells of %+v, the metrics of %+v", logged, told)
	}
	return ""
}

// tally is what the metrics count.
type tally struct{ requests, attempts, retries, inFlight int }

func (s *subject) tally() tally {
	text := s.scrape()
	return tally{total(text, "caddy_load_balancer_requests_total"), total(text, "caddy_load_balancer_attempts_total"), total(text, "caddy_load_balancer_retries_total"), total(text, "caddy_load_balancer_in_flight")}
}

func (t tally) since(before tally) tally {
	return tally{t.requests - before.requests, t.attempts - before.attempts, t.retries - before.retries, t.inFlight}
}

// expectExpress fails the test unless the express lane has served requests.
func (s *subject) expectExpress(t *testing.T) {
	t.Helper()
	if s.directive != "load_balancer" {
		return
	}
	served, left := s.laneServed()
	t.Logf("the express lane has served %d requests, and left to Caddy %v", served, left)
	if served == 0 {
		t.Error("the express lane has served nothing")
	}
}

// witness is a backend that counts what it was asked.
type witness struct {
	*backend
	serve http.HandlerFunc

	mu   sync.Mutex
	seen map[string]int // requests by path
}

func (b *witness) record(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.seen[r.URL.Path]++
	b.mu.Unlock()
	b.serve(w, r)
}

// take returns the number of requests whose path begins so, and forgets them.
func (b *witness) take(path string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for of, times := range b.seen {
		if strings.HasPrefix(of, path) {
			n += times
			delete(b.seen, of)
		}
	}
	return n
}

// program is the path of a program: one that tools/go.mod pins is built first, others are Debian's.
func program(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil && name != "h2spec" && name != "vegeta" {
		return path
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "tool", "-C", "..", "-modfile=tools/go.mod", "-n", name)
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
