package lbmodule

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// mirrored is the config of a load balancer with a mirror.
func mirrored(more string) string {
	return `{"name": "mirrored", "upstreams": [{"dial": "a:1"}], "mirror": {"upstreams": ["m:1"], "share": 1}` + more + `}`
}

// atOnce is what answers a request without delay.
func atOnce(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

// inBubble runs f in virtual time, with a mirror that has begun there.
func inBubble(t *testing.T, h *Handler, f func(t *testing.T)) {
	t.Helper()
	before := h.mirror
	h.logger = zap.NewNop() // the log's goroutines must not be born in a bubble
	defer func() { h.mirror = before }()
	synctest.Test(t, func(t *testing.T) {
		m, err := h.newMirroring(h.plan.Pool)
		if err != nil {
			t.Fatal(err)
		}
		h.mirror = m
		defer m.close()
		f(t)
	})
}

// copies has h serve a request, and returns what the mirror has got.
func copies(t *testing.T, h *Handler, r *http.Request) (got []*http.Request) {
	t.Helper()
	inBubble(t, h, func(t *testing.T) {
		h.stock.Transport = stock.NewTransport(scripted{"a:1": atOnce, "m:1": func(r *http.Request) (*http.Response, error) {
			got = append(got, r)
			return atOnce(r)
		}})
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, r, nil); err != nil || w.Code != 200 {
			t.Fatalf("%d, %v", w.Code, err)
		}
		synctest.Wait()
	})
	return got
}

// requestWith is a request as Caddy hands it to a handler.
func requestWith(t *testing.T, method, body string, header ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://example.com/a%2Fb?q=1&q=2", strings.NewReader(body))
	if body == "" {
		r.Body = http.NoBody
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// TestWhoIsMirrored tries which requests are copied.
func TestWhoIsMirrored(t *testing.T) {
	plain, keyed := newConfig(t).mustLoad(mirrored("")), newConfig(t).mustLoad(mirrored(`, "retry": {"idempotency_key": true}, "request_buffers": 100`))
	for name, test := range map[string]struct {
		h      *Handler
		method string
		body   string
		header []string
		change func(*http.Request)
		want   bool
	}{
		"GET":                       {plain, "GET", "", nil, nil, true},
		"HEAD":                      {plain, "HEAD", "", nil, nil, true},
		"OPTIONS":                   {plain, "OPTIONS", "", nil, nil, true},
		"PUT":                       {plain, "PUT", "", nil, nil, true},
		"DELETE":                    {plain, "DELETE", "", nil, nil, true},
		"POST":                      {plain, "POST", "", nil, nil, false},
		"PATCH":                     {plain, "PATCH", "", nil, nil, false},
		"another method":            {plain, "PURGE", "", nil, nil, false},
		"PUT with a body":           {plain, "PUT", "x", nil, nil, false},
		"GET with a body":           {plain, "GET", "x", nil, nil, false},
		"GET with a buffered body":  {keyed, "GET", "x", nil, nil, false},
		"GET in chunks":             {plain, "GET", "x", nil, func(r *http.Request) { r.ContentLength = -1 }, false},
		"GET of HTTP/3":             {plain, "GET", "", nil, func(r *http.Request) { r.ContentLength, r.Proto, r.ProtoMajor, r.ProtoMinor = -1, "HTTP/3.0", 3, 0 }, true},
		"PUT of HTTP/3":             {plain, "PUT", "", nil, func(r *http.Request) { r.ContentLength, r.Proto, r.ProtoMajor, r.ProtoMinor = -1, "HTTP/3.0", 3, 0 }, false},
		"an upgrade":                {plain, "GET", "", []string{"Connection", "Upgrade", "Upgrade", "websocket"}, nil, false},
		"an expectation":            {plain, "GET", "", []string{"Expect", "100-continue"}, nil, false},
		"gRPC":                      {plain, "POST", "", []string{"Content-Type", "application/grpc"}, nil, false},
		"a copy":                    {plain, "GET", "", []string{"X-Mirrored", "1"}, nil, false},
		"POST with a key":           {plain, "POST", "", []string{"Idempotency-Key", "k"}, nil, false},
		"POST with a key that says": {keyed, "POST", "", []string{"Idempotency-Key", "k"}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := requestWith(t, test.method, test.body, test.header...)
			if test.change != nil {
				test.change(r)
			}
			got := copies(t, test.h, r)
			if len(got) != 1 && test.want || len(got) != 0 && !test.want {
				t.Fatalf("%d copies", len(got))
			}
			if test.want && (got[0].Method != test.method || got[0].URL.String() != "http://m:1/a%2Fb?q=1&q=2" && got[0].URL.String() != "//m:1/a%2Fb?q=1&q=2" || got[0].Body != nil) {
				t.Errorf("%s %s", got[0].Method, got[0].URL)
			}
		})
	}
}

// TestCopyIsTheRequest: a copy has the header of the request, with the operations on it as far as they are about another upstream.
func TestCopyIsTheRequest(t *testing.T) {
	h := newConfig(t).mustLoad(mirrored(`, "headers": {"request": {
		"set": {"Host": ["{http.reverse_proxy.upstream.hostport}"], "X-To": ["{http.reverse_proxy.upstream.host} {http.request.uuid}"], "X-Path": ["{http.request.uri.path}"]},
		"add": {"X-Two": ["2"]}, "delete": ["X-Gone"], "replace": {"X-Replaced": [{"search": "old", "replace": "new"}]}}}, "rewrite": {"strip_path_prefix": "/a/"}`))
	r := requestWith(t, "GET", "", "X-One", "1", "X-Two", "1", "X-Gone", "x", "X-Replaced", "old", "Connection", "X-Hop", "X-Hop", "x", "Keep-Alive", "x", "Te", "gzip",
		"Proxy-Authorization", "x", "Cookie", "a=b", "Authorization", "Basic x")
	var sent http.Header
	original := maps.Clone(r.Header)
	got := copies(t, h, r)
	if len(got) != 1 {
		t.Fatalf("%d copies", len(got))
	}
	sent = got[0].Header
	uuid := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.request.uuid}", "")
	want := http.Header{
		"X-One": {"1"}, "X-Two": {"1", "2"}, "X-Replaced": {"new"}, "Cookie": {"a=b"}, "Authorization": {"Basic x"}, "X-Path": {"/a/b"},
		"X-To": {"m " + uuid}, "X-Mirrored": {"1"}, "Via": {"1.1 Caddy"}, "User-Agent": {""},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"example.com"},
	}
	if !maps.EqualFunc(sent, want, slices.Equal) {
		t.Errorf("got  %v\nwant %v", sent, want)
	}
	if got[0].Host != "m:1" || got[0].URL.Path != "b" && got[0].URL.Path != "/b" {
		t.Errorf("host %s, path %s", got[0].Host, got[0].URL.Path)
	}
	if !maps.EqualFunc(r.Header, original, slices.Equal) {
		t.Errorf("the client's request was changed: %v", r.Header)
	}
}

