package told

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/listener/h1"
)

// Metrics counts requests to a Caddy server in the metrics in which Caddy counts those that pass through its routes, in the same way.
type Metrics struct {
	families *families
	server   string
	perHost  bool
	hosts    hosts
}

// NewMetrics returns the metrics of server, or nil if the config has none. app is the http app that server belongs to, ctx the context of
// any of the config's modules. If there is an error, only Caddy itself can count the requests.
func NewMetrics(ctx caddy.Context, app *caddyhttp.App, server *caddyhttp.Server) (*Metrics, error) {
	if app.Metrics == nil {
		return nil, nil
	}
	for name, server := range app.Servers {
		// What Caddy counts then depends on the order in which it provisions the servers, which is random.
		if server.Metrics != nil {
			return nil, fmt.Errorf("server %s has metrics of its own, which is deprecated", name)
		}
	}
	found, err := findFamilies(ctx, app.Metrics)
	if err != nil {
		return nil, err
	}
	m := &Metrics{families: found, server: server.Name(), perHost: app.Metrics.PerHost}
	if m.perHost {
		m.hosts = findHosts(app)
	}
	return m, nil
}

// Meter counts the requests that match the same top-level routes.
type Meter struct {
	metrics  *Metrics
	handlers []string // name of the first handler of each route

	rest   *series                               // of all hosts without series of their own
	mu     sync.Mutex                            // held while byHost is replaced
	byHost [2]atomic.Pointer[map[string]*series] // without and with TLS
}

// Meter returns the meter of requests that match certain top-level routes. handlers are the names of the first handlers of these routes, in
// order; for a route without handlers it is "".
func (m *Metrics) Meter(handlers ...string) *Meter {
	w := &Meter{metrics: m, handlers: handlers}
	labels := make(prometheus.Labels)
	if m.perHost {
		labels[hostLabel] = "_other"
	}
	w.rest = w.newSeries(labels)
	for i := range w.byHost {
		w.byHost[i].Store(new(map[string]*series))
	}
	return w
}

const hostLabel = "host"

