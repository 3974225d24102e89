package command

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/command/api"
)

// target is the pool, and possibly the backend, that a command is about.
type target struct {
	pool    api.Pool
	backend string // its name
	answer  *api.Answer
}

// pool returns the pool with that name, or the only one.
func (t *tool) pool(ctx context.Context, name string) (target, error) {
	if name != "" {
		answer, err := t.client.Do(ctx, api.Request{Method: http.MethodGet, Path: api.Path(api.PoolsPath, name)})
		if err != nil {
			return target{}, err
		}
		found := target{answer: answer}
		return found, answer.Decode(&found.pool)
	}
	pools, answer, err := t.client.Pools(ctx)
	if err != nil {
		return target{}, err
	}
	switch len(pools) {
	case 0:
		return target{}, errorf(exitNotFound, "no pools found")
	case 1:
		return target{pool: pools[0], answer: answer}, nil
	default:
		names := make([]string, len(pools))
		for i, p := range pools {
			names[i] = p.Name
		}
		return target{}, usageErrorf("several pools; name one of %s", strings.Join(names, ", "))
	}
}

// backend resolves the arguments [<pool>] <backend>. If the backend does not exist, the server answers with the error.
func (t *tool) backend(ctx context.Context, args []string) (target, error) {
	pool, backend := "", args[0]
	if len(args) > 1 {
		pool, backend = args[0], args[1]
	}
	found, err := t.pool(ctx, pool)
	if err != nil {
		return target{}, err
	}
	found.backend = backend
	if found.state() == nil {
		for _, b := range found.pool.Backends {
			if b.Address == backend {
				found.backend = b.Name
			}
		}
	}
	return found, nil
}

// state returns the backend's state in the pool, or nil if it does not exist.
func (t *target) state() *api.Backend {
	i := slices.IndexFunc(t.pool.Backends, func(b api.Backend) bool { return b.Name == t.backend })
	if i < 0 {
		return nil
	}
	return &t.pool.Backends[i]
}

// last reports whether the backend is the only one of its pool that is usable.
func (t *target) last() bool {
	b := t.state()
	return b != nil && b.Usable && t.pool.Usable == 1
}

// path returns the backend's path in the API.
func (t *target) path() string { return api.Path(api.PoolsPath, t.pool.Name, "backends", t.backend) }

// question returns the question to confirm about a backend.
func (t *target) question(verb, rest string) string {
	what := fmt.Sprintf("%s %s of pool %s", verb, t.backend, t.pool.Name)
	if rest != "" {
		what += " " + rest
	}
	if b := t.state(); b != nil {
		what += fmt.Sprintf(" (%d in flight)", b.InFlight)
	}
	if t.last() {
		what += ", its last usable backend"
	}
	return what
}
