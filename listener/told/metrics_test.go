package told

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/ballastlb/ballast/listener/h1"
)

// gathered returns the series of Caddy's HTTP metrics, but how long anything took.
func (c *config) gathered(t *testing.T) map[string]string {
	t.Helper()
	families, err := c.ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]string)
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "caddy_http_") {
			continue
		}
		for _, m := range family.GetMetric() {
			var value string
			switch h := m.GetHistogram(); {
			case h == nil:
				value = fmt.Sprint(m.GetCounter().GetValue(), m.GetGauge().GetValue())
			case strings.Contains(family.GetName(), "duration"):
				value = fmt.Sprint(h.GetSampleCount())
			default:
				value = fmt.Sprint(h.GetSampleCount(), h.GetSampleSum(), h.GetBucket())
			}
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += fmt.Sprintf(" %s=%s", label.GetName(), label.GetValue())
			}
			series[name] = value
		}
	}
	return series
}

// The routes of the servers that are measured: each request passes the first and one more.
var scripts = map[string]script{
	"/ok":          {Status: 200, Body: "hello"},
	"/implicit":    {Body: strings.Repeat("x", 5000)},
	"/nothing":     {},
	"/found":       {Status: 404},
	"/early":       {Early: []int{103, 103}, Status: 201, Body: "x"},
	"/refused":     {Fails: 429},
	"/failed":      {Error: "x"},
	"/failed/late": {Status: 200, Body: "abc", Fails: 502},
	"/broken":      {Status: 206, Body: "abc", Breaks: true},
}

func measuredRoutes() string {
	routes := []string{route(script{Next: true})}
	for i, path := range slices.Sorted(maps.Keys(scripts)) {
		host := ""
		if i == 0 {
			host = `, {"host": ["A.example", "b.example:80", "*.wild.example"], "path": ["/none"]}`
		}
		routes = append(routes, fmt.Sprintf(`{"match": [{"path": [%q]}%s], "handle": [%s, {"handler": "static_response"}], "terminal": true}`, path, host, scripts[path].handler()))
	}
	return strings.Join(routes, ",")
}

// measure measures a request as the lane does.
func measure(w *Meter, text string, s script, secure bool, tb testing.TB) {
	h := headOf(tb, text)
	now := time.Now()
	var m Measure
	m.Begin(w, h, secure, now)
	for _, status := range s.Early {
		m.Answer(status, now)
	}
	if s.Status != 0 {
		m.Answer(s.Status, now)
	} else if s.Body != "" {
		m.Answer(http.StatusOK, now)
	}
	if s.Breaks {
		m.Break()
	} else {
		m.End(s.err(), Size(h), len(s.Body), now)
	}
}

// Requests are counted as Caddy counts them.
func TestMetrics(t *testing.T) {
	for name, test := range map[string]struct{ app, settings string }{
		"off":               {},
		"on":                {app: `"metrics": {},`},
		"per host":          {app: `"metrics": {"per_host": true},`},
		"of all hosts":      {app: `"metrics": {"per_host": true, "observe_catchall_hosts": true},`},
		"of hosts with TLS": {app: `"metrics": {"per_host": true},`, settings: `"tls_connection_policies": [{}],`},
	} {
		t.Run(name, func(t *testing.T) {
			stock := provision(t, test.app, test.settings, measuredRoutes(), jsonEncoder)
			lane := provision(t, test.app, test.settings, measuredRoutes(), jsonEncoder)
			if name != "on" { // in one case Caddy has already registered its metrics
				stock.serve(t, peers["v4"], nil, heads()["bare"])
				lane.serve(t, peers["v4"], nil, heads()["bare"])
			}
			m, err := NewMetrics(lane.ctx, lane.app, lane.server)
			if err != nil {
				t.Fatal(err)
			}
			if m == nil {
				if name != "off" {
					t.Fatal("no metrics")
				}
				return
			}
			if got, want := lane.gathered(t), stock.gathered(t); !reflect.DeepEqual(got, want) {
				t.Errorf("at the start %v, want %v", got, want)
			}
			way := m.Meter("express_script", "express_script")
			for path, s := range scripts {
				for _, text := range []string{
					"GET " + path + " HTTP/1.1\r\nHost: a.Example\r\n\r\n", "GET " + path + " HTTP/1.1\r\nHost: a.example\r\n\r\n",
					"BREW " + path + " HTTP/1.1\r\nHost: a.example:80\r\n\r\n", "HEAD " + path + " HTTP/1.1\r\nHost: B.example:80\r\n\r\n",
					"POST " + path + "?q=%20 HTTP/1.1\r\nHost: other\r\nX: 1\r\nContent-Length: 3\r\nX: 2\r\n\r\nabc",
					"GET " + path + " HTTP/1.1\r\nHost: x.wild.example\r\n" + manyFields() + "\r\n",
				} {
					for _, state := range []*tls.ConnectionState{nil, tlsState()} {
						stock.serve(t, peers["v4"], state, text)
						stock.serve(t, peers["v4"], state, text)
						lane.serve(t, peers["v4"], state, text)
						measure(way, text, s, state != nil, t)
					}
				}
			}
			got, want := lane.gathered(t), stock.gathered(t)
			for series, value := range want {
				if got[series] != value {
					t.Errorf("%s is %q, want %q", series, got[series], value)
				}
			}
			for series := range got {
				if _, ok := want[series]; !ok {
					t.Errorf("there is %s", series)
				}
			}
			if len(want) < 20 {
				t.Errorf("%d series, want more", len(want))
			}
		})
	}
}

