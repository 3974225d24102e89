package lbmodule

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/manage"
)

// family is a metric with its labels.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// families are all metrics, but for the histograms.
var families []*family

func newFamily(kind prometheus.ValueType, name, help string, labels ...string) *family {
	f := &family{prometheus.NewDesc("caddy_load_balancer_"+name, help, labels, nil), kind}
	families = append(families, f)
	return f
}

func gauge(name, help string, labels ...string) *family {
	return newFamily(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) *family {
	return newFamily(prometheus.CounterValue, name, help, labels...)
}

// Metrics of a pool.
var (
	requestsMetric = counter("requests_total",
		"Requests by the status they were answered with; 499 where the client left before.", "pool", "code")
	retriesMetric = counter("retries_total",
		"Attempts made again, by what was wrong with the one before; hedge for copies of requests.", "pool", "reason")
	budgetMetric = gauge("retry_budget_remaining",
		"How many retries the pool could spend now.", "pool")
	hedgesSentMetric = counter("hedges_sent_total",
		"Copies of requests that were sent.", "pool")
	hedgesWonMetric = counter("hedges_won_total",
		"Copies of requests that were answered before the request.", "pool")
	queueMetric = gauge("queue_length",
		"Requests that wait for a slot on a backend.", "pool")
	heldMetric = gauge("held_requests",
		"Requests that wait for a dead backend to be back.", "pool")
	backendsMetric = gauge("backends",
		"Backends that have a weight.", "pool")
	usableMetric = gauge("usable_backends",
		"Backends that are usable.", "pool")
	panicMetric = gauge("panic",
		"Whether so few backends of the pool are usable that all are used that are not dead (1) or not (0).", "pool")
	fairnessMetric = gauge("fairness_ratio",
		"How evenly the requests of the last minute were spread over the backends in use, by weight: 1 evenly, 1/n all to one of n (Jain's index).", "pool")
	utilizationMetric = gauge("utilization_ratio",
		"Share of the slots that are taken on backends in use that have a max_requests; 0 if none has.", "pool")
	errorsMetric = gauge("error_ratio",
		"Share of requests answered with 5xx, averaged over 1m, 5m and 15m as load averages are.", "pool", "window")
	reboundMetric = counter("sessions_rebound_total",
		"Sessions that were given another backend, because their own was gone.", "pool")
)

var stateWritesMetric = counter("state_writes_total",
	"Attempts to write edits made at runtime to storage: ok or failed.", "result")

// Metrics of a backend.
var (
	attemptsMetric = counter("attempts_total",
		"Attempts that have ended: success, failure, or ignored where they say nothing about the backend.", "pool", "backend", "outcome")
	responsesMetric = counter("responses_total",
		"Answers of the backend by class of their status.", "pool", "backend", "class")
	callsMetric = counter("grpc_responses_total",
		"Answers of the backend to gRPC calls by their gRPC status, whose names are gRPC's in lower case; other for what is none.", "pool", "backend", "code")
	repeatedMetric = counter("attempts_repeated_total",
		"Attempts made again, here or elsewhere, after one on this backend failed.", "pool", "backend")
	avoidedMetric = counter("avoided_total",
		"Picks that went to another backend for what is known of this one's answers: they take longer, fail, or do not come.", "pool", "backend")
	trialsMetric = counter("trials_total",
		"Picks of the backend while it was avoided, to find out whether that still holds.", "pool", "backend")
	inFlightMetric = gauge("in_flight",
		"Requests that the backend is serving.", "pool", "backend")
	healthyMetric = gauge("backend_healthy",
		"Whether checks and the circuit breaker find the backend fit for use (1) or not (0).", "pool", "backend")
	checkOKMetric = gauge("last_check_ok",
		"Whether the last active check passed (1) or not, or was never made (0).", "pool", "backend")
	checkTimeMetric = gauge("last_check_timestamp_seconds",
		"When the last active check was made; 0 if there was none.", "pool", "backend")
	checkTookMetric = gauge("last_check_duration_seconds",
		"How long the last active check took.", "pool", "backend")
	breakerMetric = gauge("breaker_state",
		"The state of the backend's circuit breaker: 1 for the one it is in.", "pool", "backend", "state")
	transitionsMetric = counter("breaker_transitions_total",
		"How often the backend's circuit breaker went into a state.", "pool", "backend", "state")
	ejectionsMetric = counter("ejections_total",
		"How often the circuit breaker should have taken the backend out (detected) and did (enforced); they differ by max_ejected and dry_run.", "pool", "backend", "mode")
	weightMetric = gauge("weight",
		"The weight in force: 0 while the backend gets no requests, less than configured while it is ramped up.", "pool", "backend")
	slowStartMetric = gauge("slow_start_ratio",
		"Share of its weight that the backend is given: 1 unless it is being ramped up.", "pool", "backend")
	drainingMetric = gauge("draining",
		"Whether the backend was taken out by hand, to drain or for maintenance (1) or not (0).", "pool", "backend")
)

// Histograms.
var (
	queueSecondsMetric = prometheus.NewDesc("caddy_load_balancer_queue_seconds",
		"How long requests waited in the queue, whatever became of them.", []string{"pool"}, nil)
	durationMetric = prometheus.NewDesc("caddy_load_balancer_attempt_duration_seconds",
		"How long attempts took to connect, where they had to, until the answer's header (first_byte), and until its end or the failure (total).",
		[]string{"pool", "backend", "phase"}, nil)
)

// otherBackends stands for the backends that are not told apart: those beyond the first thousand of a pool, and those that
// depend on the request.
const otherBackends = "_other"

// metrics collects the metrics of the config that serves; while none does yet, those of app. They are read from the live
// state when they are asked for, so that they never disagree with it. What a label says comes from the config, never from
// clients.
type metrics struct{ app *App }

// Provision registers the metrics. The admin endpoint of a new config answers before its apps are there: without this,
// counters would be gone for a moment at each reload.
func (adminAPI) Provision(ctx caddy.Context) error { return caddyapp.RegisterMetrics(ctx, metrics{}) }

// Describe implements [prometheus.Collector].
func (metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range families {
		descs <- f.desc
	}
	descs <- queueSecondsMetric
	descs <- durationMetric
}

// Collect implements [prometheus.Collector].
func (m metrics) Collect(found chan<- prometheus.Metric) {
	app := m.app
	if latest := serving.Latest(); latest != nil {
		app = latest
	}
	if app == nil {
		return
	}
	e := emitter(found)
	ok, failed := manage.Writes()
	e.emit(stateWritesMetric, float64(ok), "ok")
	e.emit(stateWritesMetric, float64(failed), "failed")
	for _, s := range app.pools() {
		e.service(s)
	}
}

// emitter sends metrics.
type emitter chan<- prometheus.Metric

func (e emitter) emit(f *family, value float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

// label makes text of a config a label: whatever the environment put there, what is no UTF-8 cannot be told.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
