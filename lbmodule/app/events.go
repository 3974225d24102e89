package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// feedLength is the number of events that are kept for clients that reconnect.
	feedLength = 256
	// MaxStreams is the maximum number of concurrent streams.
	MaxStreams = 16
	// streamBacklog is the number of events that a stream may lag behind before it is closed.
	streamBacklog = 64
)

// Events holds the latest events, across config reloads.
var Events Feed

// Event is something that happened.
type Event struct {
	ID   uint64
	Name string
	Time time.Time
	Data map[string]any
}

// Feed keeps the latest events and passes new ones to its streams. The zero Feed has no events.
type Feed struct {
	mu      sync.Mutex
	last    uint64
	recent  []Event
	streams []*Stream
}

// Stream receives the events of a Feed.
type Stream struct {
	events chan Event // closed when the reader was too slow, or when its config is unloaded
	app    *App
}

// Events returns the channel of events. It is closed when the reader was too slow, or when its config is unloaded.
func (s *Stream) Events() <-chan Event { return s.events }

// publish adds an event. It never blocks.
func (f *Feed) publish(name string, data map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	e := Event{ID: f.last, Name: name, Time: time.Now().UTC(), Data: data}
	if len(f.recent) == feedLength {
		f.recent = slices.Delete(f.recent, 0, 1)
	}
	f.recent = append(f.recent, e)
	f.streams = slices.DeleteFunc(f.streams, func(s *Stream) bool {
		select {
		case s.events <- e:
			return false
		default:
			close(s.events)
			return true
		}
	})
}

// After returns the kept events that came after the event with this id.
func (f *Feed) After(id uint64) []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.since(id)
}

func (f *Feed) since(id uint64) []Event {
	at := slices.IndexFunc(f.recent, func(e Event) bool { return e.ID > id })
	if at < 0 {
		return nil
	}
	return slices.Clone(f.recent[at:])
}

// Before returns the id before the n latest kept events that are wanted: [Feed.After] it come these n, and others that are not wanted.
func (f *Feed) Before(n int, wanted func(*Event) bool) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.recent) - 1; i >= 0 && n > 0; i-- {
		if wanted(&f.recent[i]) {
			if n--; n == 0 {
				return f.recent[i].ID - 1
			}
		}
	}
	if n > 0 {
		return 0 // there are fewer
	}
	return f.last
}

// Listen opens a stream and returns the kept events after the one with this id. ok is false if there are too many streams.
func (f *Feed) Listen(app *App, after uint64) (s *Stream, missed []Event, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) >= MaxStreams {
		return nil, nil, false
	}
	s = &Stream{events: make(chan Event, streamBacklog), app: app}
	f.streams = append(f.streams, s)
	return s, f.since(after), true
}

// Leave closes a stream.
func (f *Feed) Leave(s *Stream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = slices.DeleteFunc(f.streams, func(other *Stream) bool { return other == s })
}

// endStreams closes the streams of a config.
func (f *Feed) endStreams(app *App) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = slices.DeleteFunc(f.streams, func(s *Stream) bool {
		if s.app == app {
			close(s.events)
		}
		return s.app == app
	})
}

// Newest returns the id of the latest event.
func (f *Feed) Newest() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Frame returns the event as it is sent to clients.
func (e *Event) Frame() string {
	return fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Name, e.JSON())
}

// JSON returns the event's data.
func (e *Event) JSON() []byte {
	data := maps.Clone(e.Data)
	data["time"] = e.Time
	text, err := json.Marshal(data)
	if err != nil {
		return []byte(`{}`) // cannot happen: events hold plain values
	}
	return text
}

// Names of Caddy events about a pool.
const (
	eventBackendDown = "backend_down"
	eventBackendUp   = "backend_up"
	eventPanicBegan  = "panic_began"
	eventPanicEnded  = "panic_ended"

	eventBreakerOpened   = "breaker_opened"
	eventBreakerHalfOpen = "breaker_half_open"
	eventBreakerClosed   = "breaker_closed"

	eventConfigLoaded = "config_loaded"

	eventCanaryMoved      = "canary_moved"
	eventCanaryRolledBack = "canary_rolled_back"
)

