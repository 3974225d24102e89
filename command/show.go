package command

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) poolsCommand() *cobra.Command {
	return &cobra.Command{
		Use:        "pools [<pool>]",
		SuggestFor: []string{"list", "ls", "status", "show"},
		Short:      "Shows the pools",
		Long: `
Shows all pools, or one, and what is wrong with their traffic now.

STATE describes the backends; it is "failing" if they are fit but clients get
errors. USABLE is the number of backends that get requests, of all. QUEUE is
the number of requests that wait for a free slot. REQUESTS counts finished
requests of clients, 5XX those that were answered with an error, and REFUSED
those errors that no backend sent, for example because the queue was full or no
backend was usable; --json has them by cause. BYTES-IN counts the bodies of
requests sent to backends, BYTES-OUT those of responses received from them.
RETRIES is the number of retries that the budget allows now. AVOIDED is the
number of backends that get less than their share because their answers are
slower than the others', fail, or do not come. For a shadow policy, the output
shows how often it agrees, and how long requests would take with it.`,
		Example: examples("caddy lb pools", "caddy lb pools web --json | jq .state"),
		Args:    cobra.MaximumNArgs(1),
		RunE:    t.run(t.showPools),
	}
}

func (t *tool) showPools(ctx context.Context, args []string) error {
	pools, _, shown, err := t.lookUp(ctx, args)
	if err != nil || shown {
		return err
	}
	table := plain.NewTable("POOL", "POLICY", "STATE", "USABLE", "QUEUE", "IN-FLIGHT", "REQUESTS", "5XX", "REFUSED", "BYTES-IN", "BYTES-OUT", "RETRIES", "AVOIDED")
	table.Optional("BYTES-IN", "BYTES-OUT", "RETRIES", "AVOIDED", "POLICY", "IN-FLIGHT")
	for _, p := range pools {
		inFlight, avoided, refused := int64(0), 0, uint64(0)
		for _, b := range p.Backends {
			if inFlight += b.InFlight; b.Avoided != "" {
				avoided++
			}
		}
		for _, n := range p.Refused {
			refused += n
		}
		table.Row(p.Name, plain.Policy(p.Policy), plain.State(&p), fmt.Sprintf("%d/%d", p.Usable, len(p.Backends)), fmt.Sprint(p.Queue), fmt.Sprint(inFlight),
			fmt.Sprint(p.Requests), fmt.Sprint(p.Codes["5xx"]), fmt.Sprint(refused), plain.Bytes(p.BytesIn), plain.Bytes(p.BytesOut),
			plain.Number(p.RetryBudget), fmt.Sprint(avoided))
	}
	t.warnings(pools...)
	if err := t.table(table); err != nil {
		return err
	}
	t.showProblems(pools)
	return t.showShadows(pools)
}

// showProblems prints what is wrong with the traffic, if anything.
func (t *tool) showProblems(pools []api.Pool) {
	first := true
	for i := range pools {
		for _, problem := range pools[i].Problems {
			if first {
				t.say("")
				first = false
			}
			t.say("%s", plain.Problem(&pools[i], &problem).Text)
		}
	}
}

// showShadows prints the comparisons with shadow policies, if there are any.
func (t *tool) showShadows(pools []api.Pool) error {
	table, some := plain.NewTable("POOL", "SHADOW", "DECISIONS", "AGREES", "FAIRNESS", "P50", "EXPECTED", "P99", "EXPECTED"), false
	for _, p := range pools {
		s := p.Shadow
		if s == nil {
			continue
		}
		some = true
		row := []any{p.Name, plain.Policy(s.Policy), fmt.Sprint(s.Agreed + s.Differed), plain.Number(s.Agreement), plain.Number(s.Fairness), "", "", "", ""}
		if took, expected := s.TookMs, s.ExpectedMs; took != nil && expected != nil {
			row = append(row[:5], plain.Milliseconds(took.P50), plain.Milliseconds(expected.P50), plain.Milliseconds(took.P99), plain.Milliseconds(expected.P99))
		}
		table.Row(row...)
	}
	if !some {
		return nil
	}
	t.say("")
	return t.table(table)
}

// lookUp returns the pool of that name, or all pools. With --json it prints the answer, and shown is true.
func (t *tool) lookUp(ctx context.Context, args []string) (pools []api.Pool, answer *api.Answer, shown bool, err error) {
	if len(args) == 0 {
		answer, shown, err = t.get(ctx, api.Request{Method: http.MethodGet, Path: api.PoolsPath}, &pools)
		return pools, answer, shown, err
	}
	pools = make([]api.Pool, 1)
	answer, shown, err = t.get(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.PoolsPath, args[0])}, &pools[0])
	return pools, answer, shown, err
}

