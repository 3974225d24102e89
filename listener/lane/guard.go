package lane

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// guard limits the time for clients that are slow to send a body or to read an answer, as Caddy's server does. begun is when the request
// began. done must be called before the handler returns.
func guard(w http.ResponseWriter, r *http.Request, site *Site, begun time.Time) (_ http.ResponseWriter, _ *http.Request, done func()) {
	server, control := site.Server, http.NewResponseController(w)
	var reader *caddyhttp.IdleTimeoutReader
	var writer *caddyhttp.IdleTimeoutWriter
	if server.ReadIdleTimeout > 0 {
		reader = &caddyhttp.IdleTimeoutReader{
			ReadCloser:    r.Body,
			Ctrl:          control,
			Deadline:      deadline(server.ReadIdleTimeout, server.ReadTimeout, server.ReadMinRate, begun),
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
			Deadline:              deadline(server.WriteIdleTimeout, server.WriteTimeout, server.WriteMinRate, begun),
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

func deadline(idle, all caddy.Duration, rate int64, begun time.Time) caddyhttp.IdleDeadline {
	return caddyhttp.IdleDeadline{Start: begun, Timeout: time.Duration(idle), MinRate: rate, HardDeadline: endOf(begun, time.Duration(all))}
}

// deadlineWriter passes the read deadlines that handlers set to the guard, which would otherwise overwrite them.
type deadlineWriter struct {
	caddyhttp.ResponseWriterWrapper
	reader *caddyhttp.IdleTimeoutReader
}

// SetReadDeadline is for [http.ResponseController].
func (w *deadlineWriter) SetReadDeadline(deadline time.Time) error {
	return w.reader.SetReadDeadline(deadline)
}