// report logs an event of a pool and emits it to subscribers. It is called with no lock held.
func (a *App) report(e pool.Event) {
	select {
	case a.healthChanged <- struct{}{}:
	default:
	}
	if e.Kind == pool.CanaryMoved {
		a.reportCanary(&e)
		return
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
		a.logger.Error("too few backends are usable; all that are not dead are used", fields...)
		a.emit(eventPanicBegan, data)
	case pool.PanicEnded:
		a.logger.Warn("panic is over", fields...)
		a.emit(eventPanicEnded, data)
	case pool.BreakerTurned:
		a.reportBreaker(e, fields, data)
	}
}

// reportBreaker reports a breaker's transition. The breaker of a broken backend alternates between open and half-open; the log shows only
// the first and the last transition.
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

// emit emits an event to Caddy's subscribers and to our feed.
func (a *App) emit(name string, data map[string]any) {
	a.events.Emit(a.ctx, name, data)
	Events.publish(name, data)
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

// tellExpired reports that an edit, or a temporarily added backend, has expired.
func (a *App) tellExpired(x *manage.Expired) {
	data := map[string]any{"pool": x.Pool, "backend": x.Backend, "reason": "its time is over"}
	fields := []zap.Field{zap.String("pool", x.Pool), zap.String("backend", x.Backend)}
	if x.Edit != nil {
		data["field"] = string(x.Edit.Field)
		fields = append(fields, zap.String("field", string(x.Edit.Field)), zap.Any("value", x.Edit.Value))
	}
	a.logger.Info("edit of backend has expired", fields...)
	a.emit("change_expired", data)
}

// tellSynced reports the result of merging the edits with those in storage.
func (a *App) tellSynced(s *manage.Synced) {
	pool := zap.String("pool", s.Pool)
	switch s.Writing {
	case manage.Began:
		a.logger.Error("edits of pool cannot be written; they are in force, and the write is retried", pool, zap.Error(s.Err))
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
		a.logger.Warn("another node has edited the backend at the same time; the last write wins", pool, zap.String("backend", backend))
		a.emit("change_conflict", map[string]any{"pool": s.Pool, "backend": backend, "reason": "edited by two nodes at the same time"})
	}
}

// backendName returns the name of the backend with this address.
func (a *App) backendName(pool, address string) string {
	a.mu.Lock()
	joined, ok := a.find(pool)
	a.mu.Unlock()
	if !ok {
		return address
	}
	return joined.Name(address)
}

// TellChange reports that an operator has changed a backend.
func (a *App) TellChange(event string, m *manage.Manager, address string, before *overlay.Running, change *manage.Change, remote, identity string) {
	name := m.Name(address)
	if before != nil {
		name = before.Name
	}
	data := map[string]any{"pool": m.Pool().Name(), "backend": name, "reason": change.Mark.Reason, "owner": change.Mark.Owner}
	fields := []zap.Field{
		zap.String("event", event), zap.String("pool", m.Pool().Name()), zap.String("backend", name), zap.String("address", address),
		zap.String("remote", remote), zap.String("identity", identity), zap.String("owner", change.Mark.Owner), zap.String("reason", change.Mark.Reason),
	}
	if !change.Mark.Until.IsZero() {
		data["until"] = change.Mark.Until
		fields = append(fields, zap.Time("until", change.Mark.Until))
	}
	was, is := make(map[string]any), make(map[string]any)
	note := func(f overlay.Field, value any) {
		is[string(f)] = value
		if before != nil {
			was[string(f)] = before.Get(f)
		}
	}
	for _, e := range change.Edits {
		note(e.Field, e.Value)
	}
	for _, f := range change.TakeBack {
		note(f, nil) // the config's value
	}
	if len(is) > 0 {
		data["before"], data["after"] = was, is
		fields = append(fields, zap.Any("before", was), zap.Any("after", is))
	}
	a.logger.Info("backend was changed by an operator", fields...)
	a.emit(event, data)
}

var _ manage.Owner = (*App)(nil)