// of returns the series of requests to host.
func (w *Meter) of(host []byte, secure bool) *series {
	if !w.metrics.perHost {
		return w.rest
	}
	byHost := &w.byHost[0]
	if secure {
		byHost = &w.byHost[1]
	}
	if s, ok := (*byHost.Load())[string(host)]; ok {
		return s
	}
	name := strings.ToLower(string(host))
	if !w.metrics.hosts.allows(name, secure) {
		return w.rest
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	known := *byHost.Load()
	s := known[name]
	if s == nil {
		s = w.newSeries(prometheus.Labels{hostLabel: name})
	}
	// Clients choose the hosts. Beyond this bound the series are created again for each request; the counts are kept in the families.
	if len(known) < maxHosts+len(w.metrics.hosts.named) && len(host) <= maxHostLength {
		grown := make(map[string]*series, len(known)+2)
		maps.Copy(grown, known)
		grown[string(host)], grown[name] = s, s
		byHost.Store(&grown)
	}
	return s
}

// lazy is a metric that is created on first use: a series must not exist before Caddy would have created it.
type lazy[T any] struct {
	make func() T
	made atomic.Pointer[T]
}

func (l *lazy[T]) get() T {
	if made := l.made.Load(); made != nil {
		return *made
	}
	made := l.make() // concurrent calls get the same one
	l.made.Store(&made)
	return made
}

// series are the series of one way and one host.
type series struct {
	routes []routeSeries

	mu      sync.Mutex // held while answers is replaced
	answers atomic.Pointer[map[answer][]answerSeries]
}

// routeSeries are the series of one route that do not depend on the answer.
type routeSeries struct {
	families *families
	labels   prometheus.Labels

	inFlight           lazy[prometheus.Gauge]
	requests, failures lazy[prometheus.Counter]
}

// answer is the method and the status of an answer.
type answer uint32

// answerSeries are the series of one route and one kind of answer.
type answerSeries struct {
	took, requestSize, responseSize, headerTook lazy[prometheus.Observer]
}

func (w *Meter) newSeries(labels prometheus.Labels) *series {
	s := &series{routes: make([]routeSeries, len(w.handlers))}
	for i, handler := range w.handlers {
		r, f, labels := &s.routes[i], w.metrics.families, maps.Clone(labels)
		labels["server"], labels["handler"] = w.metrics.server, handler
		r.families, r.labels = f, labels
		r.inFlight.make = func() prometheus.Gauge { return f.inFlight.With(labels) }
		r.requests.make = func() prometheus.Counter { return f.requests.With(labels) }
		r.failures.make = func() prometheus.Counter { return f.failures.With(labels) }
	}
	s.answers.Store(new(map[answer][]answerSeries))
	return s
}

// answered returns the series of answers with this status to requests with the method of that number, one for each route.
func (s *series) answered(method, status int) []answerSeries {
	if status == 0 {
		status = http.StatusOK
	}
	key := answer(method)<<16 | answer(uint16(status))
	if known, ok := (*s.answers.Load())[key]; ok {
		return known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := *s.answers.Load()
	if found, ok := known[key]; ok {
		return found
	}
	list := make([]answerSeries, len(s.routes))
	for i := range list {
		f, labels := s.routes[i].families, maps.Clone(s.routes[i].labels)
		labels["method"], labels["code"] = methods[method], strconv.Itoa(status)
		for at, family := range map[*lazy[prometheus.Observer]]*prometheus.HistogramVec{
			&list[i].took: f.took, &list[i].requestSize: f.requestSize, &list[i].responseSize: f.responseSize, &list[i].headerTook: f.headerTook,
		} {
			at.make = func() prometheus.Observer { return family.With(labels) }
		}
	}
	grown := make(map[answer][]answerSeries, len(known)+1)
	maps.Copy(grown, known)
	grown[key] = list
	s.answers.Store(&grown)
	return list
}

// methods are the values of the label. The first stands for all other methods.
var methods = [...]string{
	"OTHER", http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodConnect, http.MethodOptions,
	http.MethodTrace, http.MethodPatch,
}

// numberOf returns the index of a method in methods.
func numberOf(method string) int {
	for i, known := range methods[1:] {
		if known == method {
			return i + 1
		}
	}
	return 0
}

// Measure measures one request. It may be reused.
type Measure struct {
	series *series
	method int
	status int // of the last header of the answer; 0 before
	begun  time.Time
}

// Begin starts to measure a request. End or Break must follow.
func (m *Measure) Begin(w *Meter, h *h1.Head, secure bool, now time.Time) {
	*m = Measure{series: w.of(h.Host.Of(h.Raw), secure), method: numberOf(h.Method), begun: now}
	for i := range m.series.routes {
		m.series.routes[i].inFlight.get().Inc()
	}
}

// Answer measures the header of an answer from a handler of the way, including an informational one.
func (m *Measure) Answer(status int, now time.Time) {
	m.status = status
	took := now.Sub(m.begun).Seconds()
	answers := m.series.answered(m.method, status)
	for i := range answers {
		answers[i].headerTook.get().Observe(took)
	}
}

// End ends the measurement. err is the error of the way's handlers. requestSize is that of [Size], responseSize the number of bytes of the
// answer's body that the handlers have written.
func (m *Measure) End(err error, requestSize, responseSize int, now time.Time) {
	took := now.Sub(m.begun).Seconds()
	status, known := m.status, true
	if err != nil {
		var handler caddyhttp.HandlerError
		if handler, known = errors.AsType[caddyhttp.HandlerError](err); known && status == 0 {
			status = handler.StatusCode
		}
	}
	for i := range m.series.routes {
		r := &m.series.routes[i]
		r.requests.get().Inc()
		if err != nil {
			r.failures.get().Inc()
		}
	}
	if known {
		answers := m.series.answered(m.method, status)
		for i := range answers {
			a := &answers[i]
			a.took.get().Observe(took)
			a.requestSize.get().Observe(float64(requestSize))
			a.responseSize.get().Observe(float64(responseSize))
		}
	}
	m.Break()
}

// Break ends the measurement of a request whose answer was aborted. Caddy does not count it.
func (m *Measure) Break() {
	for i := range m.series.routes {
		m.series.routes[i].inFlight.get().Dec()
	}
	m.series = nil
}
