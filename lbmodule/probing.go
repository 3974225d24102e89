package lbmodule

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/healthcheck/probe"
	"github.com/ballastlb/ballast/lbmodule/config"
)

// dialInfoKey is where reverse_proxy's transports look for the address to connect to.
const dialInfoKey caddy.CtxKey = "reverse_proxy.dial_info"

// proxyProtocolVar is where they look for what to say in a PROXY header.
const proxyProtocolVar = "reverse_proxy.proxy_protocol_info"

// probing makes the checks of one handler.
type probing struct {
	check     *config.HealthCheck // with its defaults
	transport http.RoundTripper   // that probes are made over
	raw       []byte              // its config; loading it clears that of check
	match     *regexp.Regexp
	status    []healthcheck.StatusRange
}

// loadProbing sets up the active check, if there is one. transport is the handler's own, raw its config.
func (h *Handler) loadProbing(ctx caddy.Context, transport http.RoundTripper, raw []byte) error {
	c := h.active
	if c == nil {
		return nil
	}
	p := &probing{check: c, transport: transport, raw: raw}
	if c.TransportRaw != nil {
		p.raw = c.TransportRaw
		loaded, err := ctx.LoadModule(c, "TransportRaw")
		if err != nil {
			return fmt.Errorf("health_check: transport: %w", err)
		}
		own, ok := loaded.(http.RoundTripper)
		if !ok {
			return fmt.Errorf("health_check: transport: %T is not a transport", loaded)
		}
		p.transport = own
	}
	if c.ExpectBody != "" {
		var err error
		if p.match, err = regexp.Compile(c.ExpectBody); err != nil {
			return fmt.Errorf("health_check: expect_body: %w", err)
		}
	}
	for _, status := range c.Status {
		r, err := config.ParseStatusRange(status)
		if err != nil {
			return fmt.Errorf("health_check: status %s: %w", status, err)
		}
		p.status = append(p.status, r)
	}
	h.probing = p
	return nil
}

// of returns the check of the backend with that address.
func (p *probing) of(address string) (probe.Check, error) {
	prober, err := p.prober(address)
	return probe.Check{
		Key:          p.check.Key(address, p.raw),
		Prober:       prober,
		Interval:     time.Duration(p.check.Interval),
		FastInterval: time.Duration(p.check.FastInterval),
		Timeout:      time.Duration(p.check.Timeout),
	}, err
}

func (p *probing) prober(address string) (probe.Prober, error) {
	t, err := p.target(address)
	if err != nil {
		return nil, err
	}
	switch p.check.Type {
	case "tcp":
		return &probe.TCP{Dial: t.dialer(p.transport)}, nil
	case "tls":
		return &probe.TLS{Dial: t.dialer(p.transport), Config: t.tlsConfig(p.transport)}, nil
	case "grpc":
		return &probe.GRPC{Transport: p.transport, Prepare: t.prepare, URL: t.url(p.transport).String(), Service: p.check.Service}, nil
	default:
		return p.httpProber(t, address)
	}
}

func (p *probing) httpProber(t target, address string) (probe.Prober, error) {
	c := p.check
	uri, err := url.Parse(c.URI)
	if err != nil {
		return nil, err
	}
	u := t.url(p.transport)
	u.Path, u.RawPath, u.RawQuery = uri.Path, uri.RawPath, uri.RawQuery
	// Only what is the same for all requests can be filled in. In the body what is unknown stays as it is: braces
	// are JSON there more often than placeholders.
	repl := caddy.NewReplacer()
	repl.Set("http.reverse_proxy.active.target_upstream", address)
	prober := &probe.HTTP{
		Transport: p.transport, Prepare: t.prepare, Method: c.Method, URL: u.String(), Header: make(http.Header),
		Body: repl.ReplaceKnown(c.Body, ""), FollowRedirects: c.FollowRedirects,
		Status: p.status, Match: p.match, MaxBody: c.MaxSize,
	}
	if !c.FollowRedirects && t.speaksHTTP1(p.transport) {
		prober.Dial = t.dialer(p.transport)
	}
	for name, values := range c.Headers {
		name = http.CanonicalHeaderKey(repl.ReplaceAll(name, ""))
		for _, value := range values {
			value = repl.ReplaceKnown(value, "")
			if name == "Host" {
				prober.Host = value
				continue
			}
			prober.Header.Add(name, value)
		}
	}
	return prober, nil
}

