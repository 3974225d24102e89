package lbmodule

import (
	"net/http"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/service"
)

// What follows is about fields that are cleared while a handler is set up, and tell what is to be done when it runs.

const counted = `"health_checks": {"passive": {"unhealthy_request_count": 5}}`

// expectCap expects that the backend may have so many requests.
func expectCap(t *testing.T, set *service.Set, address string, want int) {
	t.Helper()
	i := set.Find(address)
	if i < 0 {
		t.Fatalf("no backend %s", address)
	}
	if got := set.View().Backend(i).MaxRequests; got != want {
		t.Errorf("%s: the pool lets %d requests through, want %d", address, got, want)
	}
	if got := set.Upstream(i).MaxRequests; got != want {
		t.Errorf("%s: reverse_proxy shows a cap of %d, want %d", address, got, want)
	}
}

func TestRequestCountCapsAddedBackends(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}], "backends": [{"address": "b:1", "max_requests": 7}], ` + counted + `}`)
	asks(t, "POST", webPath+"/backends", `{"address": "c:1"}`).wants(t, http.StatusCreated)
	asks(t, "POST", webPath+"/backends", `{"address": "d:1", "max_requests": 2}`).wants(t, http.StatusCreated)
	set := h.set()
	for address, want := range map[string]int{"a:1": 5, "b:1": 7, "c:1": 5, "d:1": 2} {
		expectCap(t, set, address, want)
	}
}

func TestRequestCountCapsDynamicBackends(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "dynamic_upstreams": {"source": "per_request_test"}, ` + counted + `}`)
	asks(t, "POST", webPath+"/backends", `{"address": "c:1"}`).wants(t, http.StatusCreated)
	r := newRequest(t)
	r.Header.Add("To", "a:1")
	r.Header.Add("To", "b:1 7")
	set, err := h.service.Members(r, false)
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]int{"a:1": 5, "b:1": 7, "c:1": 5} {
		expectCap(t, set, address, want)
	}
}

// As in reverse_proxy, requests that lb_retry_match names are made again as often as lb_retries says: not at all when it is not given.
func TestRetryMatchAlone(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"retry_match": [{"method": ["POST"]}]}}`)
	if r := h.rules.Retry; r.Stock == nil || len(h.stock.Retries.Match) != 1 || r.Attempts != 1 {
		t.Errorf("got %+v, want reverse_proxy's rules and one attempt", r)
	}
}
