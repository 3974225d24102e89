package command

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) limitsCommand() *cobra.Command {
	var forget, yes bool
	cmd := &cobra.Command{
		Use:   "limits [<zone> [<key>]]",
		Short: "Shows the rate limits, and gives clients their tokens back",
		Long: `
Shows the zones of ip_rate_limit; with a zone, its busiest keys; with a key as
well, the use of that key. A key is an address, a range, or a text made from
placeholders.

--forget gives a key, or all keys of a zone, their tokens back; for all keys it
asks for confirmation. REQUESTS and REFUSED count recent requests: both are
halved every ten seconds.`,
		Example: examples("caddy lb limits", "caddy lb limits login", "caddy lb limits login 192.0.2.7 --forget"),
		Args:    cobra.MaximumNArgs(2),
	}
	cmd.Flags().BoolVar(&forget, "forget", false, "Give the tokens back")
	cmd.Flags().BoolVar(&yes, "yes", false, "Do not ask for confirmation")
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		switch {
		case forget:
			return t.forget(ctx, args, yes)
		case len(args) == 2:
			return t.showKey(ctx, args)
		case len(args) == 1:
			return t.showZone(ctx, args[0])
		default:
			return t.showZones(ctx)
		}
	})
	return cmd
}

func (t *tool) showZones(ctx context.Context) error {
	var zones []api.Zone
	_, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.LimitsPath}, &zones)
	if err != nil || shown {
		return err
	}
	table := plain.NewTable("ZONE", "RATE", "BURST", "CONCURRENCY", "KEYS", "ALLOWED", "REFUSED", "EVICTED", "STORE", "MODE")
	for _, z := range zones {
		burst, concurrency, store, mode := "", "", plain.Cell{}, "enforced"
		if z.Burst > 0 {
			burst = fmt.Sprint(z.Burst)
		}
		if z.Concurrency > 0 {
			concurrency = fmt.Sprint(z.Concurrency)
		}
		if z.Store != nil {
			store = plain.Cell{Text: "away", Style: plain.Bad}
			if z.Store.Available {
				store = plain.Cell{Text: "available", Style: plain.Good}
			}
		}
		if z.DryRun {
			mode = "dry_run"
		}
		table.Row(z.Zone, z.Rate, burst, concurrency, fmt.Sprintf("%d/%d", z.Keys, z.MaxKeys), fmt.Sprint(z.Decisions["allowed"]),
			fmt.Sprint(z.Decisions["refused"]+z.Decisions["dry_run"]), fmt.Sprint(z.Evictions), store, mode)
	}
	return t.table(table)
}

func (t *tool) showZone(ctx context.Context, zone string) error {
	var z api.Zone
	_, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.LimitsPath, zone)}, &z)
	if err != nil || shown {
		return err
	}
	return t.keys(z.Busiest...)
}

func (t *tool) showKey(ctx context.Context, names []string) error {
	var k api.Key
	_, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.LimitsPath, names...)}, &k)
	if err != nil || shown {
		return err
	}
	return t.keys(k)
}

func (t *tool) keys(keys ...api.Key) error {
	table := plain.NewTable("KEY", "TOKENS", "SHARED", "BURST", "IN-FLIGHT", "REQUESTS", "REFUSED")
	for _, k := range keys {
		shared, burst := "", ""
		if k.SharedTokens != nil {
			shared = plain.Number(*k.SharedTokens)
		}
		if k.Burst > 0 {
			burst = fmt.Sprint(k.Burst)
		}
		table.Row(k.Key, plain.Number(k.Tokens), shared, burst, fmt.Sprint(k.InFlight), fmt.Sprint(k.Requests), fmt.Sprint(k.Refused))
	}
	return t.table(table)
}

// forget gives a key its tokens back, or all keys of a zone.
func (t *tool) forget(ctx context.Context, names []string, yes bool) error {
	switch len(names) {
	case 0:
		return usageErrorf("--forget: name a zone, or a zone and a key")
	case 1:
		if err := t.confirm(yes, fmt.Sprintf("give all keys of zone %s their tokens back", names[0])); err != nil {
			return err
		}
	}
	if _, err := t.client.Do(ctx, api.Request{Method: http.MethodDelete, Path: api.Path(api.LimitsPath, names...)}); err != nil {
		return err
	}
	if !t.flags.json {
		t.say("%s: forgotten", strings.Join(names, " "))
	}
	return nil
}
