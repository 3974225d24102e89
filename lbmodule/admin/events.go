package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ballastlb/ballast/lbmodule/app"
)

const (
	// streamBeat is how often a stream says that it is alive.
	streamBeat = 15 * time.Second
	// streamWrite is how long a listener may take to take what it is sent.
	streamWrite = 5 * time.Second
)

// streamEvents sends events as they happen, as server-sent events (WHATWG HTML, 9.2). Whoever comes back says with Last-Event-ID
// what it has seen. Streams end with their config.
func (c *apiCall) streamEvents() error {
	if c.app == nil {
		return apiError(http.StatusNotFound, "events: the config has no load balancer")
	}
	last := app.Events.Newest()
	if text := c.r.Header.Get("Last-Event-ID"); text != "" {
		seen, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return apiError(http.StatusBadRequest, "Last-Event-ID %s: must be the id of an event", text)
		}
		last = seen
	}
	stream, missed, ok := app.Events.Listen(c.app, last)
	if !ok {
		c.w.Header().Set("Retry-After", "5")
		return apiError(http.StatusServiceUnavailable, "events: %d streams are open already", app.MaxStreams)
	}
	defer app.Events.Leave(stream)
	if app.Serving() != c.app {
		return nil // it ended before the stream was known
	}
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(c.w)
	send := func(text string) bool {
		// A listener that does not take what it is sent is given up.
		_ = control.SetWriteDeadline(time.Now().Add(streamWrite))
		_, err := fmt.Fprint(c.w, text)
		return err == nil && control.Flush() == nil
	}
	if !send(": events of the load balancer\n\n") {
		return nil
	}
	for _, e := range missed {
		if !send(e.Frame()) {
			return nil
		}
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		select {
		case <-c.r.Context().Done():
			return nil
		case <-beat.C:
			if !send(": alive\n\n") {
				return nil
			}
		case e, open := <-stream.Events():
			if !open || !send(e.Frame()) {
				return nil
			}
		}
	}
}
