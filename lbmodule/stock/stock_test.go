package stock

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	_ "github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

// newContext is that of a config of its own.
func newContext(t *testing.T) caddy.Context {
	t.Helper()
	dir, err := os.MkdirTemp("", "ballast")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": dir})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := caddy.ProvisionContext(&caddy.Config{StorageRaw: storage})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(parent)
	t.Cleanup(func() { cancel() })
	return ctx
}

// read reads the config of a reverse_proxy.
func read(t *testing.T, config string) *reverseproxy.Handler {
	t.Helper()
	from := new(reverseproxy.Handler)
	if err := caddy.StrictUnmarshalJSON([]byte(config), from); err != nil {
		t.Fatal(err)
	}
	return from
}

// provision provisions a config.
func provision(t *testing.T, config string, upstreams ...*reverseproxy.Upstream) *Handler {
	t.Helper()
	s := new(Handler)
	has := func(address string) bool {
		return slices.ContainsFunc(upstreams, func(u *reverseproxy.Upstream) bool { return u.Dial == address })
	}
	if err := s.Provision(newContext(t), read(t, config), upstreams, has); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// arrived is a request as Caddy hands it to a handler.
func arrived(t *testing.T) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// The embedded handler is what the admin API shows of the config, and what a second load balancer may be made of: it stays as it is.
func TestEmbeddedStays(t *testing.T) {
	const config = `{"transport": {"protocol": "fastcgi", "root": "/srv"}, "load_balancing": {"retries": 2, "try_duration": "1s",
		"retry_match": [{"method": ["PUT"]}]}, "upstreams": [{"dial": "a:1"}], "flush_interval": -1, "trusted_proxies": ["10.0.0.0/8", "::1"],
		"headers": {"request": {"set": {"A": ["b"]}}, "response": {"delete": ["C"]}}, "response_buffers": 5, "proxy_status_name": "x",
		"rewrite": {"method": "GET"}, "handle_response": [{"match": {"status_code": [5]}, "routes": [{"handle": [{"handler": "static_response"}]}]}]}`
	from := read(t, config)
	before, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	s := new(Handler)
	if err := s.Provision(newContext(t), from, nil, nil); err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if from.Transport != nil || from.CB != nil || from.DynamicUpstreams != nil {
		t.Error("it was provisioned")
	}
	if r := s.Retries; !r.Given || r.Retries != 2 || r.TryDuration != time.Second || len(r.Match) != 1 {
		t.Errorf("retries %+v", r)
	}
	// What the transport wants where nothing is said.
	if s.RequestBuffers == 0 || !s.BuffersFromTransport || s.ResponseBuffers != 5 || !s.Transport.RequiresContentLength() {
		t.Errorf("buffers %d (of the transport %v) and %d", s.RequestBuffers, s.BuffersFromTransport, s.ResponseBuffers)
	}
	if len(s.TrustedProxies) != 2 || len(s.Responses) != 1 || s.Rewrite == nil || s.RequestHeaders == nil || s.ResponseHeaders == nil {
		t.Errorf("%+v", s)
	}
	if err := s.Cleanup(); err != nil {
		t.Error(err)
	}
	if err := s.Cleanup(); err != nil {
		t.Errorf("cleaned up twice: %v", err)
	}
}

// Errors have reverse_proxy's words, and nothing is left behind.
func TestProvisionFails(t *testing.T) {
	for config, want := range map[string]string{
		`{"transport": {"protocol": "none"}}`:                                    "loading transport",
		`{"trusted_proxies": ["x"]}`:                                             "invalid IP address",
		`{"trusted_proxies": ["10.0.0.0/99"]}`:                                   "parsing CIDR",
		`{"circuit_breaker": {"type": "none"}}`:                                  "circuit breaker",
		`{"load_balancing": {"retry_match": [{"none": 1}]}}`:                     "none",
		`{"handle_response": [{"routes": [{"handle": [{"handler": "none"}]}]}]}`: "provisioning response handler 0",
		`{"headers": {"request": {"replace": {"A": [{"search_regexp": "("}]}}}}`: "headers",
		`{"rewrite": {"path_regexp": [{"find": "("}]}}`:                          "rewrite",
	} {
		s := new(Handler)
		err := s.Provision(newContext(t), read(t, config), reverseproxy.UpstreamPool{{Dial: "fails:1"}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", config, err, want)
		}
		if err := s.Cleanup(); err != nil {
			t.Errorf("%s: cleaning up: %v", config, err)
		}
		if got := shown(t); len(got) > 0 {
			t.Errorf("%s: left behind: %v", config, got)
		}
	}
}

// shown is what /reverse_proxy/upstreams tells: the number of requests by address.
func shown(t *testing.T) map[string]int {
	t.Helper()
	info, err := caddy.GetModule("admin.api.reverse_proxy")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/reverse_proxy/upstreams", nil)
	for _, route := range info.New().(caddy.AdminRouter).Routes() {
		if route.Pattern == "/reverse_proxy/upstreams" {
			if err := route.Handler.ServeHTTP(w, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	var list []struct {
		Address  string `json:"address"`
		Requests int    `json:"num_requests"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	all := make(map[string]int)
	for _, u := range list {
		all[u.Address] += u.Requests
	}
	return all
}

// Requests are counted where reverse_proxy and its selection policies look. Caddy has no exported way to do that: this is what notices when
// a release of it counts in another way.
func TestCount(t *testing.T) {
	mine := &reverseproxy.Upstream{Dial: "count:1", MaxRequests: 1}
	s := provision(t, `{}`, mine)
	other := &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: "added:1"}
	template := &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: "{http.request.host}:7"}
	if got := shown(t); len(got) != 1 || got["count:1"] != 0 {
		t.Fatalf("shown at first: %v", got)
	}
	repl := caddy.NewReplacer()
	repl.Set("http.request.host", "named")
	var targets []*Target
	for _, u := range []*reverseproxy.Upstream{mine, other, template} {
		target, err := s.NewTarget(u).For(repl)
		if err != nil {
			t.Fatal(err)
		}
		target.Begin()
		target.Begin()
		if u.NumRequests() != 2 {
			t.Errorf("%s counts %d requests, want 2", u.Dial, u.NumRequests())
		}
		targets = append(targets, target)
	}
	if !mine.Full() || mine.Available() {
		t.Error("reverse_proxy's policies do not see the requests")
	}
	if got := shown(t); len(got) != 3 || got["count:1"] != 2 || got["added:1"] != 2 || got["named:7"] != 2 {
		t.Errorf("shown: %v", got)
	}
	for _, target := range targets {
		target.End()
		target.End()
	}
	if got := shown(t); len(got) != 1 || got["count:1"] != 0 || mine.NumRequests() != 0 {
		t.Errorf("shown in the end: %v", got)
	}
	s.NewTarget(&reverseproxy.Upstream{Dial: "hostless:1"}).Begin()
	s.NewTarget(&reverseproxy.Upstream{Dial: "hostless:1"}).End()
}

func TestTarget(t *testing.T) {
	repl := caddy.NewReplacer()
	repl.Set("http.request.host", "named")
	for dial, want := range map[string]string{
		"a:1":                       "tcp a:1 a 1",
		"tcp4/a:1":                  "tcp4 a:1 a 1",
		"[::1]:80":                  "tcp [::1]:80 ::1 80",
		"unix//run/x.sock":          "unix /run/x.sock /run/x.sock 0",
		"{http.request.host}:2":     "tcp named:2 named 2",
		"{http.request.host}:2-3":   "one socket",
		"{http.request.host}:70000": "invalid dial address",
	} {
		u := &reverseproxy.Upstream{Dial: dial}
		target := new(Handler).NewTarget(u)
		if fixed := !strings.Contains(dial, "{"); target.Fixed() != fixed {
			t.Errorf("%s: the same for all requests: %v", dial, target.Fixed())
		}
		own, err := target.For(repl)
		if err != nil {
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "upstream "+dial) {
				t.Errorf("%s: %v, want %q", dial, err, want)
			}
			continue
		}
		var trip Trip
		trip.Init(nil, own, nil, nil)
		d, ok := reverseproxy.GetDialInfo(trip.into(t.Context()))
		if got := strings.Join([]string{d.Network, d.Address, d.Host, d.Port}, " "); got != want || !ok || d.Upstream != u {
			t.Errorf("%s: %q, want %q", dial, got, want)
		}
	}
}

// An answer in hand reaches the routes as reverse_proxy would have them see it, and what they return comes out as it does there.
func TestFinish(t *testing.T) {
	own := errors.New("of a route")
	for name, test := range map[string]struct {
		proceed func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error
		status  int
		body    string
		closed  bool
	}{
		"copied": {CopyResponse, http.StatusTeapot, "text", true},
		"another status": {func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return reverseproxy.CopyResponseHandler{StatusCode: "202"}.ServeHTTP(w, r, next)
		}, http.StatusAccepted, "text", true},
		"next": {func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			return next.ServeHTTP(w, r)
		}, http.StatusOK, "next", true},
		"handler error": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
			return caddyhttp.Error(http.StatusConflict, own)
		}, http.StatusConflict, "", true},
		"error": {func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error { return own }, http.StatusBadGateway, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			u := &reverseproxy.Upstream{Dial: "finish:1"}
			s := provision(t, `{"headers": {"request": {"set": {"A": ["b"]}}, "response": {"set": {"B": ["{http.reverse_proxy.status_code}"]}}}}`, u)
			body := &watched{Reader: strings.NewReader("text")}
			r, w := arrived(t), httptest.NewRecorder()
			next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				if r.Header.Get("A") != "" {
					t.Error("next sees what was sent to the backend")
				}
				_, err := io.WriteString(w, "next")
				return err
			})
			err := s.Delegate(w, r, next, &HandOver{
				Upstream: u, Continue: test.proceed,
				Response: &http.Response{StatusCode: http.StatusTeapot, ProtoMajor: 1, ProtoMinor: 1, Proto: "HTTP/1.1", Header: http.Header{"X": {"y"}}, Body: body, ContentLength: 4},
			})
			status := w.Code
			if answer, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
				if status = answer.StatusCode; !errors.Is(err, own) {
					t.Errorf("error %v", err)
				}
			} else if err != nil {
				t.Errorf("error %v has no status", err)
			}
			if status != test.status || w.Body.String() != test.body || body.closed != test.closed {
				t.Errorf("%d %q, closed %v; want %d %q", status, w.Body, body.closed, test.status, test.body)
			}
			if copied := test.body == "text"; copied && !slices.Equal([]string{w.Header().Get("B"), w.Header().Get("X"), w.Header().Get("Via")}, []string{"418", "y", "1.1 Caddy"}) {
				t.Errorf("header %v", w.Header())
			}
			if u.NumRequests() != 0 {
				t.Errorf("%d requests are counted", u.NumRequests())
			}
		})
	}
}

// The transport of an attempt may still be reading the request's variables. Routes may set them, as ever.
func TestFinishVariables(t *testing.T) {
	s, r, w := provision(t, `{}`), arrived(t), httptest.NewRecorder()
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	before := maps.Clone(vars)
	err := s.Delegate(w, r, nil, &HandOver{
		Upstream: &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: "finish:1"},
		Response: &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody},
		Continue: func(_ http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
			if !maps.Equal(vars, before) {
				t.Errorf("variables were %v and are %v", before, vars)
			}
			caddyhttp.SetVar(r.Context(), "a", "b")
			return nil
		},
	})
	if got := caddyhttp.GetVar(r.Context(), "a"); err != nil || got != "b" {
		t.Errorf("%v; what a route has set is %v", err, got)
	}
}

// watched is a body that notices when it is closed.
type watched struct {
	io.Reader
	closed bool
}

func (w *watched) Close() error {
	w.closed = true
	return nil
}
