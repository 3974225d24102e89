package observe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// tracerName is the instrumentation scope of the spans.
const tracerName = "github.com/ballastlb/ballast"

// propagator writes a span's context into request headers, in the formats that Caddy's `tracing` uses: those of
// OTEL_PROPAGATORS, W3C by default.
var propagator = autoprop.NewTextMapPropagator()

// Begin implements [exchange.Observer]: it starts a span for the attempt if Caddy's `tracing` handles the request. The backend sees this
// span as its parent.
func (o *Observer) Begin(x *exchange.Exchange, out *exchange.Outgoing, address string, others int, reason pool.RetryReason, start time.Time) exchange.Span {
	parent := trace.SpanFromContext(x.Context()) // not r.Context(): for a copy, that has the first attempt's span
	if !parent.SpanContext().IsValid() {
		return nil
	}
	r := out.Request
	attributes := o.attributes(r, out.Back, address)
	if others > 0 {
		attributes = append(attributes, attribute.Int("http.request.resend_count", others),
			attribute.String("caddy.load_balancer.retry_reason", reason.String()))
	}
	ctx, span := parent.TracerProvider().Tracer(tracerName).Start(trace.ContextWithSpan(r.Context(), parent), spanMethod(r.Method),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(start), trace.WithAttributes(attributes...))
	header := r.Header
	r = r.WithContext(ctx)
	out.Request = r
	// If an earlier handler removed the trace context from the header, the backend must not see it.
	if slices.ContainsFunc(propagator.Fields(), func(field string) bool { return header.Get(field) != "" }) {
		// Attempts share a header, and the transport of the last attempt may still be reading it.
		r.Header = header.Clone()
		propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
	}
	return span
}

// spanMethod returns the method for a span: _OTHER for methods that a client may have made up (OpenTelemetry's conventions for HTTP).
func spanMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect,
		http.MethodOptions, http.MethodTrace:
		return method
	default:
		return "_OTHER"
	}
}

// attributes returns the attributes of an HTTP client span by OpenTelemetry's semantic conventions, and those that identify the backend.
func (o *Observer) attributes(r *http.Request, back http.RoundTripper, address string) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attribute.String("http.request.method", spanMethod(r.Method)),
		attribute.String("url.full", o.fullURL(r.URL)),
		attribute.String("caddy.load_balancer.pool", o.Pool),
		attribute.String("caddy.load_balancer.backend", o.Name(address)),
	}
	dialed := o.Dialed(back)
	if dialed == "" {
		return all
	}
	host, port, err := net.SplitHostPort(dialed)
	if err != nil {
		return append(all, attribute.String("server.address", dialed)) // a unix socket
	}
	all = append(all, attribute.String("server.address", host))
	if n, err := strconv.Atoi(port); err == nil {
		all = append(all, attribute.Int("server.port", n))
	}
	return all
}

// fullURL returns the URL of an attempt with the scheme, which transports add by themselves, and without credentials.
func (o *Observer) fullURL(u *url.URL) string {
	shown := *u
	shown.User = nil
	if shown.Scheme == "" {
		shown.Scheme = "http"
		if o.Secure {
			shown.Scheme = "https"
		}
	}
	return shown.String()
}

// End implements [exchange.Observer]: it ends the span of an attempt.
func (o *Observer) End(s exchange.Span, status int, err error) {
	span := s.(trace.Span)
	if status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	switch {
	case err != nil:
		span.SetAttributes(attribute.String("error.type", o.errorType(err)))
		span.SetStatus(codes.Error, err.Error())
	case status >= http.StatusBadRequest:
		span.SetAttributes(attribute.String("error.type", strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// errorType returns the value of error.type for an error, from a small set.
func (o *Observer) errorType(err error) string {
	switch {
	case errors.Is(err, exchange.ErrCopyWon), errors.Is(err, exchange.ErrCopyLost), errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, exchange.ErrBrokenOff):
		return "broken_off"
	case errors.Is(err, exchange.ErrTryTimeout):
		return pool.RetryTimeout.String()
	}
	switch o.Kind(err) {
	case course.TimedOut:
		return pool.RetryTimeout.String()
	case course.NotConnected:
		return pool.RetryConnect.String()
	default:
		return pool.RetryReset.String()
	}
}
