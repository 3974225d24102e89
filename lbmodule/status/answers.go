package status

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

var refusedMetric = counter("refused_total",
	"Requests refused without a response of a backend, by cause.", "pool", "cause")

// Answers is the JSON of the answers to clients. Unlike the sums over the backends, it counts each request once, and includes requests that
// no backend answered.
type Answers struct {
	Requests  uint64            `json:"requests"`             // finished ones
	Codes     map[string]uint64 `json:"codes"`                // answers by class: 1xx to 5xx
	Canceled  uint64            `json:"canceled"`             // the client closed the connection before the answer
	Refused   map[string]uint64 `json:"refused"`              // answered with 503 without the answer of a backend, by cause
	BytesIn   uint64            `json:"bytes_in"`             // bytes of request bodies, sent to backends
	BytesOut  uint64            `json:"bytes_out"`            // bytes of answer bodies, received from backends
	PerSecond PerSecond         `json:"per_second"`           // over the last seconds
	LatencyMs *Latency          `json:"latency_ms,omitempty"` // over all backends, until the header of the answer, without the wait in the queue
}

// PerSecond is the JSON of rates per second.
type PerSecond struct {
	Seconds  float64            `json:"seconds"` // the time that was counted; 0 if nothing is known yet
	Requests float64            `json:"requests"`
	Codes    map[string]float64 `json:"codes"`
	Canceled float64            `json:"canceled"`
	Refused  map[string]float64 `json:"refused"`
	BytesIn  float64            `json:"bytes_in"`
	BytesOut float64            `json:"bytes_out"`
}

// newAnswers describes the answers to the clients of a pool.
func newAnswers(p *pool.Pool, lately *pool.Lately) Answers {
	all := p.Answered()
	return Answers{
		Requests: all.Requests(), Codes: byClass(&all, whole), Canceled: all.Canceled, Refused: byCause(&all, whole),
		BytesIn: all.BytesIn, BytesOut: all.BytesOut,
		PerSecond: PerSecond{
			Seconds: lately.Span.Seconds(), Requests: lately.PerSecond(lately.Requests()), Codes: byClass(&lately.Answered, lately.PerSecond),
			Canceled: lately.PerSecond(lately.Canceled), Refused: byCause(&lately.Answered, lately.PerSecond),
			BytesIn: lately.PerSecond(lately.BytesIn), BytesOut: lately.PerSecond(lately.BytesOut),
		},
	}
}

func whole(n uint64) uint64 { return n }

// byClass returns the numbers of answers by the name of their class.
func byClass[T any](a *pool.Answered, as func(uint64) T) map[string]T {
	codes := make(map[string]T, pool.Classes-1)
	for class := 1; class < pool.Classes; class++ {
		codes[className(class)] = as(a.Classes[class])
	}
	return codes
}

// byCause returns the numbers of refused requests by the name of their cause.
func byCause[T any](a *pool.Answered, as func(uint64) T) map[string]T {
	refused := make(map[string]T, pool.Refusals)
	for cause := range pool.Refusals {
		refused[cause.String()] = as(a.Refused[cause])
	}
	return refused
}

// Latency is the time to an answer in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`

	// EWMA is the typical response time that lb_peak_ewma uses. A few much slower responses hardly change it.
	EWMA float64 `json:"ewma,omitempty"`
}

// newLatency describes the quantiles of 50, 95 and 99 %; nil if there are none.
func newLatency(q []time.Duration) *Latency {
	if q == nil {
		return nil
	}
	return &Latency{P50: milliseconds(q[0]), P95: milliseconds(q[1]), P99: milliseconds(q[2])}
}
