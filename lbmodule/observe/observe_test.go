package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

type target string

func (t target) Address() string { return string(t) }

// members are backends over a view of a pool, and the source that names them.
type members struct {
	view      *pool.View
	addresses []string
}

func (m *members) View() *pool.View                     { return m.view }
func (m *members) Target(position int) course.Target    { return target(m.addresses[position]) }
func (m *members) Find(address string) int              { return slices.Index(m.addresses, address) }
func (m *members) Superseded() (_, _ <-chan struct{})   { return nil, nil }
func (m *members) Stay()                                {}
func (m *members) Leave()                               {}
func (m *members) Members(bool) (course.Members, error) { return m, nil }
func (m *members) Quiet() bool                          { return false }

// front is a client of GET requests. What it is not asked here it does not have.
type front struct {
	exchange.Front
	back   back
	header http.Header
}

func (*front) Origin() pool.Origin                               { return pool.Origin{} }
func (*front) Idempotent() bool                                  { return true }
func (*front) Upgrade() bool                                     { return false }
func (*front) Body() exchange.ClientBody                         { return nil }
func (*front) Fail(err error) error                              { return caddyhttp.Error(http.StatusBadGateway, err) }
func (*front) Ended(*http.Response, error, time.Time, time.Time) {}
func (*front) Retrying(error)                                    {}
func (*front) Refuse(err error) error                            { return caddyhttp.Error(http.StatusServiceUnavailable, err) }

func (*front) CopyWon(course.Target) {}

func (f *front) Attempt(ctx context.Context, _ int, to course.Target, _ exchange.Inform) (exchange.Outgoing, error) {
	u := &url.URL{User: url.User("who"), Host: to.Address(), Path: "/x"}
	return exchange.Outgoing{Request: (&http.Request{Method: "BREW", URL: u, Header: f.header}).WithContext(ctx), Back: f.back}, nil
}

func (f *front) Copy(ctx context.Context, r *http.Request, to course.Target) (exchange.Outgoing, bool) {
	r = r.WithContext(ctx)
	r.URL = &url.URL{Host: to.Address(), Path: "/x"}
	return exchange.Outgoing{Request: r, Back: f.back}, true
}

func (*front) Answer(res *http.Response) error {
	_, err := io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}

// back has each backend answer with a status after a time, or fail.
type back map[string]func(ctx context.Context) (int, error)

func (b back) RoundTrip(r *http.Request) (*http.Response, error) {
	status, err := b[r.URL.Host](r.Context())
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(strings.NewReader("x"))}, nil
}

func (back) Kind(err error) exchange.Failure {
	switch {
	case errors.Is(err, net.ErrClosed):
		return exchange.Failure{Kind: course.NotConnected}
	case errors.Is(err, context.DeadlineExceeded):
		return exchange.Failure{Kind: course.TimedOut}
	default:
		return exchange.Failure{Kind: course.Broken}
	}
}

func says(status int) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return status, nil }
}

func fails(err error) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return 0, err }
}

