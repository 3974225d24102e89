package command

import (
	"context"

	"github.com/spf13/cobra"
)

func (t *tool) drainCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:        "drain [<pool>] <backend>",
		SuggestFor: []string{"disable"},
		Short:      "Gives a backend no new requests and lets those in flight end",
		Long: `
Gives a backend no new requests and lets those in flight end. With --wait the
command ends when there are none left, or with exit code 8 after --timeout.

Draining the last usable backend of a pool asks for confirmation.`,
		Example: examples(`caddy lb drain 10.0.0.1:8080 --reason "kernel update"`, "caddy lb drain web a --for 30m", "caddy lb drain web a --wait --timeout 2m && ssh a reboot"),
		Args:    cobra.RangeArgs(1, 2),
		RunE: t.about(func(ctx context.Context, to target) error {
			if to.last() {
				if err := t.confirm(c.yes, to.question("drain", "")); err != nil {
					return err
				}
			}
			if err := t.patch(ctx, &c, to, fields{"state": "drain"}); err != nil || !c.wait.on {
				return err
			}
			return t.waitUntilIdle(ctx, &c.wait, to)
		}),
	}
	c.flags(cmd, blamed, timed, confirmed)
	c.wait.flags(cmd, "Wait until no request is in flight")
	return cmd
}

func (t *tool) readyCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:        "ready [<pool>] <backend>",
		SuggestFor: []string{"enable", "undrain"},
		Short:      "Gives a drained backend, or one in maintenance, requests again",
		Long:       "\nGives a drained backend, or one in maintenance, requests again. Its share is\nramped up.",
		Example:    examples("caddy lb ready 10.0.0.1:8080", "caddy lb ready web a"),
		Args:       cobra.RangeArgs(1, 2),
		RunE: t.about(func(ctx context.Context, to target) error {
			return t.patch(ctx, &c, to, fields{"state": "ready"})
		}),
	}
	c.flags(cmd, blamed)
	return cmd
}

func (t *tool) maintenanceCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "maintenance [<pool>] <backend>",
		Short: "Takes a backend out, without checks, whatever happens to the others",
		Long: `
Takes a backend out: it gets no new requests and is not checked, even if no
other backend is left. Asks for confirmation.`,
		Example: examples(`caddy lb maintenance 10.0.0.1:8080 --for 1h --reason "new disk"`, "caddy lb maintenance web a --yes"),
		Args:    cobra.RangeArgs(1, 2),
		RunE: t.about(func(ctx context.Context, to target) error {
			if err := t.confirm(c.yes, to.question("put", "into maintenance")); err != nil {
				return err
			}
			return t.patch(ctx, &c, to, fields{"state": "maintenance"})
		}),
	}
	c.flags(cmd, blamed, timed, confirmed)
	return cmd
}
