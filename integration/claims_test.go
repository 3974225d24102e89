package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestClaims measures with real HAProxy and nginx what README.md and docs/migrating.md say of them.
func TestClaims(t *testing.T) {
	for program, claims := range map[string][]observation{"haproxy": haproxyClaims, "nginx": nginxClaims} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("no %s; .ci/deps installs it", program)
		}
		start := map[string]func(*testing.T, string) string{"haproxy": startClaimedHAProxy, "nginx": startClaimedNginx}[program]
		for _, c := range claims {
			t.Run(program+"/"+c.what, func(t *testing.T) {
				t.Parallel()
				c.measure(t, func(config string, args ...any) *claimed {
					address := start(t, fmt.Sprintf(config, args...))
					return &claimed{t, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}, "http://" + address}
				})
			})
		}
	}
}

// observation is what is said of a program. Its measure starts the program with a configuration.
type observation struct {
	what    string
	measure func(t *testing.T, start func(config string, args ...any) *claimed)
}

// claimed is a program that runs.
type claimed struct {
	t      *testing.T
	client *http.Client
	url    string
}

// send sends a request and returns the status, which backend answered, and how long that took.
func (c *claimed) send(method, path string) (status int, backend string, took time.Duration) {
	c.t.Helper()
	began := time.Now()
	body := ""
	if method == http.MethodPost {
		body = "x"
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	res, err := c.client.Do(req)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
		return 0, "", 0
	}
	defer res.Body.Close()
	if _, err := discard(res.Body); err != nil {
		return -1, "", time.Since(began)
	}
	return res.StatusCode, res.Header.Get("X-Backend"), time.Since(began)
}

// order sends n requests, and returns the letters of the backends that answered: a for the first.
func (c *claimed) order(n int, backends []*backend) string {
	var order strings.Builder
	for range n {
		_, answered, _ := c.send("GET", "/")
		at := slices.IndexFunc(backends, func(b *backend) bool { return b.addr == answered })
		order.WriteByte("?abcdef"[at+1])
	}
	return order.String()
}

// together sends n requests at a time, and returns how many had each status.
func (c *claimed) together(n int) map[int]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	statuses := map[int]int{}
	for range n {
		wg.Go(func() {
			status, _, _ := c.send("GET", "/")
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	wg.Wait()
	return statuses
}

// is compares what was measured.
func is[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// slowly has a backend answer after d.
func slowly(b *backend, d time.Duration) {
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		takes(r.Context(), d)
		w.Header().Set("X-Backend", b.addr)
	})
}

// piecemeal answers in ten pieces, each after d, or as a whole after ten times d if the path says so.
func piecemeal(b *backend, d time.Duration) {
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		for range 10 {
			takes(r.Context(), d)
			if r.URL.Path != "/late" {
				fmt.Fprint(w, "piece")
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
}

// boundsSilence checks a timeout of 1 s: it bounds each wait for a backend, not the whole answer.
func boundsSilence(config string) func(*testing.T, func(string, ...any) *claimed) {
	return func(t *testing.T, start func(string, ...any) *claimed) {
		b := startBackend(t)
		piecemeal(b, 150*time.Millisecond)
		c := start(config, b.addr)
		status, _, _ := c.send("GET", "/")
		is(t, "in pieces", status, 200)
		status, _, _ = c.send("GET", "/late")
		is(t, "after 1.5 s", status, 504)
	}
}

func startClaimedHAProxy(t *testing.T, backend string) string {
	t.Helper()
	address := freeAddress(t)
	config := "defaults\n mode http\n timeout connect 2s\n timeout client 1m\n timeout server 1m\nfrontend site\n bind " + address + "\n default_backend b\nbackend b\n" + backend + "\n"
	startProgram(t, address, exec.Command("haproxy", "-db", "-f", inFile(t, "haproxy.cfg", config)))
	return address
}

// startClaimedNginx starts nginx with an upstream u, in the first braces, what a location says and what stands around, each after a line of ---.
func startClaimedNginx(t *testing.T, config string) string {
	t.Helper()
	address, dir := freeAddress(t), t.TempDir()
	parts := append(strings.Split(config, "---"), "", "")
	text := "daemon off;\nworker_processes 1;\n" + nginxHTTP +
		parts[2] + "\nupstream u {\n" + parts[0] + "\n}\nserver {\nlisten " + address + ";\nlocation / {\nproxy_pass http://u;\n" + parts[1] + "\n}\n}\n}\n"
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startProgram(t, address, exec.Command("nginx", "-e", "stderr", "-p", dir, "-c", file))
	return address
}