func after(d time.Duration, status int) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		select {
		case <-time.After(d):
			return status, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// lab is what requests are tried and told of in.
type lab struct {
	observer Observer
	members  members
	plan     exchange.Plan
	back     back
	rules    course.Rules
	pool     *pool.Pool
}

func newLab(t testing.TB, b back) *lab {
	t.Helper()
	l := &lab{pool: new(pool.Registry).Acquire("web"), back: b}
	l.members.addresses = []string{"a:1", "b:1"}
	var backends []pool.Backend
	for _, address := range l.members.addresses {
		backends = append(backends, pool.Backend{Address: address, Weight: 1})
	}
	l.members.view = l.pool.Open(backends, pool.Settings{Policy: balance.First{}})
	t.Cleanup(l.members.view.Close)
	l.rules = course.Rules{Retry: course.RetryRules{Attempts: 2, Budget: pool.BudgetSettings{PerSecond: 10}}}
	for reason := range l.rules.Retry.On {
		l.rules.Retry.On[reason] = true
	}
	l.rules.Retry.Statuses.Add("503")
	l.observer = Observer{
		Pool: "web", Policy: "lb_first", Secure: true,
		Name:   func(address string) string { return "name of " + address },
		Dialed: func(http.RoundTripper) string { return "192.0.2.1:443" },
		Kind:   func(err error) course.Kind { return b.Kind(err).Kind },
	}
	l.plan = exchange.Plan{Rules: &l.rules, Pool: l.pool, Observer: &l.observer, Kind: b.Kind}
	return l
}

type noOthers struct{}

func (noOthers) Placeholder(name string) (any, bool) { return "other", name == "http.reverse_proxy.x" }

// do makes a request and returns what is told of it.
func (l *lab) do(ctx context.Context, change func(r *http.Request)) (q *Request, r *http.Request, w *httptest.ResponseRecorder, err error) {
	w = httptest.NewRecorder()
	r = httptest.NewRequestWithContext(ctx, http.MethodGet, "/x", nil)
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
	if change != nil {
		change(r)
	}
	q = new(Request)
	x := new(exchange.Exchange)
	x.Init(&l.plan, &l.members, &front{back: l.back, header: r.Header}, new(exchange.Record))
	q.Show(&l.observer, x.Record, noOthers{}, w, r)
	return q, r, w, x.Run(r.Context(), time.Now())
}

// logged is the access log's field as JSON.
func logged(t *testing.T, q *Request) string {
	t.Helper()
	e := zapcore.NewJSONEncoder(zapcore.EncoderConfig{})
	if err := q.MarshalLogObject(e); err != nil {
		t.Fatal(err)
	}
	line, err := e.EncodeEntry(zapcore.Entry{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line.String())
}

func TestTold(t *testing.T) {
	for name, test := range map[string]struct {
		back         back
		placeholders map[string]any
		log          string
		status       int
	}{
		"answered": {
			back{"a:1": says(204)}, map[string]any{"backend": "name of a:1", "retries": 0, "error": ""},
			`{"pool":"web","backend":"name of a:1","policy":"lb_first","queue_ms":0,"attempts":[{"backend":"name of a:1","status":204,"ms":0}]}`, 204,
		},
		"repeated": {
			back{"a:1": says(503), "b:1": says(200)}, map[string]any{"backend": "name of b:1", "retries": 1, "error": ""},
			`{"pool":"web","backend":"name of b:1","policy":"lb_first","queue_ms":0,"attempts":[{"backend":"name of a:1","status":503,"ms":0},{"backend":"name of b:1","status":200,"ms":0}]}`, 200,
		},
		"failed": {
			back{"a:1": fails(net.ErrClosed), "b:1": fails(io.ErrUnexpectedEOF)}, map[string]any{"backend": "name of b:1", "retries": 1, "error": "unexpected EOF"},
			`{"pool":"web","backend":"name of b:1","policy":"lb_first","queue_ms":0,"attempts":[{"backend":"name of a:1","status":0,"ms":0,"error":"use of closed network connection"},` +
				`{"backend":"name of b:1","status":0,"ms":0,"error":"unexpected EOF"}]}`, 502,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, test.back)
				q, r, _, err := l.do(t.Context(), nil)
				if got := q.Status(err); got != test.status {
					t.Errorf("status %d, want %d", got, test.status)
				}
				if got := logged(t, q); got != test.log {
					t.Errorf("log %s,\nwant %s", got, test.log)
				}
				repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
				test.placeholders["pool"], test.placeholders["policy"], test.placeholders["queue_ms"] = "web", "lb_first", 0.0
				for name, want := range test.placeholders {
					if got, ok := repl.Get(placeholderPrefix + name); !ok || got != want {
						t.Errorf("%s is %v, %v; want %v", name, got, ok, want)
					}
				}
				_, list, _ := strings.Cut(test.log, `"attempts":`)
				if got := repl.ReplaceAll("{http.load_balancer.attempts}", ""); got+"}" != list {
					t.Errorf("attempts %s, want %s", got, list)
				}
				if got, ok := repl.Get("http.reverse_proxy.x"); !ok || got != "other" {
					t.Errorf("what is told by others is %v, %v", got, ok)
				}
				if _, ok := repl.Get(placeholderPrefix + "there_is_none"); ok {
					t.Error("there is a placeholder that is none")
				}
			})
		})
	}
}

