package front

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/stock"

	_ "github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

// newFront is the front of a load balancer with those settings of reverse_proxy.
func newFront(t testing.TB, settings string) *Front {
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
	from, s := new(reverseproxy.Handler), new(stock.Handler)
	if err := caddy.StrictUnmarshalJSON([]byte(settings), from); err != nil {
		t.Fatal(err)
	}
	if err := s.Provision(ctx, from, nil, nil); err != nil {
		t.Fatal(err)
	}
	return New(s, nil, zap.NewNop(), "web", true)
}

// arrived is a request as Caddy hands it to a handler.
func arrived(t testing.TB, r *http.Request) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	return arrived(t, httptest.NewRequestWithContext(t.Context(), method, url, body))
}

// begin begins a request.
func begin(t testing.TB, f *Front, w http.ResponseWriter, r *http.Request) *Request {
	t.Helper()
	x := new(Request)
	x.Receive(r, new(Told))
	if err := x.Begin(f, w, r, time.Now()); err != nil {
		t.Fatal(err)
	}
	x.repl.Map(x.Placeholder)
	return x
}

// informs passes on informational answers of the attempt of that number.
type informs int

func (n informs) MayInform(attempt int) bool { return attempt == int(n) }

// attempt makes the request of the next attempt.
func attempt(t testing.TB, x *Request, n int, dial string) *http.Request {
	t.Helper()
	target := x.front.stock.NewTarget(&reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: dial, MaxRequests: 9})
	r, _, _, err := x.Attempt(n, target, 2, informs(n))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wire is a transport that keeps the last request.
type wire struct{ r *http.Request }

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.r = r
	return nil, io.EOF
}

// carried makes an attempt and returns the request that the transport gets.
func carried(t testing.TB, x *Request, n int, dial string, inform Inform) *http.Request {
	t.Helper()
	w := new(wire)
	x.front.stock.Transport = stock.NewTransport(w)
	r, trip, _, err := x.Attempt(n, x.front.stock.NewTarget(&reverseproxy.Upstream{Dial: dial}), 1, inform)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = trip.RoundTrip(r)
	return w.r
}

