package integration

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// caddyBinary is the path of a Caddy built with this tree's Ballast.
var caddyBinary string

// soak makes the tests that can run for any time run for much longer.
var soak = flag.Bool("soak", false, "run the tests that allow it for longer, and with more load")

// express says whether servers have an express lane in tests that do not set it themselves.
var express = flag.Bool("express", true, "let the express lane serve requests")

// longer returns n, or many times n in a soak.
func longer(n int) int {
	if *soak {
		return 20 * n
	}
	return n
}

func TestMain(m *testing.M) {
	// Parallel tests run after all others, and mostly wait.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	flag.Parse()
	// Without a log of the files that tests read, go test does not cache results. They depend on files outside of this module, whose
	// changes the cache would not notice: Caddy's sources, the examples, the pages.
	if err := flag.Set("test.testlogfile", ""); err != nil {
		panic(err)
	}
	if !*express {
		seamless = expressOff
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "ballast-integration")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		caddyBinary = filepath.Join(dir, "caddy")
		build := exec.Command("go", "build", "-C", "..", "-o", caddyBinary, "./cmd/caddy")
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
	log   *logFile
	ended chan struct{}

	secure   bool      // the site has TLS
	reloaded time.Time // when the last reload ended; zero if there was none

	files []*os.File // passed to the process, from descriptor 3 on
}

// startCaddy runs Caddy with a site, whose body is in Caddyfile syntax, and waits until it serves.
func startCaddy(t *testing.T, site string) *caddy {
	t.Helper()
	return startCaddyConfig(t, siteConfig(site))
}

// startExpress is startCaddy for tests that need the express lane.
func startExpress(t *testing.T, site string) *caddy {
	t.Helper()
	return startCaddyConfig(t, strings.Replace(siteConfig(site), seamless, expressOn, 1))
}

// siteConfig returns a Caddyfile with one site over plain HTTP and with seamless.
func siteConfig(site string) string {
	return "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n\tservers {\n\t\tprotocols h1 h2c\n\t\t" + seamless +
		"\n\t}\n}\n\nhttp://SITE_ADDRESS {\n" + site + "\n}\n"
}

// expressOn and expressOff are the settings of a server with seamless, with and without the express lane.
const (
	expressOn  = "listener_wrappers {\n seamless\n }"
	expressOff = "listener_wrappers {\n seamless {\n express off\n }\n }"
)

// seamless is the setting for tests that do not choose one.
var seamless = expressOn

// startCaddyConfig runs Caddy with a whole Caddyfile. SITE_ADDRESS and ADMIN_ADDRESS are replaced in the Caddyfile and in the additional
// environment variables.
func startCaddyConfig(t *testing.T, config string, environment ...string) *caddy {
	t.Helper()
	c := launchCaddy(t, config, environment...)
	if !c.serves() {
		t.Fatal("caddy ended")
	}
	return c
}

// launchCaddy is startCaddyConfig without waiting.
func launchCaddy(t *testing.T, config string, environment ...string) *caddy {
	t.Helper()
	c := &caddy{t: t, secure: strings.Contains(config, "https://SITE_ADDRESS")}
	c.site, c.admin, c.log, c.ended = freeAddress(t), freeAddress(t), newLogFile(t), make(chan struct{})
	c.run(config, environment)
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
	c.cmd.ExtraFiles = c.files
	c.log.start(c.t, c.cmd)
	cmd, ended := c.cmd, c.ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
}

// serves waits until Caddy serves at all of its addresses. It returns false if the process has ended.
func (c *caddy) serves() bool {
	c.t.Helper()
	over := false
	waitFor(c.t, "caddy to serve", func() bool {
		select {
		case <-c.ended:
			over = true
		default:
		}
		return over || canConnect(c.admin) && canConnect(c.site) && c.isLoaded()
	})
	return !over
}

// isLoaded requests the config. Caddy answers once all servers have started, in any order.
func (c *caddy) isLoaded() bool {
	res, err := (&http.Client{Timeout: patience}).Get("http://" + c.admin + "/config/")
	if err != nil {
		return false
	}
	res.Body.Close()
	return true
}

func (c *caddy) fill(config string) string {
	return strings.NewReplacer("SITE_ADDRESS", c.site, "ADMIN_ADDRESS", c.admin).Replace(config)
}

func (c *caddy) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.ended
		c.t.Errorf("caddy did not stop within %v of SIGTERM", patience)
	}
}

// reload loads another Caddyfile and returns the admin API's answer: nil for success.
func (c *caddy) reload(config string) error {
	c.t.Helper()
	defer func() { c.reloaded = time.Now() }()
	status, text := c.askAdminWith(http.MethodPost, "/load", "text/caddyfile", c.fill(config))
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %s", status, text)
	}
	return nil
}

// again repeats a request to the admin endpoint until there is an answer. Shortly after a reload, Caddy replaces the endpoint and resets
// the connections that the old socket has not accepted yet. Only then are repetitions right.
func (c *caddy) again(ask func() error) error {
	err := ask()
	for n := 0; err != nil && isDisconnect(err) && time.Since(c.reloaded) < 20*time.Second && n < 20; n++ {
		time.Sleep(10 * time.Millisecond)
		err = ask()
	}
	return err
}

func (c *caddy) url(path string) string { return "http://" + c.site + path }

// get fetches a path of the site and returns status, header and body.
func (c *caddy) get(path string) (int, http.Header, string) {
	c.t.Helper()
	return c.fetch(path)
}

// as sends a request with these header fields and returns the answer's status and header.
func (c *caddy) as(header ...string) (int, http.Header) {
	c.t.Helper()
	status, answer, _ := c.fetch("/", header...)
	return status, answer
}

// fetch is get with header fields.
func (c *caddy) fetch(path string, header ...string) (status int, answer http.Header, body string) {
	c.t.Helper()
	r := c.request(http.MethodGet, nil, header...)
	var err error
	if r.URL, err = url.Parse(c.url(path)); err != nil {
		c.t.Fatal(err)
	}
	res, err := client.Do(r)
	if err != nil {
		c.t.Fatalf("GET %s: %v", path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("GET %s: %v", path, err)
	}
	return res.StatusCode, res.Header, string(text)
}

// request returns a request for the site's root.
func (c *caddy) request(method string, body io.Reader, header ...string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequest(method, c.url("/"), body)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// ask sends a request and returns the answer's status and body.
func (c *caddy) ask(r *http.Request) (int, string) {
	c.t.Helper()
	res, err := client.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, "broken: " + err.Error()
	}
	return res.StatusCode, string(body)
}

// patience is how long tests wait for something that must happen, however busy the machine is. It is not for tests of speed.
const patience = 2 * time.Minute

// client is the HTTP client for tests without special needs.
var client = &http.Client{Timeout: patience}

// upload sends so many bytes and returns the answer's status and header. A server that refuses a large body closes the connection half a
// second later. If the client has not read the answer by then, upload tries again.
func (c *caddy) upload(size int64) (status int, answer http.Header) {
	c.t.Helper()
	for try := 1; ; try++ {
		r := c.request(http.MethodPost, io.LimitReader(zeros{}, size))
		r.ContentLength = size
		res, err := client.Do(r)
		if err == nil {
			res.Body.Close()
			return res.StatusCode, res.Header
		}
		if try == 5 {
			c.t.Fatalf("sending %d bytes: %v", size, err)
		}
	}
}

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

func canConnect(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// waitFor polls until done returns true. It fails the test after patience.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
