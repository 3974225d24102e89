// Command bench measures load_balancer side by side with Caddy's reverse_proxy in the same binary and, if they are installed, with HAProxy
// and nginx. Its README.md explains the results.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds per scenario; each contender is measured once in a round")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "length of one measurement; whole seconds, except with -uneven")
	flag.IntVar(&o.connections, "connections", 64, "connections, unless the scenario sets them")
	flag.StringVar(&o.policy, "policy", "round_robin", "lb_policy of reverse_proxy and load_balancer")
	flag.StringVar(&o.caddy, "caddy", "", "Caddy binary to measure (default: built from this tree)")
	flag.StringVar(&o.stock, "stock", "", "a second Caddy binary, whose reverse_proxy is measured as well; see bench/README.md")
	only := flag.String("scenario", "", "scenarios, separated by commas: "+names(experiments(options{}))+"; of -limits: "+names(experiments(options{limits: true}))+"; of -seamless: "+
		names(experiments(options{seamless: true}))+"; of -uneven: "+
		names(experiments(options{uneven: true}))+" (default: all)")
	flag.BoolVar(&o.express, "express", false, "measure the express lane beside HAProxy, and nothing else")
	flag.BoolVar(&o.limits, "limits", false, "measure what ip_rate_limit adds to load_balancer, and nothing else")
	flag.BoolVar(&o.seamless, "seamless", false, "measure what the listener wrapper seamless adds to load_balancer, and nothing else")
	flag.BoolVar(&o.uneven, "uneven", false, "measure policies with slow or failing backends, and nothing else")
	flag.BoolVar(&o.simulate, "simulate", false, "with -uneven: measure our policies only, and compare them with their simulation")
	quick := flag.Bool("quick", false, "two short rounds of get1k, or of express-get1k")
	flag.Parse()
	if *quick {
		o.rounds, o.duration, *only = 2, 2*time.Second, "get1k"
		if o.express {
			*only = "express-get1k"
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, *only)
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
	stock       string
	limits      bool
	seamless    bool
	express     bool
	uneven      bool
	simulate    bool
}

// experiment is a measurement with contenders of its own.
type experiment struct {
	name string
	run  func(ctx context.Context, dir string, o options) (results, error)
}

// results are the results of experiments.
type results struct {
	verdicts []verdict
	lines    []line // of the express lane's experiments
}

func (r *results) add(more results) {
	r.verdicts, r.lines = append(r.verdicts, more.verdicts...), append(r.lines, more.lines...)
}

func (r *results) print() {
	fmt.Print(summary(r.verdicts))
	if len(r.verdicts) > 0 && len(r.lines) > 0 {
		fmt.Println() // between two tables
	}
	fmt.Print(goalTable(r.lines))
}

// unjudged returns an experiment without a goal.
func unjudged(name string, run func(ctx context.Context, dir string, o options) error) experiment {
	return experiment{name, func(ctx context.Context, dir string, o options) (results, error) { return results{}, run(ctx, dir, o) }}
}

// experiments returns the experiments that the options select.
func experiments(o options) (all []experiment) {
	switch {
	case o.uneven && o.simulate:
		for _, s := range unevenScenarios {
			all = append(all, unjudged(s.name, s.compareSimulated))
		}
		return all
	case o.uneven:
		for _, s := range unevenScenarios {
			all = append(all, unjudged(s.name, s.compare))
		}
		return append(all, unjudged("joining", compareJoining), unjudged("pairs", comparePairs))
	case o.limits:
		return comparisons(limitScenarios())
	case o.seamless:
		return comparisons(seamlessScenarios())
	case o.express:
		return expressExperiments()
	default:
		return append(comparisons(scenarios), expressExperiments()...)
	}
}

// comparisons returns the experiments for these scenarios.
func comparisons(these []scenario) (all []experiment) {
	for _, s := range these {
		all = append(all, experiment{s.name, s.compare})
	}
	return all
}

// names returns the names of experiments, separated by commas.
func names(all []experiment) string {
	var known []string
	for _, e := range all {
		known = append(known, e.name)
	}
	return strings.Join(known, ",")
}

// choose returns the experiments with these names, or all if there are none.
func choose(all []experiment, wanted string) ([]experiment, error) {
	if wanted == "" {
		return all, nil
	}
	var chosen []experiment
	for name := range strings.SplitSeq(wanted, ",") {
		i := slices.IndexFunc(all, func(e experiment) bool { return e.name == name })
		if i < 0 {
			return nil, fmt.Errorf("scenario %s: must be one of %s", name, names(all))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func run(ctx context.Context, o options, only string) error {
	chosen, err := choose(experiments(o), only)
	if err != nil {
		return err
	}
	if !o.uneven && (o.duration < time.Second || o.duration%time.Second != 0) {
		return fmt.Errorf("duration %v: must be whole seconds, at least one", o.duration)
	}
	if o.rounds < 1 {
		return fmt.Errorf("rounds %d: must be at least 1", o.rounds)
	}
	if err := checkTools(chosen); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ballast-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// nginx drops its privileges and must still be able to read its files.
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
	for _, name := range []string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS"} {
		if value, ok := os.LookupEnv(name); ok {
			fmt.Printf("%s=%s applies to all proxies written in Go\n", name, value)
		}
	}
	var all results
	for _, e := range chosen {
		these, err := e.run(ctx, dir, o)
		if err != nil {
			all.print()
			return fmt.Errorf("%s: %w", e.name, err)
		}
		all.add(these)
	}
	all.print()
	return failures(all.lines)
}

// checkTools returns an error that names missing programs and how to install them.
func checkTools(chosen []experiment) error {
	needed := []string{"wrk", "nginx"}
	if slices.ContainsFunc(chosen, func(e experiment) bool { return e.name == "h2" }) {
		needed = append(needed, "h2load")
	}
	missing := slices.DeleteFunc(needed, func(tool string) bool {
		_, err := exec.LookPath(tool)
		return err == nil
	})
	if len(missing) > 0 {
		return fmt.Errorf("missing: %s; on Debian: apt-get install wrk nginx-light nghttp2-client haproxy", strings.Join(missing, ", "))
	}
	if _, err := exec.LookPath("haproxy"); err != nil {
		fmt.Println("haproxy is not installed and is left out; on Debian: apt-get install haproxy")
	}
	return nil
}
