package command

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/ballastlb/ballast/command/plain"
	"github.com/ballastlb/ballast/lbmodule/simulate"
)

// simulation has the flags of `simulate`. Zero values keep the scenario's.
type simulation struct {
	pool      string
	policies  []string
	seed      uint64
	balancers int
	count     int
	rate      float64
	duration  time.Duration
	picture   string
	backends  int // most rows of the table
}

func (t *tool) simulateCommand() *cobra.Command {
	var s simulation
	cmd := &cobra.Command{
		Use:   "simulate [<scenario.json>]",
		Short: "Tries a pool in virtual time, without a running Caddy",
		Long: `
Runs the load balancer of a config in virtual time: the same policies,
breakers, retries, queues, holding, hedging and slow start, with backends that
behave as the scenario says. '-' reads the scenario from the standard input;
without one, backends answer in 10 ms.

The pool comes from the config given by --config, or from the Caddyfile in this
directory; if the config has several, --pool selects one. Without a config it
is a pool with all defaults and --backends backends. Each --policy is tried
under the same load, and is written as in the Caddyfile.

The same seed gives the same result. docs/simulate.md describes scenarios.`,
		Example: examples("caddy lb simulate --rate 400 --backends 5",
			"caddy lb simulate scenario.json --config Caddyfile --pool web",
			"caddy lb simulate scenario.json --policy peak_ewma --policy least_conn --svg out.svg",
			"caddy lb simulate scenario.json --policy 'hash {client_ip}' --json"),
		Args: cobra.MaximumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&s.pool, "pool", "", "Name of the pool in the config")
	flags.StringArrayVar(&s.policies, "policy", nil, "Another policy than the config's; may be given several times")
	flags.Uint64Var(&s.seed, "seed", 0, "Another seed than the scenario's")
	flags.IntVar(&s.balancers, "balancers", 0, "Another number of balancers than the scenario's")
	flags.IntVar(&s.count, "backends", 0, "Number of backends, where the config names none")
	flags.Float64Var(&s.rate, "rate", 0, "Other requests per second than the scenario's")
	flags.DurationVar(&s.duration, "duration", 0, "Another duration than the scenario's")
	flags.StringVar(&s.picture, "svg", "", "Write a picture to this file")
	flags.IntVar(&s.backends, "rows", 20, "At most so many backends in the table")
	cmd.RunE = t.offline(func(ctx context.Context, args []string) error { return t.simulate(ctx, &s, args) })
	return cmd
}

func (t *tool) simulate(ctx context.Context, s *simulation, args []string) error {
	scenario, err := t.readScenario(s, args)
	if err != nil {
		return err
	}
	pools, err := s.load(t.flags.config, t.flags.adapter)
	if err != nil {
		return err
	}
	var results []*simulate.Result
	for _, p := range pools {
		r, err := simulate.Run(ctx, p, *scenario)
		if err != nil {
			return usageErrorf("%v", err)
		}
		results = append(results, r)
		if len(r.NotSimulated) > 0 && len(results) == 1 {
			t.warning("pool %s: not simulated: %s", r.Pool, strings.Join(r.NotSimulated, ", "))
		}
	}
	if s.picture != "" {
		var b bytes.Buffer
		if err := simulate.Picture(&b, results); err != nil {
			return usageErrorf("%v", err)
		}
		if err := os.WriteFile(s.picture, b.Bytes(), 0o644); err != nil {
			return usageErrorf("svg: %v", err)
		}
	}
	if t.flags.json {
		text, err := json.MarshalIndent(map[string]any{"results": results}, "", "  ")
		if err != nil {
			return err
		}
		t.raw(text)
		return nil
	}
	return t.showResults(results, s.backends)
}

// readScenario reads the scenario and applies the flags.
func (t *tool) readScenario(s *simulation, args []string) (*simulate.Scenario, error) {
	text := []byte(`{"backends": [{"set": {"delay": "10ms"}}], "arrivals": {"rate": 100}}`)
	var err error
	switch {
	case len(args) == 0:
	case args[0] == "-":
		text, err = io.ReadAll(t.in)
	default:
		text, err = os.ReadFile(args[0])
	}
	if err != nil {
		return nil, usageErrorf("scenario: %v", err)
	}
	scenario, err := simulate.ReadScenario(text)
	if err != nil {
		return nil, usageErrorf("%v", err)
	}
	scenario.Seed = cmp.Or(s.seed, scenario.Seed)
	scenario.Balancers = cmp.Or(s.balancers, scenario.Balancers)
	scenario.Count = cmp.Or(s.count, scenario.Count)
	scenario.Arrivals.Rate = cmp.Or(s.rate, scenario.Arrivals.Rate)
	scenario.Duration = cmp.Or(caddy.Duration(s.duration), scenario.Duration)
	return scenario, nil
}

// load returns the pool to simulate, one for each policy.
func (s *simulation) load(file, adapter string) ([]*simulate.Pool, error) {
	p, err := s.find(file, adapter)
	if err != nil {
		return nil, err
	}
	if len(s.policies) == 0 {
		return []*simulate.Pool{p}, nil
	}
	var all []*simulate.Pool
	for _, words := range s.policies {
		other := *p
		if other.LoadBalancing.Policy, err = policyOf(words); err != nil {
			return nil, err
		}
		all = append(all, &other)
	}
	return all, nil
}

