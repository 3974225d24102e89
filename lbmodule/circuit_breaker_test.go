package lbmodule

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/breaker"
)

func (c *harness) circuitBreaker(settings string) (*CircuitBreaker, error) {
	loaded, err := c.ctx.LoadModuleByID("http.reverse_proxy.circuit_breakers.lb_breaker", json.RawMessage(settings))
	if err != nil {
		return nil, err
	}
	return loaded.(*CircuitBreaker), nil
}

func TestCircuitBreaker(t *testing.T) {
	c, err := newConfig(t).circuitBreaker(`{"open": {"first": "1s", "max": "1s"}, "probes": 2, "slow_ratio": {"ratio": 0.5, "latency": "2s"}}`)
	if err != nil {
		t.Fatal(err)
	}
	c.logger = zap.NewNop()
	synctest.Test(t, func(t *testing.T) {
		for _, bad := range []func(){
			func() { c.RecordMetric(503, time.Millisecond) },
			func() { c.RecordMetric(200, 3*time.Second) },
		} {
			for range 20 {
				bad()
			}
			if c.OK() {
				t.Fatal("closed after 20 failures")
			}
			time.Sleep(time.Second)
			passed := 0
			for range 10 {
				for range 3 { // upstreams
					if c.OK() {
						passed++
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
			if passed != 1 {
				t.Errorf("%d requests passed in 100 ms while half-open, want 1", passed)
			}
			for range 2 {
				c.RecordMetric(200, time.Millisecond)
			}
			if c.state.State() != breaker.Closed || !c.OK() {
				t.Errorf("%v after two probes succeeded", c.state.State())
			}
		}
	})
}

func TestCircuitBreakerOff(t *testing.T) {
	for _, settings := range []string{`{"disabled": true}`, `{"dry_run": true}`} {
		c, err := newConfig(t).circuitBreaker(settings)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			c.RecordMetric(503, 0)
		}
		if !c.OK() {
			t.Errorf("%s: open", settings)
		}
	}
	_, err := newConfig(t).circuitBreaker(`{"max_ejected": 0.5}`)
	expectError(t, err, "max_ejected 50%")
	_, err = newConfig(t).circuitBreaker(`{"failure_status": [503, "grpc:unavailable"]}`)
	expectError(t, err, "failure_status: gRPC statuses need load_balancer")
	_, err = newConfig(t).circuitBreaker(`{"failure_ratio": 7}`)
	expectError(t, err, "failure_ratio")
}

// It serves in a plain reverse_proxy.
func TestCircuitBreakerInReverseProxy(t *testing.T) {
	loaded, err := newConfig(t).ctx.LoadModuleByID("http.handlers.reverse_proxy",
		json.RawMessage(`{"upstreams": [{"dial": "a:1"}], "circuit_breaker": {"type": "lb_breaker", "consecutive_failures": 2}}`))
	if err != nil {
		t.Fatal(err)
	}
	rp := loaded.(*reverseproxy.Handler)
	for range 2 {
		rp.CB.RecordMetric(502, 0)
	}
	if rp.Upstreams[0].Available() {
		t.Error("the upstream is available after its breaker has opened")
	}
}
