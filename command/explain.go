package command

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) explainCommand() *cobra.Command {
	var keys []string
	var request string
	cmd := &cobra.Command{
		Use:   "explain [<pool>]",
		Short: "Tells where a request would go now, or went, and why",
		Long: `
Tells which backends a request may go to now, and why the others are out. One that is in
has a reason where the policy avoids it: what its answers are like, and when it is tried
again. With --key it tells where a policy that hashes sends that key, with --request where
a request in flight is; '*' marks that backend. Without them, requests in flight are listed.`,
		Example: examples("caddy lb explain", "caddy lb explain web --key /cart/42", "caddy lb explain web --request 3f2a"),
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "The key to hash; several for a policy with several")
	cmd.Flags().StringVar(&request, "request", "", "The id of a request in flight")
	cmd.MarkFlagsMutuallyExclusive("key", "request")
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		query := url.Values{}
		if len(keys) > 0 {
			query["key"] = keys
		}
		if cmd.Flags().Changed("request") {
			query.Set("request", request)
		}
		pool, err := t.poolName(ctx, args)
		if err != nil {
			return err
		}
		var e api.Explanation
		answer, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.PoolsPath, pool, "explain"), Query: query}, &e)
		if err != nil || shown {
			return err
		}
		return t.showExplanation(&e, answer)
	})
	return cmd
}

// poolName is the name that was given, or that of the only pool.
func (t *tool) poolName(ctx context.Context, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	to, err := t.pool(ctx, "")
	return to.pool.Name, err
}

func (t *tool) showExplanation(e *api.Explanation, answer *api.Answer) error {
	line := fmt.Sprintf("pool %s, policy %s", e.Pool, e.Policy)
	if e.Key != "" {
		line += ", key " + e.Key
	}
	if e.Chosen != "" {
		line += ": " + e.Chosen + " is chosen"
	}
	t.say("%s", line)
	t.say("")
	table := plain.NewTable("BACKEND", "IN", "WEIGHT", "IN-FLIGHT", "SCORE", "REASON")
	for _, c := range e.Candidates {
		name, in, score := c.Backend, plain.Cell{Text: "out", Style: plain.Bad}, ""
		if c.Backend == e.Chosen {
			name += " *"
		}
		switch {
		case c.In && c.Reason != "":
			in = plain.Cell{Text: "in", Style: plain.Doubtful} // avoided
		case c.In:
			in = plain.Cell{Text: "in", Style: plain.Good}
		}
		if c.Score != nil {
			score = plain.Number(*c.Score)
		}
		b := api.Backend{Weight: c.Weight, EffectiveWeight: c.EffectiveWeight}
		table.Row(name, in, plain.Weight(&b), fmt.Sprint(c.InFlight), score, c.Reason)
	}
	if err := t.table(table); err != nil {
		return err
	}
	requests := e.Live
	if e.Request != nil {
		requests = append([]api.Live{*e.Request}, requests...)
	}
	if len(requests) == 0 {
		return nil
	}
	t.say("")
	live := plain.NewTable("REQUEST", "BACKEND", "SINCE", "ATTEMPTS")
	for _, l := range requests {
		live.Row(l.ID, l.Backend, plain.Since(l.Since, answer.Time), fmt.Sprint(l.Attempts))
	}
	return t.table(live)
}

func (t *tool) diffCommand() *cobra.Command {
	var snippet bool
	cmd := &cobra.Command{
		Use:   "diff [<pool>]",
		Short: "Shows what runs differently from the config",
		Long: `
Shows what runs differently from the config because somebody changed it. With --caddyfile
it prints what to write into the Caddyfile instead.`,
		Example: examples("caddy lb diff", "caddy lb diff web --caddyfile"),
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().BoolVar(&snippet, "caddyfile", false, "Print the lines for the Caddyfile")
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		pools := args
		if len(pools) == 0 {
			all, _, err := t.client.Pools(ctx)
			if err != nil {
				return err
			}
			for _, p := range all {
				pools = append(pools, p.Name)
			}
		}
		return t.showDiffs(ctx, pools, snippet)
	})
	return cmd
}

func (t *tool) showDiffs(ctx context.Context, pools []string, snippet bool) error {
	table := plain.NewTable("POOL", "BACKEND", "FIELD", "CONFIG", "RUNNING", "LEFT")
	for _, pool := range pools {
		var d api.Diff
		answer, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.PoolsPath, pool, "diff")}, &d)
		if err != nil {
			return err
		}
		if snippet && !shown && strings.TrimSpace(d.Caddyfile) != "" {
			t.lines("# pool "+pool, d.Caddyfile)
		}
		for _, change := range d.Changes {
			left := ""
			if change.Until != nil {
				left = plain.Duration(change.Until.Sub(answer.Time))
			}
			switch {
			case change.Added:
				table.Row(pool, change.Backend, "", "", "added", left)
			case change.Removed:
				table.Row(pool, change.Backend, "", "", "removed", left)
			default:
				table.Row(pool, change.Backend, change.Field, plain.Value(change.Config), plain.Value(change.Running), left)
			}
		}
	}
	if t.flags.json || snippet {
		return nil
	}
	return t.table(table)
}