// A request that finds nobody says why.
func TestToldOfRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		l.members = members{view: l.pool.Open([]pool.Backend{{Address: "a:1"}}, pool.Settings{Policy: balance.First{}}), addresses: []string{"a:1"}}
		t.Cleanup(l.members.view.Close)
		q, r, _, err := l.do(t.Context(), nil)
		const want = `{"pool":"web","backend":"","policy":"lb_first","queue_ms":0,"error":%q,"attempts":[]}`
		if got := logged(t, q); got != fmt.Sprintf(want, pool.ErrNone) || q.Status(err) != http.StatusServiceUnavailable {
			t.Errorf("log %s, status %d", got, q.Status(err))
		}
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if got, _ := repl.Get(placeholderPrefix + "error"); got != pool.ErrNone.Error() {
			t.Errorf("error is %v, want %v", got, pool.ErrNone)
		}
	})
}

// Of two load balancers on a request's way the later one is told of.
func TestLatestIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, back{"a:1": says(200)})
		_, r, w, _ := l.do(t.Context(), nil)
		other := l.observer
		other.Pool = "inner"
		record := new(exchange.Record)
		new(Request).Show(&other, record, noOthers{}, w, r)
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if got, _ := repl.Get(placeholderPrefix + "pool"); got != "inner" {
			t.Errorf("pool is %v, want inner", got)
		}
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, back{"a:1": says(200)})
		answered, _, _, _ := l.do(t.Context(), nil)
		nothing := &Request{record: new(exchange.Record)}
		for _, test := range []struct {
			q    *Request
			err  error
			want int
		}{
			{answered, nil, 200},
			{answered, caddyhttp.Error(418, nil), 418},
			{answered, fmt.Errorf("wrapped: %w", caddyhttp.Error(503, nil)), 503},
			{answered, caddyhttp.HandlerError{}, 500},
			{answered, io.EOF, 500},
			{nothing, nil, pool.StatusCanceled},
		} {
			if got := test.q.Status(test.err); got != test.want {
				t.Errorf("%v: %d, want %d", test.err, got, test.want)
			}
		}
	})
}

// Clients in the ranges are told how their backend was chosen, and no others.
func TestDebugHeader(t *testing.T) {
	for client, want := range map[string]string{
		"10.1.2.3": `{"tried":["a:1"],"chosen":"b:1"}`, "::ffff:10.1.2.3": `{"tried":["a:1"],"chosen":"b:1"}`, "fe80::1%eth0": `{"tried":["a:1"],"chosen":"b:1"}`,
		"192.0.2.1": "", "": "", "nonsense": "",
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, back{"a:1": says(503), "b:1": says(200)})
			l.observer.DebugHeader = "X-Balance"
			l.observer.DebugRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}
			l.observer.Explain = func(m course.Members, tried []string, chosen string) any {
				if m.View() != l.members.view {
					t.Error("explained by other members")
				}
				return struct {
					Tried  []string `json:"tried"`
					Chosen string   `json:"chosen"`
				}{tried, chosen}
			}
			_, _, w, err := l.do(t.Context(), func(r *http.Request) { caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client) })
			if got := w.Header().Get("X-Balance"); got != want || err != nil {
				t.Errorf("%s is told %s (%v), want %s", client, got, err, want)
			}
		})
	}
}

