package lbmodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// probed has an active check of h find the backends at these positions as err says.
func probed(h *Handler, err error, positions ...int) {
	for _, i := range positions {
		o := pool.Observer{Member: h.set().View().Member(i), Thresholds: healthcheck.Thresholds{}}
		o.Observe(healthcheck.Result{Time: time.Now(), Took: 3 * time.Millisecond, Code: 503, Err: err})
	}
}

const checked = `{"name": "web", "upstreams": [{"dial": "a:1"}], "backends": [{"address": "b:1", "name": "bee"}], "health_check": {"interval": "1h"}}`

// checks is the check that the backends of h are given; nil if there is none.
func (h *Handler) checks() *config.HealthCheck {
	if !h.service.Checked() {
		return nil
	}
	check, _ := h.healthCheck()
	return check
}

func TestStockWordsBecomeOurCheck(t *testing.T) {
	for stock, want := range map[string]config.HealthCheck{
		`{"uri": "/up"}`: {
			Type: "http", URI: "/up", Method: "GET", Rise: 1, Fall: 1, Initial: "check",
			Interval: caddy.Duration(30 * time.Second), FastInterval: caddy.Duration(time.Second), Timeout: caddy.Duration(5 * time.Second),
		},
		`{"path": "/up", "interval": "500ms", "passes": 3, "fails": 2, "expect_status": 2}`: {
			Type: "http", URI: "/up", Method: "GET", Rise: 3, Fall: 2, Initial: "check", Status: []string{"2xx"},
			Interval: caddy.Duration(500 * time.Millisecond), FastInterval: caddy.Duration(500 * time.Millisecond), Timeout: caddy.Duration(400 * time.Millisecond),
		},
		`{"port": 81, "upstream": "c:2", "method": "HEAD", "headers": {"X": ["y"]}, "body": "b", "follow_redirects": true,
		  "timeout": "9s", "max_size": 7, "expect_status": 204, "expect_body": "ok"}`: {
			Type: "http", URI: "/", Method: "HEAD", Rise: 1, Fall: 1, Initial: "check", Status: []string{"204"},
			Port: 81, Upstream: "c:2", Headers: http.Header{"X": {"y"}}, Body: "b", FollowRedirects: true, MaxSize: 7, ExpectBody: "ok",
			Interval: caddy.Duration(30 * time.Second), FastInterval: caddy.Duration(time.Second), Timeout: caddy.Duration(9 * time.Second),
		},
	} {
		h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "health_checks": {"active": ` + stock + `}}`)
		if got := h.checks(); !reflect.DeepEqual(got, &want) {
			t.Errorf("%s: %+v, want %+v", stock, got, want)
		}
	}
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}], "health_checks": {"active": {"method": "HEAD"}}}`)
	if h.checks() != nil {
		t.Error("a check without uri and port is on; reverse_proxy has it off")
	}
}

