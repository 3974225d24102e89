package lbmodule

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestAutoHasOneValue: settings, edits and pools mean the same by it.
func TestAutoHasOneValue(t *testing.T) {
	for name, value := range map[string]int{"pool": pool.Auto, "overlay": overlay.Auto} {
		if value != int(config.Auto) {
			t.Errorf("config has %d, %s %d", config.Auto, name, value)
		}
	}
}

// TestAutoMaxRequests: the word is for one backend, or for all that have no cap of their own; edits set it and take it away, and they
// survive a reload.
func TestAutoMaxRequests(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	const text = `{"name": "web", "max_requests": "auto", "upstreams": [{"dial": "a:1"}], "backends": [{"address": "b:1", "max_requests": 7}]}`
	h := c.serve(text)
	of := func(address string) (most any, limit float64) {
		t.Helper()
		var shown map[string]any
		if err := json.Unmarshal([]byte(asks(t, "GET", webPath+"/backends/"+address, "").wants(t, http.StatusOK).body), &shown); err != nil {
			t.Fatal(err)
		}
		limit, _ = shown["limit"].(float64)
		return shown["max_requests"], limit
	}
	if most, limit := of("a:1"); most != "auto" || limit < 20 || limit > 30 {
		t.Errorf("a backend without a cap has %v, limit %v", most, limit)
	}
	if most, limit := of("b:1"); most != 7.0 || limit != 0 {
		t.Errorf("a backend with a cap of 7 has %v, limit %v", most, limit)
	}
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"max_requests": "auto"}`).wants(t, http.StatusOK)
	if most, limit := of("b:1"); most != "auto" || limit < 20 {
		t.Errorf("edited, it has %v, limit %v", most, limit)
	}
	asks(t, "PATCH", webPath+"/backends/a:1?sync", `{"max_requests": 3}`).wants(t, http.StatusOK)
	if most, limit := of("a:1"); most != 3.0 || limit != 0 {
		t.Errorf("edited to 3, it has %v, limit %v", most, limit)
	}
	asks(t, "PATCH", webPath+"/backends/a:1?sync", `{"max_requests": null}`).wants(t, http.StatusOK)
	asks(t, "POST", webPath+"/backends", `{"address": "c:1"}`).wants(t, http.StatusCreated)
	if _, limit := of("c:1"); limit < 20 {
		t.Errorf("a backend that was added has a limit of %v", limit)
	}
	next := newConfigIn(t, dir)
	next.serve(text)
	c.cancel()
	if most, limit := of("b:1"); most != "auto" || limit < 20 {
		t.Errorf("after a reload, the edited one has %v, limit %v", most, limit)
	}
	if rules := h.rules.Queue; !rules.OnAuto || rules.On || rules.Size != 1000 {
		t.Errorf("the default queue is %+v", rules)
	}
}
