package lbmodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The metrics. They are read from the live state when they are asked for, so that they never disagree with it.
var (
	healthyMetric = prometheus.NewDesc("caddy_load_balancer_backend_healthy",
		"Whether checks and the circuit breaker find the backend fit for use (1) or not (0).", []string{"pool", "backend"}, nil)
	panicMetric = prometheus.NewDesc("caddy_load_balancer_panic",
		"Whether so few backends of the pool are usable that all are used that are not dead (1) or not (0).", []string{"pool"}, nil)
	breakerMetric = prometheus.NewDesc("caddy_load_balancer_breaker_state",
		"The state of the backend's circuit breaker: 1 for the one it is in.", []string{"pool", "backend", "state"}, nil)
	transitionsMetric = prometheus.NewDesc("caddy_load_balancer_breaker_transitions_total",
		"How often the backend's circuit breaker went into a state.", []string{"pool", "backend", "state"}, nil)
	retriesMetric = prometheus.NewDesc("caddy_load_balancer_retries_total",
		"Attempts made again, by what was wrong with the one before.", []string{"pool", "reason"}, nil)
	reboundMetric = prometheus.NewDesc("caddy_load_balancer_sessions_rebound_total",
		"Sessions that were given another backend, because their own was gone.", []string{"pool"}, nil)
	queueMetric = prometheus.NewDesc("caddy_load_balancer_queue_length",
		"Requests that wait for a slot on a backend.", []string{"pool"}, nil)
	budgetMetric = prometheus.NewDesc("caddy_load_balancer_retry_budget_remaining",
		"How many retries the pool could spend now.", []string{"pool"}, nil)
)

// metrics collects the metrics of a config.
type metrics struct{ app *App }

// Describe implements [prometheus.Collector].
func (metrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- healthyMetric
	descs <- panicMetric
	descs <- breakerMetric
	descs <- transitionsMetric
	descs <- retriesMetric
	descs <- budgetMetric
	descs <- queueMetric
	descs <- reboundMetric
}

// Collect implements [prometheus.Collector].
func (m metrics) Collect(found chan<- prometheus.Metric) {
	for _, p := range m.app.overview() {
		found <- prometheus.MustNewConstMetric(panicMetric, prometheus.GaugeValue, number(p.Panic), p.Name)
		found <- prometheus.MustNewConstMetric(budgetMetric, prometheus.GaugeValue, p.RetryBudget, p.Name)
		found <- prometheus.MustNewConstMetric(queueMetric, prometheus.GaugeValue, float64(p.Queue), p.Name)
		found <- prometheus.MustNewConstMetric(reboundMetric, prometheus.CounterValue, float64(p.rebound), p.Name)
		for reason := range pool.RetryReasons {
			found <- prometheus.MustNewConstMetric(retriesMetric, prometheus.CounterValue, float64(p.retries[reason]), p.Name, reason.String())
		}
		for _, b := range p.Backends {
			for state := range breaker.States {
				found <- prometheus.MustNewConstMetric(breakerMetric, prometheus.GaugeValue, number(b.Breaker == state.String()), p.Name, b.Name, state.String())
				found <- prometheus.MustNewConstMetric(transitionsMetric, prometheus.CounterValue, float64(b.turned[state]), p.Name, b.Name, state.String())
			}
			found <- prometheus.MustNewConstMetric(healthyMetric, prometheus.GaugeValue, number(b.Usable), p.Name, b.Name)
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
