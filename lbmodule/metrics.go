package lbmodule

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics. They are read from the live state when they are asked for, so that they never disagree with it.
var (
	healthyMetric = prometheus.NewDesc("caddy_load_balancer_backend_healthy",
		"Whether checks find the backend fit for use (1) or not (0).", []string{"pool", "backend"}, nil)
	panicMetric = prometheus.NewDesc("caddy_load_balancer_panic",
		"Whether so few backends of the pool are usable that all are used that are not dead (1) or not (0).", []string{"pool"}, nil)
)

// metrics collects the metrics of a config.
type metrics struct{ app *App }

// registerMetrics has the metrics of a's config served by Caddy.
func (a *App) registerMetrics() error {
	registry := a.ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	if err := registry.Register(metrics{a}); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Describe implements [prometheus.Collector].
func (metrics) Describe(descs chan<- *prometheus.Desc) {
	descs <- healthyMetric
	descs <- panicMetric
}

// Collect implements [prometheus.Collector].
func (m metrics) Collect(found chan<- prometheus.Metric) {
	for _, p := range m.app.overview() {
		found <- prometheus.MustNewConstMetric(panicMetric, prometheus.GaugeValue, number(p.Panic), p.Name)
		for _, b := range p.Backends {
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