// TestCopyIsByItself: a copy does not end with its client, nor see what becomes of the request.
func TestCopyIsByItself(t *testing.T) {
	h := newConfig(t).mustLoad(mirrored(""))
	inBubble(t, h, func(t *testing.T) {
		var header http.Header
		var canceled atomic.Int64
		h.stock.Transport = stock.NewTransport(scripted{"a:1": atOnce, "m:1": func(r *http.Request) (*http.Response, error) {
			res, err := after(4*time.Second, 200, &canceled)(r)
			header = r.Header.Clone()
			return res, err
		}})
		before := h.plan.Pool.Mirrored.Ended(0)
		began := time.Now()
		for i := range 100 { // requests after it are served with the same space
			r := requestWith(t, "GET", "", "X-N", fmt.Sprint(i))
			ctx, leave := newLeaving(r)
			if err := h.ServeHTTP(httptest.NewRecorder(), ctx, nil); err != nil {
				t.Fatal(err)
			}
			ctx.Header["X-N"][0] = "changed"
			leave()
			if i == 0 {
				h.mirror = nil // one copy only
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("clients waited for %v", took)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if canceled.Load() != 0 || h.plan.Pool.Mirrored.Ended(0) != before+1 {
			t.Error("the copy has ended with its client")
		}
		if header.Get("X-N") != "0" || header.Get("X-Forwarded-For") != "192.0.2.1" || header.Get("Via") != "1.1 Caddy" {
			t.Errorf("%v", header)
		}
	})
}

// TestMirrorCountsNothing: whatever mirrors do, the pool knows nothing of it but its counts of copies.
func TestMirrorCountsNothing(t *testing.T) {
	h := newConfig(t).mustLoad(mirrored(`, "breaker": {"consecutive_failures": 1}`))
	inBubble(t, h, func(t *testing.T) {
		h.stock.Transport = stock.NewTransport(scripted{"a:1": atOnce, "m:1": func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") }})
		for range 20 {
			r, w := newRequest(t), httptest.NewRecorder()
			if err := h.ServeHTTP(w, r, nil); err != nil || w.Body.String() != "ok" {
				t.Fatalf("%q, %v", w.Body, err)
			}
			synctest.Wait()
			if got := attempts(t, r); got != "a:1 200" {
				t.Fatalf("attempts: %s", got)
			}
		}
		o := h.overview()
		if o.Mirror.Failure != 5 || o.Mirror.Dropped != 15 || o.Mirror.InFlight != 0 || o.Mirror.Share != 1 || fmt.Sprint(o.Mirror.Upstreams) != "[m:1]" {
			t.Errorf("%+v", o.Mirror)
		}
		if len(o.Backends) != 1 || o.Backends[0].Requests != 20 || o.Backends[0].Failures != 0 || o.State != "ok" || o.Transport.Engine+o.Transport.Others["other_transport"] != 20 {
			t.Errorf("%+v", o)
		}
	})
}

// TestMirrorConfig tries wrong settings, and what is right though it looks odd.
func TestMirrorConfig(t *testing.T) {
	t.Setenv("BALLAST_MIRROR", "m.test:80")
	t.Setenv("BALLAST_BACKEND", "a:1")
	for settings, want := range map[string]string{
		`"mirror": {}`:                                                                  "mirror: upstreams: missing",
		`"mirror": {"upstreams": ["m:1"]}`:                                              "mirror: share 0%: must be from 0.01% to 100%",
		`"mirror": {"upstreams": ["m:1"], "share": 0}`:                                  "mirror: share 0%: must be from 0.01% to 100%",
		`"mirror": {"upstreams": ["m:1"], "share": 1.01}`:                               "mirror: share 101%: must be from 0.01% to 100%",
		`"mirror": {"upstreams": ["m:1"], "share": "5%"}`:                               "mirror: share",
		`"mirror": {"upstreams": [""], "share": 1}`:                                     "mirror: upstreams: one is empty",
		`"mirror": {"upstreams": ["m:1", "m:1"], "share": 1}`:                           "mirror: m:1: given twice",
		`"mirror": {"upstreams": ["m:1-2"], "share": 1}`:                                "mirror: m:1-2: must be one socket, not a range of 2 ports",
		`"mirror": {"upstreams": ["http://m:1"], "share": 1}`:                           "mirror: http://m:1: must be",
		`"mirror": {"upstreams": ["{http.request.host}:1"], "share": 1}`:                "mirror: {http.request.host}:1: must not depend on the request",
		`"mirror": {"upstreams": ["{env.BALLAST_NONE}"], "share": 1}`:                   "mirror: upstreams: one is empty",
		`"mirror": {"upstreams": ["{what.is.that}:1"], "share": 1}`:                     "mirror: {what.is.that}:1: must not depend on the request",
		`"mirror": {"upstreams": ["{env.BALLAST_BACKEND}"], "share": 1}`:                "mirror: a:1: is a backend of the pool",
		`"mirror": {"upstreams": ["{env.BALLAST_MIRROR}", "m.test:80"], "share": 1}`:    "mirror: m.test:80: given twice",
		`"mirror": {"upstreams": ["a:1"], "share": 1}`:                                  "mirror: a:1: is a backend of the pool",
		`"mirror": {"upstreams": ["b:1"], "share": 1}, "backends": [{"address":"b:1"}]`: "mirror: b:1: is a backend of the pool",
		`"mirror": {"upstreams": ["m:1"], "share": 1, "timeout": "2m"}`:                 "mirror: timeout 2m: must be from 1ms to 1m",
		`"mirror": {"upstreams": ["m:1"], "share": 1, "max_requests": 10001}`:           "mirror: max_requests 10001: must be from 1 to 10000",
		`"mirror": {"upstreams": ["m:1"], "share": 1, "body_limit": 1}`:                 "body_limit",
		`"mirror": 1`: "mirror 1: must be an object",
		`"mirror": {"upstreams": ["m:1"], "share": 1}, "transport": {"protocol": "fastcgi"}`:                                                            "mirror: transport fastcgi: must be http",
		`"mirror": {"upstreams": ["m:1"], "share": 1}, "transport": {"protocol": "http", "proxy_protocol": "v1"}`:                                       "mirror: the transport uses the PROXY protocol",
		`"mirror": {"upstreams": ["m:1"], "share": 1}, "transport": {"protocol": "http", "tls": {"server_name": "{http.request.host}"}}`:                "mirror: tls_server_name {http.request.host}: must not depend on the request",
		`"mirror": {"upstreams": ["m:1"], "share": 1}, "transport": {"protocol": "http", "tls": {"server_name": "{http.reverse_proxy.upstream.host}"}}`: "",
		`"mirror": {"upstreams": ["{env.BALLAST_MIRROR}", "unix//tmp/socket", "[::1]:80"], "share": 0.0001}`:                                            "",
	} {
		_, err := newConfig(t).load(`{"upstreams": [{"dial": "a:1"}], ` + settings + `}`)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", settings, err)
			}
			continue
		}
		t.Run(settings, func(t *testing.T) { expectError(t, err, want) })
	}
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}], "mirror": {"upstreams": ["{env.BALLAST_MIRROR}"], "share": 0.5}}`)
	if m := h.overview().Mirror; m.Upstreams[0] != "m.test:80" {
		t.Errorf("%+v", m)
	}
	if _, _, _, why := h.Express(); why != "mirror" {
		t.Errorf("the express lane takes it, but for %q", why)
	}
}

// TestMirrorOfPool: handlers that share a pool agree on its mirror.
func TestMirrorOfPool(t *testing.T) {
	c := newConfig(t)
	c.mustLoad(mirrored(""))
	c.mustLoad(mirrored(""))
	_, err := c.load(`{"name": "mirrored", "upstreams": [{"dial": "a:1"}], "mirror": {"upstreams": ["m:1"], "share": 0.5}}`)
	expectError(t, err, "mirrored")
}

// TestMirrorServerName: the name that a mirror must prove is its own.
func TestMirrorServerName(t *testing.T) {
	names := make(chan string, 1)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		select {
		case names <- hello.ServerName:
		default:
		}
		return nil, nil
	}}
	server.StartTLS()
	defer server.Close()
	address := strings.Replace(server.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	settings, err := json.Marshal(address)
	if err != nil {
		t.Fatal(err)
	}
	h := newConfig(t).mustLoad(`{"name": "named", "upstreams": [{"dial": "127.0.0.1:1"}], "mirror": {"upstreams": [` + string(settings) + `], "share": 1}, "hold": {"disabled": true},
		"transport": {"protocol": "http", "tls": {"server_name": "of-{http.reverse_proxy.upstream.host}", "insecure_skip_verify": true}}}`)
	_ = h.ServeHTTP(httptest.NewRecorder(), newRequest(t), nil)
	select {
	case name := <-names:
		if name != "of-localhost" {
			t.Errorf("name %s", name)
		}
		eventually(t, "the copy to end", func() bool { return h.plan.Pool.Mirrored.Ended(pool.MirrorSuccess) > 0 })
		if n := h.plan.Pool.Others().Duration(pool.Connect).Count; n != 0 {
			t.Errorf("%d connections to the mirror are counted as some to a backend", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("the mirror was not asked")
	}
}

// newLeaving returns r for a client that can leave.
func newLeaving(r *http.Request) (leaving *http.Request, leave func()) {
	ctx, cancel := context.WithCancel(r.Context())
	return r.WithContext(ctx), cancel
}

// BenchmarkMirror is what a mirror costs a request from the handler on, without the network: copies are answered at once.
func BenchmarkMirror(b *testing.B) {
	for _, share := range []string{"", "0.0001", "0.01", "1"} {
		for _, method := range []string{"GET", "POST"} {
			name, settings := "none", ""
			if share != "" {
				name, settings = share, `, "mirror": {"upstreams": ["m:1"], "share": `+share+`, "max_requests": 10000}`
			}
			b.Run(name+"/"+method, func(b *testing.B) {
				h := newConfig(b).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}]` + settings + `}`)
				h.stock.Transport = stock.NewTransport(new(instantTransport))
				r := newRequest(b)
				r.Method = method
				r.Header = http.Header{
					"Accept": {"*/*"}, "Accept-Encoding": {"gzip, br"}, "Accept-Language": {"en"}, "Cookie": {"session=0123456789"}, "User-Agent": {"a browser of some kind"},
				}
				b.ReportAllocs()
				for b.Loop() {
					if err := h.ServeHTTP(httptest.NewRecorder(), r, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// TestNotMirrored: a request that is not copied allocates nothing for it.
func TestNotMirrored(t *testing.T) {
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}], "mirror": {"upstreams": ["m:1"], "share": 0.0001}}`)
	for _, method := range []string{"GET", "POST"} {
		q := begin(t, h, requestWith(t, method, ""))
		// One of ten thousand GETs is copied, which averages to less than one.
		if n := testing.AllocsPerRun(1000, func() { q.mirror(h.mirror, time.Now()) }); n != 0 {
			t.Errorf("%s: %v allocations", method, n)
		}
		q.end()
	}
}

// BenchmarkNotMirrored is what a mirror costs a request that is not copied.
func BenchmarkNotMirrored(b *testing.B) {
	for _, method := range []string{"GET", "POST"} {
		b.Run(method, func(b *testing.B) {
			h := newConfig(b).mustLoad(`{"upstreams": [{"dial": "a:1"}], "mirror": {"upstreams": ["m:1"], "share": 0.0001}}`)
			r := newRequest(b)
			r.Method = method
			q := begin(b, h, r)
			defer q.end()
			h.mirror.Close() // what is copied all the same costs little
			b.ReportAllocs()
			for b.Loop() {
				q.mirror(h.mirror, time.Time{})
			}
		})
	}
}
