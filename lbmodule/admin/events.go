package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/ballastlb/ballast/lbmodule/app"
)

const (
	// streamBeat is the interval of a stream's keep-alive messages.
	streamBeat = 15 * time.Second
	// streamWrite bounds one write to a client.
	streamWrite = 5 * time.Second
)

// streamEvents sends events as they happen, as server-sent events (WHATWG HTML, 9.2). A client that reconnects sends the id of the last
// event that it has seen as Last-Event-ID; a new client may ask for the latest ones with ?last=. With ?follow=0 the answer ends after
// those. Events that concern no pool are sent with ?all=1 only. Streams end with their config.
func (c *apiCall) streamEvents() error {
	if c.app == nil {
		return apiError(http.StatusNotFound, "events: the config has no load balancer")
	}
	query := c.r.URL.Query()
	wanted := func(e *app.Event) bool {
		switch pool, of := e.Data["pool"]; {
		case query.Has("pool"):
			return pool == query.Get("pool")
		default:
			return of || c.asks("all")
		}
	}
	last := app.Events.Newest()
	if text := query.Get("last"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return apiError(http.StatusBadRequest, "last %.*s: must be a number, 0 or more", maxTold, text)
		}
		last = app.Events.Before(int(n), wanted)
	}
	if text := c.r.Header.Get("Last-Event-ID"); text != "" {
		seen, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return apiError(http.StatusBadRequest, "Last-Event-ID %s: must be the id of an event", text)
		}
		last = seen // the client has seen all earlier events
	}
	if query.Has("follow") && !c.asks("follow") {
		return c.writeEvents(app.Events.After(last), wanted)
	}
	stream, missed, ok := app.Events.Listen(c.app, last)
	if !ok {
		c.w.Header().Set("Retry-After", "5")
		return apiError(http.StatusServiceUnavailable, "events: %d streams are open already", app.MaxStreams)
	}
	defer app.Events.Leave(stream)
	if app.Serving() != c.app {
		return nil // the config ended before the stream was registered
	}
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(c.w)
	send := func(text string) bool {
		// A client that does not read is disconnected.
		_ = control.SetWriteDeadline(time.Now().Add(streamWrite))
		_, err := fmt.Fprint(c.w, text)
		return err == nil && control.Flush() == nil
	}
	if !send(": events of the load balancer\n\n") {
		return nil
	}
	for _, e := range missed {
		if wanted(&e) && !send(e.Frame()) {
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
			if !open || wanted(&e) && !send(e.Frame()) {
				return nil
			}
		}
	}
}

// writeEvents writes events as a stream that ends.
func (c *apiCall) writeEvents(events []app.Event, wanted func(*app.Event) bool) error {
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("Cache-Control", "no-store")
	for _, e := range events {
		if !wanted(&e) {
			continue
		}
		if _, err := fmt.Fprint(c.w, e.Frame()); err != nil {
			return nil // the client has closed the connection
		}
	}
	return nil
}