// Each attempt is a span beside the others, below the one that was there before; that of a copy, too.
func TestSpans(t *testing.T) {
	for name, test := range map[string]struct {
		back   back
		hedged bool
		want   []string
	}{
		"repeated": {back{"a:1": fails(context.DeadlineExceeded), "b:1": says(500)}, false, []string{
			"name of a:1 0 error.type=timeout", "name of b:1 500 error.type=500 http.request.resend_count=1 retry_reason=timeout",
		}},
		"no connection": {back{"a:1": fails(net.ErrClosed), "b:1": fails(io.ErrUnexpectedEOF)}, false, []string{
			"name of a:1 0 error.type=connect", "name of b:1 0 error.type=reset http.request.resend_count=1 retry_reason=connect",
		}},
		"the copy is first": {back{"a:1": after(time.Minute, 200), "b:1": says(200)}, true, []string{
			"name of a:1 0 error.type=canceled", "name of b:1 200 http.request.resend_count=1 retry_reason=hedge",
		}},
		"the copy is not": {back{"a:1": after(time.Second, 200), "b:1": after(time.Minute, 200)}, true, []string{
			"name of b:1 0 error.type=canceled http.request.resend_count=1 retry_reason=hedge", "name of a:1 200",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spans := tracetest.NewInMemoryExporter()
				provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
				ctx, parent := provider.Tracer("test").Start(t.Context(), "parent")
				l := newLab(t, test.back)
				if test.hedged {
					l.rules.Hedge = course.HedgeRules{On: true, Percentile: 0.9, MaxExtra: 1}
					for range 1000 {
						l.pool.Latency.Add(10*time.Millisecond, time.Now())
					}
				}
				_, r, _, _ := l.do(ctx, func(r *http.Request) { r.Header.Set("Traceparent", "of the client") })
				synctest.Wait() // for the copy
				parent.End()
				if got := r.Header.Get("Traceparent"); got != "of the client" {
					t.Errorf("the header that attempts share is written to: %s", got)
				}
				var got []string
				for _, s := range spans.GetSpans() {
					if s.Name == "parent" {
						continue
					}
					if s.Parent.SpanID() != parent.SpanContext().SpanID() || s.SpanKind != trace.SpanKindClient || s.Name != "_OTHER" {
						t.Errorf("span %s of kind %v is below %v", s.Name, s.SpanKind, s.Parent.SpanID())
					}
					got = append(got, describe(s.Attributes))
				}
				slices.Sort(got)
				slices.Sort(test.want)
				if !slices.Equal(got, test.want) {
					t.Errorf("spans %q,\nwant %q", got, test.want)
				}
			})
		})
	}
}

// describe are the attributes that differ.
func describe(all []attribute.KeyValue) string {
	backend, status := "", int64(0)
	var rest []string
	for _, a := range all {
		switch a.Key {
		case "caddy.load_balancer.backend":
			backend = a.Value.AsString()
		case "http.response.status_code":
			status = a.Value.AsInt64()
		case "error.type", "http.request.resend_count":
			rest = append(rest, fmt.Sprintf("%s=%s", a.Key, a.Value.String()))
		case "caddy.load_balancer.retry_reason":
			rest = append(rest, "retry_reason="+a.Value.AsString())
		}
	}
	slices.Sort(rest)
	return strings.TrimSpace(fmt.Sprintf("%s %d %s", backend, status, strings.Join(rest, " ")))
}

// What is the same for all attempts.
func TestSpanAttributes(t *testing.T) {
	l := newLab(t, nil)
	for dialed, want := range map[string]string{
		"192.0.2.1:443": `server.address=192.0.2.1 server.port=443`, "/run/app.sock": `server.address=/run/app.sock`, "": ``,
	} {
		l.observer.Dialed = func(http.RoundTripper) string { return dialed }
		var got []string
		u := &url.URL{User: url.UserPassword("who", "secret"), Host: "a:1", Path: "/x"}
		for _, a := range l.observer.attributes((&http.Request{Method: http.MethodGet, URL: u}).WithContext(t.Context()), nil, "a:1") {
			got = append(got, fmt.Sprintf("%s=%s", a.Key, a.Value.String()))
		}
		all := strings.TrimSpace("http.request.method=GET url.full=https://a:1/x caddy.load_balancer.pool=web caddy.load_balancer.backend=name of a:1 " + want)
		if text := strings.Join(got, " "); text != all {
			t.Errorf("%s: %s, want %s", dialed, text, all)
		}
	}
}