func (t *tool) backendsCommand() *cobra.Command {
	var etag, wide bool
	cmd := &cobra.Command{
		Use:   "backends [<pool> [<backend>]]",
		Short: "Shows the backends of a pool, or of all pools",
		Long: `
Shows the backends of a pool, or of all pools, or one of them.

WEIGHT is "effective/configured" where they differ: during slow start, and 0
while the backend gets no requests. IN-FLIGHT is "current/limit" if there is a
limit. CHECK is the last active check, SINCE the age of the current state.
REASON is why the backend is not usable or is avoided, what the last check
found, who changed what, and when a timed change ends.

A terminal that is too narrow for all columns shows the most important ones;
STATE is then one word, with the reason below it. --wide shows all columns.
Pipes and files always get all columns, so that scripts see the same ones.

--etag prints the ETag of the backend's settings, for --if-match; without a
backend that of the pool, for 'add'.`,
		Example: examples("caddy lb backends", "caddy lb backends web", "caddy lb backends web --json | jq '.backends[] | select(.usable | not).name'",
			`caddy lb weight web a 5 --if-match "$(caddy lb backends web a --etag)"`),
		Args: cobra.MaximumNArgs(2),
	}
	cmd.Flags().BoolVar(&etag, "etag", false, "Print the ETag only")
	cmd.Flags().BoolVar(&wide, "wide", false, wideUsage)
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		if etag {
			return t.showETag(ctx, args)
		}
		return t.showBackends(ctx, args, wide)
	})
	return cmd
}

// showETag prints the ETag of a pool's settings, or of a backend's.
func (t *tool) showETag(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usageErrorf("--etag: name a pool, or a pool and a backend")
	}
	path := api.Path(api.PoolsPath, args[0])
	if len(args) > 1 {
		path = api.Path(path+"/backends", args[1])
	}
	answer, err := t.client.Do(ctx, api.Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return err
	}
	t.say("%s", answer.ETag)
	return nil
}

func (t *tool) showBackends(ctx context.Context, args []string, wide bool) error {
	var pools []api.Pool
	var answer *api.Answer
	var shown bool
	var err error
	if len(args) < 2 {
		pools, answer, shown, err = t.lookUp(ctx, args)
	} else {
		pools = []api.Pool{{Name: args[0], Backends: make([]api.Backend, 1)}}
		answer, shown, err = t.get(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.PoolsPath, args[0], "backends", args[1])}, &pools[0].Backends[0])
	}
	if err != nil || shown {
		return err
	}
	table := plain.NewTable("POOL", "BACKEND", "ADDRESS", "STATE", "HEALTH", "BREAKER", "WEIGHT", "IN-FLIGHT", "REQUESTS", "FAILED", "P50", "P99",
		"CHECK", "SINCE", "REASON")
	for _, p := range pools {
		for _, b := range p.Backends {
			p50, p99 := plain.None, plain.None
			if b.LatencyMs != nil {
				p50, p99 = plain.Milliseconds(b.LatencyMs.P50), plain.Milliseconds(b.LatencyMs.P99)
			}
			table.Row(p.Name, b.Name, b.Address, plain.Word(b.State), plain.Word(b.Health), plain.Word(b.Breaker), plain.Weight(&b), plain.InFlight(&b),
				fmt.Sprint(b.Requests), fmt.Sprint(b.Failures), p50, p99, plain.Checked(b.LastCheck), plain.Since(b.Since, answer.Time),
				plain.Why(&b, answer.Time))
		}
	}
	t.warnings(pools...)
	if t.width > 0 && !wide && !table.Fits(t.width) {
		table = narrowBackends(pools, answer.Time)
	}
	return t.table(table)
}

const wideUsage = "Show all columns, even if the terminal is narrow"

// narrowBackends returns the table for terminals that are too narrow for all columns.
func narrowBackends(pools []api.Pool, now time.Time) *plain.Table {
	table := plain.NewTable("POOL", "BACKEND", "ADDRESS", "STATE", "WEIGHT", "IN-FLIGHT", "REQUESTS", "FAILED", "P99", "SINCE")
	table.Optional("SINCE", "WEIGHT", "REQUESTS", "P99", "IN-FLIGHT", "FAILED")
	named := false
	for _, p := range pools {
		for _, b := range p.Backends {
			named = named || b.Name != b.Address
			p99 := plain.None
			if b.LatencyMs != nil {
				p99 = plain.Milliseconds(b.LatencyMs.P99)
			}
			table.Row(p.Name, b.Name, b.Address, plain.Status(&b), plain.Weight(&b), plain.InFlight(&b), fmt.Sprint(b.Requests), fmt.Sprint(b.Failures),
				p99, plain.Since(b.Since, now))
			table.Note(plain.Why(&b, now))
		}
	}
	if len(pools) == 1 {
		table.Without("POOL") // it was given, or is the only one
	}
	if !named {
		table.Without("BACKEND") // it is the address
	}
	return table
}
