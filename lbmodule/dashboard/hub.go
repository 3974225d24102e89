package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// period is the time from one snapshot to the next.
	period = time.Second
	// mostViewers is the maximum number of streams. Users who may make changes get as many as reserved more, so that other viewers
	// cannot keep them out.
	mostViewers = 100
	reserved    = 20
	// mostEvents is the maximum number of past events that a new stream begins with.
	mostEvents = 200
)

var errTooManyViewers = errors.New("too many dashboards are open")

// hub makes one frame per period for all viewers, and none while there are no viewers. Each viewer takes the latest frame when it is
// ready: a slow one misses frames and does not delay the others.
type hub struct {
	source Source
	shots  *shots
	closed chan struct{}

	mu      sync.Mutex // guards the fields below
	viewers int
	running bool // run is running
	closing bool
	latest  *frame
}

func newHub(source Source) *hub {
	return &hub{source: source, shots: &shots{source: source}, closed: make(chan struct{}), latest: newFrame()}
}

// frame is the state and the events at one time. It is immutable, except that replaced is closed when there is a newer frame.
type frame struct {
	state    chunk   // empty before the first snapshot
	events   []event // the latest, oldest first
	replaced chan struct{}
}

type event struct {
	id    uint64
	chunk chunk
}

func newFrame() *frame { return &frame{replaced: make(chan struct{})} }

// join adds a viewer, or returns why it is refused. The argument user says that the viewer may make changes.
func (h *hub) join(user bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refusal(user); err != nil {
		return err
	}
	h.viewers++
	if !h.running {
		h.running = true
		go h.run()
	}
	return nil
}

// refusal returns why a further viewer would be refused, nil if it would not. The caller holds h.mu.
func (h *hub) refusal(user bool) error {
	most := mostViewers
	if user {
		most += reserved
	}
	switch {
	case h.closing:
		return errors.New("the dashboard is closing")
	case h.viewers >= most:
		return errTooManyViewers
	default:
		return nil
	}
}

// canJoin returns the error that join would return now.
func (h *hub) canJoin(user bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refusal(user)
}

func (h *hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.viewers--
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closing {
		h.closing = true
		close(h.closed)
	}
}

func (h *hub) current() *frame {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest
}

// run makes a frame per period until there are no viewers.
func (h *hub) run() {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for h.publish(h.next()) {
		select {
		case <-ticker.C:
		case <-h.closed:
		}
	}
}

// publish makes f the latest frame and reports whether there are viewers. If there are none, it drops the frame: the next viewer must
// not get an old one.
func (h *hub) publish(f *frame) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.latest.replaced)
	h.latest = f
	if h.viewers > 0 && !h.closing {
		return true
	}
	h.running = false
	h.latest = newFrame()
	return false
}

// next makes the frame that follows the latest.
func (h *hub) next() *frame {
	f := newFrame()
	if s := h.shots.get(context.Background(), 0); s.err == nil {
		f.state = newChunk("state", "", s.state)
	} else {
		text, _ := json.Marshal(map[string]string{"error": s.err.Error()}) // a map of strings can be marshaled
		f.state = newChunk("trouble", "", text)
	}
	f.events = h.current().events
	var last uint64
	if n := len(f.events); n > 0 {
		last = f.events[n-1].id
	}
	for _, e := range h.source.Events(last) {
		text, err := json.Marshal(e)
		if err != nil {
			continue // its data is not valid JSON
		}
		f.events = append(f.events[:len(f.events):len(f.events)], event{e.ID, newChunk("event", eventID(e.ID), text)})
	}
	if surplus := len(f.events) - mostEvents; surplus > 0 {
		f.events = slices.Clone(f.events[surplus:])
	}
	return f
}
