// Command run is the demo behind `make run`: it builds Caddy with Ballast and the example backend, starts three
// backends and the balancer from Caddyfile.example, says what to try, and stops all of it on Ctrl-C. What they log goes to a file.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address of the site")
	admin := flag.String("admin", "127.0.0.1:2019", "address of Caddy's admin API")
	first := flag.Int("backends", 9001, "port of the first of the three backends")
	logs := flag.String("log", "bin/run.log", "file for what they print")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, *admin, *first, *logs)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

// child is a program that was started.
type child struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // valid once ended is closed
}

func run(ctx context.Context, listen, admin string, firstPort int, logs string) error {
	backends := make([]string, 3)
	for i := range backends {
		backends[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+i))
	}
	for _, address := range append([]string{listen, admin}, backends...) {
		if err := isFree(address); err != nil {
			return fmt.Errorf("%w\nothers can be given: go run ./examples/run -listen 127.0.0.1:8088 -admin 127.0.0.1:2020 -backends 9101", err)
		}
	}
	dir, err := os.MkdirTemp("", "ballast-run")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Println("building ...")
	backend := filepath.Join(dir, "backend")
	if err := build(ctx, "bin/caddy", "./cmd/caddy"); err != nil {
		return err
	}
	if err := build(ctx, backend, "./examples/backend"); err != nil {
		return err
	}

	log, err := os.Create(logs)
	if err != nil {
		return err
	}
	defer log.Close()

	var children []*child
	defer func() { stopAll(children) }()
	start := func(name string, cmd *exec.Cmd) error {
		c, err := startChild(name, cmd, log)
		if err != nil {
			return err
		}
		children = append(children, c)
		return nil
	}
	password := rand.Text()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return err
	}
	bind, _, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	environment := []string{"BALLAST_LISTEN=" + listen, "BALLAST_BIND=" + bind, "BALLAST_ADMIN=" + admin, "DASHBOARD_HASH=" + string(hash)}
	for i, address := range backends {
		environment = append(environment, fmt.Sprintf("BACKEND_%d=%s", i+1, address))
		if err := start("backend "+address, exec.Command(backend, "-listen", address)); err != nil {
			return err
		}
	}
	caddy := exec.Command("bin/caddy", "run", "--config", "Caddyfile.example", "--adapter", "caddyfile")
	// Changes to backends are kept over restarts: those of the last demo are none of this one's, nor of another Caddy's.
	caddy.Env = append(os.Environ(), append(environment, "XDG_DATA_HOME="+filepath.Join(dir, "data"), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"))...)
	if err := start("caddy", caddy); err != nil {
		return err
	}
	if err := waitReady(ctx, "http://"+listen+"/", children); err != nil {
		return fmt.Errorf("%w; see %s", err, logs)
	}
	filled := strings.NewReplacer("SITE", listen, "FIRST", backends[0], "SECOND", backends[1], "THIRD", backends[2], "ADMIN", admin,
		"PASSWORD", password, "LOG", logs)
	fmt.Print(filled.Replace(steps + dashboard))
	defer func() { fmt.Print(filled.Replace("\nstopping. " + dashboard)) }()
	if err := watch(ctx, children); err != nil {
		return fmt.Errorf("%w; see %s", err, logs)
	}
	return nil
}

// steps are what to try, one after the other: each that changes a backend is followed by one that undoes it.
const steps = `
ready. The logs of all are in LOG. Try, in another terminal, in this order:

  # Who answers? Then a hundred requests: they are spread over the three backends.
  curl -i SITE/
  ask() { for i in $(seq 100); do curl -s SITE/; done | sort | uniq -c; }
  ask

  # One backend becomes slow: it gets less.
  curl -s -X PATCH FIRST/_settings -d '{"delay":"500ms"}'
  ask
  curl -s -X POST FIRST/_reset && bin/caddy lb reset web FIRST --yes --address ADMIN

  # Another one answers 503: no client notices, and its breaker opens.
  curl -s -X PATCH SECOND/_settings -d '{"status":503}'
  ask
  bin/caddy lb backends web SECOND --address ADMIN
  curl -s -X POST SECOND/_reset && bin/caddy lb reset web SECOND --yes --address ADMIN

  # The third fails its health checks: it gets nothing until they succeed again.
  curl -s -X PATCH THIRD/_settings -d '{"health":503}'
  sleep 5; ask
  curl -s -X POST THIRD/_reset
  sleep 5; ask

  # What has happened, and how things stand now.
  bin/caddy lb events --no-follow --address ADMIN
  bin/caddy lb explain --address ADMIN
  curl -s ADMIN/load_balancer/pools
  curl -i SITE/ready

  # These go on until Ctrl-C: server-sent events through the balancer, all backends live, some load.
  curl -N SITE/sse
  bin/caddy lb top --address ADMIN
  make load ARGS="-url http://SITE/"

Ctrl-C here stops everything.
`

// dashboard says where to see all of it. It is told last, and again at the end, where it is found without scrolling.
const dashboard = "The dashboard is at http://SITE/dashboard/: user operator, password PASSWORD\n"

// isFree reports whether a server can listen on address.
func isFree(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s cannot be listened on: %w", address, err)
	}
	return l.Close()
}

func build(ctx context.Context, output, source string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", output, source)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("building %s: %w", source, err)
	}
	return nil
}

func startChild(name string, cmd *exec.Cmd, log *os.File) (*child, error) {
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// waitReady polls until the site answers.
func waitReady(ctx context.Context, url string, children []*child) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if res, err := http.Get(url); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := firstEnded(children); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s does not answer", url)
			}
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// watch waits for Ctrl-C, or for a child to end by itself.
func watch(ctx context.Context, children []*child) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
			if err := firstEnded(children); err != nil {
				return err
			}
		}
	}
}

func firstEnded(children []*child) error {
	for _, c := range children {
		select {
		case <-c.ended:
			return fmt.Errorf("%s ended: %w", c.name, c.ending())
		default:
		}
	}
	return nil
}

// ending tells how a child that has ended did so; that it ended at all is an error.
func (c *child) ending() error {
	if c.err == nil {
		return errors.New("exit status 0")
	}
	return c.err
}

// stopAll stops the children, the balancer before its backends, and kills those that do not stop.
func stopAll(children []*child) {
	for i := len(children) - 1; i >= 0; i-- {
		c := children[i]
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-c.ended:
		case <-time.After(10 * time.Second):
			_ = c.cmd.Process.Kill()
			<-c.ended
		}
	}
}
