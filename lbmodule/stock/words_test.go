package stock

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// What was read stays, whatever becomes of the handler: its Provision clears fields.
func TestRead(t *testing.T) {
	const text = `{"upstreams": [{"dial": "a:1"}, {"dial": "b:1", "max_requests": 7}], "dynamic_upstreams": {"source": "a"}, "transport": {"protocol": "http"},
		"load_balancing": {"selection_policy": {"policy": "first"}, "try_duration": "3s"},
		"health_checks": {"active": {"uri": "/up", "passes": 3}, "passive": {"fail_duration": "10s", "max_fails": 2, "unhealthy_status": [5], "unhealthy_latency": "1s", "unhealthy_request_count": 5}}}`
	want := Words{
		Upstreams: []Upstream{{"a:1", 0}, {"b:1", 7}}, MaxRequests: 5, TryDuration: 3 * time.Second,
		Dynamic: json.RawMessage(`{"source": "a"}`), Transport: json.RawMessage(`{"protocol": "http"}`), Policy: json.RawMessage(`{"policy": "first"}`),
		Passive: Passive{Given: true, Span: 10 * time.Second, MaxFails: 2, Status: []int{5}, Latency: time.Second},
		Active:  config.StockHealthCheck(handler(t, text).HealthChecks),
	}
	h := handler(t, text)
	got, err := Read(h)
	if err != nil {
		t.Fatal(err)
	}
	want.Described = got.Described
	again, err := Read(handler(t, text))
	if err != nil || string(again.Described) != string(got.Described) {
		t.Errorf("equal words are described as %s and %s (%v)", got.Described, again.Described, err)
	}
	for _, raw := range []json.RawMessage{h.DynamicUpstreamsRaw, h.TransportRaw, h.LoadBalancing.SelectionPolicyRaw} {
		clear(raw)
	}
	h.Upstreams[1].Dial, h.Upstreams[1].MaxRequests, h.HealthChecks.Passive.UnhealthyStatus[0] = "c:1", 0, 0
	*h.HealthChecks.Passive, *h.HealthChecks.Active = reverseproxy.PassiveHealthChecks{}, reverseproxy.ActiveHealthChecks{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v,\nwant %+v", got, want)
	}
	nothing, err := Read(new(reverseproxy.Handler))
	nothing.Described = nil
	if err != nil || !reflect.DeepEqual(nothing, Words{}) {
		t.Errorf("of nothing: %+v, %v", nothing, err)
	}
}

func handler(t *testing.T, text string) *reverseproxy.Handler {
	t.Helper()
	h := new(reverseproxy.Handler)
	if err := json.Unmarshal([]byte(text), h); err != nil {
		t.Fatal(err)
	}
	return h
}
