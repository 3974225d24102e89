package status

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Shadow is the JSON of the decisions of a shadow policy, compared with those of the pool's policy.
type Shadow struct {
	Policy    string  `json:"policy"`
	Agreed    uint64  `json:"agreed"`    // decisions for the backend that the request went to
	Differed  uint64  `json:"differed"`  // decisions for another one
	Full      uint64  `json:"full"`      // decisions for none, because all would have been full
	Dropped   uint64  `json:"dropped"`   // not counted, because too many requests would have been in flight
	Agreement float64 `json:"agreement"` // from 0 to 1: share of agreed in agreed and differed; 0 before the first
	Fairness  float64 `json:"fairness"`  // like that of the pool

	// Of the requests of the last ten to twenty seconds with good answers; absent before the first.
	ExpectedMs *ShadowLatency `json:"expected_ms,omitempty"` // how long they would have taken
	TookMs     *ShadowLatency `json:"took_ms,omitempty"`     // how long they took
}

// ShadowLatency is the time to the end of an answer in milliseconds.
type ShadowLatency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// ShadowShare is the JSON of a backend's part in the comparison.
type ShadowShare struct {
	Requests uint64 `json:"requests"`  // those that the shadow policy would have sent to it
	Given    uint64 `json:"given"`     // those of the same requests that the backend got
	InFlight int64  `json:"in_flight"` // those that it would be serving
}

// newShadow describes the shadow policy of a load balancer; nil if it has none. view is nil if there are no backends.
func newShadow(s *service.Service, view *pool.View, now time.Time) *Shadow {
	if s.Shadow() == nil {
		return nil
	}
	o := &Shadow{Policy: policies.Name(s.Shadow()), Fairness: 1}
	if view == nil {
		return o
	}
	sh := view.Shadow()
	sh.Look(now)
	o.Agreed, o.Differed = sh.Decisions(pool.ShadowAgreed), sh.Decisions(pool.ShadowDiffered)
	o.Full, o.Dropped = sh.Decisions(pool.ShadowFull), sh.Decisions(pool.ShadowDropped)
	if decided := o.Agreed + o.Differed; decided > 0 {
		o.Agreement = float64(o.Agreed) / float64(decided)
	}
	o.Fairness = view.ShadowFairness()
	if expected, took := sh.Quantiles(now, 0.5, 0.99); expected != nil && took != nil {
		o.ExpectedMs = &ShadowLatency{milliseconds(expected[0]), milliseconds(expected[1])}
		o.TookMs = &ShadowLatency{milliseconds(took[0]), milliseconds(took[1])}
	}
	return o
}

// newShadowShare describes a member; nil without a shadow policy.
func newShadowShare(view *pool.View, m *pool.Member) *ShadowShare {
	if view.Shadow() == nil {
		return nil
	}
	share := view.Shadow().Share(m)
	return &ShadowShare{share.Chosen, share.Given, share.InFlight}
}

// Metrics of shadow policies.
var (
	shadowDecisionsMetric = counter("shadow_decisions_total",
		"Decisions of the shadow policy: agreed with the active policy, differed, full if it found no free backend, or dropped if it had too many requests to count.",
		"pool", "result")
	shadowFairnessMetric = gauge("shadow_fairness_ratio",
		"fairness_ratio if the shadow policy were active; 1 without a shadow policy.", "pool")
	shadowRequestsMetric = counter("shadow_requests_total",
		"Requests that the shadow policy decided on, by the backend that served them (by policy) and the one that it selected (by shadow).", "pool", "backend", "by")
	shadowInFlightMetric = gauge("shadow_in_flight",
		"Requests in flight on the backend if the shadow policy were active.", "pool", "backend")
	shadowSecondsMetric = prometheus.NewDesc("caddy_load_balancer_shadow_duration_seconds",
		"Duration of requests that the shadow policy decided on, until the end of the response: measured (by policy), and estimated with the shadow policy (by shadow).", []string{"pool", "by"}, nil)
)

// The values of the label by.
const byPolicy, byShadow = "policy", "shadow"

// shadow sends the metrics of a pool's shadow policy; view is nil if there are no backends. Without a shadow policy they are zero.
func (e emitter) shadow(view *pool.View, name string, now time.Time) {
	var decisions [pool.ShadowResults]uint64
	fairness, expected, took := 1.0, new(pool.Distribution), new(pool.Distribution)
	if view != nil && view.Shadow() != nil {
		s := view.Shadow()
		s.Look(now)
		for r := range pool.ShadowResults {
			decisions[r] = s.Decisions(r)
		}
		fairness = view.ShadowFairness()
		expected, took = s.Durations()
	}
	for r := range pool.ShadowResults {
		e.emit(shadowDecisionsMetric, float64(decisions[r]), name, r.String())
	}
	e.emit(shadowFairnessMetric, fairness, name)
	e.histogram(shadowSecondsMetric, took, name, byPolicy)
	e.histogram(shadowSecondsMetric, expected, name, byShadow)
}

// shadowShare sends the metrics of a backend for the shadow policy.
func (e emitter) shadowShare(s pool.ShadowShare, name, backend string) {
	e.emit(shadowRequestsMetric, float64(s.Given), name, backend, byPolicy)
	e.emit(shadowRequestsMetric, float64(s.Chosen), name, backend, byShadow)
	e.emit(shadowInFlightMetric, float64(s.InFlight), name, backend)
}

// shadowRest sends the sums over all backends without labels of their own, if there are any. Without a shadow policy these are all
// backends: zeros for each would be a tenth of the metrics of a large pool.
func (e emitter) shadowRest(view *pool.View, name string, told map[*pool.Member]bool) {
	s := view.Shadow()
	if s == nil {
		e.shadowShare(pool.ShadowShare{}, name, otherBackends)
		return
	}
	sum := s.Others()
	for i := range view.Len() {
		if m := view.Member(i); m.Named() && !told[m] {
			share := s.Share(m)
			sum.Chosen, sum.Given, sum.InFlight = sum.Chosen+share.Chosen, sum.Given+share.Given, sum.InFlight+share.InFlight
		}
	}
	if sum != (pool.ShadowShare{}) {
		e.shadowShare(sum, name, otherBackends)
	}
}
