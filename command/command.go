package command

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/ballastlb/ballast/command/api"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "lb",
		Usage: "<command>",
		Short: "Shows and changes the load balancer of a running Caddy",
		Long: `
Shows and changes the load balancer of a running Caddy, through its admin
endpoint.

Changes take effect at once, without a reload. They survive reloads and
restarts; 'caddy lb diff' lists them as differences from the config.

The admin endpoint is the first of these that is set: --address, the one in the
config given by --config, the environment variable CADDY_ADMIN, localhost:2019.
Unix sockets are written unix//run/caddy.sock.

With a single pool, its name may be left out. A backend can be given by its
name or its address.

Results go to stdout, everything else to stderr. Tables have fixed columns; '-'
means unknown. Colours appear at a terminal only, and not if NO_COLOR is set.
--json prints the API's own answer, and errors and warnings as objects on
stderr: {"error": "..."}. The exit codes are the same.

Exit codes:
  0  done
  1  wrong usage, not confirmed, or another failure
  4  no such pool, backend, zone or key
  5  conflict: it exists already, or was changed meanwhile (--if-match)
  6  refused by the server, or done but not stored (--sync)
  7  Caddy cannot be reached
  8  --wait took longer than --timeout
  9  convert left lines as comments`,
		CobraFunc: func(cmd *cobra.Command) {
			c := systemConsole()
			addCommands(cmd, c, &outcome{})
			if len(c.args) > 0 && c.args[0] == "manpage" {
				asManual(cmd)
			}
		},
	})
}

// tool has what all commands share.
type tool struct {
	console
	flags   connection
	client  *api.Client
	outcome *outcome
}

// connection has the flags that every command has.
type connection struct {
	address, config, adapter string
	json                     bool
}

// outcome is the exit code of the command that ran.
type outcome struct{ code int }

// addCommands makes lb the parent of the commands.
func addCommands(lb *cobra.Command, c console, o *outcome) {
	t := &tool{console: c, outcome: o}
	flags := lb.PersistentFlags()
	flags.StringVar(&t.flags.address, "address", "", "Address of the admin endpoint (default: that of the config or CADDY_ADMIN, else localhost:2019)")
	flags.StringVarP(&t.flags.config, "config", "c", "", "Configuration file to look up the admin endpoint in")
	flags.StringVarP(&t.flags.adapter, "adapter", "a", "", "Name of the config adapter for --config")
	flags.BoolVar(&t.flags.json, "json", false, "Print the API's answer unchanged, and errors as JSON")
	lb.AddCommand(
		t.poolsCommand(), t.backendsCommand(),
		t.addCommand(), t.removeCommand(), t.drainCommand(), t.readyCommand(), t.maintenanceCommand(), t.weightCommand(), t.resetCommand(),
		t.explainCommand(), t.diffCommand(), t.canaryCommand(), t.limitsCommand(), t.expressCommand(), t.fleetCommand(), t.eventsCommand(), t.topCommand(), t.simulateCommand(),
		t.convertCommand(), t.versionCommand(),
	)
	lb.RunE = t.bare
	t.misuse(lb)
	t.completeAll(lb)
}

// run returns the function of a command that connects and calls f. It prints the error, which determines the exit code.
func (t *tool) run(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return t.offline(func(ctx context.Context, args []string) error {
		if err := t.connect(); err != nil {
			return err
		}
		return f(ctx, args)
	})
}

// offline is run for commands that need no running Caddy.
func (t *tool) offline(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd.Context(), args)
		if err == nil {
			t.outcome.code = exitCode(nil)
			return nil
		}
		return t.fail(cmd, err)
	}
}

// connect finds the admin endpoint, as Caddy's own commands do.
func (t *tool) connect() error {
	address, err := caddycmd.DetermineAdminAPIAddress(t.flags.address, nil, t.flags.config, t.flags.adapter)
	if err != nil {
		return usageErrorf("finding the admin endpoint: %v", err)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return usageErrorf("address %s: %v", address, err)
	}
	if parsed.PortRangeSize() > 1 {
		return usageErrorf("address %s: must have one port", address)
	}
	target := parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		target, _, _ = strings.Cut(target, "|") // permissions may follow the path of the socket
	}
	t.client = api.NewClient(address, parsed.Network, target)
	return nil
}

// get sends a request to the API. With --json it prints the answer, and shown is true; otherwise it decodes the answer into v.
func (t *tool) get(ctx context.Context, r api.Request, v any) (answer *api.Answer, shown bool, err error) {
	answer, err = t.client.Do(ctx, r)
	if err != nil {
		return nil, false, err
	}
	if t.flags.json {
		t.raw(answer.Body)
		return answer, true, nil
	}
	return answer, false, answer.Decode(v)
}

// examples indents the examples of a command's help as Caddy does.
func examples(lines ...string) string { return "  $ " + strings.Join(lines, "\n  $ ") }

// warnings prints the warnings of pools to stderr.
func (t *tool) warnings(pools ...api.Pool) {
	for _, p := range pools {
		for _, w := range p.Warnings {
			t.warning("pool %s: %s", p.Name, w)
		}
		t.discoveryWarnings(p.Name, p.Discovery)
		if s := p.Subset; s != nil && s.Further > 0 {
			t.warning("pool %s: %d backends outside the subset are used, because no backend in it was usable", p.Name, s.Further)
		}
	}
}

// discoveryWarnings prints the sources of a pool's backends that have no valid answer.
func (t *tool) discoveryWarnings(pool string, sources []api.Discovery) {
	for _, d := range sources {
		if !d.OK {
			t.warning("pool %s: backends from %s: %s; %d from before are used", pool, d.Source, d.Error, d.Targets)
		}
	}
}
