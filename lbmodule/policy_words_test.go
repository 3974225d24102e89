package lbmodule

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Caddy's hashing words go by what Caddy's own go by, to the byte.
func TestWordValues(t *testing.T) {
	for _, test := range []struct {
		policy string
		change func(r *http.Request)
		want   string // "" for none: the fallback
	}{
		{`"policy": "ip_hash"`, func(r *http.Request) { r.RemoteAddr = "192.0.2.7:4711" }, "192.0.2.7"},
		{`"policy": "ip_hash"`, func(r *http.Request) { r.RemoteAddr = "[2001:db8::1]:80" }, "2001:db8::1"},
		{`"policy": "ip_hash"`, func(r *http.Request) { r.RemoteAddr = "@"; r.Header.Set("X-Forwarded-For", "192.0.2.8") }, "@"},
		{`"policy": "client_ip_hash"`, func(r *http.Request) {
			r.RemoteAddr = "192.0.2.7:4711"
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "198.51.100.1")
		}, "198.51.100.1"},
		{`"policy": "uri_hash"`, func(r *http.Request) { r.RequestURI = "/a%2fb?q=1" }, "/a%2fb?q=1"},
		{`"policy": "query", "key": "q"`, func(r *http.Request) { r.URL.RawQuery = "q=1&p=0&q=2" }, "1,2"},
		{`"policy": "query", "key": "q"`, func(r *http.Request) { r.URL.RawQuery = "p=0&q=" }, ""},
		{`"policy": "header", "field": "X-User"`, func(r *http.Request) { r.Header.Set("X-User", "alice") }, "alice"},
		{`"policy": "header", "field": "X-User"`, func(*http.Request) {}, ""},
		{`"policy": "header", "field": "Host"`, func(r *http.Request) { r.Host = "a.example" }, "a.example"},
	} {
		h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "load_balancing": {"selection_policy": {` + test.policy + `}}}`)
		r := newRequest(t)
		test.change(r)
		want := pool.Key{Hash: xxhash.Sum64String(test.want), Known: test.want != ""}
		if got := h.service.Policy().(policies.Keyed).Key(r); got != want {
			t.Errorf("%s: key %v, want that of %q", test.policy, got, test.want)
		}
	}
}

// With them, too, weights count, a key has one backend, and a request without a key goes where the fallback says.
func TestWordShares(t *testing.T) {
	h := newConfig(t).mustLoad(`{"backends": [{"address": "a:1"}, {"address": "b:1", "weight": 3}],
		"load_balancing": {"selection_policy": {"policy": "header", "field": "X-User", "fallback": {"policy": "first"}}}}`)
	counts := make(map[string]int)
	where := func(user string) string {
		q := begin(t, h, requestFor(t, "/", user))
		defer q.end()
		return q.at()
	}
	const users = 4000
	for i := range users {
		user := fmt.Sprint("user-", i)
		dial := where(user)
		if again := where(user); again != dial {
			t.Fatalf("%s goes to %s and %s", user, dial, again)
		}
		counts[dial]++
	}
	if b := counts["b:1"]; b < users*3/4-170 || b > users*3/4+170 { // six standard deviations
		t.Errorf("%v of %d keys, want three quarters for b", counts, users)
	}
	for range 20 {
		if got := where(""); got != "a:1" {
			t.Fatalf("without a key: %s, want the first", got)
		}
	}
}

// With a fallback that is not ours the word is Caddy's own.
func TestWordWithForeignFallback(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}],
		"load_balancing": {"selection_policy": {"policy": "query", "key": "q", "fallback": {"policy": "foreign"}}}}`)
	if _, ok := h.service.Policy().(*reverseproxy.QueryHashSelection); !ok {
		t.Errorf("served by %T", h.service.Policy())
	}
	if got := shares(t, h, 10); got["a:1"] != 10 {
		t.Errorf("shares = %v, want what the fallback chooses", got)
	}
}

// A fallback may go by a key as well; then that is the key.
func TestWordFallbackChain(t *testing.T) {
	const config = `{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}], "load_balancing": {"selection_policy": {"policy": "query", "key": "k",
		"fallback": {"policy": "hash", "keys": ["{http.request.header.X-User}"], "fallback": {"policy": "first"}}}}}`
	h := newConfig(t).mustLoad(config)
	for _, test := range []struct {
		query, user string
		known       bool
	}{{"k=1", "alice", true}, {"", "alice", true}, {"k=1", "", true}, {"", "", false}} {
		r := requestFor(t, "/", test.user)
		r.URL.RawQuery = test.query
		if got := h.service.Policy().(policies.Keyed).Key(r); got.Known != test.known {
			t.Errorf("%+v: key %v", test, got)
		}
	}
	if got := shares(t, h, 10); got["a:1"] != 10 {
		t.Errorf("without any key: %v, want the first", got)
	}
}

func TestWordErrors(t *testing.T) {
	for policy, want := range map[string]string{
		`{"policy": "query"}`: "query key is required",
		`{"policy": "header", "field": "X", "fallback": {"policy": "none"}}`:   "none",
		`{"policy": "ip_hash", "field": "X"}`:                                  "field",
		`{"policy": "hash", "keys": ["{path}"], "bounded_load": 0.5}`:          "bounded_load 50%",
		`{"policy": "hash", "keys": ["{path}"], "fallback": {"policy": true}}`: "must be the name of a policy",
	} {
		_, err := newConfig(t).load(`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": ` + policy + `}}`)
		expectError(t, err, "selection_policy", want)
	}
	// In a plain reverse_proxy there is nothing to go by for a bound.
	_, err := newConfig(t).ctx.LoadModuleByID("http.handlers.reverse_proxy",
		[]byte(`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "lb_hash", "keys": ["{path}"], "bounded_load": 1.25}}}`))
	expectError(t, err, "bounded_load", "load_balancer")
}
