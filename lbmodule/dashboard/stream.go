package dashboard

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// patience is for how long a viewer may not read before he is dropped.
const patience = 10 * time.Second

// boot tells the events of this process from those of one before, whose numbers began at 1 as well.
var boot = strconv.FormatInt(time.Now().UnixNano(), 36)

func eventID(id uint64) string { return boot + "-" + strconv.FormatUint(id, 10) }

// seen is the event that the browser had last, 0 if it is not one of ours.
func seen(r *http.Request) uint64 {
	number, ours := strings.CutPrefix(r.Header.Get("Last-Event-ID"), boot+"-")
	id, err := strconv.ParseUint(number, 10, 64)
	if !ours || err != nil {
		return 0
	}
	return id
}

// stream sends frames for as long as the viewer reads.
func (d *Dashboard) stream(w http.ResponseWriter, r *http.Request, v Visit) {
	if err := d.hub.join(v.mayChange()); err != nil {
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer d.hub.leave()
	s := newStream(w, r)
	s.last = seen(r)
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

// hello tells the page who it is talking to, and what that one may do.
func hello(v Visit) chunk {
	text, _ := json.Marshal(map[string]any{ // of strings and booleans: it can be marshaled
		"boot": boot, "build": build, "user": v.User, "actions": v.mayChange(), "login": v.Actions && v.User == "",
	})
	return newChunk("hello", "", text)
}

// stream is what one viewer gets.
type stream struct {
	w      http.ResponseWriter
	out    *http.ResponseController
	packed bool
	begun  bool
	last   uint64 // event
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
		s.last = 0 // the count has begun anew
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
	// A server without deadlines may wait for longer; the operating system ends that.
	if err := s.out.SetWriteDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
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

// acceptsGzip reports whether the browser takes a compressed stream.
func acceptsGzip(r *http.Request) bool {
	for offer := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, quality, _ := strings.Cut(strings.ReplaceAll(offer, " ", ""), ";q=")
		if q, err := strconv.ParseFloat(quality, 64); strings.EqualFold(name, "gzip") && (quality == "" || err == nil && q > 0) {
			return true
		}
	}
	return false
}
