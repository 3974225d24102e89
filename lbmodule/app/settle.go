package app

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// settleTimeout bounds the time from [App.Start] until [App.Settled], whatever is configured.
const settleTimeout = 10 * time.Second

// Settled returns a channel that is closed once the state of the backends is known well enough to serve requests: the config has started,
// the edits of its pools have been read from storage, its polled dynamic sources have been queried, and the backends that are held for
// their first probe have been probed. A failed read, query or probe counts as well. Backends known from an earlier config are not waited
// for, and nothing is waited for longer than one attempt.
//
// The channel is closed at the latest one second after the timeout of the probes, counted from when they could begin, and ten seconds
// after Start. It is also closed when the config ends, even if it never started. Other apps may start before this one, so requests may
// arrive before Start.
func (a *App) Settled() <-chan struct{} { return a.settled }

// settle waits as [App.Settled] says.
func (a *App) settle(ctx context.Context, managers []*manage.Manager, services []*service.Service) {
	defer a.release()
	within, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, m := range managers {
		all.Go(func() {
			if !m.Settle(within) && ctx.Err() == nil {
				a.logger.Warn("edits of pool are not read yet; requests are served without them", zap.String("pool", m.Pool().Name()))
			}
		})
	}
	// Edits that are read late may add backends.
	all.Wait()
	for _, s := range services {
		all.Go(func() {
			if !s.Settle(within) && ctx.Err() == nil {
				a.logger.Warn("not all backends are checked yet; requests are served anyway", zap.String("pool", s.Pool().Name()))
			}
		})
	}
	all.Wait()
	if ctx.Err() == nil {
		reason := "start"
		if loaded.Add(1) > 1 {
			reason = "reload"
		}
		a.emit(eventConfigLoaded, map[string]any{"reason": reason, "pools": len(managers)})
	}
}

// loaded counts the configs that have begun to serve in this process.
var loaded atomic.Uint64