// stripped is what reverse_proxy does to the header of a request, in its words and order.
func stripped(from http.Header) http.Header {
	h := from.Clone()
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""}
	}
	upgrade := upgradeType(h)
	for _, f := range h["Connection"] {
		for name := range strings.SplitSeq(f, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range []string{
		"Alt-Svc", "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	} {
		if name == "Te" && httpguts.HeaderValuesContainsToken(h["Te"], "trailers") {
			h["Te"] = []string{"trailers"}
			continue
		}
		delete(h, name)
	}
	if upgrade != "" {
		h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{upgrade}
	}
	return h
}

// FuzzRequestHeader compares what is left of a request's header with what reverse_proxy leaves, and sees the client's request stay as it is.
func FuzzRequestHeader(f *testing.F) {
	for _, text := range []string{
		"", "Connection: close", "Connection: keep-alive, X-A\nX-A: 1\nX-B: 2", "Te: trailers\nConnection: te", "Te: gzip, trailers", "TE: gzip",
		"Connection: Upgrade\nUpgrade: WebSocket, h2c", "Upgrade: websocket", "Connection: user-agent\nUser-Agent: x", "Connection: ,, \nconnection: x-a\nX-A: 1",
		"Connection: connection, Upgrade, via\nVia: 1.0 a\nVia: 1.1 b", "Proxy-Authorization: x\nKeep-Alive: 1\nAlt-Svc: y\nTrailer: A\nTransfer-Encoding: gzip",
		"Connection: X-Forwarded-For\nX-Forwarded-For: 1.2.3.4", "X-a: 1\nx-A: 2\nX-A:\nCookie: a=b\nCookie: c=d", "Incremental: ?1\nConnection: incremental",
	} {
		f.Add(text)
	}
	front := newFront(f, `{}`)
	f.Fuzz(func(t *testing.T, text string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", nil)
		for line := range strings.Lines(text) {
			if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && httpguts.ValidHeaderFieldName(name) {
				r.Header.Add(name, strings.Trim(value, " \t"))
			}
		}
		r = arrived(t, r)
		before, want := r.Header.Clone(), stripped(r.Header)
		x := begin(t, front, httptest.NewRecorder(), r)
		got := maps.Clone(x.Request().Header)
		if via := got["Via"]; len(via) == 0 || via[len(via)-1] != "1.1 Caddy" {
			t.Errorf("Via %q", via)
		} else if got["Via"] = via[:len(via)-1]; len(via) == 1 {
			delete(got, "Via")
		}
		for _, h := range []http.Header{got, want} { // which have tests of their own
			delete(h, "X-Forwarded-For")
			delete(h, "X-Forwarded-Host")
			delete(h, "X-Forwarded-Proto")
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		attempt(t, x, 1, "a:1")
		if !maps.EqualFunc(r.Header, before, slices.Equal) {
			t.Errorf("the client's request is %q, was %q", r.Header, before)
		}
	})
}

// X-Forwarded fields are kept from trusted proxies, and replaced for other clients.
func TestForwarded(t *testing.T) {
	trusting := newFront(t, `{"trusted_proxies": ["10.0.0.0/8", "::1"]}`)
	said := http.Header{"X-Forwarded-For": {"1.1.1.1", "2.2.2.2"}, "X-Forwarded-Proto": {"http", "https"}, "X-Forwarded-Host": {"a", "b"}}
	for name, test := range map[string]struct {
		remote  string
		trusted bool // by the server
		header  http.Header
		want    string // for, proto and host; - where it is missing
	}{
		"nobody said anything":       {"9.9.9.9:5", false, nil, "9.9.9.9 http example.com"},
		"said by somebody":           {"9.9.9.9:5", false, said, "9.9.9.9 http example.com"},
		"said by a proxy":            {"10.1.1.1:5", false, said, "1.1.1.1, 2.2.2.2, 10.1.1.1 https b"},
		"said by the server's proxy": {"9.9.9.9:5", true, said, "1.1.1.1, 2.2.2.2, 9.9.9.9 https b"},
		"by a proxy with a zone":     {"[::1%eth0]:5", false, said, "1.1.1.1, 2.2.2.2, ::1 https b"},
		"empty, of a proxy":          {"10.1.1.1:5", false, http.Header{"X-Forwarded-For": {""}, "X-Forwarded-Proto": {""}, "X-Forwarded-Host": {""}}, "10.1.1.1 http example.com"},
		"kept back before us":        {"9.9.9.9:5", false, http.Header{"X-Forwarded-For": nil, "X-Forwarded-Proto": nil, "X-Forwarded-Host": nil}, "- - -"},
		"no address":                 {"nowhere", false, said, "- - -"},
		"no address, trusted":        {"nowhere", true, said, "- - -"},
		"no IP address":              {"scion:5", false, said, "scion http example.com"},
		"a unix socket":              {"@", false, said, "- - -"},
		"a unix socket, trusted":     {"@", true, said, "1.1.1.1, 2.2.2.2 https b"},
		"a unix socket, silent":      {"@", true, nil, "- http example.com"},
	} {
		r := newRequest(t, http.MethodGet, "http://example.com/", nil)
		r.RemoteAddr = test.remote
		maps.Copy(r.Header, test.header)
		caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, test.trusted)
		h := begin(t, trusting, httptest.NewRecorder(), r).Request().Header
		var got []string
		for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			if len(h[name]) == 0 {
				got = append(got, "-")
			} else {
				got = append(got, strings.Join(h[name], "|"))
			}
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s: %s, want %s", name, text, test.want)
		}
	}
}

