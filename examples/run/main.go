// Command run is the demo behind `make run`: it builds Caddy with Ballast and the example backend, starts three
// backends and the balancer from Caddyfile.example, says what to try, and stops all of it on Ctrl-C.
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
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address of the site")
	admin := flag.String("admin", "127.0.0.1:2019", "address of Caddy's admin API")
	first := flag.Int("backends", 9001, "port of the first of the three backends")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, *admin, *first)
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

func run(ctx context.Context, listen, admin string, firstPort int) error {
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

	var children []*child
	defer func() { stopAll(children) }()
	start := func(name string, cmd *exec.Cmd) error {
		c, err := startChild(name, cmd)
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
	caddy.Env = append(os.Environ(), environment...)
	if err := start("caddy", caddy); err != nil {
		return err
	}
	if err := waitReady(ctx, "http://"+listen+"/", children); err != nil {
		return err
	}
	fmt.Printf(whatToTry, listen, backends[0], admin, password)
	return watch(ctx, children)
}

const whatToTry = `
ready. Ctrl-C stops everything. The dashboard is at http://%[1]s/dashboard/, user operator, password %[4]s

Try, in another terminal:

  curl -i %[1]s/                       # X-Backend says who answered
  for i in $(seq 30); do curl -s %[1]s/; done | sort | uniq -c
  curl -s -X PATCH %[2]s/_settings -d '{"delay":"500ms"}'    # one backend becomes slow: it gets less
  curl -s -X PATCH %[2]s/_settings -d '{"status":503}'       # one answers 503: nobody notices, its breaker opens
  curl -s -X PATCH %[2]s/_settings -d '{"health":503}'       # one fails its health checks: it gets nothing
  curl -s -X POST %[2]s/_reset                               # and recovers
  curl -N %[1]s/sse                    # server-sent events, through the balancer
  curl -s %[3]s/load_balancer/pools    # the pool and its backends: state, health, counters
  curl -i %[1]s/ready                  # for whoever stands in front: 200, or 503 when nobody is usable
  bin/caddy lb top --address %[3]s    # all backends, live
  make load ARGS="-url http://%[1]s/"  # some load, with a summary

`

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

func startChild(name string, cmd *exec.Cmd) (*child, error) {
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
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
			fmt.Println("stopping ...")
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
