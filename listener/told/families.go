package told

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// families are the metrics that Caddy has registered for the routes of its servers.
type families struct {
	inFlight                                    *prometheus.GaugeVec
	requests, failures                          *prometheus.CounterVec
	took, requestSize, responseSize, headerTook *prometheus.HistogramVec
}

// findFamilies returns the metrics that Caddy keeps with these settings. Caddy registers them at its first request, and panics if they are
// already registered by other code. So findFamilies makes Caddy register them now.
func findFamilies(ctx caddy.Context, settings *caddyhttp.Metrics) (*families, error) {
	if err := register(ctx, settings); err != nil {
		return nil, err
	}
	labels := []string{"server", "handler"}
	statusLabels := []string{"server", "handler", "code", "method"}
	if settings.PerHost {
		labels, statusLabels = append(labels, "host"), append(statusLabels, "host")
	}
	registry := ctx.GetMetricsRegistry()
	var err error
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "caddy", Subsystem: "http", Name: name, Help: help}
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return find(registry, prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels), &err)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		o := prometheus.HistogramOpts{Namespace: "caddy", Subsystem: "http", Name: name, Help: help}
		return find(registry, prometheus.NewHistogramVec(o, statusLabels), &err)
	}
	f := &families{
		inFlight: find(registry, prometheus.NewGaugeVec(
			prometheus.GaugeOpts(opts("requests_in_flight", "Number of requests currently handled by this server.")), labels), &err),
		requests:     counter("requests_total", "Counter of HTTP(S) requests made."),
		failures:     counter("request_errors_total", "Number of requests resulting in middleware errors."),
		took:         histogram("request_duration_seconds", "Histogram of round-trip request durations."),
		requestSize:  histogram("request_size_bytes", "Total size of the request. Includes body"),
		responseSize: histogram("response_size_bytes", "Size of the returned response."),
		headerTook:   histogram("response_duration_seconds", "Histogram of times to first byte in response bodies."),
	}
	if err != nil {
		return nil, err
	}
	// Delete the series that the request of register has left.
	f.inFlight.DeletePartialMatch(prometheus.Labels{"server": "UNKNOWN", "handler": ""})
	return f, nil
}

// find returns the registered collector with the description of like.
func find[C prometheus.Collector](registry *prometheus.Registry, like C, failed *error) C {
	err := registry.Register(like)
	if registered, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := registered.ExistingCollector.(C); ok {
			return existing
		}
		err = fmt.Errorf("%T is another kind of metric", registered.ExistingCollector)
	} else if err == nil {
		registry.Unregister(like)
		err = errors.New("not registered by Caddy")
	}
	descriptions := make(chan *prometheus.Desc, 1)
	like.Describe(descriptions)
	*failed = fmt.Errorf("%v: %w", <-descriptions, err)
	return like
}

// reached is the panic value that ends the request of register.
type reached struct{}

// register makes Caddy register its metrics. It sends a request through a route without a server, which ends in a panic, so Caddy counts
// nothing.
func register(ctx caddy.Context, settings *caddyhttp.Metrics) (err error) {
	var route caddyhttp.Route
	if err := route.Provision(ctx, settings); err != nil {
		return err
	}
	// The route has no matchers, so nothing can fail before next is reached.
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { panic(reached{}) })
	defer func() {
		cause := recover()
		if _, ok := cause.(reached); cause != nil && !ok {
			err = fmt.Errorf("registering metrics: %v", cause)
		}
	}()
	return route.Compile(next).ServeHTTP(nil, &http.Request{Method: http.MethodGet, URL: new(url.URL)})
}

// hosts are the hosts that have series of their own, if the metrics are per host.
type hosts struct {
	named  map[string]struct{} // in lower case, without ports
	others bool                // hosts that are not named, with TLS as well
	all    bool                // all hosts
}

// findHosts returns the hosts that Caddy names in the metrics.
func findHosts(app *caddyhttp.App) hosts {
	h := hosts{named: make(map[string]struct{}), all: app.Metrics.ObserveCatchallHosts}
	for _, server := range app.Servers {
		h.others = h.others || len(server.TLSConnPolicies) > 0
		for _, route := range server.Routes {
			for _, set := range route.MatcherSets {
				for _, matcher := range set {
					match, ok := matcher.(*caddyhttp.MatchHost)
					if !ok {
						continue
					}
					for _, host := range *match {
						if !strings.ContainsAny(host, "{*") {
							h.named[strings.ToLower(host)] = struct{}{}
						}
					}
				}
			}
		}
	}
	return h
}

// allows reports whether host, which is in lower case, has series of its own.
func (h *hosts) allows(host string, secure bool) bool {
	_, named := h.named[host]
	return named || h.all || secure && h.others
}