// Each attempt has a request of its own; the transport of the one before may still have that in hand.
func TestAttempts(t *testing.T) {
	f := newFront(t, `{"headers": {"request": {"set": {"To": ["{http.reverse_proxy.upstream.hostport}"], "Host": ["h-{http.reverse_proxy.upstream.port}"]}}}}`)
	for name, sent := range map[string]io.Reader{"without a body": nil, "with one": strings.NewReader("text")} {
		t.Run(name, func(t *testing.T) {
			x := begin(t, f, httptest.NewRecorder(), newRequest(t, http.MethodPut, "http://example.com/a?b", sent))
			first := carried(t, x, 1, "a:1", informs(1))
			body := first.Body
			first.URL.Scheme, first.Body = "http", nil // as the transport and the body's view do
			second := carried(t, x, 2, "b:2", informs(2))
			if first == second || first.URL == second.URL || first.Context() == second.Context() {
				t.Error("they share something")
			}
			for _, r := range []struct {
				*http.Request
				to, host, url string
			}{{first, "a:1", "h-1", "http://a:1/a?b"}, {second, "b:2", "h-2", "//b:2/a?b"}} {
				if to, ok := reverseproxy.GetDialInfo(r.Context()); !ok || to.Address != r.to || r.Header.Get("To") != r.to || r.Host != r.host || r.URL.String() != r.url {
					t.Errorf("to %s: %s, Host %s, to %q, %s", r.to, to.Address, r.Host, r.Header.Get("To"), r.URL)
				}
			}
			if second.Body != body {
				t.Errorf("the body is %v, want %v", second.Body, body)
			}
			copied, trip, ok := x.Copy(second.Context(), second, f.stock.NewTarget(&reverseproxy.Upstream{Dial: "c:3"}))
			if to := stock.Dialed(trip); !ok || to != "c:3" || copied.URL.String() != "//c:3/a?b" || second.URL.Host != "b:2" {
				t.Errorf("a copy for %s: %s", to, copied.URL)
			}
			if _, _, ok := x.Copy(second.Context(), second, f.stock.NewTarget(&reverseproxy.Upstream{Dial: "{x}:3"})); ok {
				t.Error("a copy to nowhere in particular")
			}
		})
	}
}

