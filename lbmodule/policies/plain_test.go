package policies

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// newContext is the context of modules that belong to no load balancer.
func newContext(t *testing.T) caddy.Context {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(func() { cancel() })
	return ctx
}

func newRequest(t *testing.T, path string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com"+path, nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// In a plain reverse_proxy, too, a key has one upstream.
func TestHashPolicyPlain(t *testing.T) {
	h := &Hash{Keys: []string{"{http.request.uri.path}"}}
	ctx := newContext(t)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	var upstreams reverseproxy.UpstreamPool
	for _, dial := range []string{"a:1", "b:1", "c:1"} {
		upstreams = append(upstreams, &reverseproxy.Upstream{Dial: dial, Host: new(reverseproxy.Host)})
	}
	counts := make(map[string]int)
	for i := range 3000 {
		r := newRequest(t, fmt.Sprintf("/%d", i))
		u := h.Select(upstreams, r, nil)
		if h.Select(upstreams, r, nil) != u {
			t.Fatal("one key, two upstreams")
		}
		if without := h.Select(reverseproxy.UpstreamPool{upstreams[2], upstreams[0], upstreams[1]}, r, nil); without != u {
			t.Fatal("the order of the upstreams matters")
		}
		counts[u.Dial]++
	}
	for dial, n := range counts {
		if n < 850 || n > 1150 {
			t.Errorf("%s has %d of 3000 keys", dial, n)
		}
	}
	if u := h.Select(nil, newRequest(t, "/"), nil); u != nil {
		t.Errorf("selected %v from an empty list", u)
	}
	for _, key := range []string{"{no.such}", "user-{http.request.header.X-User}", "{http.request.header.X-A}-{http.request.header.X-B}"} {
		nothing := &Hash{Keys: []string{key}}
		if err := nothing.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if nothing.Key(newRequest(t, "/")).Known {
			t.Errorf("%s is a key of nothing", key)
		}
	}
}

// In a plain reverse_proxy a session finds its backend in the list of all.
func TestStickyPlain(t *testing.T) {
	loaded, err := newContext(t).LoadModuleByID(Namespace+".lb_sticky", []byte(`{"secrets": ["s3cret"], "strict": true}`))
	if err != nil {
		t.Fatal(err)
	}
	s := loaded.(*Sticky)
	upstreams := reverseproxy.UpstreamPool{{Dial: "a:1", Host: new(reverseproxy.Host)}, {Dial: "b:1", Host: new(reverseproxy.Host)}}
	recorder := httptest.NewRecorder()
	u := s.Select(upstreams, newRequest(t, "/"), recorder)
	r := newRequest(t, "/")
	r.AddCookie(recorder.Result().Cookies()[0])
	for range 10 {
		if got := s.Select(upstreams, r, httptest.NewRecorder()); got != u {
			t.Fatalf("goes to %v and %v", u, got)
		}
	}
	if got := s.Select(upstreams[:0], r, httptest.NewRecorder()); got != nil {
		t.Errorf("strict, its backend gone: %v", got)
	}
}