// target is where probes of a backend go.
type target struct{ dial reverseproxy.DialInfo }

// target returns where probes of the backend with that address go.
func (p *probing) target(address string) (target, error) {
	if p.check.Upstream != "" {
		return targetAt(caddy.NewReplacer().ReplaceKnown(p.check.Upstream, ""), 0)
	}
	return targetAt(address, p.check.Port)
}

// elsewhere tells whether probes of the backend with that address go to another one.
func (p *probing) elsewhere(address string) bool {
	probed, err := p.target(address)
	own, ownErr := targetAt(address, 0)
	return err != nil || ownErr != nil || probed.dial.Network != own.dial.Network || probed.dial.Address != own.dial.Address
}

// targetAt is the target of that address, or of another port there if it is not 0.
func targetAt(address string, port int) (target, error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return target{}, fmt.Errorf("health_check: address %s: %w", address, err)
	}
	if port != 0 && !isSocket(a.Network) {
		a.StartPort, a.EndPort = uint(port), uint(port)
	}
	dialed := a.JoinHostPort(0)
	return target{reverseproxy.DialInfo{
		Upstream: &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: address},
		Network:  a.Network, Address: dialed, Host: a.Host, Port: strconv.Itoa(int(a.StartPort)),
	}}, nil
}

// isSocket tells whether addresses of a network are files or descriptors: they have no ports.
func isSocket(network string) bool { return caddy.IsUnixNetwork(network) || caddy.IsFdNetwork(network) }

// url is the URL of probes, without a path. A socket's path could not be the host of one.
func (t target) url(transport http.RoundTripper) *url.URL {
	u := &url.URL{Scheme: "http", Host: t.dial.Address}
	if isSocket(t.dial.Network) {
		u.Host = "localhost"
	}
	if o, ok := transport.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		o.OverrideHealthCheckScheme(u, t.dial.Port)
	}
	return u
}

// prepare adds to ctx what transports expect to find in that of a request.
func (t target) prepare(ctx context.Context) context.Context {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{URL: new(url.URL)})
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
		// The probe's own address says that it is not for anybody else.
		proxyProtocolVar: reverseproxy.ProxyProtocolInfo{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)},
	})
	return context.WithValue(ctx, dialInfoKey, t.dial)
}

// speaksHTTP1 tells whether requests to the target are made with plain HTTP/1.1, and by nobody in between.
func (t target) speaksHTTP1(transport http.RoundTripper) bool {
	h, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok || h.Transport == nil || !slices.Contains(h.Versions, "1.1") || slices.Contains(h.Versions, "h2c") {
		return false
	}
	u := t.url(transport)
	if u.Scheme != "http" {
		return false
	}
	r, err := http.NewRequestWithContext(t.prepare(context.Background()), http.MethodGet, u.String(), nil)
	if err != nil || h.Transport.Proxy == nil {
		return err == nil
	}
	proxy, err := h.Transport.Proxy(r)
	return proxy == nil && err == nil
}

// dialer connects as the transport does, where that can be known.
func (t target) dialer(transport http.RoundTripper) probe.Dialer {
	dial := new(net.Dialer).DialContext
	if h, ok := transport.(*reverseproxy.HTTPTransport); ok && h.Transport != nil && h.Transport.DialContext != nil {
		dial = h.Transport.DialContext
	}
	return func(ctx context.Context) (net.Conn, error) {
		return dial(t.prepare(ctx), t.dial.Network, t.dial.Address)
	}
}

// tlsConfig is that of the transport, if it has one.
func (t target) tlsConfig(transport http.RoundTripper) *tls.Config {
	config := new(tls.Config)
	if h, ok := transport.(*reverseproxy.HTTPTransport); ok && h.Transport != nil && h.Transport.TLSClientConfig != nil {
		config = h.Transport.TLSClientConfig.Clone()
	}
	config.ServerName = caddy.NewReplacer().ReplaceKnown(config.ServerName, "")
	if config.ServerName == "" {
		config.ServerName = t.dial.Host
		if isSocket(t.dial.Network) {
			config.ServerName = "localhost" // as in the URL of requests
		}
	}
	return config
}
