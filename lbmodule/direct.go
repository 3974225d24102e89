package lbmodule

import (
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/engine"
)

// direct is a transport that makes the requests that the engine takes over it, and all others over Caddy's.
type direct struct {
	*reverseproxy.HTTPTransport
	client engine.Client
}

// shorten has attempts take the short way, if the transport is one whose settings that has, too. It is called once the transport is
// as it will be.
func (h *Handler) shorten() {
	t, ok := h.transport().(*reverseproxy.HTTPTransport)
	if !ok || !isOrdinary(t) || h.Transport.(*attemptTransport).proxied {
		return
	}
	h.Transport.(*attemptTransport).direct = &direct{HTTPTransport: t, client: engine.Client{
		DialContext:            t.Transport.DialContext,
		ResponseHeaderTimeout:  t.Transport.ResponseHeaderTimeout,
		MaxResponseHeaderBytes: t.Transport.MaxResponseHeaderBytes,
		MaxIdleConns:           t.Transport.MaxIdleConns,
		MaxIdleConnsPerHost:    t.Transport.MaxIdleConnsPerHost,
		IdleConnTimeout:        t.Transport.IdleConnTimeout,
		DisableCompression:     t.Transport.DisableCompression,
		ReadBufferSize:         t.Transport.ReadBufferSize,
		Streaming:              t,
	}}
}

// isOrdinary tells whether a transport speaks HTTP/1.1 over plain connections that are kept and belong to no client, and bounds
// neither their number nor single reads and writes.
func isOrdinary(t *reverseproxy.HTTPTransport) bool {
	special := func(version string) bool { return version == "h2c" || version == "3" }
	return t.Transport != nil && t.Transport.DialContext != nil && !t.Transport.DisableKeepAlives && t.Transport.MaxIdleConnsPerHost > 0 &&
		t.TLS == nil && t.ProxyProtocol == "" && t.MaxConnsPerHost == 0 && t.ReadTimeout == 0 && t.WriteTimeout == 0 &&
		!slices.ContainsFunc(t.Versions, special)
}

// RoundTrip implements [http.RoundTripper].
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	d.SetScheme(r)
	if d.client.Takes(r) {
		return d.client.RoundTrip(r)
	}
	return d.HTTPTransport.RoundTrip(r)
}
