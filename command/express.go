package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) expressCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "express",
		Short: "Shows what the express lane serves, and why not the rest",
		Long: `
Shows the servers with an express lane (the listener wrapper seamless), the
routes that end requests, and why Caddy served requests instead. The counts
continue across reloads.

SERVED says whether the lane serves plain requests to a route. An asterisk
stands for all hosts or paths.`,
		Example: examples("caddy lb express", "caddy lb express --json | jq '.[].handed_over'"),
		Args:    cobra.NoArgs,
		RunE:    t.run(func(ctx context.Context, _ []string) error { return t.showExpress(ctx) }),
	}
}

func (t *tool) showExpress(ctx context.Context) error {
	var all []api.ExpressServer
	_, shown, err := t.get(ctx, api.Request{Method: http.MethodGet, Path: api.ExpressPath}, &all)
	if err != nil || shown {
		return err
	}
	servers := plain.NewTable("SERVER", "LISTEN", "EXPRESS", "SERVED", "HANDED-OVER", "REASON")
	routes := plain.NewTable("SERVER", "HOSTS", "PATHS", "HANDLER", "POOL", "SERVED", "REASON")
	reasons := plain.NewTable("SERVER", "HANDED-OVER", "REASON")
	for _, s := range all {
		var handedOver uint64
		// The most frequent reason first.
		for _, reason := range slices.SortedFunc(maps.Keys(s.HandedOver), func(a, b string) int {
			return cmp.Or(cmp.Compare(s.HandedOver[b], s.HandedOver[a]), cmp.Compare(a, b))
		}) {
			handedOver += s.HandedOver[reason]
			reasons.Row(s.Server, fmt.Sprint(s.HandedOver[reason]), reason)
		}
		servers.Row(s.Server, strings.Join(s.Listen, " "), yesOrNo(s.On, "on", "off"), fmt.Sprint(s.Served), fmt.Sprint(handedOver), s.Reason)
		for _, r := range s.Routes {
			routes.Row(s.Server, cmp.Or(strings.Join(r.Hosts, " "), "*"), cmp.Or(strings.Join(r.Paths, " "), "*"), r.Handler, r.Pool,
				yesOrNo(r.Served, "yes", "no"), r.Reason)
		}
	}
	for i, table := range []*plain.Table{servers, routes, reasons} {
		if i > 0 {
			t.say("")
		}
		if err := t.table(table); err != nil {
			return err
		}
	}
	return nil
}

func yesOrNo(is bool, yes, no string) plain.Cell {
	if is {
		return plain.Cell{Text: yes, Style: plain.Good}
	}
	return plain.Cell{Text: no, Style: plain.Doubtful}
}
