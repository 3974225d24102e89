package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	// The binary is built of it: results are to be cached no longer than it stays the same.
	_ "github.com/ballastlb/ballast"
)

// caddyBinary is Caddy with this tree's Ballast.
var caddyBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "ballast-integration")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		caddyBinary = filepath.Join(dir, "caddy")
		build := exec.Command("go", "build", "-o", caddyBinary, "github.com/ballastlb/ballast/cmd/caddy")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building caddy:", err)
			return 1
		}
		return m.Run()
	}())
}

// caddy is a running Caddy.
type caddy struct {
	t     *testing.T
	site  string // host:port of the site
	admin string // host:port of the admin API
	cmd   *exec.Cmd
	log   *lockedBuffer
	ended chan struct{}

	reloaded time.Time // when the last reload ended; zero if there was none
}

// startCaddy runs Caddy with a site whose body is given in Caddyfile syntax and waits until it serves.
func startCaddy(t *testing.T, site string) *caddy {
	t.Helper()
	return startCaddyConfig(t, siteConfig(site))
}

// siteConfig is a Caddyfile with one plain HTTP site.
func siteConfig(site string) string {
	return "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n\tservers {\n\t\tprotocols h1 h2c\n\t}\n}\n\nhttp://SITE_ADDRESS {\n" + site + "\n}\n"
}

// startCaddyConfig runs Caddy with a whole Caddyfile. SITE_ADDRESS and ADMIN_ADDRESS are filled in there and in the variables that are
// added to the environment.
func startCaddyConfig(t *testing.T, config string, environment ...string) *caddy {
	t.Helper()
	c := &caddy{t: t}
	c.site, c.admin, c.log, c.ended = freeAddress(t), freeAddress(t), new(lockedBuffer), make(chan struct{})
	c.run(config, environment)
	if !c.serves() {
		t.Fatalf("caddy ended:\n%s", c.log)
	}
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("caddy's log:\n%s", c.log)
		}
	})
	return c
}

// run starts the process.
func (c *caddy) run(config string, environment []string) {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(c.fill(config)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.cmd = exec.Command(caddyBinary, "run", "--config", file, "--adapter", "caddyfile")
	c.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+c.t.TempDir(), "XDG_CONFIG_HOME="+c.t.TempDir())
	for _, variable := range environment {
		c.cmd.Env = append(c.cmd.Env, c.fill(variable))
	}
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	cmd, ended := c.cmd, c.ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
}

// serves waits until Caddy serves, and reports whether it does.
func (c *caddy) serves() bool {
	c.t.Helper()
	over := false
	waitFor(c.t, "caddy to serve", func() bool {
		select {
		case <-c.ended:
			over = true
		default:
		}
		return over || canConnect(c.admin) && canConnect(c.site)
	})
	return !over
}

func (c *caddy) fill(config string) string {
	return strings.NewReplacer("SITE_ADDRESS", c.site, "ADMIN_ADDRESS", c.admin).Replace(config)
}

func (c *caddy) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(15 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
		c.t.Error("caddy did not stop within 15 s of SIGTERM")
	}
}

// reload loads another Caddyfile and returns the admin API's answer: nil for success.
func (c *caddy) reload(config string) error {
	defer func() { c.reloaded = time.Now() }()
	r, err := http.NewRequest(http.MethodPost, "http://"+c.admin+"/load", strings.NewReader(c.fill(config)))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "text/caddyfile")
	// The admin server is replaced by a reload: its connections are not to be kept.
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return nil
}

func (c *caddy) url(path string) string { return "http://" + c.site + path }

// get fetches a path of the site and returns status, header and body.
func (c *caddy) get(path string) (int, http.Header, string) {
	c.t.Helper()
	res, err := client.Get(c.url(path))
	// At a reload Caddy listens anew and resets what waits at the old socket to be accepted.
	for again := 0; err != nil && isDisconnect(err) && time.Since(c.reloaded) < time.Second && again < 5; again++ {
		res, err = client.Get(c.url(path))
	}
	if err != nil {
		c.t.Fatalf("GET %s: %v", path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("GET %s: reading answer: %v", path, err)
	}
	return res.StatusCode, res.Header, string(body)
}

// client is what tests ask with where nothing else matters.
var client = &http.Client{Timeout: 30 * time.Second}

// runCaddy runs a Caddy command on a Caddyfile and returns what it printed.
func runCaddy(t *testing.T, config string, command ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, caddyBinary, append(command, "--config", file, "--adapter", "caddyfile")...)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// freeAddress returns an address at which nobody listens, and which is the caller's until the test ends: servers may come and go
// there. A socket that is bound to it and does not listen keeps the kernel from giving it to connections and other servers; those
// that listen with SO_REUSEADDR, as all do that the tests start, may.
func freeAddress(t *testing.T) string {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(socket)
	t.Cleanup(func() { _ = syscall.Close(socket) })
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(bound.(*syscall.SockaddrInet4).Port))
}

func canConnect(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// waitFor polls until done, 20 s at most.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// lockedBuffer is a bytes.Buffer for two goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// poolState is what the admin endpoint tells of a pool.
type poolState struct {
	State       string
	Usable      int
	Queue       int
	RetryBudget float64 `json:"retry_budget"`
	Backends    []struct {
		Name, Address, Health, Breaker, Reason string
		Usable                                 bool
		InFlight                               int64 `json:"in_flight"`
		Requests, Failures                     uint64
	}
}

// pool returns the state of the one pool there is.
func (c *caddy) pool() poolState {
	c.t.Helper()
	res, err := client.Get("http://" + c.admin + "/load_balancer/pools")
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	var all []poolState
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil || len(all) != 1 {
		c.t.Fatalf("%d pools: %v", len(all), err)
	}
	return all[0]
}
