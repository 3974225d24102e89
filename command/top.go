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
	"github.com/ballastlb/ballast/command/top"
)

func (t *tool) topCommand() *cobra.Command {
	var once, write bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Shows all backends live",
		Long: `
Shows all backends live, until 'q' is pressed: state, weight, requests in
flight and per second, errors, latencies, breakers with the time left, checks,
and the reason for each state. Enter, or a click on the selected line, opens a
backend, with its latest events; the wheel scrolls. '?' lists the keys.

With --write, 'd' drains, 'r' makes ready, 'm' puts into maintenance, '+' and
'-' change the weight; each asks for confirmation. Without it, nothing can be
changed.

--once prints the state after one interval, for scripts.`,
		Example: examples("caddy lb top", "caddy lb top --write", "caddy lb top --once --interval 5s"),
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&once, "once", false, "Print one frame and end")
	cmd.Flags().BoolVar(&write, "write", false, "Let keys change backends")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "Time between refreshes")
	cmd.RunE = t.run(func(ctx context.Context, _ []string) error {
		const least = 100 * time.Millisecond
		if interval < least {
			return usageErrorf("--interval %s: must be %s or more", interval, least)
		}
		if once && t.flags.json {
			_, _, _, err := t.lookUp(ctx, nil)
			return err
		}
		m := &top.Model{Address: t.client.Name(), Write: write}
		first, err := t.sample(ctx, nil)
		if err != nil {
			return err
		}
		m.Update(first)
		if once {
			return t.once(ctx, m, interval)
		}
		return t.live(ctx, m, interval)
	})
	return cmd
}

// subject is a backend whose details are shown.
type subject struct{ pool, backend string }

// sample looks at all pools, and at what happened to the backend whose details are shown, if there is one.
func (t *tool) sample(ctx context.Context, of *subject) (top.Sample, error) {
	const longest = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	pools, answer, err := t.client.Pools(ctx)
	if err != nil {
		return top.Sample{}, err
	}
	s := top.Sample{Pools: pools, Taken: time.Now(), Now: answer.Time.Local()}
	if of != nil {
		s.EventsOf = [2]string{of.pool, of.backend}
		s.Events = t.latest(ctx, of)
	}
	return s, nil
}

// latest are the latest events of a backend, in words. A server that does not tell of them has none.
func (t *tool) latest(ctx context.Context, of *subject) (events []string) {
	const remembered, shown = 256, 10
	stream, err := t.client.Events(ctx, api.EventQuery{Pool: of.pool, Latest: remembered, NoFollow: true})
	if err != nil {
		return nil
	}
	defer stream.Close()
	for {
		e, err := stream.Next()
		if err != nil {
			return events[max(len(events)-shown, 0):]
		}
		if data, err := plain.EventData(e); err == nil && data["backend"] == of.backend {
			delete(data, "pool")
			delete(data, "backend")
			events = append(events, strings.ReplaceAll(plain.Event(e.Name, data), "  -  -  ", "  "))
		}
	}
}

// once prints one frame. It takes two looks, because rates are told from what changes.
func (t *tool) once(ctx context.Context, m *top.Model, interval time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(interval):
	}
	s, err := t.sample(ctx, nil)
	if err != nil {
		return err
	}
	m.Update(s)
	for _, line := range m.All() {
		text := line.String()
		if t.color {
			text = line.ANSI(true)
		}
		fmt.Fprintln(t.out, strings.TrimRight(text, " "))
	}
	return nil
}

// apply makes a change that was confirmed, and tells what came of it.
func (t *tool) apply(ctx context.Context, c *top.Change) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	to := target{pool: api.Pool{Name: c.Pool}, backend: c.Backend}
	if _, err := t.client.Do(ctx, api.Request{Method: http.MethodPatch, Path: to.path(), Body: fields(c.Fields).with(&change{})}); err != nil {
		return err.Error()
	}
	return "done: " + c.What()
}
