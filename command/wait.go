package command

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/api"
)

// waiting has the flags of commands that can wait until their change has taken effect.
type waiting struct {
	on      bool
	timeout time.Duration
}

func (w *waiting) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&w.on, "wait", false, usage)
	cmd.Flags().DurationVar(&w.timeout, "timeout", 5*time.Minute, "How long to wait at most")
}

const (
	pollInterval = 200 * time.Millisecond
	// absence is how long the admin endpoint may be unreachable: a reload replaces it.
	absence = 5 * time.Second
)

// waitUntilIdle waits until a drained backend has no request in flight, or is gone.
func (t *tool) waitUntilIdle(ctx context.Context, w *waiting, to target) error {
	return t.poll(ctx, w, to, func(b *api.Backend) (bool, error) {
		switch {
		case b == nil:
			return true, nil
		case b.State == "ready" && !b.Removing:
			return false, errorf(exitConflict, "%s in pool %s: it was made ready while it drained", to.backend, to.pool.Name)
		default:
			return b.InFlight == 0, nil
		}
	})
}

// waitUntilGone waits until a backend that is being removed does not exist any more.
func (t *tool) waitUntilGone(ctx context.Context, w *waiting, to target) error {
	return t.poll(ctx, w, to, func(b *api.Backend) (bool, error) {
		if b != nil && !b.Removing {
			return false, errorf(exitConflict, "%s in pool %s: it was added again while it was removed", to.backend, to.pool.Name)
		}
		return b == nil, nil
	})
}

// poll reads a backend's state, nil if there is none, until done reports true.
func (t *tool) poll(ctx context.Context, w *waiting, to target, done func(*api.Backend) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	inFlight, seen := int64(0), time.Now()
	if b := to.state(); b != nil {
		inFlight = b.InFlight
	}
	for {
		b, err := t.look(ctx, to)
		_, unreachable := errors.AsType[*api.Unreachable](err)
		switch {
		case ctx.Err() != nil:
			return errorf(exitTimeout, "%s in pool %s: %d in flight after %s", to.backend, to.pool.Name, inFlight, w.timeout)
		case unreachable && time.Since(seen) < absence:
		case err != nil:
			return err
		default:
			if over, err := done(b); over || err != nil {
				return err
			}
			inFlight, seen = b.InFlight, time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// look returns the backend's state, or nil if it does not exist.
func (t *tool) look(ctx context.Context, to target) (*api.Backend, error) {
	answer, err := t.client.Do(ctx, api.Request{Method: http.MethodGet, Path: to.path()})
	if e, ok := errors.AsType[*api.Error](err); ok && e.Status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b := new(api.Backend)
	return b, answer.Decode(b)
}
