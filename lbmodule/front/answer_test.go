package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// answer is a backend's answer with that header.
func answer(status int, body io.Reader, header ...string) *http.Response {
	res := &http.Response{StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: io.NopCloser(body), ContentLength: -1}
	for i := 0; i < len(header); i += 2 {
		res.Header[header[i]] = append(res.Header[header[i]], header[i+1])
	}
	return res
}

// answered gives the answer to a GET.
func answered(t *testing.T, settings string, w http.ResponseWriter, res *http.Response) (*Request, error) {
	t.Helper()
	x := begin(t, newFront(t, settings), w, newRequest(t, http.MethodGet, "http://example.com/", nil))
	attempt(t, x, 1, "a:1")
	x.Ended(res, nil, time.Now().Add(-time.Second), time.Now())
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "next")
		return err
	})
	err := x.Answer(res, next)
	x.End(time.Now())
	return x, err
}

// An answer's header is passed on as reverse_proxy does.
func TestAnswerHeader(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		header   []string
		want     http.Header // beside Via
	}{
		"plain":         {`{}`, []string{"A", "1", "A", "2", "Content-Type", "text/plain"}, http.Header{"A": {"1", "2"}, "Content-Type": {"text/plain"}, "Own": {"0"}}},
		"of no type":    {`{}`, nil, http.Header{"Content-Type": nil, "Own": {"0"}}},
		"beside ours":   {`{}`, []string{"Own", "1", "Content-Type", "a"}, http.Header{"Own": {"0", "1"}, "Content-Type": {"a"}}},
		"spelled oddly": {`{}`, []string{"content-type", "a", "x-A", "b"}, http.Header{"Content-Type": {"a"}, "X-A": {"b"}, "Own": {"0"}}},
		"of the connection": {`{}`, []string{"Connection", "keep-alive, x-a", "Keep-Alive", "1", "X-A", "1", "Upgrade", "h2c", "Alt-Svc", "x", "Trailer", "T",
			"Proxy-Authenticate", "x", "Te", "x", "Content-Type", "a"}, http.Header{"Content-Type": {"a"}, "Own": {"0"}}},
		"changed": {`{"headers": {"response": {"set": {"A": ["{http.reverse_proxy.header.B}"], "Connection": ["close"]}, "delete": ["B"], "replace": {"C": [{"search": "x", "replace": "y"}]}}}}`,
			[]string{"B", "1", "C", "xx", "Connection", "D", "D", "1", "Content-Type", "a"},
			http.Header{"A": {"1"}, "C": {"yy"}, "Connection": {"close"}, "Content-Type": {"a"}, "Own": {"0"}}},
		"changed for another status": {`{"headers": {"response": {"require": {"status_code": [5]}, "delete": ["B"]}}}`, []string{"B", "1", "Content-Type", "a"},
			http.Header{"B": {"1"}, "Content-Type": {"a"}, "Own": {"0"}}},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Own", "0")
		w.Header().Set("Server", "Caddy")
		res := answer(http.StatusOK, strings.NewReader("text"), test.header...)
		before := res.Header.Clone()
		x, err := answered(t, test.settings, w, res)
		if err != nil || w.Body.String() != "text" {
			t.Errorf("%s: %q, %v", name, w.Body, err)
		}
		test.want["Via"] = []string{"1.1 Caddy"}
		if !maps.EqualFunc(w.Header(), test.want, slices.Equal) {
			t.Errorf("%s: got %q, want %q", name, w.Header(), test.want)
		}
		for _, values := range w.Header() {
			for i := range values {
				values[i] = "changed"
			}
		}
		for field, values := range before { // later handlers may ask for it
			if got, ok := x.Placeholder("http.reverse_proxy.header." + field); got != strings.Join(values, ",") || !ok {
				t.Errorf("%s: %s is %v, want %q", name, field, got, values)
			}
		}
	}
}

func TestAnswerVia(t *testing.T) {
	for want, res := range map[string]*http.Response{
		"1.1 Caddy":      {Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1},
		"1.0 Caddy":      {Proto: "HTTP/1.0", ProtoMajor: 1},
		"2.0 Caddy":      {Proto: "http/2.0", ProtoMajor: 2},
		"3.0 Caddy":      {Proto: "HTTP/3.0", ProtoMajor: 3},
		"FCGI/1.0 Caddy": {Proto: "FCGI/1.0", ProtoMajor: 1},
		"0.0 Caddy":      {},
	} {
		if got := AnswerVia(res); got != want {
			t.Errorf("%s: %s, want %s", res.Proto, got, want)
		}
	}
}

