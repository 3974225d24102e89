package lbmodule

import (
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// probeGrace is what a probe's slot outlasts the attempt by: it comes back when the attempt ends, and by this only
// if that is never heard of.
const probeGrace = 10 * time.Second

// loadBreaker takes what the request path needs from the breaker's settings.
func (h *Handler) loadBreaker() {
	b := h.Breaker.withDefaults()
	h.failureStatus = newStatusSet(b.FailureStatus)
	if b.SlowRatio != nil && !b.Disabled {
		h.slow = time.Duration(b.SlowRatio.Latency)
	}
}

// into puts the breaker into the settings of a view. probe is when the slot of a lost probe comes back.
func (b *Breaker) into(s *pool.Settings, probe time.Duration) {
	filled := b.withDefaults()
	s.DeadAfter = filled.ConsecutiveFailures
	if filled.Disabled {
		s.ConnectionsOnly = true
		return
	}
	s.MaxEjected, s.DryRun = filled.MaxEjected, filled.DryRun
	s.Breaker = breaker.Settings{
		ConsecutiveFailures: filled.ConsecutiveFailures,
		FailureRatio:        filled.FailureRatio,
		Window:              time.Duration(filled.Window),
		MinRequests:         filled.MinRequests,
		Open:                time.Duration(filled.Open.First),
		MaxOpen:             time.Duration(filled.Open.Max),
		Probes:              filled.Probes,
		ProbeTimeout:        probe,
	}
	if filled.SlowRatio != nil {
		s.Breaker.SlowRatio = filled.SlowRatio.Ratio
	}
}
