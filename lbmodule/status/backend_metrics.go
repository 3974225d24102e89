package status

import (
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Metrics of a backend.
var (
	attemptsMetric = counter("attempts_total",
		"Finished attempts: success, failure, or ignored if they say nothing about the backend.", "pool", "backend", "outcome")
	responsesMetric = counter("responses_total",
		"Responses of the backend by class of status.", "pool", "backend", "class")
	callsMetric = counter("grpc_responses_total",
		"Responses of the backend to gRPC calls by gRPC status, in lower case; other for unknown statuses.", "pool", "backend", "code")
	repeatedMetric = counter("attempts_repeated_total",
		"Attempts that failed on this backend and were retried, on this or another backend.", "pool", "backend")
	bytesInMetric = counter("bytes_in_total",
		"Bytes of request bodies sent to the backend, with those of upgraded connections such as WebSockets.", "pool", "backend")
	bytesOutMetric = counter("bytes_out_total",
		"Bytes of response bodies received from the backend, with those of upgraded connections such as WebSockets.", "pool", "backend")
	avoidedMetric = counter("avoided_total",
		"Selections that avoided this backend because its responses are slower than those of other backends, fail, or are missing.", "pool", "backend")
	trialsMetric = counter("trials_total",
		"Selections of the backend while it was avoided, to test whether it has recovered.", "pool", "backend")
	inFlightMetric = gauge("in_flight",
		"Requests that the backend is serving.", "pool", "backend")
	limitMetric = gauge("limit",
		"Current limit of requests in flight if max_requests is auto; otherwise 0.", "pool", "backend")
	healthyMetric = gauge("backend_healthy",
		"Whether checks and the circuit breaker find the backend healthy (1) or not (0).", "pool", "backend")
	checkOKMetric = gauge("last_check_ok",
		"Whether the last active check passed (1), or it failed or there was none (0).", "pool", "backend")
	checkTimeMetric = gauge("last_check_timestamp_seconds",
		"Time of the last active check; 0 if there was none.", "pool", "backend")
	checkTookMetric = gauge("last_check_duration_seconds",
		"Duration of the last active check.", "pool", "backend")
	breakerMetric = gauge("breaker_state",
		"The state of the backend's circuit breaker: 1 for the one it is in.", "pool", "backend", "state")
	transitionsMetric = counter("breaker_transitions_total",
		"Changes of the backend's circuit breaker, by the new state.", "pool", "backend", "state")
	ejectionsMetric = counter("ejections_total",
		"Ejections by the circuit breaker: due (detected) and made (enforced); max_ejected and dry_run make them differ.", "pool", "backend", "mode")
	weightMetric = gauge("weight",
		"Effective weight: 0 while the backend gets no requests, less than configured during slow start.", "pool", "backend")
	slowStartMetric = gauge("slow_start_ratio",
		"Share of its weight that the backend has: below 1 during slow start.", "pool", "backend")
	drainingMetric = gauge("draining",
		"Whether an operator has taken the backend out, to drain or for maintenance (1), or not (0).", "pool", "backend")
)

// member sends the metrics of a backend that has a label of its own.
func (e emitter) member(m *pool.Member, labels ...string) {
	e.traffic(m.Traffic(), labels...)
	if m.Timed() {
		e.durations(m.Traffic(), labels...)
	}
	e.picks(m.Picks(), labels...)
	vitals := m.Vitals()
	for state := range breaker.States {
		e.emit(breakerMetric, number(vitals.Breaker == state), with(labels, state.String())...)
		e.emit(transitionsMetric, float64(vitals.Turned[state]), with(labels, state.String())...)
	}
	e.emit(inFlightMetric, float64(m.InFlight()), labels...)
	e.emit(healthyMetric, number(vitals.Usable), labels...)
	last := vitals.Last
	at, ok := 0.0, false
	if !last.Time.IsZero() {
		at, ok = float64(last.Time.UnixMilli())/1000, last.OK()
	}
	e.emit(checkOKMetric, number(ok), labels...)
	e.emit(checkTimeMetric, at, labels...)
	e.emit(checkTookMetric, last.Took.Seconds(), labels...)
}

// rest sends the metrics of all other backends, if there are any: sums for counters, and the share of healthy ones for health.
func (e emitter) rest(p *pool.Pool, name string, told map[*pool.Member]bool) {
	members, inFlight, healthy := 0, int64(0), 0
	others, untimed := p.Others(), false
	for _, m := range p.Members() {
		untimed = untimed || !m.Timed()
		if told[m] {
			continue
		}
		members++
		inFlight += m.InFlight()
		if m.Vitals().Usable {
			healthy++
		}
	}
	if untimed || others.Duration(pool.Total).Count > 0 {
		e.durations(others, name, otherBackends)
	}
	counts, picks := others.Counts(), p.OtherPicks()
	if members == 0 && counts == (pool.TrafficCounts{}) && picks == (pool.Picks{}) {
		return
	}
	e.traffic(others, name, otherBackends)
	e.picks(picks, name, otherBackends)
	e.emit(inFlightMetric, float64(inFlight), name, otherBackends)
	e.emit(healthyMetric, float64(healthy)/float64(max(members, 1)), name, otherBackends)
}

// callsShownAlways lists the gRPC statuses that are shown from the start: OK, and those that count as failures of a backend.
var callsShownAlways = []codes.Code{
	codes.OK, codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.Unavailable, codes.DataLoss,
}

// traffic sends the counters of attempts.
func (e emitter) traffic(t *pool.Traffic, labels ...string) {
	counts := t.Counts()
	for outcome := range pool.Outcomes {
		e.emit(attemptsMetric, float64(counts.Ended[outcome]), with(labels, outcome.String())...)
	}
	for class := range pool.Classes {
		e.emit(responsesMetric, float64(counts.Answers[class]), with(labels, className(class))...)
	}
	for i, n := range counts.Calls {
		if status := course.GRPC(i + 1); n > 0 || slices.Contains(callsShownAlways, codes.Code(i)) {
			e.emit(callsMetric, float64(n), with(labels, status.String())...)
		}
	}
	for mode := range pool.EjectionModes {
		e.emit(ejectionsMetric, float64(counts.Ejections[mode]), with(labels, mode.String())...)
	}
	e.emit(repeatedMetric, float64(counts.Retried), labels...)
	e.emit(bytesInMetric, float64(counts.BytesIn), labels...)
	e.emit(bytesOutMetric, float64(counts.BytesOut), labels...)
}

// durations sends the histograms of attempts.
func (e emitter) durations(t *pool.Traffic, labels ...string) {
	for phase := range pool.Phases {
		e.histogram(durationMetric, t.Duration(phase), with(labels, phase.String())...)
	}
}

// picks sends the counters of selections that were decided by latency.
func (e emitter) picks(p pool.Picks, labels ...string) {
	e.emit(avoidedMetric, float64(p.Avoided), labels...)
	e.emit(trialsMetric, float64(p.Trials), labels...)
}
