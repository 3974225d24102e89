package lbmodule

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// serve has the handler serve a request, and returns what its client saw.
func serve(t *testing.T, h *Handler, r *http.Request, next caddyhttp.Handler) (*httptest.ResponseRecorder, error) {
	t.Helper()
	w := httptest.NewRecorder()
	return w, h.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server)), next)
}

// Incremental content cannot be buffered: it is refused before anybody is chosen.
func TestRefusedIncremental(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "127.0.0.1:1"}], "request_buffers": 1000, "drain_timeout": "1h"}`)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://example.com/", strings.NewReader("body"))
	r.Header.Set("Incremental", "?1")
	_, err := serve(t, h, r, nil)
	if refused, ok := errors.AsType[caddyhttp.HandlerError](err); !ok || refused.StatusCode != http.StatusNotImplemented {
		t.Errorf("it was answered with %v, want an error with 501", err)
	}
	if left := h.plan.Pool.Live.List(1, ""); len(left) > 0 {
		t.Errorf("after the request was refused it is still on its way: %+v", left)
	}
}

// The log and the placeholders tell why a request is refused whose body does not come.
func TestRefusedBodyTold(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "127.0.0.1:1"}]}`)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://example.com/", nil)
	r.ProtoMajor, r.Header["Content-Length"] = 2, []string{"5"}
	w, repl := httptest.NewRecorder(), caddy.NewReplacer()
	err := h.ServeHTTP(w, caddyhttp.PrepareRequest(r, repl, w, new(caddyhttp.Server)), nil)
	if refused, ok := errors.AsType[caddyhttp.HandlerError](err); !ok || refused.StatusCode != http.StatusBadRequest {
		t.Errorf("it was answered with %v, want an error with 400", err)
	}
	const want = "request body is shorter than its Content-Length: unexpected EOF"
	if got, _ := repl.GetString("http.load_balancer.error"); got != want {
		t.Errorf("{http.load_balancer.error} is %q, want %q", got, want)
	}
}
