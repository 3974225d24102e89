package stock

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/healthcheck/probe"
)

// proxyProtocolVar is where reverse_proxy's transports look for what to say in a PROXY header.
const proxyProtocolVar = "reverse_proxy.proxy_protocol_info"

// ProbeTarget is where probes of a backend go.
type ProbeTarget struct{ dial reverseproxy.DialInfo }

// ProbeTargetAt is the target of that address, or of another port there if it is not 0.
func ProbeTargetAt(address string, port int) (ProbeTarget, error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return ProbeTarget{}, fmt.Errorf("health_check: address %s: %w", address, err)
	}
	if port != 0 && !IsSocket(a.Network) {
		a.StartPort, a.EndPort = uint(port), uint(port)
	}
	dialed := a.JoinHostPort(0)
	return ProbeTarget{reverseproxy.DialInfo{
		Upstream: &reverseproxy.Upstream{Host: new(reverseproxy.Host), Dial: address},
		Network:  a.Network, Address: dialed, Host: a.Host, Port: strconv.Itoa(int(a.StartPort)),
	}}, nil
}

// IsSocket reports whether addresses of a network are files or descriptors: they have no ports.
func IsSocket(network string) bool { return caddy.IsUnixNetwork(network) || caddy.IsFdNetwork(network) }

// Same reports whether both are the same place.
func (t ProbeTarget) Same(other ProbeTarget) bool {
	return t.dial.Network == other.dial.Network && t.dial.Address == other.dial.Address
}

// String returns the network and the address.
func (t ProbeTarget) String() string { return t.dial.Network + " " + t.dial.Address }

// URL is the URL of probes, without a path. A socket's path could not be the host of one.
func (t ProbeTarget) URL(transport http.RoundTripper) *url.URL {
	u := &url.URL{Scheme: "http", Host: t.dial.Address}
	if IsSocket(t.dial.Network) {
		u.Host = "localhost"
	}
	if o, ok := transport.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		o.OverrideHealthCheckScheme(u, t.dial.Port)
	}
	return u
}

// Prepare adds to ctx what transports expect to find in that of a request.
func (t ProbeTarget) Prepare(ctx context.Context) context.Context {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{URL: new(url.URL)})
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
		// The probe's own address says that it is not for anybody else.
		proxyProtocolVar: reverseproxy.ProxyProtocolInfo{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)},
	})
	return context.WithValue(ctx, DialInfoKey, t.dial)
}

// SpeaksHTTP1 reports whether requests to the target are made with plain HTTP/1.1, and by nobody in between.
func (t ProbeTarget) SpeaksHTTP1(transport http.RoundTripper) bool {
	h, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok || h.Transport == nil || !slices.Contains(h.Versions, "1.1") || slices.Contains(h.Versions, "h2c") {
		return false
	}
	u := t.URL(transport)
	if u.Scheme != "http" {
		return false
	}
	r, err := http.NewRequestWithContext(t.Prepare(context.Background()), http.MethodGet, u.String(), nil)
	if err != nil || h.Transport.Proxy == nil {
		return err == nil
	}
	proxy, err := h.Transport.Proxy(r)
	return proxy == nil && err == nil
}

// Dialer connects as the transport does, where that can be known.
func (t ProbeTarget) Dialer(transport http.RoundTripper) probe.Dialer {
	dial := new(net.Dialer).DialContext
	if h, ok := transport.(*reverseproxy.HTTPTransport); ok && h.Transport != nil && h.Transport.DialContext != nil {
		dial = h.Transport.DialContext
	}
	return func(ctx context.Context) (net.Conn, error) {
		return dial(t.Prepare(ctx), t.dial.Network, t.dial.Address)
	}
}

// TLSConfig is that of the transport, if it has one.
func (t ProbeTarget) TLSConfig(transport http.RoundTripper) *tls.Config {
	config := new(tls.Config)
	if h, ok := transport.(*reverseproxy.HTTPTransport); ok && h.Transport != nil && h.Transport.TLSClientConfig != nil {
		config = h.Transport.TLSClientConfig.Clone()
	}
	config.ServerName = caddy.NewReplacer().ReplaceKnown(config.ServerName, "")
	if config.ServerName == "" {
		config.ServerName = t.dial.Host
		if IsSocket(t.dial.Network) {
			config.ServerName = "localhost" // as in the URL of requests
		}
	}
	return config
}

// redialTimeout bounds a connection to a dead backend, unless the transport gives it more.
const redialTimeout = 3 * time.Second

// Redialer connects to the target as the transport does, as far as that can be known: to its proxy where it uses one, which is what it
// could not connect to. The connection is no request's.
func (t ProbeTarget) Redialer(transport http.RoundTripper) probe.Dialer {
	t.dial.Upstream = nil
	timeout := redialTimeout
	dial := new(net.Dialer).DialContext
	h, ok := transport.(*reverseproxy.HTTPTransport)
	if ok = ok && h.Transport != nil && h.Transport.DialContext != nil; ok {
		dial, timeout = h.Transport.DialContext, max(timeout, time.Duration(h.DialTimeout))
	}
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Prepare(ctx), timeout)
		defer cancel()
		network, to := t.dial.Network, t.dial.Address
		if ok && h.Transport.Proxy != nil {
			// Asked for its proxy, the transport notes in the context that it is not the backend that is dialed.
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL(h).String(), nil)
			if err != nil {
				return nil, err
			}
			proxy, err := h.Transport.Proxy(r)
			if err != nil {
				return nil, err
			}
			if proxy != nil {
				network, to = "tcp", hostPort(proxy)
			}
		}
		return dial(ctx, network, to)
	}
}

// hostPort is the address of a proxy.
func hostPort(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}
