// Package stock is the only package that knows how Caddy's reverse_proxy and its transports work inside. A load balancer embeds a
// reverse_proxy handler for its JSON and its Caddyfile; this package reads its settings once, at provisioning, and never changes it.
package stock

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// Handler is reverse_proxy's part of a load balancer. After Provision, its settings have their defaults and its modules are provisioned.
type Handler struct {
	Transport      *Transport
	CircuitBreaker reverseproxy.CircuitBreaker // nil for none
	Retries        Retries

	Rewrite          *rewrite.Rewrite       // nil for none
	TransportHeaders *headers.HeaderOps     // the transport's operations on request headers; nil for none
	RequestHeaders   *headers.HeaderOps     // operations that follow TransportHeaders; nil for none
	ResponseHeaders  *headers.RespHeaderOps // nil for none
	Responses        []caddyhttp.ResponseHandler
	TrustedProxies   []netip.Prefix

	RequestBuffers       int64 // 0 for none, negative without a bound
	BuffersFromTransport bool  // RequestBuffers is a default of the transport
	ResponseBuffers      int64
	FlushInterval        time.Duration
	VerboseLogs          bool
	ProxyStatusName      string

	delegate reverseproxy.Handler // never cleaned up, because that would close its tunnels: see [Handler.Delegate]
	hosts    hosts
}

// Retries are reverse_proxy's retry settings.
type Retries struct {
	Given       bool // at least one is set
	Retries     int
	TryDuration time.Duration
	TryInterval time.Duration
	Match       caddyhttp.MatcherSets
}

// Provision reads the embedded handler. It lists the upstreams at /reverse_proxy/upstreams. has reports whether an address is that of one
// of them.
func (s *Handler) Provision(ctx caddy.Context, from *reverseproxy.Handler, upstreams reverseproxy.UpstreamPool, has func(address string) bool) error {
	// Without the events app, reverse_proxy's Provision fails before its Cleanup may be called.
	if _, err := ctx.App("events"); err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	if err := s.hosts.hold(ctx, upstreams, has); err != nil {
		return err
	}
	var err error
	if s.Transport, err = loadTransport(ctx, from.TransportRaw); err != nil {
		return err
	}
	if err := s.provisionDelegate(ctx, from); err != nil {
		return err
	}
	if s.Retries, err = loadRetries(ctx, from.LoadBalancing); err != nil {
		return err
	}
	return s.read(ctx, from)
}

// read copies the settings that reverse_proxy's Provision has checked.
func (s *Handler) read(ctx caddy.Context, from *reverseproxy.Handler) error {
	s.CircuitBreaker, s.Rewrite = s.delegate.CB, from.Rewrite
	if from.Headers != nil {
		s.RequestHeaders, s.ResponseHeaders = from.Headers.Request, from.Headers.Response
	}
	s.FlushInterval, s.VerboseLogs, s.ProxyStatusName = time.Duration(from.FlushInterval), from.VerboseLogs, from.ProxyStatusName
	for _, text := range from.TrustedProxies {
		prefix, err := parsePrefix(text)
		if err != nil {
			return err
		}
		s.TrustedProxies = append(s.TrustedProxies, prefix)
	}
	if t, ok := s.Transport.next.(reverseproxy.RequestHeaderOpsTransport); ok {
		s.TransportHeaders = t.RequestHeaderOps()
		if err := s.TransportHeaders.Provision(ctx); err != nil {
			return fmt.Errorf("provisioning transport header ops: %w", err)
		}
	}
	for i, rh := range from.HandleResponse {
		rh.Routes = slices.Clone(rh.Routes) // a copy, because provisioning loads modules into it
		if err := rh.Provision(ctx); err != nil {
			return fmt.Errorf("provisioning response handler %d: %w", i, err)
		}
		s.Responses = append(s.Responses, rh)
	}
	return nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	address, err := netip.ParseAddr(text)
	return netip.PrefixFrom(address, address.BitLen()), err
}

func loadRetries(ctx caddy.Context, from *reverseproxy.LoadBalancing) (r Retries, err error) {
	if from == nil {
		return r, nil
	}
	r = Retries{
		Given:       from.Retries != 0 || from.TryDuration != 0 || from.TryInterval != 0 || len(from.RetryMatchRaw) > 0,
		Retries:     from.Retries,
		TryDuration: time.Duration(from.TryDuration), TryInterval: time.Duration(from.TryInterval),
	}
	// A copy of the field, because loading clears it.
	raw := reverseproxy.LoadBalancing{RetryMatchRaw: slices.Clone(from.RetryMatchRaw)}
	matchers, err := ctx.LoadModule(&raw, "RetryMatchRaw")
	if err != nil {
		return r, err
	}
	return r, r.Match.FromInterface(matchers)
}

