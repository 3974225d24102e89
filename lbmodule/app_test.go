package lbmodule

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

const twoBackends = `{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`

func TestPoolNames(t *testing.T) {
	c := newConfig(t)
	first := c.mustLoad(twoBackends)
	if got := first.plan.Pool.Name(); got != "a:1" {
		t.Errorf("derived name %s, want that of the first backend", got)
	}
	if again := c.mustLoad(twoBackends); again.plan.Pool != first.plan.Pool {
		t.Error("handlers of equal settings do not share their pool")
	}
	if other := c.mustLoad(`{"upstreams": [{"dial": "a:1"}]}`); other.plan.Pool == first.plan.Pool || other.plan.Pool.Name() != "a:1-2" {
		t.Errorf("other settings, pool %s; want a:1-2", other.plan.Pool.Name())
	}
	if third := c.mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "c:1"}]}`); third.plan.Pool.Name() != "a:1-3" {
		t.Errorf("other settings, pool %s; want a:1-3", third.plan.Pool.Name())
	}
	named := c.mustLoad(`{"name": "web", "upstreams": [{"dial": "a:1"}]}`)
	if got := named.plan.Pool.Name(); got != "web" {
		t.Errorf("pool %s, want web", got)
	}
	if again := c.mustLoad(`{"name": "web", "upstreams": [{"dial": "a:1"}]}`); again.plan.Pool != named.plan.Pool {
		t.Error("handlers of one name and equal settings do not share their pool")
	}
	_, err := c.load(`{"name": "web", "upstreams": [{"dial": "b:1"}]}`)
	expectError(t, err, "name web: is already the name of a pool with other settings")
}

// A name that a handler was given is not taken by one that has its name derived, and the other way round.
func TestGivenAndDerivedNames(t *testing.T) {
	c := newConfig(t)
	c.mustLoad(`{"name": "a:1", "upstreams": [{"dial": "a:1"}]}`)
	if derived := c.mustLoad(`{"upstreams": [{"dial": "a:1"}]}`); derived.plan.Pool.Name() != "a:1-2" {
		t.Errorf("pool %s, want a:1-2", derived.plan.Pool.Name())
	}
	c = newConfig(t)
	c.mustLoad(`{"upstreams": [{"dial": "a:1"}]}`)
	_, err := c.load(`{"name": "a:1", "upstreams": [{"dial": "a:1"}]}`)
	expectError(t, err, "name a:1: is already the name of a pool")
}

func TestDynamicPoolNames(t *testing.T) {
	for raw, want := range map[string]string{
		`{"source": "a", "name": "app.internal", "port": "80"}`:                     "a:app.internal:80",
		`{"source": "srv", "name": "x.org", "service": "http", "proto": "tcp"}`:     "srv:_http._tcp.x.org",
		`{"source": "a", "name": "{http.request.host}"}`:                            "dynamic:",
		`{"source": "multi", "sources": [{"source": "a", "name": "app.internal"}]}`: "dynamic:",
	} {
		if got := service.SourceName([]byte(raw)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
}

// State is carried from one config to the next, and a rejected config takes nothing with it.
func TestReload(t *testing.T) {
	const settings = `{"name": "reload", "backends": [{"address": "a:1", "max_requests": 1}]}`
	old := newConfig(t)
	before := old.mustLoad(settings)
	held := begin(t, before, newRequest(t))
	if held.at() != "a:1" {
		t.Fatal(held.course().Refused())
	}

	rejected := newConfig(t)
	rejected.mustLoad(settings)
	if _, err := rejected.load(`{"upstreams": [{"dial": "a:1"}], "transport": {"protocol": "smoke"}}`); err == nil {
		t.Fatal("a wrong config was accepted")
	}
	rejected.cancel()

	next := newConfig(t)
	after := next.mustLoad(settings)
	if after.plan.Pool != before.plan.Pool {
		t.Error("the new config has another pool")
	}
	old.cancel()
	q := begin(t, after, newRequest(t))
	if !errors.Is(q.course().Refused(), pool.ErrFull) {
		t.Errorf("got %q, %v; want the slot still to be taken", q.at(), q.course().Refused())
	}
	q.end()
	held.end()
	q = begin(t, after, newRequest(t))
	if q.at() != "a:1" {
		t.Errorf("no backend after the old config's request ended: %v", q.course().Refused())
	}
	q.end()
	next.cancel()
	if poolExists("reload") {
		t.Error("the pool is still there after the last config that used it")
	}
}

func TestRejectedConfigReleasesPools(t *testing.T) {
	c := newConfig(t)
	for _, wrong := range []string{
		`{"name": "rejected", "upstreams": [{"dial": "a:1"}], "transport": {"protocol": "smoke"}}`,
		`{"name": "rejected", "upstreams": [{"dial": "a:1"}], "dynamic_upstreams": {"source": "smoke"}}`,
		`{"name": "rejected", "upstreams": [{"dial": "a:1"}], "circuit_breaker": {"type": "smoke"}}`,
		`{"name": "rejected", "upstreams": [{"dial": "a:1"}], "trusted_proxies": ["nowhere"]}`,
	} {
		if _, err := c.load(wrong); err == nil {
			t.Errorf("accepted: %s", wrong)
		}
	}
	c.cancel()
	if poolExists("rejected") {
		t.Error("the pool is still there")
	}
}

func TestCleanupTwice(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "twice", "upstreams": [{"dial": "a:1"}]}`)
	other := newConfig(t)
	other.mustLoad(`{"name": "twice", "upstreams": [{"dial": "a:1"}]}`)
	for range 2 {
		if err := h.Cleanup(); err != nil {
			t.Error(err)
		}
		if err := c.app().Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if !poolExists("twice") {
		t.Error("the other config's pool is gone")
	}
}

// Nothing starts before Start, and Cleanup ends it.
func TestStartAndCleanup(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"dynamic_upstreams": {"source": "multi", "sources": []}}`)
	if h.set() != nil {
		t.Error("the source was asked before the config serves")
	}
	started := c.app()
	if err := started.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := started.Stop(); err != nil {
			t.Fatal(err)
		}
		if app.Serving() != started {
			t.Error("it has ended before Cleanup, while the http app may serve")
		}
	}
	for range 2 {
		if err := started.Cleanup(); err != nil {
			t.Fatal(err)
		}
		if app.Serving() == started {
			t.Error("it serves after its end")
		}
	}
}

func TestNobodyUsable(t *testing.T) {
	for name, settings := range map[string]string{
		"all weights zero":     `{"backends": [{"address": "a:1", "weight": 0}]}`,
		"empty dynamic source": `{"dynamic_upstreams": {"source": "multi", "sources": []}}`,
	} {
		t.Run(name, func(t *testing.T) {
			h := newConfig(t).mustLoad(settings)
			w := httptest.NewRecorder()
			err := h.ServeHTTP(w, newRequest(t), nil)
			var answer caddyhttp.HandlerError
			if !errors.As(err, &answer) || answer.StatusCode != http.StatusServiceUnavailable {
				t.Fatalf("got %v, want a 503", err)
			}
			if w.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
}
