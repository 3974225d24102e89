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

// proxyProtocolVar is the variable in which reverse_proxy's transports find the client's address for a PROXY header.
const proxyProtocolVar = "reverse_proxy.proxy_protocol_info"

// ProbeTarget is the address that probes of a backend go to.
type ProbeTarget struct{ dial reverseproxy.DialInfo }

// ProbeTargetAt returns the target for that address, with another port if port is not 0.
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

// IsSocket reports whether the addresses of a network are files or descriptors, which have no ports.
func IsSocket(network string) bool { return caddy.IsUnixNetwork(network) || caddy.IsFdNetwork(network) }

// Same reports whether both targets have the same network and address.
func (t ProbeTarget) Same(other ProbeTarget) bool {
	return t.dial.Network == other.dial.Network && t.dial.Address == other.dial.Address
}

// String returns the network and the address.
func (t ProbeTarget) String() string { return t.dial.Network + " " + t.dial.Address }

// URL returns the URL of probes, without a path. Its host is localhost for a unix socket, whose path is not a valid host.
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

// Prepare adds the values to ctx that transports expect in a request's context.
func (t ProbeTarget) Prepare(ctx context.Context) context.Context {
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.OriginalRequestCtxKey, http.Request{URL: new(url.URL)})
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
		// The loopback address says that the connection is not for a client.
		proxyProtocolVar: reverseproxy.ProxyProtocolInfo{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)},
	})
	return context.WithValue(ctx, dialInfoKey, t.dial)
}

// SpeaksHTTP1 reports whether requests reach the target over plain HTTP/1.1 and without a forward proxy.
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

// Dialer returns a dialer that connects as the transport does, if it is Caddy's.
func (t ProbeTarget) Dialer(transport http.RoundTripper) probe.Dialer {
	dial := new(net.Dialer).DialContext
	if h, ok := transport.(*reverseproxy.HTTPTransport); ok && h.Transport != nil && h.Transport.DialContext != nil {
		dial = h.Transport.DialContext
	}
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(t.Prepare(ctx), t.dial.Network, t.dial.Address)
		return conn, unhide(err)
	}
}

// TLSConfig returns the transport's TLS config, if it has one.
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

// redialTimeout bounds a connection attempt to a dead backend, unless the transport's timeout is longer.
const redialTimeout = 3 * time.Second

// Dials reports whether Connect makes the same connections as the transport does. Transports of other plugins may connect differently.
func Dials(transport http.RoundTripper) bool {
	_, ok := transport.(*reverseproxy.HTTPTransport)
	return ok
}

// Connect connects to a dead backend. It does so as the transport does, if that is Caddy's: with a forward proxy, to the proxy,
// because that is the connection that failed.
func (t ProbeTarget) Connect(ctx context.Context, transport http.RoundTripper) (net.Conn, error) {
	t.dial.Upstream = nil
	timeout := redialTimeout
	dial := new(net.Dialer).DialContext
	h, ok := transport.(*reverseproxy.HTTPTransport)
	if ok = ok && h.Transport != nil && h.Transport.DialContext != nil; ok {
		dial, timeout = h.Transport.DialContext, max(timeout, time.Duration(h.DialTimeout))
	}
	ctx, cancel := context.WithTimeout(t.Prepare(ctx), timeout)
	defer cancel()
	network, to := t.dial.Network, t.dial.Address
	if ok && h.Transport.Proxy != nil {
		// Proxy returns the forward proxy, and stores in the context that the proxy is dialed instead of the backend.
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
	conn, err := dial(ctx, network, to)
	return conn, unhide(err)
}

// hostPort returns the address of a forward proxy.
func hostPort(proxy *url.URL) string {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}
