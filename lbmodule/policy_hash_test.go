package lbmodule

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// requestFor is a request of a user for a path.
func requestFor(t *testing.T, path, user string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com"+path, nil)
	if user != "" {
		r.Header.Set("X-User", user)
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// chosen is where a request goes, and where it goes next if that fails.
func chosen(t *testing.T, h *Handler, r *http.Request) (first, second string) {
	t.Helper()
	q := begin(t, h, r)
	defer q.end()
	if first = q.at(); first == "" {
		t.Fatal(q.course().Refused())
	}
	q.failOver(t)
	return first, q.at()
}

const hashed = `{"name": "hashed", "retry": {"budget": {"ratio": 1, "per_second": 100000}}, "backends": [{"address": "a:1"}, {"address": "b:1", "weight": 2}, {"address": "c:1"}],
	"load_balancing": {"selection_policy": {"policy": "lb_hash", "keys": ["{http.request.uri.path}", "{http.request.header.X-User}"]}}}`

func TestHashPolicy(t *testing.T) {
	h := newConfig(t).mustLoad(hashed)
	again := newConfig(t).mustLoad(hashed) // as after a reload
	counts := make(map[string]int)
	const keys = 2000
	differs := 0
	for i := range keys {
		path := fmt.Sprintf("/%d", i)
		first, second := chosen(t, h, requestFor(t, path, "alice"))
		if f, s := chosen(t, again, requestFor(t, path, "alice")); f != first || s != second || first == second {
			t.Fatalf("%s goes to %s and %s, and then to %s and %s", path, first, second, f, s)
		}
		if other, _ := chosen(t, h, requestFor(t, path, "bob")); other != first {
			differs++
		}
		counts[first]++
	}
	// Half for b, six standard deviations either way; of two keys at random, 5 of 8 differ.
	if b := counts["b:1"]; b < keys/2-135 || b > keys/2+135 {
		t.Errorf("counts %v, want half for b", counts)
	}
	if differs < keys/2 || differs > keys*3/4 {
		t.Errorf("%d of %d paths go elsewhere for another user", differs, keys)
	}
	// Without a user it is the path alone.
	first, _ := chosen(t, h, requestFor(t, "/x", ""))
	for range 20 {
		if f, _ := chosen(t, h, requestFor(t, "/x", "")); f != first {
			t.Errorf("one path goes to %s and %s", first, f)
		}
	}
}

// Without anything to go by, requests are spread.
func TestHashPolicyWithoutKey(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}],
		"load_balancing": {"selection_policy": {"policy": "hash", "keys": ["{http.request.header.X-User}"]}}}`)
	const requests = 1000
	if got, least := shares(t, h, requests), requests/2-spread(requests, 0.5); float64(min(got["a:1"], got["b:1"])) < least {
		t.Errorf("shares = %v, want about half each", got)
	}
}

// The keys of a backend that is gone go to the others; theirs stay.
func TestHashPolicyWithoutABackend(t *testing.T) {
	h := newConfig(t).mustLoad(hashed)
	before := make(map[string]string)
	for i := range 1000 {
		path := fmt.Sprintf("/%d", i)
		before[path], _ = chosen(t, h, requestFor(t, path, ""))
	}
	less := newConfig(t).mustLoad(`{"name": "less", "retry": {"budget": {"ratio": 1, "per_second": 100000}}, "backends": [{"address": "c:1"}, {"address": "a:1"}, {"address": "b:1", "weight": 0}],
		"load_balancing": {"selection_policy": {"policy": "lb_hash", "keys": ["{http.request.uri.path}", "{http.request.header.X-User}"]}}}`)
	moved := 0
	for path, was := range before {
		is, _ := chosen(t, less, requestFor(t, path, ""))
		if is == "b:1" {
			t.Fatalf("%s goes to a backend of weight 0", path)
		}
		if was != "b:1" && is != was {
			moved++
		}
	}
	if moved > 10 {
		t.Errorf("%d of 1000 keys moved that need not", moved)
	}
}
