package lbmodule

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// opened is called when a request has become a stream. A stream outlives the config, unless `stream_close_delay` is set.
func (h *Handler) opened(r *pool.LiveRequest, stream pool.Stream) {
	h.plan.Pool.OpenStream(r, stream, h)
	if ended := h.ended.Load(); ended != 0 { // read after the stream was registered, so that either this or endStreams sees it
		h.service.Manager().StreamOpened()
		app.WatchExit()
		h.endStreams(time.Unix(0, ended))
	}
}

// endStreams is called when the config has ended, with the time of its end.
func (h *Handler) endStreams(at time.Time) {
	h.ended.Store(at.UnixNano())
	if delay := time.Duration(h.StreamCloseDelay); delay != 0 {
		h.service.Pool().EndStreamsOf(h, max(time.Until(at.Add(delay)), 0))
	}
}