// Cleanup releases what Provision acquired, even if Provision failed half way.
func (s *Handler) Cleanup() error {
	s.Transport.Cleanup()
	return s.hosts.release()
}

// The delegate is a reverse_proxy whose transport returns an existing answer. It handles the rare answers that only reverse_proxy can
// handle: those of handle_response routes, because `copy_response` and `copy_response_headers` find the answer in reverse_proxy's context,
// and those that switch protocols. Its single response handler calls [HandOver.Continue]. It has no upstreams, so that its Cleanup would do
// nothing but close the connections that have switched protocols; these may outlive the config.

// provisionDelegate makes the delegate. Its Provision also checks and provisions the settings that the front uses, because both share the
// same objects.
func (s *Handler) provisionDelegate(ctx caddy.Context, from *reverseproxy.Handler) error {
	s.RequestBuffers, s.ResponseBuffers = from.RequestBuffers, from.ResponseBuffers
	s.delegate = reverseproxy.Handler{
		Transport: stub{}, LoadBalancing: &reverseproxy.LoadBalancing{SelectionPolicy: stub{}}, CBRaw: slices.Clone(from.CBRaw),
		Headers: from.Headers, Rewrite: from.Rewrite, TrustedProxies: from.TrustedProxies,
		RequestBuffers: s.RequestBuffers, ResponseBuffers: s.ResponseBuffers, ProxyStatusName: from.ProxyStatusName,
		FlushInterval: from.FlushInterval, StreamTimeout: from.StreamTimeout, StreamBufferSize: from.StreamBufferSize,
		VerboseLogs:    from.VerboseLogs,
		HandleResponse: []caddyhttp.ResponseHandler{{Routes: caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{stub{}}}}}},
	}
	if err := s.delegate.Provision(ctx); err != nil {
		return err
	}
	if b, ok := s.Transport.next.(reverseproxy.BufferedTransport); ok {
		request, response := b.DefaultBufferSizes()
		if s.RequestBuffers == 0 {
			s.RequestBuffers, s.BuffersFromTransport = request, request != 0
		}
		if s.ResponseBuffers == 0 {
			s.ResponseBuffers = response
		}
	}
	// The delegate must not change the request again: it has been sent.
	s.delegate.Rewrite, s.delegate.RequestBuffers, s.delegate.ResponseBuffers = nil, 0, s.ResponseBuffers
	s.delegate.Headers = nil
	if from.Headers != nil {
		s.delegate.Headers = &headers.Handler{Response: from.Headers.Response}
	}
	return nil
}

// HandOver is an answer that is handed to reverse_proxy.
type HandOver struct {
	Upstream *reverseproxy.Upstream
	Response *http.Response

	// Continue handles the answer instead of a route of handle_response. `copy_response` finds the answer in the context of its request.
	Continue func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error

	vars map[string]any // the request's variables
}

// handOverKey is the key of an *HandOver in a context.
type handOverKey struct{}

// Delegate hands an answer to reverse_proxy and returns the result of its ServeHTTP.
func (s *Handler) Delegate(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, a *HandOver) error {
	ctx := context.WithValue(r.Context(), handOverKey{}, a)
	// reverse_proxy sets variables for its transport. They must not be those of the request, which the transport of an attempt may still be
	// reading: it continues to dial in the background when another connection becomes free first.
	a.vars = ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(a.vars))
	return s.delegate.ServeHTTP(w, r.WithContext(ctx), next)
}

// CopyResponse writes the answer to the client as `copy_response` does. If the answer switches protocols, it connects the client's
// connection to the backend's.
func CopyResponse(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return reverseproxy.CopyResponseHandler{}.ServeHTTP(w, r, next)
}

// stub is the delegate's selection policy, transport and response handler. Each returns or uses the answer that was handed over.
type stub struct{}

func of(ctx context.Context) *HandOver { return ctx.Value(handOverKey{}).(*HandOver) }

// Select implements [reverseproxy.Selector].
func (stub) Select(_ reverseproxy.UpstreamPool, r *http.Request, _ http.ResponseWriter) *reverseproxy.Upstream {
	return of(r.Context()).Upstream
}

// RoundTrip implements [http.RoundTripper].
func (stub) RoundTrip(r *http.Request) (*http.Response, error) {
	return of(r.Context()).Response, nil
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (stub) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	a := of(r.Context())
	return a.Continue(w, r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, a.vars)), next)
}
