package dashboard

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// writeTimeout is the time after which a viewer that does not read is dropped.
const writeTimeout = 10 * time.Second

// boot distinguishes the events of this process from those of an earlier one, whose numbers counted from 1 as well.
var boot = strconv.FormatInt(time.Now().UnixNano(), 36)

func eventID(id uint64) string { return boot + "-" + strconv.FormatUint(id, 10) }

// lastSeen returns the number of the last event that the browser received, 0 if that was not an event of this process.
func lastSeen(r *http.Request) uint64 {
	number, ours := strings.CutPrefix(r.Header.Get("Last-Event-ID"), boot+"-")
	id, err := strconv.ParseUint(number, 10, 64)
	if !ours || err != nil {
		return 0
	}
	return id
}

// stream sends frames until the viewer leaves, stops reading, or the hub is closed.
func (d *Dashboard) stream(w http.ResponseWriter, r *http.Request, v Visit) {
	if err := d.hub.join(v.mayChange()); err != nil {
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer d.hub.leave()
	s := newStream(w, r)
	s.last = lastSeen(r)
	if s.send(hello(v)) != nil {
		return
	}
	for f := d.hub.current(); ; f = d.hub.current() {
		if s.show(f) != nil {
			return
		}
		select {
		case <-f.replaced:
		case <-r.Context().Done():
			return
		case <-d.hub.closed:
			return
		}
	}
}

// hello is the first event of a stream: it identifies the process and the build, and tells the page what its user may do.
func hello(v Visit) chunk {
	text, _ := json.Marshal(map[string]any{ // strings and booleans can be marshaled
		"boot": boot, "build": build, "user": v.User, "actions": v.mayChange(), "login": v.Actions && v.User == "",
	})
	return newChunk("hello", "", text)
}

// stream is the answer to one viewer.
type stream struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	packed bool
	begun  bool
	last   uint64 // number of the last event that was sent
}

func newStream(w http.ResponseWriter, r *http.Request) *stream {
	s := &stream{w: w, out: http.NewResponseController(w), packed: acceptsGzip(r)}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("Vary", "Accept-Encoding")
	if s.packed {
		h.Set("Content-Encoding", "gzip")
	}
	return s
}

func (s *stream) show(f *frame) error {
	var chunks []chunk
	if f.state.plain != nil {
		chunks = append(chunks, f.state)
	}
	if n := len(f.events); n > 0 && f.events[n-1].id < s.last {
		s.last = 0 // the source has restarted its numbers
	}
	for _, e := range f.events {
		if e.id > s.last {
			chunks = append(chunks, e.chunk)
			s.last = e.id
		}
	}
	return s.send(chunks...)
}

func (s *stream) send(chunks ...chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	// If the server does not support deadlines, writing may wait for longer, until the operating system gives the connection up.
	if err := s.out.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if s.packed && !s.begun {
		s.begun = true
		if _, err := s.w.Write(gzipHeader); err != nil {
			return err
		}
	}
	for _, c := range chunks {
		text := c.plain
		if s.packed {
			text = c.packed()
		}
		if _, err := s.w.Write(text); err != nil {
			return err
		}
	}
	return s.out.Flush()
}

// acceptsGzip reports whether the browser accepts a compressed stream.
func acceptsGzip(r *http.Request) bool {
	for offer := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, quality, _ := strings.Cut(strings.ReplaceAll(offer, " ", ""), ";q=")
		if q, err := strconv.ParseFloat(quality, 64); strings.EqualFold(name, "gzip") && (quality == "" || err == nil && q > 0) {
			return true
		}
	}
	return false
}
