// Command profile records cmd/caddy/default.pgo, the CPU profile from which the compiler learns what to inline and which interface calls to
// make direct. It builds Caddy without a profile, puts typical load on it (scenarios.go), and merges the profiles that the admin endpoint
// returns for each scenario. It needs only Go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	output := flag.String("output", "cmd/caddy/default.pgo", "file to write")
	seconds := flag.Int("seconds", 6, "length of the profile of each scenario")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *output, *seconds)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, output string, seconds int) error {
	if seconds < 1 {
		return fmt.Errorf("seconds %d: must be at least 1", seconds)
	}
	dir, err := os.MkdirTemp("", "ballast-profile")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "caddy")
	fmt.Println("building caddy without a profile ...")
	// Trimmed paths keep the folders of this machine out of the profile. The compiler uses function names only.
	if err := command(ctx, "go", "build", "-trimpath", "-pgo=off", "-o", binary, "./cmd/caddy"); err != nil {
		return err
	}
	backends := startBackends()
	defer backends.stop()
	s, err := startSites(ctx, dir, binary, backends)
	if err != nil {
		return err
	}
	defer s.stop()
	var profiles []string
	for _, each := range scenarios(s) {
		file := filepath.Join(dir, each.name+".prof")
		requests, err := each.profile(ctx, s.admin, file, seconds)
		if err != nil {
			return fmt.Errorf("%s: %w", each.name, err)
		}
		fmt.Printf("%-14s %7d requests\n", each.name, requests)
		profiles = append(profiles, file)
	}
	return merge(ctx, profiles, output)
}

// command runs a command. If it fails, the error contains its output.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// merge merges the profiles into one file.
func merge(ctx context.Context, profiles []string, output string) error {
	args := append([]string{"tool", "pprof", "-symbolize=none", "-proto", "-output=" + output}, profiles...)
	if err := command(ctx, "go", args...); err != nil {
		return err
	}
	info, err := os.Stat(output)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d KB\n", output, (info.Size()+1023)/1024)
	return nil
}

// sites is a Caddy with the addresses of its sites.
type sites struct {
	admin string // address
	plain string // only load_balancer, over HTTP
	all   string // with a policy, a rate limit, metrics and an access log, over HTTP
	tls   string // over HTTPS
	inner string // over HTTP, to backends over HTTPS

	express string // over HTTP, like all without the log, on the express lane

	caddy *exec.Cmd
}

// startSites starts Caddy over these backends, and waits until it serves.
func startSites(ctx context.Context, dir, binary string, b backends) (*sites, error) {
	s := &sites{}
	for _, address := range []*string{&s.admin, &s.plain, &s.all, &s.tls, &s.inner, &s.express} {
		var err error
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(s.caddyfile(dir, b)), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.caddy = exec.Command(binary, "run", "--config", file, "--adapter", "caddyfile")
	s.caddy.Stdout, s.caddy.Stderr = log, log
	s.caddy.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := s.caddy.Start(); err != nil {
		return nil, err
	}
	if err := s.wait(ctx); err != nil {
		s.stop()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("starting caddy: %w\n%s", err, text)
	}
	return s, nil
}

// caddyfile returns the config.
func (s *sites) caddyfile(dir string, b backends) string {
	plain := strings.Join(b.plain, " ")
	return `{
	admin ` + s.admin + `
	skip_install_trust
	storage file_system ` + dir + `
	auto_https disable_redirects
	metrics
	servers ` + s.express + ` {
		listener_wrappers {
			seamless
		}
	}
}
http://` + s.express + ` {
	bind 127.0.0.1
	ip_rate_limit {
		rate 1000000/s
	}
	load_balancer ` + plain + `
}
http://` + s.plain + ` {
	load_balancer ` + plain + `
}
http://` + s.all + ` {
	log {
		output file ` + filepath.Join(dir, "access.log") + `
	}
	ip_rate_limit {
		rate 1000000/s
	}
	load_balancer ` + plain + ` {
		lb_policy round_robin
		health_check {
			http /1k 2xx
		}
	}
}
https://` + s.tls + ` {
	tls internal
	load_balancer ` + plain + `
}
http://` + s.inner + ` {
	load_balancer ` + strings.Join(b.tls, " ") + ` {
		transport http {
			tls_insecure_skip_verify
		}
	}
}
`
}

// wait waits until all sites answer. Caddy creates the certificate in the background.
func (s *sites) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := newClient(false)
	defer client.CloseIdleConnections()
	for _, url := range []string{"http://" + s.plain, "http://" + s.all, "http://" + s.inner, "https://" + s.tls, "http://" + s.express} {
		for {
			err := ask(ctx, client, request{method: http.MethodGet, url: url + "/1k", size: 1 << 10})
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

func (s *sites) stop() {
	_ = s.caddy.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = s.caddy.Process.Kill() })
	_ = s.caddy.Wait()
	kill.Stop()
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// download writes the answer of url to a file.
func download(ctx context.Context, url, file string) (err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
