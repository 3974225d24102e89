package lbmodule

import (
	"time"
)

// probeGrace is what a probe's slot outlasts the attempt by: it comes back when the attempt ends, and by this only
// if that is never heard of.
const probeGrace = 10 * time.Second

// loadBreaker takes what the request path needs from the breaker's settings.
func (h *Handler) loadBreaker() {
	b := h.Breaker.WithDefaults()
	h.failureStatus = newStatusSet(b.FailureStatus)
	if b.SlowRatio != nil && !b.Disabled {
		h.slow = time.Duration(b.SlowRatio.Latency)
	}
}
