package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

func (t *tool) eventsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "events [<pool>]",
		Short: "Follows what happens to the backends",
		Long: `
Follows what happens to the backends of a pool, or of all, one line an event, until it is
interrupted: backend_up, backend_down, breaker_opened, breaker_half_open, breaker_closed,
panic_began, panic_ended, backend_added, backend_changed, backend_removed, change_expired,
change_conflict, state_not_persisted, canary_moved, canary_rolled_back, canary_changed.

A reload of Caddy ends the stream; the command connects again. With --json each line is a
JSON object with the event's name and id beside its data.`,
		Example: examples("caddy lb events", "caddy lb events web --json | jq -r 'select(.event == \"backend_down\").backend'"),
		Args:    cobra.MaximumNArgs(1),
		RunE:    t.run(t.follow),
	}
}

const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// follow prints events until it is interrupted. It gives up only when it cannot even begin.
func (t *tool) follow(ctx context.Context, pools []string) error {
	stream, err := t.client.Events(ctx, "")
	if err != nil {
		return err
	}
	last, pause := "", firstPause
	for {
		seen, err := t.printStream(stream, pools)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if seen != "" {
			last, pause = seen, firstPause
		}
		t.warn("the stream has ended; connecting again")
		for stream = nil; stream == nil; pause = min(2*pause, longestPause) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			stream, err = t.client.Events(ctx, last)
			if _, unreachable := errors.AsType[*api.Unreachable](err); err != nil && !unreachable {
				t.warn("%v; trying again", err)
			}
		}
	}
}

// printStream prints the events of a stream until it ends, and returns the id of the last one.
func (t *tool) printStream(stream *api.Stream, pools []string) (last string, err error) {
	defer stream.Close()
	for {
		e, err := stream.Next()
		if err != nil {
			return last, nil // however it ended: what follows is another one
		}
		if e.ID != "" {
			last = e.ID
		}
		if err := t.event(e, pools); err != nil {
			return last, err
		}
	}
}

// event prints an event if it is of the pools, or of any.
func (t *tool) event(e api.Event, pools []string) error {
	var data map[string]any
	if err := json.Unmarshal([]byte(e.Data), &data); err != nil {
		return &api.Error{Message: fmt.Sprintf("event %s: its data cannot be read: %v", e.ID, err)}
	}
	text := func(field string) string {
		if s, ok := data[field].(string); ok && s != "" {
			return s
		}
		return plain.None
	}
	if len(pools) > 0 && !slices.Contains(pools, text("pool")) {
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
	columns := []string{text("time"), fmt.Sprintf("%-19s", e.Name), text("pool"), text("backend"), text("reason")}
	for _, field := range slices.Sorted(maps.Keys(data)) {
		switch field {
		case "time", "pool", "backend", "reason":
		default:
			columns = append(columns, fmt.Sprintf("%s=%v", field, data[field]))
		}
	}
	t.say("%s", strings.Join(columns, "  "))
	return nil
}