// What responds to an answer: the first that matches.
func TestHandleResponse(t *testing.T) {
	routes := func(handlers string) string { return `"routes": [{"handle": [` + handlers + `]}]` }
	for name, test := range map[string]struct {
		responses string
		status    int
		body      string
		took      string // until the client had it; "" if it was not that answer
	}{
		"none matches":    {`{"match": {"status_code": [4]}, ` + routes(`{"handler": "static_response"}`) + `}`, 201, "text", "1s"},
		"another status":  {`{"match": {"status_code": [2]}, "status_code": "203"}, {` + routes(`{"handler": "static_response"}`) + `}`, 203, "text", "1s"},
		"by placeholder":  {`{"status_code": "{http.reverse_proxy.header.Code}"}`, 205, "text", "1s"},
		"no status":       {`{"status_code": "{http.reverse_proxy.header.None}x"}`, 500, "", ""},
		"status of none":  {`{"status_code": "0"}`, 201, "text", "1s"},
		"routes":          {`{"match": {"headers": {"Code": ["205"]}}, ` + routes(`{"handler": "static_response", "status_code": 202, "body": "{http.reverse_proxy.upstream.hostport} {http.reverse_proxy.status_code}"}`) + `}`, 202, "a:1 201", ""},
		"copied":          {`{` + routes(`{"handler": "copy_response", "status_code": 206}`) + `}`, 206, "text", "1s"},
		"falling through": {`{` + routes(`{"handler": "vars"}`) + `}`, 200, "next", ""},
		"error":           {`{` + routes(`{"handler": "error", "status_code": 418}`) + `}`, 418, "", ""},
	} {
		w := httptest.NewRecorder()
		res := answer(http.StatusCreated, strings.NewReader("text"), "Code", "205")
		x, err := answered(t, `{"handle_response": [`+test.responses+`]}`, w, res)
		status := w.Code
		if failed, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
			status = failed.StatusCode
		}
		if status != test.status || w.Body.String() != test.body {
			t.Errorf("%s: %d %q, %v; want %d %q", name, status, w.Body, err, test.status, test.body)
		}
		// Whatever handled the answer, placeholders show it as it arrived.
		for placeholder, want := range map[string]string{"upstream.hostport": "a:1", "upstream.latency": "1s", "upstream.duration": test.took, "status_code": "201", "header.Code": "205", "retries": "0"} {
			got, _ := x.repl.GetString("http.reverse_proxy." + placeholder)
			if strings.HasPrefix(placeholder, "upstream.") && got != "a:1" && got != "" {
				got, _, _ = strings.Cut(got, ".")
				got = strings.TrimSuffix(got, "s") + "s"
			}
			if got != want {
				t.Errorf("%s: %s is %s, want %s", name, placeholder, got, want)
			}
		}
		for _, placeholder := range []string{"duration", "duration_ms", "upstream.latency_ms"} {
			if _, ok := x.repl.Get("http.reverse_proxy." + placeholder); !ok {
				t.Errorf("%s: %s is not known", name, placeholder)
			}
		}
	}
}

// counted counts how often it is read.
type counted struct{ reads int }

func (c *counted) Read([]byte) (int, error) {
	c.reads++
	return 0, io.EOF
}

// Data from a tunnel is passed on at once, whatever the buffers for answers are.
func TestSwitchedUnbuffered(t *testing.T) {
	from := new(counted)
	w := httptest.NewRecorder()
	res := answer(http.StatusSwitchingProtocols, from, "Connection", "Upgrade", "Upgrade", "x")
	_, err := answered(t, `{"response_buffers": 4096, "handle_response": [{"routes": [{"handle": [{"handler": "static_response", "body": "routes"}]}]}]}`, w, res)
	if err != nil || w.Body.String() != "routes" || from.reads > 0 {
		t.Errorf("%v, %q; the tunnel was read from %d times", err, w.Body, from.reads)
	}
}

