package status

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ballastlb/ballast/lbmodule/service"
)

// StockGauge sets reverse_proxy's gauge of healthy upstreams for our backends, consistently with our own metrics.
type StockGauge struct {
	gauge *prometheus.GaugeVec
	told  map[string]bool // addresses that have been set
}

// NewStockGauge finds the gauge among the metrics of a config.
func NewStockGauge(ctx caddy.Context) *StockGauge {
	g := &StockGauge{told: make(map[string]bool)}
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return g
	}
	alike := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "caddy_reverse_proxy_upstreams_healthy", Help: "Health status of reverse proxy upstreams.",
	}, []string{"upstream"})
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](registry.Register(alike)); ok {
		g.gauge, _ = there.ExistingCollector.(*prometheus.GaugeVec)
	}
	return g
}

// Tell sets the gauge for the backends of these load balancers, except those whose address depends on the request.
func (g *StockGauge) Tell(services []*service.Service) {
	if g.gauge == nil {
		return
	}
	before := g.told
	g.told = make(map[string]bool)
	for _, s := range services {
		set, _ := s.Shown()
		if set == nil {
			continue
		}
		for i := range set.View().Len() {
			m := set.View().Member(i)
			if !m.Named() {
				continue
			}
			// Pools may share an address. It counts as healthy if it is healthy in all of them.
			healthy, twice := g.told[m.Address()]
			g.told[m.Address()] = m.Vitals().Usable && (healthy || !twice)
		}
	}
	for address, healthy := range g.told {
		g.gauge.WithLabelValues(label(address)).Set(number(healthy))
	}
	for address := range before {
		if _, still := g.told[address]; !still {
			g.gauge.DeleteLabelValues(label(address))
		}
	}
}
