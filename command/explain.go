package command

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
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
		Short: "Explains which backend a request would go to now, or went to",
		Long: `
Shows which backend the next request goes to, or what decides it: turn, chance
or load. Then it lists the backends that can be selected now, and why the
others cannot. A backend that can be selected but is avoided by the policy has
the reason, and the time of the next try.

--key shows the backend that a hashing policy selects for that key, --request
the backend of a request in flight; '*' marks it. Without them, requests in
flight are listed.`,
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
		t.discoveryWarnings(pool, e.Discovery)
		return t.showExplanation(&e, answer)
	})
	return cmd
}

// poolName returns the given name, or that of the only pool.
func (t *tool) poolName(ctx context.Context, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	to, err := t.pool(ctx, "")
	return to.pool.Name, err
}

// ways describe the ways in which policies choose.
var ways = map[string]string{
	"order":   "to the first that can take it, in the order of the config",
	"turn":    "to the backends in turn; SHARE is what each gets in the long run",
	"chance":  "at random; SHARE is the probability of each",
	"score":   "to the one with the fewest requests in flight for its weight, at random among equals",
	"draw":    "to the one with the lowest SCORE of some that are drawn at random; SHARE is how often each is drawn",
	"key":     "by its hash key; --key shows the backend of a key",
	"session": "to the backend of its client's session",
	"other":   "as the policy of another module chooses",
}

// goes describes where a request goes.
func goes(e *api.Explanation) string {
	switch some := slices.ContainsFunc(e.Candidates, func(c api.Candidate) bool { return c.In }); {
	case e.Request != nil && e.Chosen != "":
		return "request " + e.Request.ID + " is at " + e.Chosen
	case e.Key != "" && e.Chosen != "":
		return "a request with key " + e.Key + " goes to " + e.Chosen
	case !some:
		return "no backend can take a request now"
	case e.Key != "":
		return "the policy uses no keys, or no backend can take key " + e.Key
	case e.Chosen != "" && e.Otherwise != "":
		return "a request without a " + e.Way + " goes to " + e.Chosen
	case e.Chosen != "":
		return "the next request goes to " + e.Chosen
	}
	way, known := ways[e.Way]
	if !known {
		return "the next request goes to one of those that are in"
	}
	line := "the next request goes " + way
	if otherwise := ways[e.Otherwise]; otherwise != "" {
		line += "; without a " + e.Way + ", " + otherwise
	}
	return line
}

func (t *tool) showExplanation(e *api.Explanation, answer *api.Answer) error {
	t.paragraph(fmt.Sprintf("pool %s, policy %s: %s", e.Pool, plain.Policy(e.Policy), goes(e)))
	t.say("")
	table := plain.NewTable("BACKEND", "IN", "WEIGHT", "IN-FLIGHT", "SCORE", "SHARE", "REASON")
	table.Optional("WEIGHT", "IN-FLIGHT", "SCORE")
	for _, c := range e.Candidates {
		name, in, score, part := c.Backend, plain.Cell{Text: "out", Style: plain.Bad}, "", ""
		if c.Backend == e.Chosen {
			name += " *"
		}
		switch {
		case c.In && c.Reason != "":
			in = plain.Cell{Text: "in", Style: plain.Doubtful} // it is avoided
		case c.In:
			in = plain.Cell{Text: "in", Style: plain.Good}
		}
		if c.Score != nil {
			score = plain.Number(*c.Score)
		}
		if c.Share != nil {
			part = share(*c.Share)
		}
		b := api.Backend{Weight: c.Weight, EffectiveWeight: c.EffectiveWeight}
		table.Row(name, in, plain.Weight(&b), fmt.Sprint(c.InFlight), score, part, c.Reason)
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
		Short: "Shows where the running pools differ from the config",
		Long: `
Shows where the running pools differ from the config because of changes at run
time. With --caddyfile it prints the lines that make them permanent instead.`,
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
