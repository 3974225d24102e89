package lbmodule

import (
	"strconv"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// trafficOverview is what is counted of a backend's requests, as it is shown. Backends beyond the first thousand of a pool are
// counted together, and show nothing here.
type trafficOverview struct {
	LatencyMs *latencyMs        `json:"latency_ms,omitempty"` // of the last ten to twenty seconds; left out before the first request
	Codes     map[string]uint64 `json:"codes,omitempty"`      // answers by class: 2xx, 3xx, 4xx, 5xx
	Retries   uint64            `json:"retries"`              // attempts made again after one here failed
}

// latencyMs is how many milliseconds it takes until a request is answered.
type latencyMs struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`

	// EWMA is what a typical answer takes, by which lb_peak_ewma goes: a few that take far longer change next to nothing.
	EWMA float64 `json:"ewma,omitempty"`
}

// overviewTraffic describes the requests of a member.
func overviewTraffic(m *pool.Member) (o trafficOverview) {
	if !m.Named() {
		return o
	}
	counts := m.Traffic().SinceReset()
	o.Retries = counts.Retried
	o.Codes = make(map[string]uint64, 4)
	for class := 2; class < pool.Classes; class++ {
		o.Codes[className(class)] = counts.Answers[class]
	}
	if q := m.Traffic().Recent().Quantiles(0.50, 0.95, 0.99); q != nil {
		o.LatencyMs = &latencyMs{milliseconds(q[0]), milliseconds(q[1]), milliseconds(q[2]), milliseconds(m.Latency().Estimate())}
	}
	return o
}

// className is how a class of statuses is shown.
func className(class int) string {
	if class == 0 {
		return "other"
	}
	return strconv.Itoa(class) + "xx"
}
