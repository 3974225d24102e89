package command

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// canaryActions maps the actions of this command to those of the API.
var canaryActions = map[string]string{
	"pause": "pause", "resume": "resume", "share": "share", "rollback": "roll_back", "promote": "promote", "restart": "restart",
}

func (t *tool) canaryCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "canary [<pool>] [pause|resume|share <share>|rollback|promote|restart]",
		Short: "Shows a canary, pauses it, or rolls it back",
		Long: `
Shows the state of a pool's canary and how it compares with the other backends,
or changes it:

  pause          stops the steps
  resume         continues the steps
  share <share>  sets the share of the clients, such as 25%, and stops the steps
  rollback       sends no requests to the canary
  promote        sends all clients to the canary
  restart        starts again, with the first share

EVIDENCE shows how strongly the data say that the canary is worse than
tolerated. The canary is rolled back automatically when it reaches the number
behind the slash. Changes survive reloads and restarts, and apply to all nodes
with the same storage. 'promote' asks for confirmation.`,
		Example: examples("caddy lb canary", "caddy lb canary web pause", `caddy lb canary web share 25% --reason "looks good"`, "caddy lb canary web rollback"),
		Args:    cobra.MaximumNArgs(3),
	}
	flags := cmd.Flags()
	flags.StringVar(&c.ifMatch, "if-match", "", "Change only if the ETag still matches")
	flags.StringVar(&c.reason, "reason", "", "Why; shown with the change")
	flags.StringVar(&c.owner, "owner", "", "Who; shown with the change (default: user@host)")
	c.confirmation(cmd)
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		pool, f, err := canaryArgs(args)
		if err != nil {
			return err
		}
		to, err := t.pool(ctx, pool)
		if err != nil {
			return err
		}
		path := api.Path(api.PoolsPath, to.pool.Name, "canary")
		if f == nil {
			return t.showCanary(ctx, to.pool.Name, api.Request{Method: http.MethodGet, Path: path})
		}
		if f["action"] == "promote" {
			if err := t.confirm(c.yes, "give all clients of pool "+to.pool.Name+" to its canary"); err != nil {
				return err
			}
		}
		return t.showCanary(ctx, to.pool.Name, c.request(http.MethodPatch, path, f.with(&c)))
	})
	return cmd
}

// canaryArgs parses a pool and an action, both of which are optional.
func canaryArgs(args []string) (pool string, f fields, err error) {
	if len(args) > 0 && (canaryActions[args[0]] == "" || len(args) > 1 && canaryActions[args[1]] != "") {
		pool, args = args[0], args[1:]
	}
	if len(args) == 0 {
		return pool, nil, nil
	}
	action := canaryActions[args[0]]
	if action == "" {
		return "", nil, usageErrorf("%s: must be pause, resume, share, rollback, promote or restart", args[0])
	}
	f = fields{"action": action}
	if action != "share" {
		if len(args) > 1 {
			return "", nil, usageErrorf("%s: must be the last argument", args[0])
		}
		return pool, f, nil
	}
	if len(args) < 2 {
		return "", nil, usageErrorf("share: must be followed by a percentage, such as 25%%")
	}
	number, isPercent := strings.CutSuffix(args[1], "%")
	share, err := strconv.ParseFloat(number, 64)
	if err != nil || !isPercent || !(share >= 0 && share <= 100) {
		return "", nil, usageErrorf("share %s: must be a percentage from 0%% to 100%%", args[1])
	}
	f["share"] = share / 100
	return pool, f, nil
}

// showCanary sends a request that is answered with the canary, and prints the canary.
func (t *tool) showCanary(ctx context.Context, pool string, r api.Request) error {
	var k api.Canary
	answer, shown, err := t.get(ctx, r, &k)
	if err != nil {
		return err
	}
	if shown {
		return nil
	}
	line := fmt.Sprintf("canary %s of pool %s: %s, %s of the clients", strings.Join(k.Names, " "), pool, k.State, share(k.Share))
	if k.Reason != "" {
		line += ", because of " + strings.ReplaceAll(k.Reason, "by hand", "a change by hand")
	}
	line += ", for " + plain.Since(k.Since, answer.Time)
	if k.NextIn != "" {
		line += "; " + share(k.NextShare) + " in " + k.NextIn
	}
	t.say("%s", line)
	table := plain.NewTable("SIDE", "BACKENDS", "REQUESTS", "FAILED", "ERRORS", "P50", "P95", "EVIDENCE")
	for _, side := range []struct {
		name string
		of   *api.CanarySide
	}{{"canary", &k.Canary}, {"others", &k.Others}} {
		s, evidence := side.of, ""
		if side.name == "canary" {
			evidence = evidenceOf(&k)
		}
		table.Row(side.name, fmt.Sprint(s.Backends), fmt.Sprint(s.Requests), fmt.Sprint(s.Failures), share(s.ErrorRate), latency(s.P50), latency(s.P95), evidence)
	}
	return t.table(table)
}

func share(x float64) string { return fmt.Sprintf("%.3g%%", 100*x) }

// latency formats a time, which may be missing.
func latency(ms float64) string {
	if ms == 0 {
		return ""
	}
	return plain.Milliseconds(ms)
}

// evidenceOf formats the evidence that was found, with the evidence that triggers a rollback.
func evidenceOf(k *api.Canary) string {
	var all []string
	for _, e := range []struct {
		name  string
		value *float64
	}{{"errors", k.ErrorEvidence}, {"latency", k.LatencyEvidence}} {
		if e.value != nil {
			all = append(all, fmt.Sprintf("%s %.3g/%g", e.name, *e.value, k.Enough))
		}
	}
	return strings.Join(all, " ")
}