// Trailers that were announced come as such, others with net/http's prefix.
func TestAnswerTrailers(t *testing.T) {
	for name, test := range map[string]struct {
		announced, come http.Header
		want            map[string]string
	}{
		"none":          {nil, nil, map[string]string{"Trailer": ""}},
		"announced":     {http.Header{"A": nil}, http.Header{"A": {"1"}}, map[string]string{"Trailer": "A", "A": "1"}},
		"not announced": {nil, http.Header{"A": {"1"}}, map[string]string{"Trailer": "", http.TrailerPrefix + "A": "1"}},
		"one of two":    {http.Header{"A": nil}, http.Header{"A": {"1"}, "B": {"2"}}, map[string]string{"Trailer": "A", http.TrailerPrefix + "A": "1", http.TrailerPrefix + "B": "2"}},
	} {
		w, res := httptest.NewRecorder(), answer(http.StatusOK, strings.NewReader("text"))
		res.Trailer = test.announced
		res.Body = ending{res.Body, func() { res.Trailer = test.come }}
		if _, err := answered(t, `{}`, w, res); err != nil {
			t.Fatal(err)
		}
		for field, want := range test.want {
			if got := w.Header().Get(field); got != want && (len(w.Header()[field]) == 0 || w.Header()[field][0] != want) {
				t.Errorf("%s: %s is %q, want %q", name, field, w.Header()[field], want)
			}
		}
		if len(test.come) > 0 && !w.Flushed {
			t.Errorf("%s: an answer with trailers may get a length", name)
		}
	}
}

// ending is a body that says when it is closed.
type ending struct {
	io.ReadCloser
	end func()
}

func (e ending) Close() error {
	e.end()
	return e.ReadCloser.Close()
}

// An answer that breaks off is cut off for the client, too, once it has what there is.
func TestAbort(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		w    http.ResponseWriter
	}{
		"backend":      {io.MultiReader(strings.NewReader("te"), iotest.ErrReader(io.ErrUnexpectedEOF)), httptest.NewRecorder()},
		"client":       {strings.NewReader("text"), broken{httptest.NewRecorder(), syscall.EPIPE, 0}},
		"client, half": {strings.NewReader("text"), broken{httptest.NewRecorder(), nil, 1}},
	} {
		func() {
			defer func() {
				if p, _ := recover().(error); !errors.Is(p, http.ErrAbortHandler) {
					t.Errorf("%s: panic %v, want %v", name, p, http.ErrAbortHandler)
				}
			}()
			_, err := answered(t, `{}`, test.w, answer(http.StatusOK, test.body))
			t.Errorf("%s: no panic, %v", name, err)
		}()
		if w, ok := test.w.(*httptest.ResponseRecorder); ok && (w.Body.String() != "te" || !w.Flushed) {
			t.Errorf("%s: the client has %q", name, w.Body)
		}
	}
	gone := &http3.Error{Remote: true, ErrorCode: http3.ErrCodeRequestCanceled}
	if isCanceledHTTP3(fmt.Errorf("reading: %w", gone)) || !isCanceledHTTP3(fmt.Errorf("%w: %w", errWriting, gone)) {
		t.Error("the end that canceled an answer over HTTP/3 is mistaken")
	}
}

// broken is a client that takes n bytes of what is written.
type broken struct {
	*httptest.ResponseRecorder
	err error
	n   int
}

func (b broken) Write([]byte) (int, error) { return b.n, b.err }

func TestFail(t *testing.T) {
	timeout := &timeoutError{}
	for name, test := range map[string]struct {
		err  error
		want int // 0 where 499 is written
	}{
		"any":               {errors.New("x"), 502},
		"timeout":           {timeout, 504},
		"wrapped timeout":   {fmt.Errorf("x: %w", timeout), 502},
		"dial timeout":      {reverseproxy.NewDialError(timeout), 502},
		"deadline":          {os.ErrDeadlineExceeded, 504},
		"has one":           {caddyhttp.Error(413, errors.New("x")), 413},
		"canceled":          {fmt.Errorf("x: %w", context.Canceled), 0},
		"canceled dialing":  {reverseproxy.NewDialError(errors.New("dial tcp: operation was canceled")), 499},
		"canceled, by name": {errors.New("operation was canceled"), 499},
	} {
		w := httptest.NewRecorder()
		err := (&Request{w: w, original: httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)}).Fail(test.err)
		failed, _ := errors.AsType[caddyhttp.HandlerError](err)
		if failed.StatusCode != test.want || test.want == 0 && (err != nil || w.Code != pool.StatusCanceled) {
			t.Errorf("%s: %v with %d, %d is written; want %d", name, err, failed.StatusCode, w.Code, test.want)
		}
	}
}

