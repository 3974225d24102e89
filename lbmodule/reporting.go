package lbmodule

import (
	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The names under which Caddy's events tell of a pool.
const (
	eventBackendDown = "backend_down"
	eventBackendUp   = "backend_up"
	eventPanicBegan  = "panic_began"
	eventPanicEnded  = "panic_ended"

	eventBreakerOpened   = "breaker_opened"
	eventBreakerHalfOpen = "breaker_half_open"
	eventBreakerClosed   = "breaker_closed"
)

// report logs an event of a pool and tells it to whoever has subscribed. It is called with no lock held.
func (a *App) report(e pool.Event) {
	select {
	case a.flipped <- struct{}{}:
	default:
	}
	backend := a.backendName(e.Pool, e.Backend)
	data := map[string]any{"pool": e.Pool}
	fields := []zap.Field{zap.String("pool", e.Pool)}
	if e.Backend != "" {
		data["backend"], data["reason"], data["error"] = backend, e.Reason, ""
		fields = append(fields, zap.String("backend", backend), zap.String("reason", e.Reason))
		if e.Err != nil {
			data["error"] = e.Err.Error()
			fields = append(fields, zap.Error(e.Err))
		}
	} else {
		data["usable"], data["total"] = e.Usable, e.Total
		fields = append(fields, zap.Int("usable", e.Usable), zap.Int("total", e.Total))
	}
	switch e.Kind {
	case pool.BackendDown:
		a.logger.Warn("backend is down", fields...)
		a.emit(eventBackendDown, data)
		a.events.Emit(a.ctx, "unhealthy", map[string]any{"host": e.Backend})
	case pool.BackendUp:
		a.logger.Info("backend is up", fields...)
		a.emit(eventBackendUp, data)
		a.events.Emit(a.ctx, "healthy", map[string]any{"host": e.Backend})
	case pool.PanicBegan:
		a.logger.Error("too few backends are usable; all are used that are not dead", fields...)
		a.emit(eventPanicBegan, data)
	case pool.PanicEnded:
		a.logger.Warn("panic is over", fields...)
		a.emit(eventPanicEnded, data)
	case pool.BreakerTurned:
		a.reportBreaker(e, fields, data)
	}
}

// reportBreaker tells that a breaker is in another state. A backend that stays broken has its breaker turn to and fro:
// the log tells of the beginning and the end.
func (a *App) reportBreaker(e pool.Event, fields []zap.Field, data map[string]any) {
	if e.DryRun {
		data["dry_run"] = true
		fields = append(fields, zap.Bool("dry_run", true))
	}
	switch t := e.Breaker; t.To {
	case breaker.Open:
		level := zap.DebugLevel
		if t.From == breaker.Closed {
			level = zap.WarnLevel
		}
		if t.OpenFor > 0 {
			data["open_for"] = t.OpenFor.Seconds()
			fields = append(fields, zap.Duration("open_for", t.OpenFor))
		}
		a.logger.Log(level, "breaker of backend is open", fields...)
		a.emit(eventBreakerOpened, data)
	case breaker.HalfOpen:
		a.logger.Debug("breaker of backend is half-open", fields...)
		a.emit(eventBreakerHalfOpen, data)
	case breaker.Closed:
		a.logger.Info("breaker of backend is closed", fields...)
		a.emit(eventBreakerClosed, data)
	}
}

// emit tells Caddy's events and ours.
func (a *App) emit(name string, data map[string]any) {
	a.events.Emit(a.ctx, name, data)
	feed.publish(name, data)
}

// Storage implements [manage.Owner].
func (a *App) Storage() certmagic.Storage { return a.ctx.Storage() }

// Tell implements [manage.Owner].
func (a *App) Tell(n manage.Notice) {
	switch n := n.(type) {
	case manage.Expired:
		a.tellExpired(&n)
	case manage.Synced:
		a.tellSynced(&n)
	}
}

// tellExpired tells that an edit, or a backend that was added for a time, is over.
func (a *App) tellExpired(x *manage.Expired) {
	data := map[string]any{"pool": x.Pool, "backend": x.Backend, "reason": "its time is over"}
	fields := []zap.Field{zap.String("pool", x.Pool), zap.String("backend", x.Backend)}
	if x.Edit != nil {
		data["field"] = string(x.Edit.Field)
		fields = append(fields, zap.String("field", string(x.Edit.Field)), zap.Any("value", x.Edit.Value))
	}
	a.logger.Info("edit of backend is over", fields...)
	a.emit("change_expired", data)
}

// tellSynced tells what is new after edits were brought together with those in storage.
func (a *App) tellSynced(s *manage.Synced) {
	pool := zap.String("pool", s.Pool)
	switch s.Writing {
	case manage.Began:
		a.logger.Error("edits of pool cannot be written; they are in force and will be tried again", pool, zap.Error(s.Err))
		a.emit("state_not_persisted", map[string]any{"pool": s.Pool, "reason": s.Err.Error()})
	case manage.Ended:
		a.logger.Info("edits of pool are in storage again", pool)
	}
	switch {
	case s.Reading == manage.Began:
		a.logger.Error("edits of other nodes cannot be read", pool, zap.Error(s.Err))
	case s.Reading == manage.Ended && s.Aside == "":
		a.logger.Info("edits of other nodes can be read again", pool)
	}
	if s.Aside != "" {
		a.logger.Error("edits of pool in storage cannot be read and are set aside", pool, zap.String("key", s.Aside), zap.Error(s.Cause))
	}
	for _, backend := range s.Conflicts {
		a.logger.Warn("another node has edited the backend at the same time; the last to write wins", pool, zap.String("backend", backend))
		a.emit("change_conflict", map[string]any{"pool": s.Pool, "backend": backend, "reason": "edited by two nodes at the same time"})
	}
}

// backendName is the name of the backend with that address.
func (a *App) backendName(pool, address string) string {
	a.mu.Lock()
	joined, ok := a.find(pool)
	a.mu.Unlock()
	if !ok {
		return address
	}
	return joined.Name(address)
}

var _ manage.Owner = (*App)(nil)