// A body that is buffered comes anew with every attempt, one that is too long only once.
func TestBufferedBody(t *testing.T) {
	for name, test := range map[string]struct {
		buffers string
		body    io.Reader
		length  int64 // that is sent; -1 if it is not known
		whole   bool
		want    string
	}{
		"not asked for":        {`0`, struct{ io.Reader }{strings.NewReader("text")}, -1, false, "text"},
		"of no known length":   {`100`, struct{ io.Reader }{strings.NewReader("text")}, 4, true, "text"},
		"without a bound":      {`-1`, struct{ io.Reader }{strings.NewReader("text")}, 4, true, "text"},
		"longer than that":     {`3`, struct{ io.Reader }{strings.NewReader("text")}, -1, false, "text"},
		"as long as that":      {`4`, struct{ io.Reader }{strings.NewReader("text")}, -1, false, "text"},
		"of a known length":    {`100`, strings.NewReader("text"), 4, true, "text"},
		"empty":                {`100`, http.NoBody, 0, false, ""},
		"none":                 {`100`, nil, 0, false, ""},
		"that is passed on":    {`0`, strings.NewReader("text"), 4, false, "text"},
		"of chunks, and empty": {`100`, struct{ io.Reader }{strings.NewReader("")}, 0, false, ""},
	} {
		f := newFront(t, `{"request_buffers": `+test.buffers+`}`)
		r := newRequest(t, http.MethodPost, "http://example.com/", test.body)
		x := begin(t, f, httptest.NewRecorder(), r)
		for n := 1; n <= 2; n++ {
			target := f.stock.NewTarget(&reverseproxy.Upstream{Dial: "a:1"})
			sent, _, whole, err := x.Attempt(n, target, 1, informs(n))
			if err != nil {
				t.Fatal(err)
			}
			if sent.ContentLength != test.length || whole != test.whole || (sent.Body == nil) != (test.want == "") {
				t.Errorf("%s: length %d, whole %v, body %v", name, sent.ContentLength, whole, sent.Body)
			}
			if sent.Body == nil || n == 2 && !whole {
				continue
			}
			if got, err := io.ReadAll(sent.Body); string(got) != test.want || err != nil {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
}

// The trailers are those that the client's request has at its end.
func TestRequestTrailers(t *testing.T) {
	f := newFront(t, `{}`)
	r := newRequest(t, http.MethodPost, "http://example.com/", strings.NewReader("text"))
	r.Trailer = http.Header{"A": nil}
	sent := attempt(t, begin(t, f, httptest.NewRecorder(), r), 1, "a:1")
	if sent.ContentLength != -1 || sent.Header.Get("Content-Length") != "" || len(sent.Trailer) != 1 {
		t.Errorf("length %d, %v", sent.ContentLength, sent.Trailer)
	}
	r.Trailer.Set("A", "1") // as net/http does at the end
	r.Trailer.Set("B", "2")
	if _, err := io.ReadAll(sent.Body); err != nil || sent.Trailer.Get("A") != "1" || sent.Trailer.Get("B") != "2" {
		t.Errorf("%v, %v", sent.Trailer, err)
	}
}

// The body of a request without trailers may be read while another goroutine reads its trailers.
func TestNoRequestTrailers(t *testing.T) {
	x := begin(t, newFront(t, `{}`), httptest.NewRecorder(), newRequest(t, http.MethodPost, "http://example.com/", strings.NewReader("text")))
	r := attempt(t, x, 1, "a:1")
	read := make(chan error)
	go func() {
		_, err := io.ReadAll(r.Body)
		read <- err
	}()
	for name := range r.Trailer {
		t.Errorf("there is a trailer %s", name)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
}

// A WebSocket of HTTP/2 or HTTP/3 is requested from the backend as an HTTP/1.1 upgrade.
func TestWebSocketConnect(t *testing.T) {
	f := newFront(t, `{}`)
	for _, major := range []int{1, 2, 3} {
		r := newRequest(t, http.MethodConnect, "http://example.com/", strings.NewReader(""))
		r.ProtoMajor, r.ProtoMinor, r.ContentLength = major, 0, -1
		if r.Header[":protocol"] = []string{"websocket"}; major == 3 {
			r.Proto = "websocket"
			delete(r.Header, ":protocol")
		}
		sent := attempt(t, begin(t, f, httptest.NewRecorder(), r), 1, "a:1")
		asks := sent.Method == http.MethodGet && sent.Body == http.NoBody && upgradeType(sent.Header) == "websocket" && len(sent.Header[webSocketNames["Sec-Websocket-Key"]]) == 1
		if asks != (major > 1) {
			t.Errorf("HTTP/%d: %s %v", major, sent.Method, sent.Header)
		}
	}
	r := newRequest(t, http.MethodGet, "http://example.com/", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Key": {"x"}}
	sent := attempt(t, begin(t, f, httptest.NewRecorder(), r), 1, "a:1")
	if sent.Header[webSocketNames["Sec-Websocket-Key"]] == nil || sent.Header["Sec-Websocket-Key"] != nil || caddyhttp.GetVar(r.Context(), http1OnlyVar) != true {
		t.Errorf("%v", sent.Header)
	}
}

// An informational answer is the client's if it is of the attempt that may inform, and in time. What it says is gone afterwards.
func TestInform(t *testing.T) {
	f := newFront(t, `{}`)
	w := &statuses{ResponseRecorder: httptest.NewRecorder()}
	w.Header().Set("Own", "1")
	x := begin(t, f, w, newRequest(t, http.MethodGet, "http://example.com/", nil))
	hints := textproto.MIMEHeader{"Link": {"</a>"}, "Connection": {"x-a"}, "X-A": {"1"}, "Own": {"2"}}
	hear := httptrace.ContextClientTrace(carried(t, x, 1, "a:1", informs(1)).Context()).Got1xxResponse
	_ = hear(103, hints)
	x.Ended(nil, io.EOF, time.Now(), time.Now())
	_ = hear(103, hints)
	r := carried(t, x, 2, "b:1", informs(1)) // which may not
	_ = httptrace.ContextClientTrace(r.Context()).Got1xxResponse(103, hints)
	if len(w.told) != 1 || !strings.Contains(w.told[0], `103 map[Link:[</a>] Own:[1 2]]`) {
		t.Errorf("told %q", w.told)
	}
	if len(w.Header()) != 1 || w.Header().Get("Own") != "1" {
		t.Errorf("left over: %v", w.Header())
	}
	// A trace of the client's request is called, too.
	heard := 0
	outer := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		heard++
		return nil
	}})
	traced := arrived(t, httptest.NewRequestWithContext(outer, http.MethodGet, "http://example.com/", nil))
	_ = httptrace.ContextClientTrace(carried(t, begin(t, f, w, traced), 1, "a:1", informs(1)).Context()).Got1xxResponse(103, hints)
	if heard != 1 || len(w.told) != 2 {
		t.Errorf("heard %d times, told %q", heard, w.told)
	}
}

// statuses records the informational answers to a client.
type statuses struct {
	*httptest.ResponseRecorder
	told []string
}

func (s *statuses) WriteHeader(status int) {
	if status >= http.StatusOK {
		s.ResponseRecorder.WriteHeader(status)
		return
	}
	s.told = append(s.told, fmt.Sprint(status, s.Header()))
}
