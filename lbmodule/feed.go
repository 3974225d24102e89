package lbmodule

import (
	"slices"
	"sync"
	"time"
)

const (
	// feedLength is how many events are remembered, for those who come back.
	feedLength = 256
	// maxStreams is how many may listen at a time.
	maxStreams = 16
	// streamBacklog is how many events a listener may be behind until it is given up.
	streamBacklog = 64
)

// feed holds what has happened lately, over config reloads.
var feed eventFeed

// feedEvent is something that happened.
type feedEvent struct {
	ID   uint64
	Name string
	Time time.Time
	Data map[string]any
}

// eventFeed remembers the latest events and hands new ones on. The zero eventFeed has none.
type eventFeed struct {
	mu      sync.Mutex
	last    uint64
	recent  []feedEvent
	streams []*eventStream
}

// eventStream is a listener. events is closed when it was too slow, or the config that it came with is gone.
type eventStream struct {
	events chan feedEvent
	app    *App
}

// publish adds an event. Nobody is waited for.
func (f *eventFeed) publish(name string, data map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	e := feedEvent{ID: f.last, Name: name, Time: time.Now().UTC(), Data: data}
	if len(f.recent) == feedLength {
		f.recent = slices.Delete(f.recent, 0, 1)
	}
	f.recent = append(f.recent, e)
	f.streams = slices.DeleteFunc(f.streams, func(s *eventStream) bool {
		select {
		case s.events <- e:
			return false
		default:
			close(s.events)
			return true
		}
	})
}

// after returns the events that are remembered and came after the one with that id.
func (f *eventFeed) after(id uint64) []feedEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.since(id)
}

func (f *eventFeed) since(id uint64) []feedEvent {
	at := slices.IndexFunc(f.recent, func(e feedEvent) bool { return e.ID > id })
	if at < 0 {
		return nil
	}
	return slices.Clone(f.recent[at:])
}

// listen begins a stream, after the event with that id; ok is false if there are too many.
func (f *eventFeed) listen(app *App, after uint64) (s *eventStream, missed []feedEvent, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) >= maxStreams {
		return nil, nil, false
	}
	s = &eventStream{events: make(chan feedEvent, streamBacklog), app: app}
	f.streams = append(f.streams, s)
	return s, f.since(after), true
}

// leave ends a stream.
func (f *eventFeed) leave(s *eventStream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = slices.DeleteFunc(f.streams, func(other *eventStream) bool { return other == s })
}

// endStreams ends those that came with that config.
func (f *eventFeed) endStreams(app *App) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = slices.DeleteFunc(f.streams, func(s *eventStream) bool {
		if s.app == app {
			close(s.events)
		}
		return s.app == app
	})
}

// newest is the id of the latest event.
func (f *eventFeed) newest() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}
