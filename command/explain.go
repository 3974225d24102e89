package command

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) explainCommand() *cobra.Command {
	var key, request string
	cmd := &cobra.Command{
		Use:   "explain [<pool>]",
		Short: "Tells where a request would go now, or went, and why",
		Long: `
Tells which backend a request would go to now, which others there are, and why each of
them is in or out. With --key that is for a key of policies that hash, with --request for
a request that is in flight. '*' marks the chosen one. Requests in flight are listed.`,
		Example: examples("caddy lb explain", "caddy lb explain web --key /cart/42", "caddy lb explain web --request 3f2a"),
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&key, "key", "", "The key to hash")
	cmd.Flags().StringVar(&request, "request", "", "The id of a request in flight")
	cmd.MarkFlagsMutuallyExclusive("key", "request")
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		query := url.Values{}
		if cmd.Flags().Changed("key") {
			query.Set("key", key)
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
	chosen := e.Chosen
	if chosen == "" {
		chosen = "nobody"
	}
	line := fmt.Sprintf("pool %s, policy %s: %s is chosen", e.Pool, e.Policy, chosen)
	if e.Key != "" {
		line = fmt.Sprintf("pool %s, policy %s, key %s: %s is chosen", e.Pool, e.Policy, e.Key, chosen)
	}
	t.say("%s", line)
	for _, name := range slices.Sorted(maps.Keys(e.Request)) {
		t.say("request %s: %v", name, e.Request[name])
	}
	t.say("")
	table := plain.NewTable("BACKEND", "IN", "WEIGHT", "IN-FLIGHT", "SCORE", "REASON")
	for _, c := range e.Candidates {
		name, in, score := c.Backend, plain.Cell{Text: "out", Style: plain.Bad}, ""
		if c.Backend == e.Chosen {
			name += " *"
		}
		if c.In {
			in = plain.Cell{Text: "in", Style: plain.Good}
		}
		if c.Score != nil {
			score = plain.Number(*c.Score)
		}
		b := api.Backend{Weight: c.Weight, EffectiveWeight: c.EffectiveWeight}
		table.Row(name, in, plain.Weight(&b), fmt.Sprint(c.InFlight), score, c.Reason)
	}
	if err := t.table(table); err != nil || len(e.Live) == 0 {
		return err
	}
	t.say("")
	live := plain.NewTable("REQUEST", "BACKEND", "SINCE", "ATTEMPTS")
	for _, l := range e.Live {
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