func TestHealthCheckDefaults(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "health_check": {}}`)
	want := config.HealthCheck{
		Type: "http", URI: "/", Method: "GET", Rise: 2, Fall: 3, Initial: "check",
		Interval: caddy.Duration(5 * time.Second), FastInterval: caddy.Duration(time.Second), Timeout: caddy.Duration(2 * time.Second),
	}
	if got := h.checks(); !reflect.DeepEqual(got, &want) {
		t.Errorf("defaults %+v, want %+v", got, want)
	}
	if h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]}`); h.checks() != nil || h.SlowStart.Length() != 10*time.Second {
		t.Errorf("without settings: check %v, slow start %v", h.checks(), h.SlowStart.Length())
	}
	if h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}], "slow_start": {"disabled": true}}`); h.SlowStart.Length() != 0 {
		t.Error("slow start is on though disabled")
	}
}

// heard collects events.
type heard struct {
	mu   sync.Mutex
	said []string
}

func (h *heard) Handle(_ context.Context, e caddy.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	data, err := json.Marshal(e.Data)
	h.said = append(h.said, e.Name()+" "+string(data))
	return err
}

// listen loads a load balancer in a config that serves, and returns what its events are told to.
func listen(t *testing.T, c *harness, settings string, names ...string) (*Handler, *heard) {
	t.Helper()
	events, err := c.ctx.App("events")
	if err != nil {
		t.Fatal(err)
	}
	listener := new(heard)
	for _, name := range names {
		if err := events.(*caddyevents.App).On(name, listener); err != nil {
			t.Fatal(err)
		}
	}
	h := c.mustLoad(settings)
	if h.service.Checked() {
		probed(h, nil, 0, 1) // what is known is not probed for an interval: the test makes the observations
	}
	if err := events.(*caddyevents.App).Start(); err != nil {
		t.Fatal(err)
	}
	app := c.app()
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return h, listener
}

func TestEventsAndLog(t *testing.T) {
	c := newConfig(t)
	h, listener := listen(t, c, checked, "backend_down", "backend_up", "panic_began", "panic_ended", "healthy", "unhealthy")
	probed(h, errors.New("oh"), 1)
	probed(h, errors.New("oh"), 1)
	probed(h, errors.New("no"), 0)
	probed(h, nil, 1)
	want := []string{
		`backend_down {"backend":"bee","error":"oh","pool":"web","reason":"active check"}`,
		`unhealthy {"host":"b:1"}`,
		`backend_down {"backend":"a:1","error":"no","pool":"web","reason":"active check"}`,
		`unhealthy {"host":"a:1"}`,
		`panic_began {"pool":"web","total":2,"usable":0}`,
		`backend_up {"backend":"bee","error":"","pool":"web","reason":"active check"}`,
		`healthy {"host":"b:1"}`,
		`panic_ended {"pool":"web","total":2,"usable":1}`,
	}
	if !slices.Equal(listener.said, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(listener.said, "\n"), strings.Join(want, "\n"))
	}
	for _, line := range []string{`"backend is down","pool":"web","backend":"bee"`, `"backend is up"`, `"too few backends are usable`, `"panic is over"`} {
		if n := strings.Count(c.logged(), line); n == 0 || n > 2 {
			t.Errorf("%d log lines with %s", n, line)
		}
	}
}

func TestMetrics(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(checked)
	probed(h, nil, 0)
	probed(h, errors.New("oh"), 1)
	err := testutil.GatherAndCompare(c.ctx.GetMetricsRegistry(), strings.NewReader(`
# HELP caddy_load_balancer_backend_healthy Whether checks and the circuit breaker find the backend healthy (1) or not (0).
# TYPE caddy_load_balancer_backend_healthy gauge
caddy_load_balancer_backend_healthy{backend="a:1",pool="web"} 1
caddy_load_balancer_backend_healthy{backend="bee",pool="web"} 0
# HELP caddy_load_balancer_panic Whether so few backends of the pool are usable that all are used, except dead ones (1), or not (0).
# TYPE caddy_load_balancer_panic gauge
caddy_load_balancer_panic{pool="web"} 0
`), "caddy_load_balancer_backend_healthy", "caddy_load_balancer_panic")
	if err != nil {
		t.Error(err)
	}
}

