package lane

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// guard guards against clients that are slow to send a body or to read an answer, as Caddy's server does. done must be called before the
// handler returns. The timeouts and rates for whole messages are not on the lane.
func guard(w http.ResponseWriter, r *http.Request, site *Site) (_ http.ResponseWriter, _ *http.Request, done func()) {
	server, control, start := site.Server, http.NewResponseController(w), time.Now()
	var reader *caddyhttp.IdleTimeoutReader
	var writer *caddyhttp.IdleTimeoutWriter
	if server.ReadIdleTimeout > 0 {
		reader = &caddyhttp.IdleTimeoutReader{
			ReadCloser:    r.Body,
			Ctrl:          control,
			Deadline:      caddyhttp.IdleDeadline{Start: start, Timeout: time.Duration(server.ReadIdleTimeout)},
			Logger:        site.Logger,
			DrainDeadline: r.ContentLength != 0,
		}
		r.Body = reader
		w = &deadlineWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, reader}
	}
	if server.WriteIdleTimeout > 0 {
		writer = &caddyhttp.IdleTimeoutWriter{
			ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
			Ctrl:                  control,
			Deadline:              caddyhttp.IdleDeadline{Start: start, Timeout: time.Duration(server.WriteIdleTimeout)},
			MaxChunk:              server.MaxWriteChunk,
			Logger:                site.Logger,
		}
		w = writer
	}
	if reader != nil || writer != nil {
		r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), reader, writer))
	}
	return w, r, func() {
		if writer != nil {
			writer.HandlerDone()
		}
		if reader != nil {
			reader.HandlerDone()
		}
	}
}

// deadlineWriter gives the deadlines that handlers set for reading to the guard, which would set its own otherwise.
type deadlineWriter struct {
	caddyhttp.ResponseWriterWrapper
	reader *caddyhttp.IdleTimeoutReader
}

// SetReadDeadline is for [http.ResponseController].
func (w *deadlineWriter) SetReadDeadline(deadline time.Time) error {
	return w.reader.SetReadDeadline(deadline)
}
