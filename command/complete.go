package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// completionTime is the longest time that a shell waits for names.
const completionTime = 500 * time.Millisecond

// completion is a function that completes arguments.
type completion = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// complete returns a completion that offers the names for the arguments so far. Without a running Caddy it offers none, and prints no
// error.
func (t *tool) complete(names func(ctx context.Context, args []string) []string) completion {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completionTime)
		defer cancel()
		if t.connect() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fitting []string
		for _, name := range names(ctx, args) {
			// Names that a shell would split, or that a terminal would interpret, are not offered.
			if strings.HasPrefix(name, begun) && !strings.ContainsAny(name, " \t\n") && plain.Clean(name) == name && !slices.Contains(fitting, name) {
				fitting = append(fitting, name)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

// running returns the pools of the running Caddy; none if it does not answer.
func (t *tool) running(ctx context.Context) []api.Pool {
	pools, _, err := t.client.Pools(ctx)
	if err != nil {
		return nil
	}
	return pools
}

// poolNames completes [<pool>].
func (t *tool) poolNames(ctx context.Context, args []string) (names []string) {
	if len(args) > 0 {
		return nil
	}
	for _, p := range t.running(ctx) {
		names = append(names, p.Name)
	}
	return names
}

// poolsAndBackends completes <pool> <backend>, both of which are optional.
func (t *tool) poolsAndBackends(ctx context.Context, args []string) []string {
	if len(args) == 0 {
		return t.poolNames(ctx, args)
	}
	return backendsOf(t.running(ctx), args)
}

// backendNames completes [<pool>] <backend>: the name of the only pool may be left out.
func (t *tool) backendNames(ctx context.Context, args []string) (names []string) {
	pools := t.running(ctx)
	if len(args) > 0 {
		return backendsOf(pools, args)
	}
	for _, p := range pools {
		names = append(names, p.Name)
	}
	if len(pools) == 1 {
		for _, b := range pools[0].Backends {
			names = append(names, b.Name)
		}
	}
	return names
}

// backendsOf returns the backends of the pool that is the only argument in args.
func backendsOf(pools []api.Pool, args []string) (names []string) {
	for _, p := range pools {
		if len(args) == 1 && p.Name == args[0] {
			for _, b := range p.Backends {
				names = append(names, b.Name)
			}
		}
	}
	return names
}

// canaryWords completes [<pool>] [<action>].
func (t *tool) canaryWords(ctx context.Context, args []string) []string {
	var actions []string
	for action := range canaryActions {
		actions = append(actions, action)
	}
	slices.Sort(actions)
	switch {
	case len(args) == 0:
		return append(t.poolNames(ctx, nil), actions...)
	case len(args) == 1 && canaryActions[args[0]] == "":
		return actions
	default:
		return nil
	}
}

// zoneNames completes [<zone>].
func (t *tool) zoneNames(ctx context.Context, args []string) (names []string) {
	if len(args) > 0 {
		return nil
	}
	answer, err := t.client.Do(ctx, api.Request{Method: "GET", Path: api.LimitsPath})
	if err != nil {
		return nil
	}
	var zones []api.Zone
	if answer.Decode(&zones) != nil {
		return nil
	}
	for _, z := range zones {
		names = append(names, z.Zone)
	}
	return names
}

// completeAll sets the completions of the commands' arguments.
func (t *tool) completeAll(lb *cobra.Command) {
	for _, cmd := range lb.Commands() {
		switch cmd.Name() {
		case "pools", "explain", "diff", "events", "add":
			cmd.ValidArgsFunction = t.complete(t.poolNames)
		case "backends":
			cmd.ValidArgsFunction = t.complete(t.poolsAndBackends)
		case "drain", "ready", "maintenance", "weight", "remove", "reset":
			cmd.ValidArgsFunction = t.complete(t.backendNames)
		case "canary":
			cmd.ValidArgsFunction = t.complete(t.canaryWords)
		case "limits":
			cmd.ValidArgsFunction = t.complete(t.zoneNames)
		case "simulate":
			cmd.ValidArgsFunction = cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveFilterFileExt)
		default:
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
}
