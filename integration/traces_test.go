package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// decodeMetrics asks for metrics and decodes them, in whatever format they come.
func decodeMetrics(t *testing.T, r *http.Request) []*dto.MetricFamily {
	t.Helper()
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	decoder := expfmt.NewDecoder(res.Body, expfmt.ResponseFormat(res.Header))
	var all []*dto.MetricFamily
	for {
		f := new(dto.MetricFamily)
		if err := decoder.Decode(f); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
}

// otlpReceiver collects spans that are sent to it by OTLP over HTTP.
type otlpReceiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
}

func startReceiver(t *testing.T) *otlpReceiver {
	o := new(otlpReceiver)
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		sent := new(collector.ExportTraceServiceRequest)
		if err == nil {
			err = proto.Unmarshal(body, sent)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
			return
		}
		o.mu.Lock()
		for _, resource := range sent.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				o.spans = append(o.spans, scope.Spans...)
			}
		}
		o.mu.Unlock()
		answer, _ := proto.Marshal(new(collector.ExportTraceServiceResponse))
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(answer)
	}))
	t.Cleanup(o.Close)
	return o
}

// received returns the spans of that kind, in the order in which they began.
func (o *otlpReceiver) received(kind otlp.Span_SpanKind) (found []*otlp.Span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.spans {
		if s.Kind == kind {
			at := len(found)
			for at > 0 && found[at-1].StartTimeUnixNano > s.StartTimeUnixNano {
				at--
			}
			found = append(found[:at], append([]*otlp.Span{s}, found[at:]...)...)
		}
	}
	return found
}

// attributesOf are a span's attributes as text.
func attributesOf(s *otlp.Span) map[string]string {
	all := make(map[string]string)
	for _, a := range s.Attributes {
		all[a.Key] = a.Value.GetStringValue()
		if all[a.Key] == "" {
			all[a.Key] = fmt.Sprint(a.Value.GetIntValue())
		}
	}
	return all
}

// tracing is the environment that has Caddy send spans there.
func tracing(endpoint string) []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_COMPRESSION=none",
		"OTEL_TRACES_SAMPLER=always_on", "OTEL_BSP_SCHEDULE_DELAY=50"}
}

// TestTraces: each attempt is a span under that of the request, and the parent that its backend sees.
func TestTraces(t *testing.T) {
	o := startReceiver(t)
	backends, addresses := startBackends(t, 2)
	parents := make(chan string, 2)
	for i, status := range []int{503, 200} {
		backends[i].handle(func(w http.ResponseWriter, r *http.Request) {
			parents <- r.Header.Get("Traceparent")
			w.WriteHeader(status)
		})
	}
	c := startCaddyConfig(t, siteConfig("tracing\nload_balancer "+addresses+" {\n name web\n lb_policy first\n}"), tracing(o.URL)...)
	r := c.request(http.MethodGet, nil, "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if status, _ := c.ask(r); status != 200 {
		t.Fatalf("status %d", status)
	}
	waitFor(t, "the spans", func() bool {
		return len(o.received(otlp.Span_SPAN_KIND_CLIENT)) == 2 && len(o.received(otlp.Span_SPAN_KIND_SERVER)) == 1
	})
	server := o.received(otlp.Span_SPAN_KIND_SERVER)[0]
	for i, s := range o.received(otlp.Span_SPAN_KIND_CLIENT) {
		if want := fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%x-01", s.SpanId); s.Name != "GET" || string(s.ParentSpanId) != string(server.SpanId) || <-parents != want {
			t.Errorf("span %s %x under %x; want GET under %x, and as the parent that the backend sees", s.Name, s.SpanId, s.ParentSpanId, server.SpanId)
		}
		host, port, _ := strings.Cut(backends[i].addr, ":")
		want := map[string]string{
			"http.request.method": "GET", "server.address": host, "server.port": port, "url.full": "http://" + backends[i].addr + "/",
			"caddy.load_balancer.pool": "web", "caddy.load_balancer.backend": backends[i].addr, "http.response.status_code": "503", "error.type": "503",
		}
		if i == 1 {
			want["http.response.status_code"], want["http.request.resend_count"], want["caddy.load_balancer.retry_reason"] = "200", "1", "status"
			delete(want, "error.type")
		}
		if got := attributesOf(s); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("attempt %d has attributes\n%v, want\n%v", i+1, got, want)
		}
		if failed := s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR; failed != (i == 0) {
			t.Errorf("attempt %d has status %v", i+1, s.Status)
		}
	}
}

// TestTracerDown: a tracer that cannot be reached is nobody's problem.
func TestTracerDown(t *testing.T) {
	b := startBackend(t)
	c := startCaddyConfig(t, siteConfig("tracing\nload_balancer "+b.addr), tracing("http://"+freeAddress(t))...)
	for range 50 {
		if status, _, _ := c.get("/"); status != 200 {
			t.Errorf("status %d", status)
		}
	}
}

// TestTraceContextStaysInside: who takes the context out of the request does not have it sent.
func TestTraceContextStaysInside(t *testing.T) {
	o := startReceiver(t)
	b := startBackend(t)
	seen := make(chan string, 1)
	b.handle(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Get("Traceparent") })
	c := startCaddyConfig(t, siteConfig("tracing\nload_balancer "+b.addr+" {\n header_up -Traceparent\n}"), tracing(o.URL)...)
	c.get("/")
	if got := <-seen; got != "" {
		t.Errorf("the backend saw %q", got)
	}
	waitFor(t, "the span", func() bool { return len(o.received(otlp.Span_SPAN_KIND_CLIENT)) == 1 })
}
