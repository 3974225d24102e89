package command

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
)

func (t *tool) removeCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:        "remove [<pool>] <backend>",
		SuggestFor: []string{"rm", "delete"},
		Short:      "Drains a backend, then removes it",
		Long: `
Drains a backend, then removes it. With --force it is removed at once. A
backend of the config stays away until the config has dropped it. Asks for
confirmation.`,
		Example: examples("caddy lb remove 10.0.0.4:8080", `caddy lb remove web a --yes --wait --reason "moved"`),
		Args:    cobra.RangeArgs(1, 2),
	}
	c.flags(cmd, blamed, confirmed)
	cmd.Flags().BoolVar(&c.force, "force", false, "Remove it at once, with requests in flight")
	c.wait.flags(cmd, "Wait until it is gone")
	cmd.RunE = t.about(func(ctx context.Context, to target) error {
		if err := t.confirm(c.yes, to.question("remove", "")); err != nil {
			return err
		}
		answer, err := t.client.Do(ctx, c.request(http.MethodDelete, to.path(), fields{}.with(&c)))
		if err != nil {
			return err
		}
		if t.flags.json {
			t.raw(answer.Body)
		}
		gone := answer.Status != http.StatusAccepted
		if gone && !t.flags.json {
			t.say("%s in pool %s: removed", to.backend, to.pool.Name)
		}
		if answer.Status == http.StatusNoContent {
			return nil
		}
		var b api.Backend
		if err := answer.Decode(&b); err != nil {
			return err
		}
		if gone {
			return t.stored(&c, &b)
		}
		if !t.flags.json {
			t.tell(to, &b, answer)
		}
		if err := t.stored(&c, &b); err != nil || !c.wait.on {
			return err
		}
		return t.waitUntilGone(ctx, &c.wait, to)
	})
	return cmd
}

func (t *tool) resetCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "reset [<pool>] <backend>",
		Short: "Closes a backend's breaker and sets its counters to 0",
		Long: `
Closes a backend's breaker, so that it gets requests again at once, and sets
its counters to 0. Asks for confirmation.`,
		Example: examples("caddy lb reset 10.0.0.1:8080", "caddy lb reset web a --yes"),
		Args:    cobra.RangeArgs(1, 2),
	}
	c.confirmation(cmd)
	cmd.RunE = t.about(func(ctx context.Context, to target) error {
		if err := t.confirm(c.yes, to.question("reset", "")); err != nil {
			return err
		}
		return t.do(ctx, &c, to, api.Request{Method: http.MethodPost, Path: to.path() + "/reset"})
	})
	return cmd
}
