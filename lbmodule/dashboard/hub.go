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
	// mostViewers bounds the streams, and reserved those of users beyond that: strangers must not keep them out.
	mostViewers = 100
	reserved    = 20
	// mostEvents bounds how many events a newcomer is shown.
	mostEvents = 200
)

var errCrowded = errors.New("too many dashboards are open")

// hub makes one frame each period for all who watch, and none while nobody does. The viewers go on by themselves: a slow one misses
// frames and holds up nobody.
type hub struct {
	source Source
	shots  *shots
	closed chan struct{}

	mu      sync.Mutex // guards what follows
	viewers int
	running bool
	over    bool
	latest  *frame
}

func newHub(source Source) *hub {
	return &hub{source: source, shots: &shots{source: source}, closed: make(chan struct{}), latest: newFrame()}
}

// frame is what there is to show at one moment. It does not change, but for replaced, which is closed when there is a newer one.
type frame struct {
	state    chunk   // empty before the first snapshot
	events   []event // the newest, in order
	replaced chan struct{}
}

type event struct {
	id    uint64
	chunk chunk
}

func newFrame() *frame { return &frame{replaced: make(chan struct{})} }

// join lets one more watch. A user is one who may make changes.
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

// refusal tells why nobody more can watch, if that is so. The caller holds h.mu.
func (h *hub) refusal(user bool) error {
	most := mostViewers
	if user {
		most += reserved
	}
	switch {
	case h.over:
		return errors.New("the dashboard is closing")
	case h.viewers >= most:
		return errCrowded
	default:
		return nil
	}
}

// open tells why a stream would be refused, if it would.
func (h *hub) open(user bool) error {
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
	if !h.over {
		h.over = true
		close(h.closed)
	}
}

func (h *hub) current() *frame {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest
}

// run makes frames until nobody watches.
func (h *hub) run() {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for h.show(h.next()) {
		select {
		case <-ticker.C:
		case <-h.closed:
		}
	}
}

// show makes f the latest frame and reports whether somebody watches still. The last to leave leaves no frame behind: it would be
// old news to whoever comes next.
func (h *hub) show(f *frame) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.latest.replaced)
	h.latest = f
	if h.viewers > 0 && !h.over {
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
			continue // its data is no JSON
		}
		f.events = append(f.events[:len(f.events):len(f.events)], event{e.ID, newChunk("event", eventID(e.ID), text)})
	}
	if surplus := len(f.events) - mostEvents; surplus > 0 {
		f.events = slices.Clone(f.events[surplus:])
	}
	return f
}