// The size of a request is what Caddy's metrics take for it.
func TestSize(t *testing.T) {
	for name, text := range heads() {
		stock := provision(t, `"metrics": {},`, "", route(script{}), jsonEncoder)
		stock.serve(t, peers["v4"], nil, text)
		families, err := stock.ctx.GetMetricsRegistry().Gather()
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "caddy_http_request_size_bytes" })
		if at < 0 {
			t.Fatal("no sizes")
		}
		if got, want := float64(Size(headOf(t, text))), families[at].GetMetric()[0].GetHistogram().GetSampleSum(); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// What Caddy counts with the metrics of a server is not known.
func TestMetricsOfServer(t *testing.T) {
	for _, app := range []string{"", `"metrics": {},`} {
		c := provision(t, app, `"metrics": {},`, route(script{}), jsonEncoder)
		if _, err := NewMetrics(c.ctx, c.app, c.server); err == nil {
			t.Error("metrics of a server are accepted")
		}
	}
}

// A request in flight shows.
func TestInFlight(t *testing.T) {
	c := provision(t, `"metrics": {},`, "", route(script{}), jsonEncoder)
	m, err := NewMetrics(c.ctx, c.app, c.server)
	if err != nil {
		t.Fatal(err)
	}
	var measured Measure
	measured.Begin(m.Meter("x"), headOf(t, heads()["bare"]), false, time.Now())
	for _, want := range []string{"0 1", "0 0"} {
		got := c.gathered(t)
		if len(got) != 1 || !slices.Contains(slices.Collect(maps.Values(got)), want) {
			t.Errorf("%v, want %s requests in flight", got, want)
		}
		if want == "0 1" {
			measured.Break()
		}
	}
}

// Hosts that clients make up do not fill the memory.
func TestMetricsHosts(t *testing.T) {
	c := provision(t, `"metrics": {"per_host": true, "observe_catchall_hosts": true},`, "", route(script{}), jsonEncoder)
	m, err := NewMetrics(c.ctx, c.app, c.server)
	if err != nil {
		t.Fatal(err)
	}
	w := m.Meter("x")
	for i := range 2 * maxHosts {
		measure(w, fmt.Sprintf("GET / HTTP/1.1\r\nHost: H%d\r\n\r\n", i), script{}, false, t)
	}
	if n := len(*w.byHost[0].Load()); n > maxHosts+1 {
		t.Errorf("%d hosts are kept, want at most %d", n, maxHosts)
	}
	if got := c.gathered(t)["caddy_http_requests_total handler=x host=h2000 server=s"]; got != "1 0" {
		t.Errorf("request to a host that is not kept: counted %q", got)
	}
}

// What Caddy has not registered as expected is not used.
func TestUnknownMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	var err error
	find(registry, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x", Help: "y"}, nil), &err)
	if err == nil {
		t.Error("a metric that is not there was found")
	}
	if got, gatherErr := registry.Gather(); gatherErr != nil || len(got) != 0 {
		t.Errorf("left %v, %v", got, gatherErr)
	}
	registry.MustRegister(prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "x", Help: "y"}, nil))
	for _, help := range []string{"y", "z"} {
		err = nil
		find(registry, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x", Help: help}, nil), &err)
		if err == nil {
			t.Errorf("a metric of another kind was found as %s", help)
		}
	}
}

func TestMetricsAllocations(t *testing.T) {
	w, h := benchmarked(t)
	for _, secure := range []bool{false, true} {
		if n := testing.AllocsPerRun(100, func() { count(w, h, secure) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkMetrics(b *testing.B) {
	w, h := benchmarked(b)
	b.ReportAllocs()
	for b.Loop() {
		count(w, h, false)
	}
}

func count(w *Meter, h *h1.Head, secure bool) {
	var m Measure
	m.Begin(w, h, secure, start)
	m.Answer(http.StatusOK, end)
	m.End(nil, Size(h), 1024, end)
}

var (
	start = time.Now()
	end   = start.Add(time.Millisecond)
)

// benchmarked returns what an ordinary request is counted with.
func benchmarked(tb testing.TB) (*Meter, *h1.Head) {
	tb.Helper()
	c := provision(tb, `"metrics": {"per_host": true},`, "", `{"match": [{"host": ["a.example"]}]}`, jsonEncoder)
	m, err := NewMetrics(c.ctx, c.app, c.server)
	if err != nil {
		tb.Fatal(err)
	}
	return m.Meter("load_balancer"), headOf(tb, "GET /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\n"+
		"Accept-Encoding: gzip\r\nAccept-Language: en\r\nCookie: a=b\r\n\r\n")
}
