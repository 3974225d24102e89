// Command bench measures load_balancer side by side with Caddy's reverse_proxy from the same binary and, where they are
// installed, with HAProxy and nginx. README.md beside it says how to read the result.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds per scenario; each contender is measured once in a round")
	flag.DurationVar(&o.duration, "duration", 4*time.Second, "length of one measurement")
	flag.IntVar(&o.connections, "connections", 64, "keep-alive connections")
	flag.StringVar(&o.policy, "policy", "round_robin", "lb_policy of reverse_proxy and load_balancer")
	flag.StringVar(&o.caddy, "caddy", "", "Caddy binary to measure (default: built from this tree)")
	only := flag.String("scenario", "get1k,get100k,post4k", "scenarios, with commas in between")
	flag.BoolVar(&o.limits, "limits", false, "measure what ip_rate_limit adds to load_balancer, and nothing else")
	flag.BoolVar(&o.uneven, "uneven", false, "measure policies with one of five backends slow, failing or otherwise odd, and nothing else")
	quick := flag.Bool("quick", false, "two short rounds of get1k")
	flag.Parse()
	if *quick {
		o.rounds, o.duration, *only = 2, 2*time.Second, "get1k"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, strings.Split(*only, ","))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds      int
	duration    time.Duration
	connections int
	policy      string
	caddy       string
	limits      bool
	uneven      bool
}

func run(ctx context.Context, o options, names []string) error {
	var chosen []scenario
	for _, name := range names {
		s, ok := scenarios[name]
		if !ok {
			return fmt.Errorf("scenario %s: must be one of get1k, get100k, post4k", name)
		}
		chosen = append(chosen, s)
	}
	if err := checkTools(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ballast-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// nginx drops its privileges and must still find its files.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if o.caddy == "" {
		o.caddy = filepath.Join(dir, "caddy")
		fmt.Println("building caddy ...")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.caddy, "./cmd/caddy")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building caddy: %w", err)
		}
	}
	var started processes
	defer started.stop()
	if o.uneven {
		backends, contenders, err := startUneven(&started, dir, o)
		if err != nil {
			return err
		}
		return measureUneven(ctx, o, backends, contenders)
	}
	contenders, err := startAll(&started, dir, o)
	if err != nil {
		return err
	}
	for _, s := range chosen {
		if err := measureScenario(ctx, o, dir, s, contenders); err != nil {
			return err
		}
	}
	return nil
}

// checkTools tells what is missing and how to get it.
func checkTools() error {
	var missing []string
	for _, tool := range []string{"wrk", "nginx"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s; on Debian: apt-get install wrk nginx-light haproxy", strings.Join(missing, ", "))
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		fmt.Println("haproxy is not installed and left out; on Debian: apt-get install haproxy")
	}
	return nil
}

// measureScenario measures every contender in each round, in an order that is turned round every time, so that what
// the machine does meanwhile falls on all alike.
func measureScenario(ctx context.Context, o options, dir string, s scenario, contenders []contender) error {
	script, err := s.writeScript(dir)
	if err != nil {
		return err
	}
	for _, c := range contenders {
		if _, err := measure(ctx, o, c, s, script, time.Second); err != nil {
			return err
		}
	}
	rounds := make([][]sample, o.rounds)
	for r := range rounds {
		rounds[r] = make([]sample, len(contenders))
		for k := range contenders {
			i := k
			if r%2 == 1 {
				i = len(contenders) - 1 - k
			}
			if rounds[r][i], err = measure(ctx, o, contenders[i], s, script, o.duration); err != nil {
				return err
			}
		}
		fmt.Printf("%s: round %d of %d\n", s.name, r+1, o.rounds)
	}
	fmt.Print(report(s, contenders, rounds))
	return nil
}