type timeoutError struct{}

func (*timeoutError) Error() string   { return "x" }
func (*timeoutError) Timeout() bool   { return true }
func (*timeoutError) Temporary() bool { return false }

func TestFlushInterval(t *testing.T) {
	f := newFront(t, `{"flush_interval": "5s"}`)
	for name, test := range map[string]struct {
		contentType string
		length      int64
		incremental bool
		want        time.Duration
	}{
		"sized":               {"text/plain", 5, false, 5 * time.Second},
		"of unknown length":   {"text/plain", -1, false, -1},
		"incremental":         {"text/plain", 5, true, -1},
		"events":              {"text/event-stream", 5, false, -1},
		"events, with more":   {"Text/Event-Stream ; charset=utf-8", 5, false, -1},
		"events, malformed":   {"text/event-stream; =", 5, false, 5 * time.Second},
		"nearly events":       {"text/event-streams", 5, false, 5 * time.Second},
		"nothing said at all": {"", 5, false, 5 * time.Second},
	} {
		res := &http.Response{Header: http.Header{"Content-Type": {test.contentType}}, ContentLength: test.length}
		if got := f.flushInterval(res, test.incremental); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// What is written is flushed in time, the header included.
func TestFlushWriter(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration
		want  string // seconds at which it is flushed, written at 0, 3, 4 and 20
	}{"at once": {-1, "0 0 3 4 20"}, "later": {5 * time.Second, "5 25"}, "much later": {time.Minute, ""}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			var flushed []string
			f := &flushWriter{to: io.Discard, after: test.after, flush: func() error {
				flushed = append(flushed, fmt.Sprint(int(time.Since(start).Seconds())))
				return nil
			}}
			f.start()
			synctest.Wait()
			for _, at := range []int{0, 3, 4, 20} {
				time.Sleep(time.Until(start.Add(time.Duration(at) * time.Second)))
				_, _ = f.Write([]byte("x"))
			}
			time.Sleep(10 * time.Second)
			f.stop()
			time.Sleep(time.Hour)
			if got := strings.Join(flushed, " "); got != test.want {
				t.Errorf("%s: flushed at %s, want %s", name, got, test.want)
			}
		})
	}
}

// Where what is to be passed on as it comes would have to be collected, it is refused.
func TestIncremental(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		request  bool // is the one that says so; else the answer is
		length   int64
		refused  bool
	}{
		"request":                      {`{}`, true, 4, false},
		"request, buffered":            {`{"request_buffers": 100}`, true, 4, true},
		"request, buffered, empty":     {`{"request_buffers": 100}`, true, 0, false},
		"request, of no length":        {`{"request_buffers": 100}`, true, -1, true},
		"answer":                       {`{}`, false, 4, false},
		"answer, buffered":             {`{"response_buffers": 100}`, false, 4, true},
		"answer, buffered, empty":      {`{"response_buffers": 100}`, false, 0, false},
		"answer, of no known length":   {`{"response_buffers": 100}`, false, -1, true},
		"answer that is said to be so": {`{"response_buffers": 100, "headers": {"response": {"set": {"Incremental": ["?1"]}}}}`, false, 4, true},
	} {
		settings := strings.Replace(test.settings, "{", `{"proxy_status_name": "a b", `, 1)
		settings = strings.Replace(settings, ", }", "}", 1)
		f, w := newFront(t, settings), httptest.NewRecorder()
		r := newRequest(t, http.MethodPost, "http://example.com/", strings.NewReader("text"))
		res := answer(http.StatusOK, strings.NewReader("text"), "Proxy-Status", "c; error=x")
		res.ContentLength = test.length
		if r.ContentLength = 4; test.request {
			r.Header.Set("Incremental", "?1")
			r.ContentLength = test.length
		} else if !strings.Contains(settings, "Incremental") {
			res.Header.Set("Incremental", "?1")
		}
		x := new(Request)
		x.Receive(r, new(Told))
		err := x.Begin(f, w, r, time.Now())
		want := `"a b";error=incremental_refused`
		if err == nil {
			x.repl.Map(x.Placeholder)
			attempt(t, x, 1, "a:1")
			x.Ended(res, nil, time.Now(), time.Now())
			err = x.Answer(res, nil)
			want = "c;error=x, " + want
		}
		failed, ok := errors.AsType[caddyhttp.HandlerError](err)
		if ok != test.refused || ok && (failed.StatusCode != http.StatusNotImplemented || w.Header().Get("Proxy-Status") != want) {
			t.Errorf("%s: %v, Proxy-Status %q", name, err, w.Header().Get("Proxy-Status"))
		}
	}
}