func TestAdminAPI(t *testing.T) {
	const poolsPath = "/load_balancer/pools"
	get := func(path string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err := serveAPI(t, w, r); err != nil {
			var failed caddy.APIError
			if !errors.As(err, &failed) {
				t.Fatalf("%s: %v", path, err)
			}
			return failed.HTTPStatus, failed.Err.Error()
		}
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	if status, body := get(poolsPath); status != http.StatusOK || body != "[]" {
		t.Errorf("without a config: %d %s", status, body)
	}
	c := newConfig(t)
	h := c.mustLoad(checked)
	c.mustLoad(`{"upstreams": [{"dial": "unix//run/app.sock"}]}`)
	probed(h, nil, 0) // before the checker runs, which leaves alone for an interval what is known
	probed(h, errors.New("oh"), 1)
	app := c.app()
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := app.Cleanup(); err != nil {
			t.Error(err)
		}
	}()
	var all []map[string]any
	if status, body := get(poolsPath); status != http.StatusOK || json.Unmarshal([]byte(body), &all) != nil || len(all) != 2 {
		t.Fatalf("all pools: %d %s", status, body)
	}
	if fmt.Sprint(all[0]["name"], all[1]["name"]) != "unix//run/app.sockweb" {
		t.Errorf("pools %v and %v, want them sorted", all[0]["name"], all[1]["name"])
	}
	var web struct {
		State    string
		Backends []struct {
			Name, Health string
			Usable       bool
			Last         map[string]any `json:"last_check"`
		}
	}
	status, body := get(poolsPath + "/web")
	if status != http.StatusOK || json.Unmarshal([]byte(body), &web) != nil || len(web.Backends) != 2 {
		t.Fatalf("one pool: %d %s", status, body)
	}
	if bee := web.Backends[1]; web.State != "degraded" || bee.Name != "bee" || bee.Health != "down" || bee.Usable || bee.Last["error"] != "oh" || bee.Last["ok"] != false {
		t.Errorf("one pool: %s", body)
	}
	if status, _ := get(poolsPath + "/unix%2F%2Frun%2Fapp.sock"); status != http.StatusOK {
		t.Errorf("a name with slashes: %d", status)
	}
	if status, _ := get(poolsPath + "/nobody"); status != http.StatusNotFound {
		t.Errorf("no such pool: %d", status)
	}
	if err := serveAPI(t, httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodDelete, poolsPath, nil)); err == nil {
		t.Error("DELETE is accepted")
	}
}

func init() { caddy.RegisterModule(foreignRandom{}) }

// foreignRandom is a selection policy of another plugin.
type foreignRandom struct{ reverseproxy.RandomSelection }

// CaddyModule returns the Caddy module information.
func (foreignRandom) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policies.Namespace + ".foreign_random", New: func() caddy.Module { return new(foreignRandom) }}
}

// With a policy that is not ours, a backend that is ramped up gets its small share, too.
func TestSlowStartWithStockPolicy(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "slow", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}],
		"health_check": {"interval": "1h"}, "slow_start": "10h", "load_balancing": {"selection_policy": {"policy": "foreign_random"}}}`)
	probed(h, nil, 0, 1, 2)
	probed(h, errors.New("oh"), 1)
	probed(h, nil, 1)
	const requests, share = 3000, 0.1 / 3 // it is chosen by a third, and let pass by a tenth
	got := shares(t, h, requests)["b:1"]
	if room := spread(requests, share); math.Abs(float64(got)-requests*share) > room {
		t.Errorf("a backend that just recovered got %d of %d, want about 100", got, requests)
	}
}

func TestReadyWithoutPools(t *testing.T) {
	c := newConfig(t)
	loaded, err := c.ctx.LoadModuleByID("http.handlers.load_balancer_ready", json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	if err := loaded.(caddyhttp.MiddlewareHandler).ServeHTTP(w, newRequest(t), nil); err != nil || w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != `{"ready":true}` {
		t.Errorf("%d %s, %v", w.Code, w.Body, err)
	}
	r := newRequest(t)
	r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("http.shutting_down", true)
	w = httptest.NewRecorder()
	if err := loaded.(caddyhttp.MiddlewareHandler).ServeHTTP(w, r, nil); err != nil || w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "stopping") {
		t.Errorf("while stopping: %d %s, %v", w.Code, w.Body, err)
	}
	_, err = c.ctx.LoadModuleByID("http.handlers.load_balancer_ready", json.RawMessage(`{"pools": ["a b"]}`))
	expectError(t, err, `pools: "a b"`)
}
