// Package stock is the one room that knows Caddy's reverse_proxy and its transports. A load balancer embeds a reverse_proxy handler for
// its JSON and its Caddyfile; what it means is read here once, at provisioning, and the embedded handler is never written to.
package stock

import (
	"context"
	"errors"
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

// Handler is reverse_proxy's part of a load balancer. The settings have their defaults, and what is a module has been provisioned.
type Handler struct {
	Transport      *Transport
	CircuitBreaker reverseproxy.CircuitBreaker // nil for none
	Retries        Retries

	Rewrite          *rewrite.Rewrite       // nil for none
	TransportHeaders *headers.HeaderOps     // what the transport does to requests' headers; nil for nothing
	RequestHeaders   *headers.HeaderOps     // what is done to them after that; nil for nothing
	ResponseHeaders  *headers.RespHeaderOps // nil for nothing
	Responses        []caddyhttp.ResponseHandler
	TrustedProxies   []netip.Prefix

	RequestBuffers       int64 // 0 for none, negative without a bound
	BuffersFromTransport bool  // RequestBuffers is a default of the transport
	ResponseBuffers      int64
	FlushInterval        time.Duration
	VerboseLogs          bool
	ProxyStatusName      string

	finisher    reverseproxy.Handler
	provisioned bool // finisher is to be cleaned up
	hosts       hosts
}

// Retries are reverse_proxy's words for retries.
type Retries struct {
	Given       bool // one of them is
	Retries     int
	TryDuration time.Duration
	TryInterval time.Duration
	Match       caddyhttp.MatcherSets
}

// Provision reads the embedded handler. These upstreams are shown at /reverse_proxy/upstreams.
func (s *Handler) Provision(ctx caddy.Context, from *reverseproxy.Handler, upstreams reverseproxy.UpstreamPool) error {
	// Without the events app reverse_proxy's Provision returns before there is anything that its Cleanup could clean up.
	if _, err := ctx.App("events"); err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	if err := s.hosts.hold(ctx, upstreams); err != nil {
		return err
	}
	var err error
	if s.Transport, err = loadTransport(ctx, from.TransportRaw); err != nil {
		return err
	}
	if err := s.provisionFinisher(ctx, from); err != nil {
		return err
	}
	if s.Retries, err = loadRetries(ctx, from.LoadBalancing); err != nil {
		return err
	}
	return s.read(ctx, from)
}

// read takes over the settings that reverse_proxy's Provision has found right.
func (s *Handler) read(ctx caddy.Context, from *reverseproxy.Handler) error {
	s.CircuitBreaker, s.Rewrite = s.finisher.CB, from.Rewrite
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
		rh.Routes = slices.Clone(rh.Routes) // whose modules are loaded into it
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
	if r.TryDuration > 0 && r.TryInterval == 0 {
		r.TryInterval = 250 * time.Millisecond // as there
	}
	// Loading clears the field, which is why it is not that of the config.
	raw := reverseproxy.LoadBalancing{RetryMatchRaw: slices.Clone(from.RetryMatchRaw)}
	matchers, err := ctx.LoadModule(&raw, "RetryMatchRaw")
	if err != nil {
		return r, err
	}
	return r, r.Match.FromInterface(matchers)
}

// Cleanup releases what Provision acquired, also when that failed half way.
func (s *Handler) Cleanup() error {
	s.Transport.Cleanup()
	err := s.hosts.release()
	if s.provisioned {
		s.provisioned = false
		err = errors.Join(err, s.finisher.Cleanup())
	}
	return err
}

// The finisher is a reverse_proxy that is given an answer instead of asking for one. What is rare is done by it, because parts of that are
// reverse_proxy's alone: the context in which `copy_response` and `copy_response_headers` find the answer, and the connections of
// switched protocols, which end with the config. It has one response handler, which goes on with what it is told to.

// provisionFinisher makes the finisher. Its Provision checks and provisions those settings, too, that the front goes by: they are the
// same objects.
func (s *Handler) provisionFinisher(ctx caddy.Context, from *reverseproxy.Handler) error {
	s.RequestBuffers, s.ResponseBuffers = from.RequestBuffers, from.ResponseBuffers
	s.finisher = reverseproxy.Handler{
		Transport: inHand{}, LoadBalancing: &reverseproxy.LoadBalancing{SelectionPolicy: inHand{}}, CBRaw: slices.Clone(from.CBRaw),
		Headers: from.Headers, Rewrite: from.Rewrite, TrustedProxies: from.TrustedProxies,
		RequestBuffers: s.RequestBuffers, ResponseBuffers: s.ResponseBuffers, ProxyStatusName: from.ProxyStatusName,
		FlushInterval: from.FlushInterval, StreamTimeout: from.StreamTimeout, StreamBufferSize: from.StreamBufferSize,
		StreamCloseDelay: from.StreamCloseDelay, VerboseLogs: from.VerboseLogs,
		HandleResponse: []caddyhttp.ResponseHandler{{Routes: caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{inHand{}}}}}},
	}
	s.provisioned = true
	if err := s.finisher.Provision(ctx); err != nil {
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
	// The request has been made and sent.
	s.finisher.Rewrite, s.finisher.RequestBuffers, s.finisher.ResponseBuffers = nil, 0, s.ResponseBuffers
	s.finisher.Headers = nil
	if from.Headers != nil {
		s.finisher.Headers = &headers.Handler{Response: from.Headers.Response}
	}
	return nil
}

// InHand is an answer that there is already.
type InHand struct {
	Upstream *reverseproxy.Upstream
	Response *http.Response

	// Continue goes on with it, in the place of a route of handle_response. The context of its request is the one in which
	// `copy_response` finds the answer.
	Continue func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error

	vars map[string]any // the request's variables
}

// inHandKey is the key of an *InHand in a context.
type inHandKey struct{}

// Finish has reverse_proxy go on with an answer: this is how a request goes that is rare. It returns what reverse_proxy returns.
func (s *Handler) Finish(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, a *InHand) error {
	ctx := context.WithValue(r.Context(), inHandKey{}, a)
	// reverse_proxy tells its transport more by variables. It must not tell that of our attempts, which may still be reading those of the
	// request: a connection is made on in the background when another one is free before.
	a.vars = ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, maps.Clone(a.vars))
	return s.finisher.ServeHTTP(w, r.WithContext(ctx), next)
}

// CopyResponse writes the answer to the client as `copy_response` does. If it switches protocols, that is where the client's connection
// becomes the backend's.
func CopyResponse(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return reverseproxy.CopyResponseHandler{}.ServeHTTP(w, r, next)
}

// inHand stands where the finisher asks for an upstream, for an answer, and for what to do with that.
type inHand struct{}

func of(ctx context.Context) *InHand { return ctx.Value(inHandKey{}).(*InHand) }

// Select implements [reverseproxy.Selector].
func (inHand) Select(_ reverseproxy.UpstreamPool, r *http.Request, _ http.ResponseWriter) *reverseproxy.Upstream {
	return of(r.Context()).Upstream
}

// RoundTrip implements [http.RoundTripper].
func (inHand) RoundTrip(r *http.Request) (*http.Response, error) {
	return of(r.Context()).Response, nil
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (inHand) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	a := of(r.Context())
	return a.Continue(w, r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, a.vars)), next)
}