func TestProxyStatus(t *testing.T) {
	for _, test := range []struct {
		name     string
		upstream []string
		want     string
	}{
		{"", []string{"a"}, ""},
		{"proxy-3", nil, "proxy-3;error=x"},
		{"proxy 3", nil, `"proxy 3";error=x`},
		{"p", []string{"a; error=y", `"b"`}, `a;error=y, "b", p;error=x`},
		{"p", []string{"a, (b c)"}, "p;error=x"},
		{"p", []string{"1"}, "p;error=x"},
		{"p", []string{"\x00"}, "p;error=x"},
		{"\x00", nil, ""},
	} {
		got, ok := proxyStatus(test.name, http.Header{"Proxy-Status": test.upstream}, "x")
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%q after %q: %q, want %q", test.name, test.upstream, got, test.want)
		}
	}
}

// The values of reverse_proxy's placeholders during a request.
func TestPlaceholders(t *testing.T) {
	f := newFront(t, `{}`)
	x := begin(t, f, httptest.NewRecorder(), newRequest(t, http.MethodGet, "http://example.com/", nil))
	expect := func(when string, want map[string]any) {
		t.Helper()
		for name, value := range want {
			got, ok := x.repl.Get("http.reverse_proxy." + name)
			if ok != (value != nil) || got != value {
				t.Errorf("%s: %s is %v (%v), want %v", when, name, got, ok, value)
			}
		}
	}
	// Another proxy has had the request before.
	for _, name := range []string{"upstream.hostport", "header.Old", "header.A", "status_code", "duration", "retries"} {
		x.repl.Set("http.reverse_proxy."+name, "old")
	}
	expect("before", map[string]any{"upstream.hostport": "old", "upstream.port": nil, "header.A": "old", "duration": "old", "none": nil})
	attempt(t, x, 1, "tcp4/a:1")
	expect("at the backend", map[string]any{
		"upstream.address": "tcp4/a:1", "upstream.hostport": "a:1", "upstream.host": "a", "upstream.port": "1", "upstream.requests": 0,
		"upstream.max_requests": 9, "upstream.fails": 0, "upstream.latency": nil, "upstream.duration": nil, "upstream.none": nil, "header.A": "old", "status_code": "old",
	})
	res := answer(http.StatusAccepted, strings.NewReader("text"), "A", "1", "A", "2")
	start := time.Now()
	x.Ended(res, nil, start, start.Add(1500*time.Millisecond))
	expect("answered", map[string]any{
		"upstream.latency": 1500 * time.Millisecond, "upstream.latency_ms": 1500.0, "header.A": "1,2", "header.Old": nil, "header.a": nil,
		"status_code": 202, "status_text": "202 Accepted", "duration": nil, "retries": nil, "upstream.duration": nil,
	})
	x.CopyWon(f.stock.NewTarget(&reverseproxy.Upstream{Dial: "b:2"}))
	expect("overtaken", map[string]any{"upstream.hostport": "b:2"})
	x.Retrying(nil)
	if err := x.Answer(res, nil); err != nil {
		t.Fatal(err)
	}
	x.copied = start.Add(2 * time.Second)
	x.End(x.began.Add(3 * time.Second))
	expect("over", map[string]any{"duration": 3 * time.Second, "duration_ms": 3000.0, "retries": 1, "upstream.duration": 2 * time.Second, "upstream.duration_ms": 2000.0})

	failed := begin(t, f, httptest.NewRecorder(), newRequest(t, http.MethodGet, "http://example.com/", nil))
	failed.repl.Set("http.reverse_proxy.retries", "old")
	failed.End(time.Now())
	if got, _ := failed.repl.Get("http.reverse_proxy.retries"); got != 0 {
		t.Errorf("without an answer: %v retries", got)
	}
}
