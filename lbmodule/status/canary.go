package status

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/canary"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Metrics of a pool's canary.
var (
	canaryShareMetric = gauge("canary_share",
		"Share of the clients that the canary gets; 0 without a canary, and after a rollback.", "pool")
	canaryRequestsMetric = counter("canary_requests_total",
		"Attempts on the canary and on the backends it is compared with, by side and outcome: success or failure.", "pool", "side", "outcome")
	canaryRollBacksMetric = counter("canary_rollbacks_total",
		"Rollbacks of the canary, automatic and manual.", "pool")
)

// Canary is the JSON of a canary.
type Canary struct {
	Names    []string  `json:"backends"` // as configured
	State    string    `json:"state"`    // running, paused, finished or rolled_back
	Share    float64   `json:"share"`
	Reason   string    `json:"reason,omitempty"` // why the share has its value: step, by hand, errors or latency
	Since    time.Time `json:"since"`
	Revision string    `json:"revision"` // the entity tag

	NextShare float64 `json:"next_share,omitempty"`
	NextIn    string  `json:"next_in,omitempty"`

	Enough          float64  `json:"enough"`                     // evidence at which the canary is rolled back
	ErrorEvidence   *float64 `json:"error_evidence,omitempty"`   // absent if errors are not compared
	LatencyEvidence *float64 `json:"latency_evidence,omitempty"` // absent if latencies are not compared

	Canary CanarySide `json:"canary"`
	Others CanarySide `json:"others"`
}

// CanarySide is the JSON of the canary, or of the others. Its numbers are since the canary began; those of a canary that was rolled back
// are from that time.
type CanarySide struct {
	Backends  int     `json:"backends"` // current number of backends
	Requests  uint64  `json:"requests"` // attempts that are compared
	Failures  uint64  `json:"failures"`
	ErrorRate float64 `json:"error_rate"`
	P50       float64 `json:"p50_ms"` // of the good answers of the last minute or two
	P95       float64 `json:"p95_ms"`
}

// NewCanary describes the canary of a load balancer; nil if it has none.
func NewCanary(s *service.Service) *Canary {
	run, settings := s.Canary()
	if run == nil {
		return nil
	}
	r := run.Report()
	o := &Canary{
		Names: settings.Backends, State: r.State.String(), Share: r.Share, Reason: r.Reason, Since: r.Since.UTC(), Revision: r.Revision,
		Enough: canary.Enough,
	}
	if r.Next != nil {
		o.NextShare, o.NextIn = r.Next.Share, r.Remaining.Round(time.Second).String()
	}
	if r.Errors != nil {
		o.ErrorEvidence = &r.Errors.Value
	}
	if r.Latency != nil {
		o.LatencyEvidence = &r.Latency.Value
	}
	o.Canary, o.Others = newCanarySide(&r.Sides[canary.Canary]), newCanarySide(&r.Sides[canary.Others])
	if set, _ := s.Shown(); set != nil {
		parts := set.Divided()
		if parts[canary.Canary] != nil {
			o.Canary.Backends, o.Others.Backends = parts[canary.Canary].View().Len(), parts[canary.Others].View().Len()
		}
	}
	return o
}

func newCanarySide(f *canary.Figures) CanarySide {
	return CanarySide{
		Requests: f.Requests, Failures: f.Failures, ErrorRate: f.ErrorRate(), P50: milliseconds(f.P50), P95: milliseconds(f.P95),
	}
}

// canary sends the metrics of a canary.
func (e emitter) canary(s *service.Service, name string) {
	run, _ := s.Canary()
	share, rollBacks := 0.0, uint64(0)
	var totals [2]canary.Total
	if run != nil {
		share, rollBacks = run.Share(), run.RollBacks()
		totals[canary.Canary], totals[canary.Others] = run.Total(canary.Canary), run.Total(canary.Others)
	}
	e.emit(canaryShareMetric, share, name)
	e.emit(canaryRollBacksMetric, float64(rollBacks), name)
	for side, total := range totals {
		word := canary.Side(side).String()
		e.emit(canaryRequestsMetric, float64(total.Good), name, word, "success")
		e.emit(canaryRequestsMetric, float64(total.Failed), name, word, "failure")
	}
}
