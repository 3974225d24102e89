package command

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) eventsCommand() *cobra.Command {
	var latest uint16
	var noFollow bool
	cmd := &cobra.Command{
		Use:        "events [<pool>]",
		SuggestFor: []string{"log", "logs", "watch"},
		Short:      "Shows the events of backends, and follows them",
		Long: `
Shows the latest events of a pool, or of all pools, then new ones as they
happen, one per line, until interrupted: backend_up, backend_down,
breaker_opened, breaker_half_open, breaker_closed, panic_began, panic_ended,
backend_added, backend_changed, backend_reset, backend_removed, change_expired,
change_conflict, state_not_persisted, canary_moved, canary_rolled_back,
canary_changed.

Caddy keeps the last 256 events since it was started, across reloads. --last
sets how many of them are shown first, 0 for none. With --no-follow the command
ends after them.

A reload of Caddy ends the stream; the command reconnects and gets the events
it has missed. With --json each line is a JSON object with the event's name, id
and data.`,
		Example: examples("caddy lb events", "caddy lb events web --last 200 --no-follow", "caddy lb events web --json | jq -r 'select(.event == \"backend_down\").backend'"),
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.Flags().Uint16Var(&latest, "last", 50, "Number of past events to show first")
	cmd.Flags().BoolVar(&noFollow, "no-follow", false, "End after the past events")
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		query := api.EventQuery{Latest: int(latest), NoFollow: noFollow}
		if len(args) > 0 {
			// A misspelt name would wait for ever for events.
			to, err := t.pool(ctx, args[0])
			if err != nil {
				return err
			}
			query.Pool = to.pool.Name
		}
		return t.follow(ctx, query)
	})
	return cmd
}

const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// follow prints events until it is interrupted. It fails only if the first connection fails.
func (t *tool) follow(ctx context.Context, query api.EventQuery) error {
	stream, err := t.client.Events(ctx, query)
	if err != nil {
		return err
	}
	pause := firstPause
	for {
		seen, err := t.printStream(stream, query.Pool)
		if err != nil {
			return err
		}
		if ctx.Err() != nil || query.NoFollow {
			return nil
		}
		if seen != "" {
			query.After, pause = seen, firstPause
		}
		t.warning("stream ended; connecting again")
		for stream = nil; stream == nil; pause = min(2*pause, longestPause) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			stream, err = t.client.Events(ctx, query)
			if _, unreachable := errors.AsType[*api.Unreachable](err); err != nil && !unreachable {
				t.warning("%v; trying again", err)
			}
		}
	}
}

// printStream prints the events of a stream until it ends, and returns the id of the last one.
func (t *tool) printStream(stream *api.Stream, pool string) (last string, err error) {
	defer stream.Close()
	for {
		e, err := stream.Next()
		if err != nil {
			return last, nil // however it ended: follow opens another one
		}
		if e.ID != "" {
			last = e.ID
		}
		if err := t.event(e, pool); err != nil {
			return last, err
		}
	}
}

// event prints an event of the given pool, or any event if it is "". A server of another version may send events that were not asked for.
func (t *tool) event(e api.Event, pool string) error {
	data, err := plain.EventData(e)
	if err != nil {
		return err
	}
	if pool != "" && data["pool"] != pool {
		return nil
	}
	if t.flags.json {
		line := map[string]any{"event": e.Name, "id": e.ID}
		maps.Copy(line, data)
		encoded, err := json.Marshal(line)
		if err != nil {
			return err
		}
		t.raw(encoded)
		return nil
	}
	t.say("%s", plain.Event(e.Name, data))
	return nil
}
