package lbmodule

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// stockHosts are the backends of the config as reverse_proxy shows them at `/reverse_proxy/upstreams`.
type stockHosts struct {
	handler reverseproxy.Handler
	held    bool
}

// hold has these upstreams shown, and gives them their hosts. Only reverse_proxy can, while it provisions a handler; the
// one that is provisioned for that serves nothing. It ends at once what it began in the background, because that is a gauge
// of healthy upstreams which knows nothing of our checks: see [stockGauge].
func (s *stockHosts) hold(ctx caddy.Context, upstreams reverseproxy.UpstreamPool) error {
	if len(upstreams) == 0 {
		return nil
	}
	s.handler = reverseproxy.Handler{Upstreams: upstreams, Transport: http.DefaultTransport}
	own, cancel := caddy.NewContext(ctx)
	defer cancel()
	if err := s.handler.Provision(own); err != nil {
		return fmt.Errorf("upstreams: %w", err)
	}
	s.held = true
	return nil
}

// release takes them back.
func (s *stockHosts) release() error {
	if !s.held {
		return nil
	}
	s.held = false
	return s.handler.Cleanup()
}

// stockGauge is reverse_proxy's gauge of healthy upstreams, which tells of our backends as our own metrics do.
type stockGauge struct {
	gauge *prometheus.GaugeVec
	told  map[string]bool // addresses that were told of
}

// newStockGauge finds the gauge among the metrics of a config.
func newStockGauge(ctx caddy.Context) *stockGauge {
	g := &stockGauge{told: make(map[string]bool)}
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

// tell sets the gauge for the backends of these handlers, but for those that depend on requests.
func (g *stockGauge) tell(handlers []*Handler) {
	if g.gauge == nil {
		return
	}
	before := g.told
	g.told = make(map[string]bool)
	for _, h := range handlers {
		set, _ := h.shown()
		if set == nil {
			continue
		}
		for i := range set.view.Len() {
			m := set.view.Member(i)
			if !m.Named() {
				continue
			}
			// Pools may share an address. It is healthy if all of them find it so.
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
