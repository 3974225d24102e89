package told

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// lastSeen returns the request that the script saw last.
func lastSeen(tb testing.TB) *http.Request {
	tb.Helper()
	seen.Lock()
	defer seen.Unlock()
	if len(seen.requests) == 0 {
		tb.Fatal("no request reached the handler")
	}
	r := seen.requests[len(seen.requests)-1]
	seen.requests = nil
	return r
}

// A request is what a handler of Caddy sees.
func TestRequest(t *testing.T) {
	c := provision(t, "", `"trusted_proxies": {"source": "static", "ranges": ["10.0.0.0/8"]}, "trusted_proxies_unix": true,`,
		`{"handle": [{"handler": "express_script", "status": 204}]}`, `{"format": "json"}`)
	for name, text := range heads() {
		for peer, remote := range peers {
			for _, state := range []*tls.ConnectionState{nil, tlsState()} {
				server, status := c.serve(t, remote, state, text)
				if status != http.StatusNoContent {
					t.Fatalf("%s from %s: status %d", name, peer, status)
				}
				want := lastSeen(t)
				client := NewClient(t.Context(), server, newConn(nil, remote, state))
				begun := caddyhttp.GetVar(want.Context(), "start_time").(time.Time)
				got, err := client.Request(headOf(t, text), c.server, begun, httptest.NewRecorder())
				if err != nil {
					t.Errorf("%s from %s: %v", name, peer, err)
					continue
				}
				compare(t, name+" from "+peer, got, want)
			}
		}
	}
}

// compare compares requests, but for their bodies.
func compare(t *testing.T, name string, got, want *http.Request) {
	t.Helper()
	g, w := reflect.ValueOf(got).Elem(), reflect.ValueOf(want).Elem()
	for i := range g.NumField() {
		field := g.Type().Field(i)
		if !field.IsExported() || field.Name == "Body" {
			continue
		}
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s: %s is %#v, want %#v", name, field.Name, g.Field(i), w.Field(i))
		}
	}
	if got.Body != http.NoBody {
		t.Errorf("%s: there is a body", name)
	}
	for _, key := range []any{
		http.ServerContextKey, http.LocalAddrContextKey, caddyhttp.ServerCtxKey, caddyhttp.VarsCtxKey, caddyhttp.OriginalRequestCtxKey,
	} {
		got, want := got.Context().Value(key), want.Context().Value(key)
		if want == nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: context has %#v for %v, want %#v", name, got, key, want)
		}
	}
	if _, ok := got.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); !ok {
		t.Errorf("%s: no fields for the log", name)
	}
	const placeholders = "{http.request.host}|{http.request.port}|{http.request.uri}|{http.request.orig_uri}|{http.request.header.X-A}|" +
		"{http.request.remote.host}|{http.request.local.port}|{http.vars.client_ip}|{http.vars.trusted_proxy}|{http.request.tls.version}|{http.request.scheme}"
	of := func(r *http.Request) string {
		return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll(placeholders, "none")
	}
	if of(got) != of(want) {
		t.Errorf("%s: placeholders %s, want %s", name, of(got), of(want))
	}
}

// A request does not change with the bytes that it was read from.
func TestRequestIsCopied(t *testing.T) {
	c := provision(t, "", "", "", `{"format": "json"}`)
	h := headOf(t, heads()["repeated"])
	client := NewClient(t.Context(), new(http.Server), newConn(nil, peers["v4"], nil))
	r, err := client.Request(h, c.server, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	clear(h.Raw)
	if r.Host != "a" || r.RequestURI != "/" || !reflect.DeepEqual(r.Header["X-A"], []string{"1", "", "3"}) {
		t.Errorf("host %q, target %q, X-A %q", r.Host, r.RequestURI, r.Header["X-A"])
	}
}