// find returns the pool in the config.
func (s *simulation) find(file, adapter string) (*simulate.Pool, error) {
	if _, err := os.Stat("Caddyfile"); file == "" && err != nil {
		if s.pool != "" {
			return nil, usageErrorf("pool %s: there is no config; give one with --config", s.pool)
		}
		return new(simulate.Pool), nil
	}
	text, err := readConfig(cmp.Or(file, "Caddyfile"), adapter)
	if err != nil {
		return nil, usageErrorf("config: %v", err)
	}
	pools, err := simulate.FindPools(text)
	if err != nil {
		return nil, usageErrorf("%v", err)
	}
	var names []string
	for _, p := range pools {
		if s.pool == p.Title() {
			return p, nil
		}
		names = append(names, p.Title())
	}
	switch {
	case len(pools) == 0:
		return nil, usageErrorf("config %s: has no load_balancer", cmp.Or(file, "Caddyfile"))
	case s.pool != "":
		return nil, errorf(exitNotFound, "pool %s: not found; must be one of %s", s.pool, strings.Join(names, ", "))
	case len(pools) > 1:
		return nil, usageErrorf("config has several pools; select one with --pool: %s", strings.Join(names, ", "))
	}
	return pools[0], nil
}

// readConfig returns a config as JSON. Caddy's own function to load one logs to the console.
func readConfig(file, adapter string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if base := filepath.Base(file); adapter == "" && (strings.HasPrefix(base, "Caddyfile") || strings.HasSuffix(base, ".caddyfile")) {
		adapter = "caddyfile"
	}
	if adapter == "" {
		return text, nil
	}
	return adapt(adapter, text, file)
}

// adapt returns a config as JSON.
func adapt(adapter string, text []byte, file string) ([]byte, error) {
	a := caddyconfig.GetAdapter(adapter)
	if a == nil {
		return nil, fmt.Errorf("adapter %s: not found in this build", adapter)
	}
	adapted, _, err := a.Adapt(text, map[string]any{"filename": file})
	return adapted, err
}

// policyOf returns the JSON of a policy in the syntax of the Caddyfile.
func policyOf(words string) (json.RawMessage, error) {
	if strings.ContainsAny(words, "\n") {
		return nil, usageErrorf("policy %q: must be one line", words)
	}
	// With a dynamic source, the number of weights need not be that of the backends.
	text, err := adapt("caddyfile", []byte(":80 {\nload_balancer {\ndynamic a localhost 80\nlb_policy "+words+"\n}\n}\n"), "--policy")
	if err != nil {
		return nil, usageErrorf("policy %s: %v", words, err)
	}
	pools, err := simulate.FindPools(text)
	if err != nil || len(pools) != 1 {
		return nil, usageErrorf("policy %s: %v", words, err)
	}
	return pools[0].LoadBalancing.Policy, nil
}

// showResults prints a line for each policy, and if there is only one, its backends.
func (t *tool) showResults(results []*simulate.Result, rows int) error {
	table := plain.NewTable("POLICY", "REQUESTS", "FAILED", "P50", "P99", "P99.9", "MAX", "RETRIES", "COPIES", "FAIRNESS", "LOADS")
	for _, r := range results {
		failed := plain.Cell{Text: fmt.Sprint(r.Failed)}
		if r.Failed > 0 {
			failed.Style = plain.Bad
		}
		table.Row(r.Policy, fmt.Sprint(r.Requests), failed, took(r.Latency.P50), took(r.Latency.P99), took(r.Latency.P999), took(r.Latency.Max),
			fmt.Sprint(r.Retries), fmt.Sprint(r.Copies), fmt.Sprintf("%.3f", r.Fairness), fmt.Sprintf("%.2f to %.2f", r.LeastLoad, r.LargestLoad))
	}
	if err := t.table(table); err != nil {
		return err
	}
	if len(results) > 1 {
		return nil
	}
	r := results[0]
	t.say("")
	table = plain.NewTable("BACKEND", "ATTEMPTS", "SHARE", "FAIR", "FAILED", "P99", "EJECTIONS")
	for _, b := range r.Backends[:min(rows, len(r.Backends))] {
		fair := ""
		if b.Fair > 0 {
			fair = percent(b.Fair)
		}
		table.Row(b.Name, fmt.Sprint(b.Attempts), percent(b.Share), fair, fmt.Sprint(b.Failed), took(b.P99), fmt.Sprint(b.Ejections))
	}
	if err := t.table(table); err != nil {
		return err
	}
	if more := len(r.Backends) - rows; more > 0 {
		t.say("and %d more; --rows shows them", more)
	}
	for _, f := range r.Failures() {
		t.say("failed: %s: %d", f.Cause, f.Requests)
	}
	return nil
}

func took(ms float64) string { return fmt.Sprintf("%.4g ms", ms) }

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }
