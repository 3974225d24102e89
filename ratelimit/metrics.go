package ratelimit

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
)

// The metrics, read from the live state at each scrape. None has a label whose values clients choose.
var (
	decisionsMetric = prometheus.NewDesc("caddy_ip_rate_limit_decisions_total",
		"Requests by outcome: allowed, refused, exempt, or dry_run for those that would have been refused.", []string{"zone", "decision"}, nil)
	keysMetric = prometheus.NewDesc("caddy_ip_rate_limit_keys",
		"Keys in memory.", []string{"zone"}, nil)
	evictionsMetric = prometheus.NewDesc("caddy_ip_rate_limit_evictions_total",
		"Keys evicted because others needed their room.", []string{"zone"}, nil)
	storeErrorsMetric = prometheus.NewDesc("caddy_ip_rate_limit_store_errors_total",
		"Decisions made without the shared store because it did not answer.", []string{"zone"}, nil)
)

// metrics collects the metrics of the config that serves, or of app while no config serves yet.
type metrics struct{ app *App }

// Provision registers the metrics. The admin endpoint of a new config answers before its apps are loaded: without this, counters would be
// missing for a moment at each reload.
func (adminAPI) Provision(ctx caddy.Context) error { return caddyapp.RegisterMetrics(ctx, metrics{}) }

// Describe implements [prometheus.Collector].
func (metrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- decisionsMetric
	descs <- keysMetric
	descs <- evictionsMetric
	descs <- storeErrorsMetric
}

// Collect implements [prometheus.Collector].
func (m metrics) Collect(found chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		found <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	app := m.app
	if latest := serving.Latest(); latest != nil {
		app = latest
	}
	if app == nil {
		return
	}
	for _, z := range app.joined() {
		for d := range decisions {
			counter(decisionsMetric, z.decisions[d].Load(), z.name, d.String())
		}
		found <- prometheus.MustNewConstMetric(keysMetric, prometheus.GaugeValue, float64(z.table.Keys()), z.name)
		counter(evictionsMetric, z.table.Evictions(), z.name)
		counter(storeErrorsMetric, z.storeErrors.Load(), z.name)
	}
}
