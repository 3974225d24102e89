package command

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) fleetCommand() *cobra.Command {
	var wide bool
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Shows the nodes that share the storage, and where they differ",
		Long: `
Shows the nodes that share Caddy's storage, as known to the node that is asked,
and where they differ: backends that are usable only for some nodes, weights,
edits, configs, versions.

SEEN is the time since the last news of a node. A node is gone when it has not
written for about 45 s. USABLE adds up the backends of its pools. The asterisk
marks the node that was asked. A node learns of changes within some ten
seconds: a recent change may be listed as a difference until then.

A narrow terminal leaves out some columns; --wide shows all.`,
		Example: examples("caddy lb fleet", "caddy lb fleet --json | jq '.differences[] | select(.kind == \"usable\")'"),
		Args:    cobra.NoArgs,
		RunE:    t.run(func(ctx context.Context, _ []string) error { return t.showFleet(ctx, wide) }),
	}
	cmd.Flags().BoolVar(&wide, "wide", false, wideUsage)
	return cmd
}

func (t *tool) showFleet(ctx context.Context, wide bool) error {
	var f api.Fleet
	answer, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.FleetPath}, &f)
	if err != nil || shown {
		return err
	}
	nodes := plain.NewTable("NODE", "STATE", "SEEN", "ADMIN", "UP", "CONFIG", "POOLS", "USABLE", "IN-FLIGHT", "REQUESTS/S", "FAILED/S", "VERSION")
	for _, n := range f.Nodes {
		label := n.Label
		if n.This {
			label += "*"
		}
		state := plain.Cell{Text: n.State, Style: plain.Good}
		if n.State != "alive" {
			state.Style = plain.Bad
		}
		seen := time.Duration(n.Silent * float64(time.Second)).Round(time.Second).String()
		if n.This {
			seen = "now"
		}
		pools, usable, inFlight, requests, failures := plain.None, plain.None, plain.None, plain.None, plain.None
		if !n.Alone {
			pools, usable, inFlight, requests, failures = load(n.Pools)
		}
		nodes.Row(label, state, seen, n.Admin, plain.Since(n.Started, answer.Time), n.Config, pools, usable, inFlight, requests, failures, n.Version)
	}
	if !wide {
		// Differences are listed below; these columns are less important.
		nodes.Optional("VERSION", "CONFIG", "UP", "IN-FLIGHT", "ADMIN", "FAILED/S", "POOLS")
	}
	if err := t.table(nodes); err != nil {
		return err
	}
	if f.Error != "" {
		t.warning("storage: %s; data of other nodes may be old", f.Error)
	}
	if len(f.Differences) == 0 {
		return nil
	}
	t.say("")
	differences := plain.NewTable("DIFFERENCE", "POOL", "BACKEND", "VALUE", "NODES")
	for _, d := range f.Differences {
		for _, v := range d.Values {
			differences.Row(d.Kind, d.Pool, d.Backend, v.Value, strings.Join(v.Nodes, " "))
		}
	}
	if f.More > 0 {
		t.warning("%d more differences are not listed", f.More)
	}
	return t.table(differences)
}

// load sums up the pools of a node.
func load(all []api.FleetPool) (pools, usable, inFlight, requests, failures string) {
	var have, of int
	var busy int64
	var asked, failed float64
	for _, p := range all {
		have, of, busy, asked, failed = have+p.Usable, of+p.Total, busy+p.InFlight, asked+p.Requests, failed+p.Failures
	}
	return fmt.Sprint(len(all)), fmt.Sprintf("%d/%d", have, of), fmt.Sprint(busy), plain.Number(asked), plain.Number(failed)
}
