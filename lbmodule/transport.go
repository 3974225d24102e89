package lbmodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(new(attemptTransport))
}

const transportNamespace = "http.reverse_proxy.transport"

// attemptTransport is the transport that a load balancer puts around the configured one, to see how each
// attempt ends. It is a module, and not set in place after provisioning, because reverse_proxy takes a
// transport's buffer sizes and header operations while it loads it, and its health checker may use it at once.
type attemptTransport struct {
	// The transport that does the work. Default: `http`.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	next   http.RoundTripper
	direct *direct // takes the short way where there is one; nil where there is none

	proxied   bool                // plain connections may be to a forward proxy
	setScheme func(*http.Request) // of the transport, if it keeps connections by what stands in the URL; nil otherwise
}

// CaddyModule returns the Caddy module information.
func (*attemptTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  transportNamespace + ".load_balancer",
		New: func() caddy.Module { return new(attemptTransport) },
	}
}

// wrapTransport returns the config of an attemptTransport around the transport of that config.
func wrapTransport(raw json.RawMessage) (json.RawMessage, error) {
	wrapped, err := json.Marshal(map[string]any{"protocol": "load_balancer", "transport": raw})
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return wrapped, nil
}

// Provision loads the transport that does the work.
func (t *attemptTransport) Provision(ctx caddy.Context) error {
	if t.TransportRaw == nil || string(t.TransportRaw) == "null" {
		t.TransportRaw = caddyconfig.JSON(map[string]string{"protocol": "http"}, nil)
	}
	t.proxied = namesProxy(t.TransportRaw) || isSet("HTTP_PROXY", "http_proxy")
	loaded, err := ctx.LoadModule(t, "TransportRaw")
	if err != nil {
		return err
	}
	next, ok := loaded.(http.RoundTripper)
	if !ok {
		return fmt.Errorf("%T is not a transport", loaded)
	}
	t.next = next
	if h, ok := next.(*reverseproxy.HTTPTransport); ok && !slices.Contains(h.Versions, "3") && !t.proxied && !isSet("HTTPS_PROXY", "https_proxy") {
		t.setScheme = h.SetScheme
	}
	return nil
}

// RoundTrip makes one attempt of the request that r belongs to. Health checks belong to none.
func (t *attemptTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	q, ok := caddyhttp.GetVar(r.Context(), requestVar).(*request)
	if !ok {
		return t.next.RoundTrip(r)
	}
	return q.attempt((*sender)(t), r)
}

// sender is an attemptTransport as attempts see it: what does the work.
type sender attemptTransport

// RoundTrip implements [http.RoundTripper].
func (s *sender) RoundTrip(r *http.Request) (*http.Response, error) {
	next := s.next
	if s.direct != nil {
		next = s.direct
	}
	if s.setScheme != nil {
		r = tellApart(r, s.setScheme)
	}
	res, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := checkAnswer(r, res); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// Cleanup closes the connections of the short way; the transport's are its own to close.
func (t *attemptTransport) Cleanup() error {
	if t.direct != nil {
		t.direct.client.CloseIdleConnections()
	}
	return nil
}

// What follows are the optional interfaces of reverse_proxy. Where the transport has none of them, the answer
// is the one that reverse_proxy assumes then.

func (t *attemptTransport) DefaultBufferSizes() (request, response int64) {
	if b, ok := t.next.(reverseproxy.BufferedTransport); ok {
		return b.DefaultBufferSizes()
	}
	return 0, 0
}

func (t *attemptTransport) RequestHeaderOps() *headers.HeaderOps {
	if o, ok := t.next.(reverseproxy.RequestHeaderOpsTransport); ok {
		return o.RequestHeaderOps()
	}
	return nil
}

func (t *attemptTransport) ProxyProtocolEnabled() bool {
	p, ok := t.next.(reverseproxy.ProxyProtocolTransport)
	return ok && p.ProxyProtocolEnabled()
}

func (t *attemptTransport) RequiresContentLength() bool {
	c, ok := t.next.(reverseproxy.ContentLengthRequiredTransport)
	return ok && c.RequiresContentLength()
}

func (t *attemptTransport) OverrideHealthCheckScheme(base *url.URL, port string) {
	if o, ok := t.next.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		o.OverrideHealthCheckScheme(base, port)
	}
}

func (t *attemptTransport) TLSEnabled() bool {
	s, ok := t.next.(reverseproxy.TLSTransport)
	return ok && s.TLSEnabled()
}

func (t *attemptTransport) EnableTLS(base *reverseproxy.TLSConfig) error {
	if s, ok := t.next.(reverseproxy.TLSTransport); ok {
		return s.EnableTLS(base)
	}
	return fmt.Errorf("%T does not support TLS", t.next)
}

func (t *attemptTransport) EnableH2C() error {
	if h, ok := t.next.(reverseproxy.H2CTransport); ok {
		return h.EnableH2C()
	}
	return fmt.Errorf("%T does not support h2c", t.next)
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*attemptTransport)(nil)
	_ caddy.CleanerUpper                               = (*attemptTransport)(nil)
	_ http.RoundTripper                                = (*attemptTransport)(nil)
	_ reverseproxy.BufferedTransport                   = (*attemptTransport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*attemptTransport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*attemptTransport)(nil)
	_ reverseproxy.ContentLengthRequiredTransport      = (*attemptTransport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*attemptTransport)(nil)
	_ reverseproxy.TLSTransport                        = (*attemptTransport)(nil)
	_ reverseproxy.H2CTransport                        = (*attemptTransport)(nil)
)
