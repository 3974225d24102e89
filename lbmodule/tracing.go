package lbmodule

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

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// tracerName is the instrumentation scope of the spans.
const tracerName = "github.com/ballastlb/ballast"

// propagator writes a span's context into requests, in the formats that Caddy's `tracing` uses: those of OTEL_PROPAGATORS,
// W3C by default.
var propagator = autoprop.NewTextMapPropagator()

// trace has the current attempt, which r makes, be a span of its own, if Caddy's `tracing` handles the request. The backend
// sees that span as its parent.
func (q *request) trace(r *http.Request) *http.Request {
	if q.parent == nil {
		q.parent = trace.SpanFromContext(r.Context())
	}
	if !q.parent.SpanContext().IsValid() {
		return r
	}
	a := &q.trail[q.current]
	r, a.span = q.startSpan(r, a.address, q.current, q.retryReason, a.start)
	return r
}

// spanMethod is the method as spans tell it: clients can make up others (OpenTelemetry's conventions for HTTP).
func spanMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect,
		http.MethodOptions, http.MethodTrace:
		return method
	default:
		return "_OTHER"
	}
}

// startSpan begins the span of an attempt, the one after so many others, and returns the request with it.
func (q *request) startSpan(r *http.Request, address string, resends int, reason pool.RetryReason, start time.Time) (*http.Request, trace.Span) {
	attributes := q.attributes(r, address)
	if resends > 0 {
		attributes = append(attributes, attribute.Int("http.request.resend_count", resends),
			attribute.String("caddy.load_balancer.retry_reason", reason.String()))
	}
	ctx, span := q.parent.TracerProvider().Tracer(tracerName).Start(trace.ContextWithSpan(r.Context(), q.parent), spanMethod(r.Method),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(start), trace.WithAttributes(attributes...))
	header := r.Header
	r = r.WithContext(ctx)
	// Who has taken the context out of the request does not want the backend to see it.
	if slices.ContainsFunc(propagator.Fields(), func(field string) bool { return header.Get(field) != "" }) {
		// Attempts share their header, and the transport may still be reading that of the one before.
		r.Header = header.Clone()
		propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
	}
	return r, span
}

// attributes are those of an HTTP client's span in OpenTelemetry's semantic conventions, and who the backend is.
func (q *request) attributes(r *http.Request, address string) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attribute.String("http.request.method", spanMethod(r.Method)),
		attribute.String("url.full", q.fullURL(r.URL)),
		attribute.String("caddy.load_balancer.pool", q.h.pool.Name()),
		attribute.String("caddy.load_balancer.backend", q.h.manager.Name(address)),
	}
	if dial, ok := reverseproxy.GetDialInfo(r.Context()); ok {
		if host, port, err := net.SplitHostPort(dial.Address); err == nil {
			all = append(all, attribute.String("server.address", host))
			if n, err := strconv.Atoi(port); err == nil {
				all = append(all, attribute.Int("server.port", n))
			}
		} else {
			all = append(all, attribute.String("server.address", dial.Address)) // a unix socket
		}
	}
	return all
}

// fullURL is the URL of an attempt as it is shown: with the scheme, which transports fill in by themselves, and without
// credentials.
func (q *request) fullURL(u *url.URL) string {
	shown := *u
	shown.User = nil
	if shown.Scheme == "" {
		shown.Scheme = "http"
		if q.h.stock.Transport.TLSEnabled() {
			shown.Scheme = "https"
		}
	}
	return shown.String()
}

// endSpan ends the span of an attempt that ended with that status, or error; span is nil without tracing.
func endSpan(span trace.Span, status int, err error) {
	if span == nil {
		return
	}
	if status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", status))
	}
	switch {
	case err != nil:
		span.SetAttributes(attribute.String("error.type", errorType(err)))
		span.SetStatus(codes.Error, err.Error())
	case status >= http.StatusBadRequest:
		span.SetAttributes(attribute.String("error.type", strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// errorType classifies an error for error.type, in few words.
func errorType(err error) string {
	switch {
	case errors.Is(err, errHedgeWon), errors.Is(err, errLost), errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, errBrokenOff):
		return "broken_off"
	case isTimeout(err):
		return pool.RetryTimeout.String()
	case isConnectError(err):
		return pool.RetryConnect.String()
	default:
		return pool.RetryReset.String()
	}
}
