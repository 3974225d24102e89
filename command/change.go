package command

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// change has the flags of commands that change a backend.
type change struct {
	reason, owner    string
	duration         lasting
	until            moment
	ifMatch          string
	sync, yes, force bool
	wait             waiting
}

// trait is a group of flags that some kinds of changes have.
type trait uint8

const (
	blamed    trait = iota // who makes the change, and why
	timed                  // when it ends
	confirmed              // it may need confirmation
)

// flags adds the flags of a change.
func (c *change) flags(cmd *cobra.Command, traits ...trait) {
	flags := cmd.Flags()
	flags.StringVar(&c.ifMatch, "if-match", "", "Change only if the ETag still matches")
	flags.BoolVar(&c.sync, "sync", false, "Wait until the change is stored; fail if it cannot be")
	for _, t := range traits {
		switch t {
		case blamed:
			flags.StringVar(&c.reason, "reason", "", "Why; shown with the change")
			flags.StringVar(&c.owner, "owner", "", "Who; shown with the change (default: user@host)")
		case timed:
			flags.Var(&c.duration, "for", "Undo the change after this time, such as 30m")
			flags.Var(&c.until, "until", "Undo the change at this time, such as 2026-01-02T15:04:05Z")
			cmd.MarkFlagsMutuallyExclusive("for", "until")
		case confirmed:
			c.confirmation(cmd)
		}
	}
}

// confirmation adds the flag that replaces the question.
func (c *change) confirmation(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.yes, "yes", false, "Do not ask for confirmation")
}

// defaultOwner returns the user and the machine.
func defaultOwner() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// fields is the body of a change in the API.
type fields map[string]any

// with adds the values of the flags.
func (f fields) with(c *change) fields {
	owner := c.owner
	if owner == "" {
		owner = defaultOwner()
	}
	for name, value := range map[string]string{"reason": c.reason, "owner": owner, "for": string(c.duration), "until": string(c.until)} {
		if value != "" {
			f[name] = value
		}
	}
	return f
}

// request returns a request with the headers and parameters of the flags.
func (c *change) request(method, path string, body any) api.Request {
	r := api.Request{Method: method, Path: path, IfMatch: c.ifMatch, Body: body, Query: url.Values{}}
	if c.sync {
		r.Query.Set("sync", "1")
	}
	if c.force {
		r.Query.Set("force", "1")
	}
	return r
}

// patch changes a backend and prints the result.
func (t *tool) patch(ctx context.Context, c *change, to target, f fields) error {
	return t.do(ctx, c, to, c.request(http.MethodPatch, to.path(), f.with(c)))
}

// do sends a change and prints the backend's state after it.
func (t *tool) do(ctx context.Context, c *change, to target, r api.Request) error {
	var b api.Backend
	answer, shown, err := t.get(ctx, r, &b)
	if err != nil {
		return err
	}
	if shown {
		if err := answer.Decode(&b); err != nil {
			return err
		}
	} else {
		t.tell(to, &b, answer)
	}
	return t.stored(c, &b)
}

// stored warns if the change may be lost at a restart. With --sync that is an error.
func (t *tool) stored(c *change, b *api.Backend) error {
	const lost = "the change is in effect, but %s stored: %s be lost at a restart"
	switch {
	case b.Persisted == nil || *b.Persisted:
		return nil
	case c.sync:
		return errorf(exitRefused, lost, "could not be", "it will")
	default:
		t.warning(lost, "not yet", "it might")
		return nil
	}
}

// tell prints a backend's state in one line.
func (t *tool) tell(to target, b *api.Backend, answer *api.Answer) {
	line := fmt.Sprintf("%s in pool %s: %s, weight %s, %s in flight", b.Name, to.pool.Name, plain.Status(b).Text, plain.Weight(b), plain.InFlight(b))
	if why := plain.Why(b, answer.Time); why != "" {
		line += "; " + why
	}
	t.say("%s", line)
}

func (t *tool) addCommand() *cobra.Command {
	var c change
	var name, zone string
	var weight int
	var maxRequests requestCap
	var backup int
	cmd := &cobra.Command{
		Use:   "add [<pool>] <address>",
		Short: "Adds a backend to a pool",
		Long: `
Adds a backend to a pool. It stays until it is removed, over reloads and
restarts, or until the time given by --for or --until.`,
		Example: examples("caddy lb add 10.0.0.4:8080",
			`caddy lb add web 10.0.0.4:8080 --weight 3 --max-requests 100 --for 2h --reason "sale"`),
		Args: cobra.RangeArgs(1, 2),
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "Name of the backend (default: its address)")
	flags.IntVar(&weight, "weight", 1, "Share relative to the others, 0 to 65535")
	flags.Var(&maxRequests, "max-requests", "Limit of requests in flight; auto measures it (default: that of the pool)")
	flags.IntVar(&backup, "backup", 0, "Use it when no other backend is usable; with a level, when no backup of a lower level is usable either")
	flags.Lookup("backup").NoOptDefVal = "1"
	flags.StringVar(&zone, "zone", "", "Zone of the backend")
	c.flags(cmd, blamed, timed)
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		pool, address := "", args[0]
		if len(args) > 1 {
			pool, address = args[0], args[1]
		}
		to, err := t.pool(ctx, pool)
		if err != nil {
			return err
		}
		f := fields{"address": address}
		for flag, value := range map[string]any{"name": name, "weight": weight, "max-requests": string(maxRequests), "backup": backup, "zone": zone} {
			if flags.Changed(flag) {
				if n, err := strconv.Atoi(string(maxRequests)); flag == "max-requests" && err == nil {
					value = n // the API reports other mistakes
				}
				f[strings.ReplaceAll(flag, "-", "_")] = value
			}
		}
		return t.do(ctx, &c, to, c.request(http.MethodPost, api.Path(api.PoolsPath, to.pool.Name, "backends"), f.with(&c)))
	})
	return cmd
}

// about returns the function of a command about the backend that the arguments name.
func (t *tool) about(f func(ctx context.Context, to target) error) func(*cobra.Command, []string) error {
	return t.run(func(ctx context.Context, args []string) error {
		to, err := t.backend(ctx, args)
		if err != nil {
			return err
		}
		return f(ctx, to)
	})
}

func (t *tool) weightCommand() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use:   "weight [<pool>] <backend> <weight>|config",
		Short: "Changes a backend's weight",
		Long: `
Changes a backend's weight: its share relative to the others, 0 to 65535. With
0 it gets no new requests. 'config' reverts to the weight in the config.

Weight 0 for the last usable backend of a pool asks for confirmation.`,
		Example: examples("caddy lb weight 10.0.0.1:8080 5", "caddy lb weight web a 1 --for 10m", "caddy lb weight web a config"),
		Args:    cobra.RangeArgs(2, 3),
	}
	c.flags(cmd, blamed, timed, confirmed)
	cmd.RunE = t.run(func(ctx context.Context, args []string) error {
		last := len(args) - 1
		var weight any // null for the config's
		if args[last] != "config" {
			n, err := strconv.Atoi(args[last])
			if err != nil {
				return usageErrorf("weight %s: must be a number from 0 to 65535, or config", args[last])
			}
			weight = n
		}
		to, err := t.backend(ctx, args[:last])
		if err != nil {
			return err
		}
		if weight == 0 && to.last() {
			if err := t.confirm(c.yes, to.question("give", "weight 0")); err != nil {
				return err
			}
		}
		return t.patch(ctx, &c, to, fields{"weight": weight})
	})
	return cmd
}
